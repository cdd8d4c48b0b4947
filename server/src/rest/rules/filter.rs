//! What `GET /rules` can be asked for.

use muster_core::topic;

use super::super::reply::{ApiError, Params};
use super::shown::Shown;

/// An empty filter lets everything through.
#[derive(Debug, Default)]
pub(super) struct Filter {
    enable: Option<bool>,
    from: Option<String>,
    like_id: Option<String>,
    like_from: Option<String>,
    like_description: Option<String>,
    match_from: Option<String>,
    actions: Vec<String>,
    /// Connectors that messages come from; there are none.
    sources: Vec<String>,
}

impl Filter {
    pub(super) fn from_params(params: &Params) -> Result<Self, ApiError> {
        let text = |name| params.one(name).map(str::to_owned);
        let all = |name: &str| {
            let both = params.all(name).into_iter().chain(params.all(&format!("{name}[]")));
            both.map(str::to_owned).collect()
        };
        let match_from = text("match_from");
        if let Some(Err(error)) = match_from.as_deref().map(topic::validate_filter) {
            return Err(ApiError::invalid_parameter(format!("match_from: {error}")));
        }
        Ok(Self {
            enable: params.flag("enable")?,
            from: text("from"),
            like_id: text("like_id"),
            like_from: text("like_from"),
            like_description: text("like_description"),
            match_from,
            actions: all("action"),
            sources: all("source"),
        })
    }

    pub(super) fn admits(&self, rule: &Shown) -> bool {
        let holds = |part: &Option<String>, text: &str| part.as_ref().is_none_or(|part| text.contains(part));
        let some_from = |wanted: &Option<String>, fits: fn(&str, &str) -> bool| {
            wanted.as_ref().is_none_or(|wanted| rule.from.iter().any(|from| fits(wanted, from)))
        };
        let actions: Vec<_> = self.actions.iter().map(String::as_str).collect();
        self.enable.is_none_or(|enable| enable == rule.enable)
            && some_from(&self.from, |wanted, from| wanted == from)
            && some_from(&self.like_from, |wanted, from| from.contains(wanted))
            && some_from(&self.match_from, topic::matches)
            && holds(&self.like_id, &rule.id)
            && holds(&self.like_description, &rule.description)
            && (actions.is_empty() || rule.has_action(&actions))
            && self.sources.is_empty()
    }

    /// Whether the reference leaves the count out for such a search.
    pub(super) fn is_fuzzy(&self) -> bool {
        [&self.like_id, &self.like_from, &self.like_description, &self.match_from]
            .iter()
            .any(|it| it.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::super::shown::tests::shown;
    use super::*;

    fn filter(query: &[(&str, &str)]) -> Result<Filter, ApiError> {
        let pairs = query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Filter::from_params(&Params::new(pairs.collect()))
    }

    #[test]
    fn filters() {
        let rule = shown("rule-1", &["t/1", "$events/client/connected"], &["sqlite:t", "webhook:hook"]);
        for (query, want) in [
            (&[][..], true),
            (&[("enable", "true"), ("like_id", "ule")], true),
            (&[("enable", "false")], false),
            (&[("from", "t/1")], true),
            (&[("from", "t")], false),
            (&[("_like_from", "client")], true),
            (&[("like_from", "session")], false),
            (&[("match_from", "t/+")], true),
            (&[("match_from", "u/#")], false),
            (&[("like_description", "about")], true),
            (&[("like_description", "About")], false),
            (&[("action", "webhook:hook"), ("action", "x")], true),
            (&[("action[]", "sqlite:t")], true),
            (&[("action", "sqlite:u")], false),
            (&[("source", "mqtt:x")], false),
            (&[("like_id", "1"), ("like_from", "x")], false),
            (&[("unknown", "x")], true),
        ] {
            assert_eq!(filter(query).expect("a filter").admits(&rule), want, "{query:?}");
        }
        assert!(filter(&[("enable", "maybe")]).is_err());
        assert!(filter(&[("match_from", "a/#/b")]).is_err());
        assert!(filter(&[("like_from", "x")]).is_ok_and(|it| it.is_fuzzy()));
        assert!(filter(&[("from", "x"), ("action", "y")]).is_ok_and(|it| !it.is_fuzzy()));
    }
}
