//! Who is shut out, and until when. Exact names and addresses are looked up, ranges by the lengths of prefix that
//! occur, and only patterns are tried one after another: of those there is a limit.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use ipnet::IpNet;
use muster_broker::{Doorkeeper, Visitor};
use muster_core::clock::SharedClock;
use muster_core::registry::{DocumentChange, Registry};
use regex::Regex;
use serde::{Deserialize, Serialize};

use super::Collection;
use crate::config::Config;
use crate::error::{Error, ErrorKind};

/// Most bans by a pattern, of client ids and user names together: each is tried at each CONNECT.
const PATTERNS_COUNT_MAX: usize = 100;
/// Longest name, address or pattern of a ban.
const WHO_BYTES_MAX: usize = 4_096;
/// Most memory that one compiled pattern may take.
const PATTERN_COMPILED_BYTES_MAX: usize = 1 << 20;

/// What of a client a ban looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BanKind {
    /// The client id.
    Clientid,
    /// The user name.
    Username,
    /// The address.
    Peerhost,
    /// The client id, by a pattern.
    ClientidRe,
    /// The user name, by a pattern.
    UsernameRe,
    /// The address, by a range.
    PeerhostNet,
}

impl BanKind {
    const ALL: [Self; 6] = [
        Self::Clientid,
        Self::Username,
        Self::Peerhost,
        Self::ClientidRe,
        Self::UsernameRe,
        Self::PeerhostNet,
    ];

    /// Its name in REST.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Clientid => "clientid",
            Self::Username => "username",
            Self::Peerhost => "peerhost",
            Self::ClientidRe => "clientid_re",
            Self::UsernameRe => "username_re",
            Self::PeerhostNet => "peerhost_net",
        }
    }

    const fn is_pattern(self) -> bool {
        matches!(self, Self::ClientidRe | Self::UsernameRe)
    }
}

impl FromStr for BanKind {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or(())
    }
}

/// A ban.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    /// What it looks at.
    #[serde(rename = "as")]
    pub kind: BanKind,
    /// The name, address, range or pattern.
    pub who: String,
    /// Who made it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// From when on, milliseconds since 1970.
    pub at_ms: i64,
    /// Up to when; none: for ever.
    pub until_ms: Option<i64>,
}

/// Why a ban was not made.
#[derive(Debug)]
pub enum BanError {
    /// There is one of that kind for them.
    Exists,
    /// It cannot be used, and why.
    Bad(String),
    /// It could not be stored.
    Store(Error),
}

impl Ban {
    fn key(&self) -> (BanKind, String) {
        (self.kind, self.who.clone())
    }

    fn is_over(&self, now_ms: i64) -> bool {
        self.until_ms.is_some_and(|until| until <= now_ms)
    }

    fn is_on(&self, now_ms: i64) -> bool {
        self.at_ms <= now_ms && !self.is_over(now_ms)
    }
}

/// What a ban is compared with.
#[derive(Debug)]
enum Test {
    Name,
    Address(IpAddr),
    Range(IpNet),
    Pattern(Regex),
}

#[derive(Debug)]
struct Held {
    ban: Ban,
    test: Test,
}

/// Every ban, and the ways to find those that count for a client.
#[derive(Debug, Default)]
struct Table {
    /// In the order in which lists show them.
    all: BTreeMap<(BanKind, String), Held>,
    addresses: HashMap<IpAddr, BTreeSet<String>>,
    /// By length of prefix and version of IP, then by the range's first address.
    ranges: BTreeMap<(bool, u8), HashMap<IpAddr, BTreeSet<String>>>,
}

impl Table {
    fn insert(&mut self, ban: Ban) -> Result<(), String> {
        let test = test_of(&ban)?;
        let who = ban.who.clone();
        self.remove(&ban.key());
        match &test {
            Test::Address(address) => {
                self.addresses.entry(*address).or_default().insert(who);
            }
            Test::Range(range) => {
                let lengths = self.ranges.entry(length_of(range)).or_default();
                lengths.entry(range.network()).or_default().insert(who);
            }
            Test::Name | Test::Pattern(_) => {}
        }
        self.all.insert(ban.key(), Held { ban, test });
        Ok(())
    }

    fn remove(&mut self, key: &(BanKind, String)) -> Option<Ban> {
        let Held { ban, test } = self.all.remove(key)?;
        match test {
            Test::Address(address) => {
                if let Some(spellings) = self.addresses.get_mut(&address) {
                    spellings.remove(&ban.who);
                    if spellings.is_empty() {
                        self.addresses.remove(&address);
                    }
                }
            }
            Test::Range(range) => self.remove_range(&range, &ban.who),
            Test::Name | Test::Pattern(_) => {}
        }
        Some(ban)
    }

