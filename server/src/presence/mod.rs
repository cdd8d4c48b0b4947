//! Who is here, who is missing, since when, and why: a projection of the log in the table `devices`; and which alarms
//! are on. It reads events and writes rows; it must never know who wrote the events, nor be asked whether a device may
//! do something.

mod alarms;
mod fold;
mod follow;
mod store;

pub use alarms::ActiveAlarm;
pub use fold::{Device, KINDS, fold};
pub use follow::{Devices, Follower};
pub use store::{Store, StoreError, Wanted, list};
