//! What the end-to-end tests stand on: a [`Home`] with a running [`Muster`] in it, foreign clients ([`tools`],
//! [`paho`]), an MQTT client of our own that can be as rude as a test wants ([`mqtt`]), a webhook receiver and eyes
//! for the database and the log. It knows the binary by its command line, its ports and its files, as a user does;
//! of the workspace's crates it uses `muster-core` alone, and that only to read a log that nobody writes to.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says so by a panic"
)]

pub mod exposition;
pub mod home;
pub mod log;
pub mod mqtt;
pub mod muster;
pub mod paho;
pub mod tools;
pub mod wait;
pub mod webhook;

pub use home::Home;
pub use muster::Muster;
pub use wait::{PATIENCE, until};

/// The seed of this run's random choices: `MUSTER_SEED` if it is set, else one that differs from run to run. It is
/// printed, so that the output of a test that failed says how to repeat it.
pub fn seed() -> u64 {
    let seed = std::env::var("MUSTER_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| {
        let mut bytes = [0; 8];
        rand::TryRngCore::try_fill_bytes(&mut rand::rngs::OsRng, &mut bytes)
            .expect("the system has randomness");
        u64::from_le_bytes(bytes)
    });
    eprintln!("MUSTER_SEED={seed}");
    seed
}

/// Whether the run was asked for more rounds (`tests/run --long`).
pub fn long() -> bool {
    std::env::var_os("MUSTER_LONG").is_some()
}
