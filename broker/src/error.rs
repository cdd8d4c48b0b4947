//! Why the broker cannot start or cannot go on.

use std::io;
use std::net::SocketAddr;

use muster_core::log::LogError;

/// What stops the broker, or a request to it.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The listener's address is taken or not ours.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// TLS without a certificate.
    #[error("the listener {listener} has no certificate")]
    NoCertificate {
        /// Its name.
        listener: &'static str,
    },
    /// There is no listener.
    #[error("there is no address to listen on for MQTT")]
    NoListener,
    /// What is to survive a restart cannot be read.
    #[error("the registry cannot be used")]
    Registry(#[from] muster_core::registry::RegistryError),
    /// What sessions were owed cannot be found again.
    #[error("what the last run left cannot be read from the event log")]
    Restore(#[source] LogError),
    /// The event could not be written.
    #[error("the event log refused an event")]
    Log(#[from] LogError),
    /// A message that is larger than what a client may send.
    #[error("a message of {bytes} bytes is larger than the {bytes_max} that a packet may have")]
    TooLarge {
        /// Topic, payload and properties.
        bytes: usize,
        /// [`crate::Limits::packet_bytes_max`].
        bytes_max: usize,
    },
    /// A topic that nobody may publish to.
    #[error("not a topic to publish to")]
    Topic(#[from] muster_core::topic::TopicError),
}
