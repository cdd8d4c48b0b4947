//! MQTT topic names and filters: what is valid, what matches what, and an index that finds every filter that matches
//! a topic in time that follows the topic's depth, not the number of filters. Rules are those of MQTT 5.0, section 4.7
//! and 4.8.2. It must never know who subscribes or what is done with a match.

use std::collections::HashMap;

/// Longest topic name or filter, in bytes (MQTT 5.0, 1.5.4: a UTF-8 string has a two-byte length).
pub const TOPIC_BYTES_MAX: usize = 65_535;

/// Most levels of a topic or filter; bounds the depth of the index. The standard sets no limit.
pub const TOPIC_LEVELS_MAX: usize = 128;

/// Why a topic name or filter is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// No character at all.
    #[error("a topic has at least one character")]
    Empty,
    /// Beyond [`TOPIC_BYTES_MAX`].
    #[error("a topic has at most {TOPIC_BYTES_MAX} bytes")]
    TooLong,
    /// Beyond [`TOPIC_LEVELS_MAX`].
    #[error("a topic has at most {TOPIC_LEVELS_MAX} levels")]
    TooDeep,
    /// U+0000 is in no topic.
    #[error("a topic does not contain the character U+0000")]
    Null,
    /// `+` or `#` in a topic that something is published to.
    #[error("`+` and `#` are for filters, not for the name of a topic")]
    WildcardInName,
    /// `#` before the end or beside other characters.
    #[error("`#` stands alone in the last level of a filter")]
    Hash,
    /// `+` beside other characters.
    #[error("`+` stands alone in its level of a filter")]
    Plus,
    /// `$share/...` without group or filter, or with a wildcard in the group's name.
    #[error("a shared subscription is `$share/GROUP/FILTER`, GROUP without `+`, `#` and `/`")]
    Share,
}

/// Checks the name of a topic that a message is published to.
///
/// # Errors
/// [`TopicError`] says what is wrong.
pub fn validate_name(name: &str) -> Result<(), TopicError> {
    validate_common(name)?;
    if name.contains(['+', '#']) {
        return Err(TopicError::WildcardInName);
    }
    Ok(())
}

/// Checks a topic filter; `$share/GROUP/FILTER` is one.
///
/// # Errors
/// [`TopicError`] says what is wrong.
pub fn validate_filter(filter: &str) -> Result<(), TopicError> {
    validate_common(filter)?;
    let filter = match Share::parse(filter) {
        Some(share)
            if share.group.is_empty() || share.group.contains(['+', '#']) || share.filter.is_empty() =>
        {
            return Err(TopicError::Share);
        }
        Some(share) => share.filter,
        None if filter.starts_with(SHARE_PREFIX) => return Err(TopicError::Share),
        None => filter,
    };
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        if level.contains('#') && (level != "#" || levels.peek().is_some()) {
            return Err(TopicError::Hash);
        }
        if level.contains('+') && level != "+" {
            return Err(TopicError::Plus);
        }
    }
    Ok(())
}

fn validate_common(topic: &str) -> Result<(), TopicError> {
    if topic.is_empty() {
        return Err(TopicError::Empty);
    }
    if topic.len() > TOPIC_BYTES_MAX {
        return Err(TopicError::TooLong);
    }
    if topic.contains('\0') {
        return Err(TopicError::Null);
    }
    if topic.split('/').count() > TOPIC_LEVELS_MAX {
        return Err(TopicError::TooDeep);
    }
    Ok(())
}

const SHARE_PREFIX: &str = "$share/";

/// The parts of a shared subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share<'a> {
    /// Who share the messages among them.
    pub group: &'a str,
    /// What they subscribe to.
    pub filter: &'a str,
}

impl<'a> Share<'a> {
    /// The parts of `$share/GROUP/FILTER`; none where it is an ordinary filter (or has no filter).
    pub fn parse(filter: &'a str) -> Option<Self> {
        let (group, filter) = filter.strip_prefix(SHARE_PREFIX)?.split_once('/')?;
        Some(Self { group, filter })
    }
}

