//! The will: what is published when a connection ends without the client having said goodbye.

use std::time::Duration;

use muster_core::topic;

use super::Actor;
use crate::access::Action;
use crate::codec::Will;
use crate::hub::NewMessage;

/// How long a will waits after the connection's end.
pub(super) fn delay(will: &Will) -> Duration {
    let seconds = will.props.as_ref().and_then(|props| props.will_delay_interval).unwrap_or_default();
    Duration::from_secs(u64::from(seconds))
}

impl Actor {
    /// Publishes the will, if its client may publish there.
    pub(super) async fn publish_will(&mut self, will: Will) {
        let Will { topic, payload, qos, retain, props } = will;
        if topic::validate_name(&topic).is_err() {
            return;
        }
        if !self.authorize(Action::Publish { qos, retain }, &topic).await {
            return;
        }
        // The delay is between client and server; what subscribers get is without it.
        let props = props.map(|mut props| {
            props.will_delay_interval = None;
            props
        });
        let message = NewMessage {
            topic,
            payload,
            qos,
            retain,
            dup: false,
            props,
            origin: "will",
            republished_by: String::new(),
            republication: None,
            request: None,
        };
        match self.hub.publish(&mut self.recorder, message).await {
            Ok(_) => self.hub.counters.wills_published.add(1),
            Err(error) => {
                tracing::warn!(clientid = self.clientid(), %error, "a will could not be published");
            }
        }
    }
}
