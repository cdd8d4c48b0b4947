//! Who is here, who is missing, since when, and why: a projection of the log in the table `devices`; and which alarms
//! are on. It reads events and writes rows; it must never know who wrote the events, nor be asked whether a device may
//! do something.

mod alarms;
mod calendar;
mod fold;
mod follow;
mod history;
mod list;
mod moment;
mod store;
#[cfg(test)]
mod tests;
mod told;

pub use alarms::{ACKNOWLEDGE, ActiveAlarm, CLEAR, SILENCE, Silence, UNSILENCE};
pub use fold::{Device, FLAPPING_DISCONNECTS, FLAPPING_WINDOW_MS, KINDS, fold};
pub use follow::{Devices, Follower};
pub use history::HISTORY_DAYS_MAX;
pub use list::{Happened, Part, Place, SHOWN, Sort, Wanted, history, last_day, list, shown_names};
pub use moment::{BUCKET_MS_MIN, BUCKETS_MAX, Bucket, Present, present, timeline};
pub use store::{Store, StoreError};
pub use told::{AlarmOn, Told, WantedAlarms, alarm, alarms, alarms_on, silent};