    fn remove_range(&mut self, range: &IpNet, who: &str) {
        let length = length_of(range);
        let Some(of_length) = self.ranges.get_mut(&length) else { return };
        if let Some(spellings) = of_length.get_mut(&range.network()) {
            spellings.remove(who);
            if spellings.is_empty() {
                of_length.remove(&range.network());
            }
        }
        if of_length.is_empty() {
            self.ranges.remove(&length);
        }
    }

    fn is_on(&self, kind: BanKind, who: &str, now_ms: i64) -> bool {
        self.all.get(&(kind, who.to_owned())).is_some_and(|held| held.ban.is_on(now_ms))
    }

    fn next_begin_ms(&self, after_ms: i64) -> Option<i64> {
        self.all.values().map(|held| held.ban.at_ms).filter(|at_ms| *at_ms > after_ms).min()
    }

    fn patterns(&self, kind: BanKind) -> impl Iterator<Item = &Held> {
        self.all
            .range((kind, String::new())..)
            .map(|(_, held)| held)
            .take_while(move |it| it.ban.kind == kind)
    }

    fn matches_pattern(&self, kind: BanKind, name: &str, now_ms: i64) -> bool {
        self.patterns(kind).any(|held| {
            held.ban.is_on(now_ms) && matches!(&held.test, Test::Pattern(pattern) if pattern.is_match(name))
        })
    }

    fn bans_address(&self, address: IpAddr, now_ms: i64) -> bool {
        let is_exact = self
            .addresses
            .get(&address)
            .is_some_and(|them| them.iter().any(|who| self.is_on(BanKind::Peerhost, who, now_ms)));
        is_exact
            || self.ranges.iter().filter(|((is_v6, _), _)| *is_v6 == address.is_ipv6()).any(
                |((_, length), of_length)| {
                    let range = IpNet::new(address, *length).ok();
                    let them = range.and_then(|range| of_length.get(&range.network()));
                    them.is_some_and(|them| {
                        them.iter().any(|who| self.is_on(BanKind::PeerhostNet, who, now_ms))
                    })
                },
            )
    }

    fn bans(&self, visitor: &Visitor<'_>, now_ms: i64) -> bool {
        if self.all.is_empty() {
            return false;
        }
        self.is_on(BanKind::Clientid, visitor.clientid, now_ms)
            || visitor.username.is_some_and(|name| self.is_on(BanKind::Username, name, now_ms))
            || visitor.address.is_some_and(|address| self.bans_address(address.to_canonical(), now_ms))
            || self.matches_pattern(BanKind::ClientidRe, visitor.clientid, now_ms)
            || visitor.username.is_some_and(|it| self.matches_pattern(BanKind::UsernameRe, it, now_ms))
    }
}

fn length_of(range: &IpNet) -> (bool, u8) {
    (matches!(range, IpNet::V6(_)), range.prefix_len())
}

fn test_of(ban: &Ban) -> Result<Test, String> {
    let who = ban.who.as_str();
    if who.is_empty() || who.len() > WHO_BYTES_MAX {
        return Err(format!("who: must have between 1 and {WHO_BYTES_MAX} bytes"));
    }
    match ban.kind {
        BanKind::Clientid | BanKind::Username => Ok(Test::Name),
        BanKind::Peerhost => {
            let address = who.parse::<IpAddr>().map_err(|_| "who: no IP address".to_owned())?;
            Ok(Test::Address(address.to_canonical()))
        }
        BanKind::PeerhostNet => {
            let single = || who.parse::<IpAddr>().map(IpNet::from);
            let range = who.parse::<IpNet>().or_else(|_| single());
            Ok(Test::Range(
                range.map_err(|_| "who: no range of addresses; write 10.0.0.0/8".to_owned())?.trunc(),
            ))
        }
        BanKind::ClientidRe | BanKind::UsernameRe => {
            let built = regex::RegexBuilder::new(who).size_limit(PATTERN_COMPILED_BYTES_MAX).build();
            Ok(Test::Pattern(built.map_err(|_| "who: no regular expression, or too large a one".to_owned())?))
        }
    }
}

