//! What runs is asked once, after the start, whether its targets would take rows, so that an operator reads of a
//! mistake at once and not with the first row. Nothing waits for it, and nothing follows from it but a line in the log.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use muster_sinks::{ErrorKind, PipelineId, Sink, SinkError, SinkSpec, build};
use tracing::warn;

use super::{Pipelines, lock, republish};

/// How long a target may take to answer.
pub(crate) const CHECK_WAIT: Duration = Duration::from_secs(15);

/// Asks a sink whether a delivery would work, and takes silence for a no.
pub(crate) async fn check(sink: &mut dyn Sink) -> Result<(), SinkError> {
    tokio::time::timeout(CHECK_WAIT, sink.check()).await.unwrap_or_else(|_| {
        let message = format!("there was no answer within {} s", CHECK_WAIT.as_secs());
        Err(SinkError::unavailable(message).with_hint("look at the target, and at the way to it"))
    })
}

impl Pipelines {
    /// Warns of each sink of what runs whose check fails.
    pub async fn check_sinks(&self) {
        // A sink that cannot be reached is so for every rule that writes into it.
        let mut unreachable = BTreeSet::new();
        for (id, kind, options) in self.sinks_in_use() {
            if unreachable.contains(&id.sink) {
                continue;
            }
            let target = Some(id.target.as_str()).filter(|target| !target.is_empty());
            let spec = SinkSpec { kind: &kind, name: &id.sink, target, rule: &id.rule, options: &options };
            // It was built before, so it can be built.
            let Ok(mut built) = build(&spec, &self.parts.env) else { continue };
            let Err(error) = check(&mut *built.sink).await else { continue };
            if error.kind() == ErrorKind::Unavailable {
                unreachable.insert(id.sink.clone());
            }
            warn!(pipeline = %id, error = error.in_words(), hint = error.hint(), "the sink's check failed");
        }
    }

    fn sinks_in_use(&self) -> Vec<(PipelineId, String, BTreeMap<String, String>)> {
        let running = lock(&self.running);
        let sinks = running.iter().filter(|(id, _)| id.sink != republish::SINK);
        sinks
            .map(|(id, it)| (id.clone(), it.identity.kind.clone(), it.identity.sink_options.clone()))
            .collect()
    }
}
