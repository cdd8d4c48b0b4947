//! Rules made ready to be asked: patterns taken apart, regular expressions and addresses read. In their order, and the
//! first that speaks about a request decides.

use std::net::IpAddr;

use ipnet::IpNet;
use regex::{Regex, RegexBuilder};

use super::pattern::Pattern;
use super::rule::{Permission, Retain, Rule, RuleAction};
use crate::access::{Action, Request};

/// Longest regular expression of a rule.
pub const REGEX_BYTES_MAX: usize = 1_024;
/// What the program of one may take.
const REGEX_PROGRAM_BYTES_MAX: usize = 64 << 10;

/// Why a rule cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// No topic filter, and no `eq ` with a text behind it.
    #[error("`topic` is a topic filter, or `eq ` with a topic behind it")]
    Topic,
    /// Something else between `${` and `}`.
    #[error(
        "in `topic`, only ${{clientid}}, ${{username}}, ${{cert_common_name}} and ${{client_attrs.NAME}} can be filled in"
    )]
    Placeholder,
    /// Beyond 2.
    #[error("`qos` holds 0, 1 and 2, each at most once")]
    Qos,
    /// Not read as one, or too large.
    #[error("`{0}` is a regular expression of at most {REGEX_BYTES_MAX} bytes")]
    Regex(&'static str),
    /// Neither address nor range.
    #[error("`ipaddr` is an address or a range such as 10.0.0.0/8")]
    Address,
}

/// Rules in their order.
#[derive(Debug, Clone, Default)]
pub struct RuleSet {
    rules: Box<[Compiled]>,
    is_closed: bool,
}

#[derive(Debug, Clone)]
struct Compiled {
    source: Rule,
    pattern: Pattern,
    conditions: Option<Box<Conditions>>,
}

/// What few rules have.
#[derive(Debug, Clone)]
struct Conditions {
    clientid: Option<Regex>,
    username: Option<Regex>,
    address: Option<IpNet>,
}

impl RuleSet {
    /// The rules, ready.
    ///
    /// # Errors
    /// Which rule, counted from 0, cannot be used, and why.
    pub fn compile(rules: Vec<Rule>) -> Result<Self, (usize, RuleError)> {
        let rules = rules.into_iter().enumerate();
        let compiled = rules.map(|(at, rule)| Compiled::new(rule).map_err(|why| (at, why)));
        Ok(Self { rules: compiled.collect::<Result<_, _>>()?, is_closed: false })
    }

    /// No rules, and nothing may be done: for those whose own rules cannot be read.
    pub fn closed() -> Self {
        Self { is_closed: true, ..Self::default() }
    }

    /// As they were written.
    pub fn written(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter().map(|it| &it.source)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// What the first rule says that speaks about the request.
    pub fn decide(&self, request: &Request<'_>) -> Option<Permission> {
        let said = self.rules.iter().find(|rule| rule.speaks_about(request));
        said.map(|rule| rule.source.permission).or(self.is_closed.then_some(Permission::Deny))
    }
}

impl Compiled {
    fn new(source: Rule) -> Result<Self, RuleError> {
        let pattern = Pattern::parse(&source.topic)?;
        let is_repeated = |(at, qos): (usize, &u8)| source.qos[..at].contains(qos);
        if source.qos.iter().any(|qos| *qos > 2) || source.qos.iter().enumerate().any(is_repeated) {
            return Err(RuleError::Qos);
        }
        let conditions = Conditions {
            clientid: regex(source.clientid_re.as_deref(), "clientid_re")?,
            username: regex(source.username_re.as_deref(), "username_re")?,
            address: source.ipaddr.as_deref().map(address).transpose()?,
        };
        let some =
            conditions.clientid.is_some() || conditions.username.is_some() || conditions.address.is_some();
        Ok(Self { source, pattern, conditions: some.then(|| Box::new(conditions)) })
    }

    fn speaks_about(&self, request: &Request<'_>) -> bool {
        let Request { subject, action, topic } = *request;
        let Rule { permission, listener, .. } = &self.source;
        self.is_about_action(action)
            && self.pattern.covers(subject, *permission, action, topic)
            && listener.as_ref().is_none_or(|it| *it == subject.listener)
            && self.conditions.as_ref().is_none_or(|it| it.hold(request))
    }

    /// A subscription has no retain flag: it is not asked for one.
    fn is_about_action(&self, asked: Action) -> bool {
        let Rule { action, qos: qualities, retain, .. } = &self.source;
        let (fits, qos) = match asked {
            Action::Publish { qos, retain: flag } => {
                let wanted = *retain == Retain::All || *retain == Retain::Only(flag);
                (*action != RuleAction::Subscribe && wanted, qos)
            }
            Action::Subscribe { qos } => (*action != RuleAction::Publish, qos),
        };
        fits && (qualities.is_empty() || qualities.contains(&qos.as_u8()))
    }
}

impl Conditions {
    fn hold(&self, request: &Request<'_>) -> bool {
        let subject = request.subject;
        let of = |regex: &Option<Regex>, value: Option<&str>| match (regex, value) {
            (None, _) => true,
            (Some(regex), Some(value)) => regex.is_match(value),
            (Some(_), None) => false,
        };
        let is_from = |range: &IpNet| subject.address.is_some_and(|it| range.contains(&it.to_canonical()));
        of(&self.clientid, Some(&subject.clientid))
            && of(&self.username, subject.username.as_deref())
            && self.address.as_ref().is_none_or(is_from)
    }
}

fn regex(written: Option<&str>, name: &'static str) -> Result<Option<Regex>, RuleError> {
    let Some(written) = written else { return Ok(None) };
    if written.is_empty() || written.len() > REGEX_BYTES_MAX {
        return Err(RuleError::Regex(name));
    }
    let built = RegexBuilder::new(written).size_limit(REGEX_PROGRAM_BYTES_MAX).build();
    built.map(Some).map_err(|_| RuleError::Regex(name))
}

fn address(written: &str) -> Result<IpNet, RuleError> {
    let range = written.parse::<IpNet>().ok();
    let one = || written.parse::<IpAddr>().ok().map(|it| IpNet::from(it.to_canonical()));
    range.or_else(one).ok_or(RuleError::Address)
}