/// The bans.
pub struct Bans {
    table: RwLock<Table>,
    stored: Collection<Ban>,
    clock: SharedClock,
    /// Held by whoever changes something, so that what is stored and what counts change in one order.
    changing: tokio::sync::Mutex<()>,
    /// Tells who waits for the next one to begin that another may.
    changed: tokio::sync::Notify,
}

impl std::fmt::Debug for Bans {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bans").field("table", &self.table).finish_non_exhaustive()
    }
}

impl Bans {
    /// Reads what is stored.
    ///
    /// # Errors
    /// The registry cannot be read, or a ban in it cannot be understood.
    pub fn load(_config: &Config, registry: &Registry, clock: &SharedClock) -> Result<Self, Error> {
        let stored = Collection::new("bans", registry);
        let mut table = Table::default();
        for (id, ban) in stored.load()? {
            table.insert(ban).map_err(|why| {
                Error::new(ErrorKind::Start, format!("the ban `{id}` in the registry cannot be used: {why}"))
            })?;
        }
        let changing = tokio::sync::Mutex::new(());
        let changed = tokio::sync::Notify::new();
        Ok(Self { table: RwLock::new(table), stored, clock: clock.clone(), changing, changed })
    }

    /// When the first of those begins that begin after a moment; none where none does.
    pub fn next_begin_ms(&self, after_ms: i64) -> Option<i64> {
        self.table().next_begin_ms(after_ms)
    }

    /// Resolves when a ban was made since this was asked last. For one who asks.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Makes a ban; it counts and is durable when this returns. One that is over does not stand in its way.
    ///
    /// # Errors
    /// [`BanError`]; nothing is changed then.
    pub async fn add(&self, ban: Ban) -> Result<(), BanError> {
        let _changing = self.changing.lock().await;
        let now_ms = self.clock.wall_ms();
        let over = {
            let table = self.table();
            test_of(&ban).map_err(BanError::Bad)?;
            if table.all.get(&ban.key()).is_some_and(|held| !held.ban.is_over(now_ms)) {
                return Err(BanError::Exists);
            }
            let patterns =
                [BanKind::ClientidRe, BanKind::UsernameRe].map(|kind| table.patterns(kind).count());
            if ban.kind.is_pattern() && patterns.iter().sum::<usize>() >= PATTERNS_COUNT_MAX {
                return Err(BanError::Bad(format!("there are {PATTERNS_COUNT_MAX} patterns already")));
            }
            let over = table.all.values().filter(|held| held.ban.is_over(now_ms)).map(|held| held.ban.key());
            over.collect::<Vec<_>>()
        };
        // Whoever makes a new one clears away those whose time is over.
        let mut changes: Vec<_> = over.iter().map(|key| self.stored.remove(&id_of(key))).collect();
        changes.push(self.stored.put(&id_of(&ban.key()), &ban).map_err(BanError::Store)?);
        self.stored.commit(changes).await.map_err(BanError::Store)?;
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        for key in &over {
            table.remove(key);
        }
        let inserted = table.insert(ban).map_err(BanError::Bad);
        self.changed.notify_one();
        inserted
    }

    /// Ends a ban; whether there was one.
    ///
    /// # Errors
    /// The registry refused; nothing is changed then.
    pub async fn remove(&self, kind: BanKind, who: &str) -> Result<bool, Error> {
        let _changing = self.changing.lock().await;
        let key = (kind, who.to_owned());
        if !self.table().all.contains_key(&key) {
            return Ok(false);
        }
        self.change(vec![self.stored.remove(&id_of(&key))], |table| drop(table.remove(&key))).await?;
        Ok(true)
    }

    /// Ends all bans.
    ///
    /// # Errors
    /// The registry refused; nothing is changed then.
    pub async fn clear(&self) -> Result<(), Error> {
        let _changing = self.changing.lock().await;
        self.change(vec![self.stored.clear()], |table| *table = Table::default()).await
    }

    /// Those that are not over and that `wanted` lets through, in the order of kind and name: how many there are, and
    /// the part of them that is asked for.
    pub fn list(&self, wanted: impl Fn(&Ban) -> bool, skip: usize, count_max: usize) -> (usize, Vec<Ban>) {
        let now_ms = self.clock.wall_ms();
        let table = self.table();
        let bans = table.all.values().map(|held| &held.ban).filter(|ban| !ban.is_over(now_ms) && wanted(ban));
        let mut total = 0;
        let mut shown = Vec::new();
        for ban in bans {
            if total >= skip && shown.len() < count_max {
                shown.push(ban.clone());
            }
            total += 1;
        }
        (total, shown)
    }

