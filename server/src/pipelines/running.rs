//! A planned pipeline is started: its place is found and held, and each of its lanes gets a rule and a sink. It must
//! never know what else runs.

use std::sync::Arc;

use muster_rules::RuleProgram;
use muster_sinks::PipelineId;
use muster_sinks::delivery::{Lanes, Orders, PipelineConfig, Start, Supply};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use tracing::warn;

use super::evaluation::Evaluation;
use super::plan::{Identity, Outlet, Planned};
use super::transform::RuleTransform;
use super::{Parts, Pipelines, lock, start};
use crate::republish::RepublishSink;

/// A pipeline that was started.
pub(super) struct Running {
    pub(super) identity: Identity,
    pub(super) handle: Lanes,
}

impl Pipelines {
    pub(super) async fn spawn(&self, id: &PipelineId, planned: Planned) -> Running {
        let Planned { program, outlet, limits, retry_wait_max, lanes, identity, start, rule_version } =
            planned;
        let Parts { journal, store, clock, .. } = &self.parts;
        let retry_wait_max = retry_wait_max.unwrap_or(self.parts.retry_wait_max);
        // Nothing may be removed between finding the place and holding it.
        let mut hold = journal.log().hold(id.to_string(), journal.first_offset());
        let (start, known) = start::begin(id, start.as_deref(), journal, store, clock.wall_ms()).await;
        let orders = store.orders(id).await.unwrap_or_else(|error| {
            // It reads them itself before it delivers anything, and until then holds all of the log.
            warn!(pipeline = %id, error = %crate::error::chain(&error), "what was asked of it cannot be read yet");
            Orders::default()
        });
        if let (Start::Offset(offset), true) = (start, known) {
            hold.advance(offset);
        }
        if let Some(offset) = orders.reset_to {
            hold = journal.log().hold(id.to_string(), offset);
        }
        lock(&self.holds).put(id, hold);
        let config = PipelineConfig {
            id: id.clone(),
            rule_version,
            start,
            paused: orders.paused,
            limits,
            retry_wait_max,
        };
        let evaluation = self.evaluation(&id.rule, program, &identity);
        let supply = self.supply(id, &evaluation, outlet);
        let rng = SmallRng::seed_from_u64(self.seed(id));
        let log = Arc::new(journal.clone());
        let handle = Lanes::spawn((config, lanes), log, supply, store.clone(), clock.clone(), rng);
        Running { identity, handle }
    }

    /// A chance of its own for each pipeline, the same at each start.
    pub(super) fn seed(&self, id: &PipelineId) -> u64 {
        id.to_string().bytes().fold(self.parts.seed, |seed, byte| seed.rotate_left(5) ^ u64::from(byte))
    }

    /// What gives each lane its rule and its sink. All take part in `evaluation` as one: an event is of one lane.
    pub(super) fn supply(&self, id: &PipelineId, evaluation: &Arc<Evaluation>, outlet: Outlet) -> Supply {
        let Parts { journal, clock, republisher, .. } = &self.parts;
        let (journal, clock, republisher) = (journal.clone(), clock.clone(), republisher.clone());
        let (part, rule, mut seed) = (Arc::new(evaluation.join()), id.rule.clone(), self.seed(id));
        Box::new(move || {
            let republishes = matches!(outlet, Outlet::Republish { .. });
            // What functions of chance give in one lane must not come again in another.
            seed = seed.wrapping_add(1);
            let transform = RuleTransform::new(part.clone(), clock.clone(), seed, republishes);
            let sink = match &outlet {
                Outlet::Sink(maker) => maker.make()?.sink,
                Outlet::Republish { message, number } => {
                    let (republisher, journal) = (republisher.clone(), journal.clone());
                    Box::new(RepublishSink::new(message.clone(), &rule, *number, republisher, journal))
                }
            };
            Ok((Box::new(transform), sink))
        })
    }

    /// The evaluation that the rule's pipelines share, a new one if the rule has changed.
    pub(super) fn evaluation(
        &self,
        rule: &str,
        program: Arc<RuleProgram>,
        identity: &Identity,
    ) -> Arc<Evaluation> {
        let mut evaluations = lock(&self.evaluations);
        if let Some(known) = evaluations.get(rule).filter(|it| it.is_of(&identity.select)) {
            return known.clone();
        }
        let evaluation = Evaluation::new(program, identity.select.clone());
        evaluations.insert(rule.to_owned(), evaluation.clone());
        evaluation
    }
}