/// Whether `filter` (valid, not shared) matches the topic `name`. `#` and `+` in the first level do not match a name
/// that begins with `$` (MQTT 5.0, 4.7.2); `a/#` also matches `a` (4.7.1.2).
pub fn matches(filter: &str, name: &str) -> bool {
    if name.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = name.split('/');
    for part in filter.split('/') {
        if part == "#" {
            return true;
        }
        match levels.next() {
            Some(level) if part == "+" || part == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

/// Filters, each with values of whoever put them there.
#[derive(Debug, Clone)]
pub struct FilterIndex<T> {
    root: Node<T>,
    len: usize,
}

#[derive(Debug, Clone)]
struct Node<T> {
    children: HashMap<Box<str>, Node<T>>,
    plus: Option<Box<Node<T>>>,
    /// Values of the filter that ends here, in their order.
    here: Vec<T>,
    /// Values of the filter that ends here with `#`.
    rest: Vec<T>,
}

impl<T> Default for FilterIndex<T> {
    fn default() -> Self {
        Self { root: Node::default(), len: 0 }
    }
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self { children: HashMap::new(), plus: None, here: Vec::new(), rest: Vec::new() }
    }
}

impl<T: Ord> FilterIndex<T> {
    /// An empty index.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `value` under `filter` (valid, not shared). An equal value under the same filter is replaced, and then
    /// false is returned.
    pub fn insert(&mut self, filter: &str, value: T) -> bool {
        let values = self.root.values_mut(filter);
        match values.binary_search(&value) {
            Ok(at) => {
                if let Some(old) = values.get_mut(at) {
                    *old = value;
                }
                false
            }
            Err(at) => {
                values.insert(at, value);
                self.len += 1;
                true
            }
        }
    }

    /// Takes the value that equals `value` from under `filter`; false where there was none.
    pub fn remove(&mut self, filter: &str, value: &T) -> bool {
        let removed = self.root.remove(filter.split('/'), value);
        self.len -= usize::from(removed);
        removed
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Visits every value whose filter matches the topic `name`, one visit a filter.
    pub fn for_each_match(&self, name: &str, mut visit: impl FnMut(&T)) {
        self.search(name, &mut |values| {
            values.iter().for_each(&mut visit);
            false
        });
    }

    /// Whether any filter matches the topic `name`.
    pub fn any_match(&self, name: &str) -> bool {
        self.search(name, &mut |values| !values.is_empty())
    }

    /// Calls `found` with the values of each filter that matches until it says true; says whether it did.
    fn search(&self, name: &str, found: &mut dyn FnMut(&[T]) -> bool) -> bool {
        self.root.search(name.split('/'), name.starts_with('$'), found)
    }
}

impl<T: Ord> Node<T> {
    fn values_mut(&mut self, filter: &str) -> &mut Vec<T> {
        let mut node = self;
        for level in filter.split('/') {
            node = match level {
                "#" => return &mut node.rest,
                "+" => node.plus.get_or_insert_default(),
                _ => node.children.entry(level.into()).or_default(),
            };
        }
        &mut node.here
    }

    fn remove<'a>(&mut self, mut levels: impl Iterator<Item = &'a str>, value: &T) -> bool {
        match levels.next() {
            None => take(&mut self.here, value),
            Some("#") => take(&mut self.rest, value),
            Some("+") => {
                let Some(child) = &mut self.plus else { return false };
                let removed = child.remove(levels, value);
                if child.is_empty() {
                    self.plus = None;
                }
                removed
            }
            Some(level) => {
                let Some(child) = self.children.get_mut(level) else { return false };
                let removed = child.remove(levels, value);
                if child.is_empty() {
                    self.children.remove(level);
                }
                removed
            }
        }
    }

    fn search<'a>(
        &self,
        mut levels: impl Iterator<Item = &'a str> + Clone,
        at_dollar: bool,
        found: &mut dyn FnMut(&[T]) -> bool,
    ) -> bool {
        // In the first level of a `$` name no wildcard applies.
        if !at_dollar && found(&self.rest) {
            return true;
        }
        let Some(level) = levels.next() else { return found(&self.here) };
        if let Some(child) = self.children.get(level)
            && child.search(levels.clone(), false, found)
        {
            return true;
        }
        !at_dollar && self.plus.as_ref().is_some_and(|child| child.search(levels, false, found))
    }

    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.plus.is_none() && self.here.is_empty() && self.rest.is_empty()
    }
}

