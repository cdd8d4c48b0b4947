//! What a client may do: asked once, remembered while it counts, and told to the log where somebody should know.

use muster_core::event::EventKind;
use muster_core::event::proto::{Authz, event::Detail};

use super::Actor;
use crate::access::{Action, Request};
use crate::authz::CachedAnswer;

/// Who says so, of an answer that was remembered.
const SOURCE_CACHE: &str = "cache";

impl Actor {
    /// Asks whether the client may do this; a denial is an event, a grant only where somebody asks for it.
    pub(super) async fn authorize(&mut self, action: Action, topic: &str) -> bool {
        let (allow, source) = self.decide(action, topic).await;
        if !allow {
            self.hub.counters.authorizations_denied.add(1);
        }
        if !allow || self.wants(EventKind::ClientAuthz) {
            let detail = Detail::Authz(Authz {
                action: action.name().to_owned(),
                source: source.to_owned(),
                result: if allow { "allow" } else { "deny" }.to_owned(),
            });
            self.recorder.note(EventKind::ClientAuthz, topic, None, Some(detail)).await;
        }
        allow
    }

    async fn decide(&mut self, action: Action, topic: &str) -> (bool, &'static str) {
        let request = Request { subject: &self.subject, action, topic };
        let Some(caching) = self.hub.authorizer.caching(&request) else {
            let answer = self.hub.authorizer.authorize(&request).get().await;
            return (answer.allow, answer.source);
        };
        let now = self.hub.clock.monotonic();
        let answers = self.answers.get_or_insert_default();
        if let Some(allow) = answers.get(&caching, action, topic, now) {
            self.hub.authorizer.remembered(allow);
            return (allow, SOURCE_CACHE);
        }
        let answer = self.hub.authorizer.authorize(&request).get().await;
        answers.put(&caching, action, topic, answer.allow, now);
        (answer.allow, answer.source)
    }

    /// What is remembered and still counts; nothing afterwards, if it shall be forgotten.
    pub(super) fn remembered_answers(&mut self, forget: bool) -> Vec<CachedAnswer> {
        if forget {
            self.answers = None;
        }
        let Some(answers) = &self.answers else { return Vec::new() };
        let nothing = Action::Subscribe { qos: crate::codec::Qos::AtMostOnce };
        let request = Request { subject: &self.subject, action: nothing, topic: "" };
        let caching = self.hub.authorizer.caching(&request);
        caching.map(|it| answers.list(&it, self.hub.clock.monotonic())).unwrap_or_default()
    }
}
