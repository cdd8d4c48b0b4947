//! The model test of presence: devices that come and go in every way there is, an operator who puts them out, rules
//! that change, targets that fail, a wall clock that is stepped, and a Muster that is killed, all of it chosen by one
//! seed. Whenever it is quiet, the log must be a possible history, agree with what the devices saw, and presence and
//! every table must be what a plain model makes of it.

mod alarms;
mod books;
mod device;
mod drop;
mod run;
mod streams;
mod target;

use alarms::Clock;
use target::Target;

/// What is embedded, what any machine has, and a real database.
#[tokio::test(flavor = "multi_thread")]
async fn presence_and_every_table_are_the_fold_of_a_possible_history() {
    let mut targets = vec![Target::sqlite(), Target::webhook().await];
    targets.extend(Target::postgres().await);
    if muster_tests::long() {
        targets.extend(Target::mongo().await);
        targets.extend(Target::clickhouse().await);
        targets.extend(Target::kafka().await);
        targets.extend(Target::influx().await);
    }
    run::play(targets, Clock::Stepped).await;
}

/// With a clock that nobody steps, so that what must be told can be told from times.
#[tokio::test(flavor = "multi_thread")]
async fn alarms_are_what_their_definition_says() {
    run::play(vec![Target::sqlite()], Clock::Right).await;
}