fn take<T: Ord>(values: &mut Vec<T>, value: &T) -> bool {
    let found = values.binary_search(value);
    if let Ok(at) = found {
        values.remove(at);
    }
    found.is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_standards_examples() {
        for (filter, name, expected) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
            ("sport/#", "sport", true),
            ("#", "a/b", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/x", false),
            ("+/monitor/Clients", "$SYS/monitor/Clients", false),
            ("$SYS/#", "$SYS/x", true),
            ("é/+", "é/x", true),
            ("a", "a/b", false),
        ] {
            assert_eq!(matches(filter, name), expected, "{filter} {name}");
        }
    }

    #[test]
    fn what_is_valid() {
        assert_eq!(validate_filter("a/+/#"), Ok(()));
        assert_eq!(validate_filter("$share/g/a/#"), Ok(()));
        assert_eq!(validate_filter("a#"), Err(TopicError::Hash));
        assert_eq!(validate_filter("#/a"), Err(TopicError::Hash));
        assert_eq!(validate_filter("a+/b"), Err(TopicError::Plus));
        assert_eq!(validate_filter(""), Err(TopicError::Empty));
        for share in ["$share/g", "$share/", "$share//a", "$share/g/", "$share/+/a"] {
            assert_eq!(validate_filter(share), Err(TopicError::Share), "{share}");
        }
        assert_eq!(validate_name("a/+"), Err(TopicError::WildcardInName));
        assert_eq!(validate_name("a\0"), Err(TopicError::Null));
        assert_eq!(validate_name(&"/".repeat(TOPIC_LEVELS_MAX)), Err(TopicError::TooDeep));
        assert_eq!(validate_name(&"a".repeat(TOPIC_BYTES_MAX + 1)), Err(TopicError::TooLong));
        assert_eq!(validate_name("/"), Ok(()));
    }

    fn level() -> impl Strategy<Value = &'static str> {
        prop::sample::select(&["a", "b", "", "$s", "é"][..])
    }

    fn name() -> impl Strategy<Value = String> {
        prop::collection::vec(level(), 1..5)
            .prop_map(|levels| levels.join("/"))
            .prop_filter("empty", |n| !n.is_empty())
    }

    fn filter() -> impl Strategy<Value = String> {
        let level = prop_oneof![3 => level(), 1 => Just("+")];
        (prop::collection::vec(level, 1..5), any::<bool>())
            .prop_map(|(mut levels, hash)| {
                if hash {
                    levels.push("#");
                }
                levels.join("/")
            })
            .prop_filter("empty", |f| !f.is_empty())
    }

    proptest! {
        #[test]
        fn the_index_finds_what_a_scan_finds(
            filters in prop::collection::vec(filter(), 0..20),
            gone in prop::collection::vec(any::<bool>(), 20),
            name in name(),
        ) {
            let mut index = FilterIndex::new();
            for (at, filter) in filters.iter().enumerate() {
                prop_assert_eq!(validate_filter(filter), Ok(()));
                prop_assert!(index.insert(filter, at));
            }
            let mut expected = Vec::new();
            for (at, filter) in filters.iter().enumerate() {
                if gone[at] {
                    prop_assert!(index.remove(filter, &at));
                    prop_assert!(!index.remove(filter, &at));
                } else if matches(filter, &name) {
                    expected.push(at);
                }
            }
            let mut found = Vec::new();
            index.for_each_match(&name, |at| found.push(*at));
            found.sort_unstable();
            prop_assert_eq!(index.any_match(&name), !expected.is_empty());
            prop_assert_eq!(found, expected);
            for (at, filter) in filters.iter().enumerate() {
                index.remove(filter, &at);
            }
            prop_assert!(index.is_empty() && index.root.is_empty());
        }
    }
}