    async fn change(
        &self,
        changes: Vec<DocumentChange>,
        apply: impl FnOnce(&mut Table),
    ) -> Result<(), Error> {
        self.stored.commit(changes).await?;
        apply(&mut self.table.write().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }

    fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Doorkeeper for Bans {
    fn is_banned(&self, visitor: &Visitor<'_>) -> bool {
        self.table().bans(visitor, self.clock.wall_ms())
    }
}

fn id_of((kind, who): &(BanKind, String)) -> String {
    format!("{}:{who}", kind.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ban(kind: BanKind, who: &str) -> Ban {
        let (by, reason) = (String::new(), String::new());
        Ban { kind, who: who.to_owned(), by, reason, at_ms: 10, until_ms: Some(20) }
    }

    fn is_banned(table: &Table, clientid: &str, username: Option<&str>, address: &str, now_ms: i64) -> bool {
        let address = Some(address.parse().expect("an address"));
        table.bans(&Visitor { clientid, username, address }, now_ms)
    }

    #[test]
    fn each_kind_bans_whom_it_names_and_nobody_else() {
        for (kind, who, banned, free) in [
            (BanKind::Clientid, "a", ("a", None, "1.1.1.1"), ("A", Some("a"), "1.1.1.1")),
            (BanKind::Username, "u", ("x", Some("u"), "1.1.1.1"), ("u", None, "1.1.1.1")),
            (BanKind::Peerhost, "::ffff:1.2.3.4", ("x", None, "1.2.3.4"), ("x", None, "1.2.3.5")),
            (BanKind::Peerhost, "2001:db8::1", ("x", None, "2001:DB8:0::1"), ("x", None, "2001:db8::2")),
            (BanKind::ClientidRe, "^dev-[0-9]+$", ("dev-12", None, "1.1.1.1"), ("dev-x", None, "1.1.1.1")),
            (BanKind::UsernameRe, "^u", ("x", Some("us"), "1.1.1.1"), ("u", Some("su"), "1.1.1.1")),
            (BanKind::PeerhostNet, "10.1.2.3/8", ("x", None, "10.200.0.1"), ("x", None, "11.0.0.1")),
            (BanKind::PeerhostNet, "2001:db8::/32", ("x", None, "2001:db8:1::9"), ("x", None, "2001:db9::1")),
            (BanKind::PeerhostNet, "0.0.0.0/0", ("x", None, "9.9.9.9"), ("x", None, "2001:db9::1")),
        ] {
            let mut table = Table::default();
            table.insert(ban(kind, who)).expect("a ban");
            let ask = |(id, user, address): (&str, Option<&str>, &str), now| {
                is_banned(&table, id, user, address, now)
            };
            assert!(ask(banned, 10) && ask(banned, 19), "{kind:?} {who}");
            assert!(!ask(banned, 9) && !ask(banned, 20), "{kind:?} {who}: its time");
            assert!(!ask(free, 15), "{kind:?} {who}");
            table.remove(&(kind, who.to_owned())).expect("it was there");
            assert!(table.addresses.is_empty() && table.ranges.is_empty() && table.all.is_empty());
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        for (kind, who) in [
            (BanKind::Clientid, ""),
            (BanKind::Peerhost, "localhost"),
            (BanKind::PeerhostNet, "10.0.0.0/33"),
            (BanKind::ClientidRe, "("),
            (BanKind::UsernameRe, "(((a{1000}){1000}){1000})"),
        ] {
            Table::default().insert(ban(kind, who)).expect_err(who);
        }
    }

    #[test]
    fn the_next_to_begin_is_known() {
        let mut table = Table::default();
        for (who, at_ms) in [("a", 30), ("b", 10), ("c", 20)] {
            table.insert(Ban { at_ms, until_ms: None, ..ban(BanKind::Clientid, who) }).expect("a ban");
        }
        assert_eq!(
            [5, 10, 29, 30].map(|after| table.next_begin_ms(after)),
            [Some(10), Some(20), Some(30), None]
        );
    }

    #[test]
    fn one_address_in_two_spellings_is_two_bans() {
        let mut table = Table::default();
        for who in ["1.2.3.4", "::ffff:1.2.3.4"] {
            table.insert(ban(BanKind::Peerhost, who)).expect("a ban");
        }
        table.remove(&(BanKind::Peerhost, "1.2.3.4".to_owned()));
        assert!(is_banned(&table, "x", None, "1.2.3.4", 15));
    }
}
