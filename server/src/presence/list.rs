//! The table of devices, read for people and programs: filtered, sorted, in pages that stay where they are while
//! devices come and go. It must never write.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use muster_core::event::EventKind;
use rusqlite::{named_params, params};
use serde_json::Value;

use super::fold::Device;
use super::store::{COLUMNS, StoreError, from_row, int, open_reader, uint};

const DAY_MS: i64 = 86_400_000;

/// Which devices to list.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Only these that are online, or only those that are not.
    pub online: Option<bool>,
    /// Only this client id.
    pub clientid: Option<String>,
    /// Only client ids that contain this.
    pub like_clientid: Option<String>,
    /// Only this user name.
    pub username: Option<String>,
    /// Only those that went before this moment and did not come back, milliseconds since 1970.
    pub gone_before_ms: Option<i64>,
    /// Only those that are flapping at `now_ms`, or only those that are not.
    pub flapping: Option<bool>,
    /// What flapping is measured against, milliseconds since 1970.
    pub now_ms: i64,
    /// By what they are sorted.
    pub sort: Sort,
    /// The other way round.
    pub descending: bool,
    /// Only what comes behind this place.
    pub after: Option<Place>,
    /// How many to skip.
    pub offset: u64,
    /// How many to give at most.
    pub limit: u64,
}

/// By what devices are sorted; those that are equal in it, by client id.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sort {
    /// Their client ids.
    #[default]
    Clientid,
    /// Since when their state holds.
    Since,
    /// The last sign of presence.
    LastSeen,
    /// How often they came.
    Connects,
    /// How often they went.
    Disconnects,
    /// How long they were away at most.
    LongestOutage,
}

impl Sort {
    /// Every order with its name.
    pub const ALL: [(Self, &str); 6] = [
        (Self::Clientid, "clientid"),
        (Self::Since, "since"),
        (Self::LastSeen, "last_seen"),
        (Self::Connects, "connects"),
        (Self::Disconnects, "disconnects"),
        (Self::LongestOutage, "longest_outage"),
    ];

    /// The order of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(sort, _)| *sort)
    }

    /// What it is called: the column.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(sort, _)| *sort == self).map_or("clientid", |(_, name)| *name)
    }
}

/// Where a page ended: the last device and what it was sorted by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    sort: Sort,
    value: i64,
    clientid: String,
}

impl Place {
    /// Behind `device`, in this order.
    pub fn behind(device: &Device, sort: Sort) -> Self {
        let count = |number: u64| int(number);
        let value = match sort {
            Sort::Clientid => 0,
            Sort::Since => device.since_ms,
            Sort::LastSeen => device.last_seen_ms,
            Sort::Connects => count(device.connects),
            Sort::Disconnects => count(device.disconnects),
            Sort::LongestOutage => device.longest_outage_ms,
        };
        Self { sort, value, clientid: device.clientid.clone() }
    }

    /// The place as a word for clients, who must not look into it.
    pub fn to_token(&self) -> String {
        let text = serde_json::json!([self.sort.name(), self.value, self.clientid]).to_string();
        URL_SAFE_NO_PAD.encode(text)
    }

    /// The place that a word stands for; none where it is not one of ours for this order.
    pub fn from_token(token: &str, sort: Sort) -> Option<Self> {
        let text = URL_SAFE_NO_PAD.decode(token).ok()?;
        let [name, value, clientid]: [Value; 3] = serde_json::from_slice(&text).ok()?;
        let named = Sort::named(name.as_str()?)?;
        let place = Self { sort, value: value.as_i64()?, clientid: clientid.as_str()?.to_owned() };
        (named == sort).then_some(place)
    }
}

/// One page of devices, and the number of all that match whatever page it is. A connection of its own, so that it is
/// not in the writer's way.
///
/// # Errors
/// The database is not there or SQLite refused.
pub fn list(path: &Path, wanted: &Wanted) -> Result<(Vec<Device>, u64), StoreError> {
    let read = || {
        let db = open_reader(path)?;
        let filter = "(:online IS NULL OR online = :online) AND (:clientid IS NULL OR clientid = :clientid)
             AND (:like IS NULL OR instr(clientid, :like) > 0) AND (:username IS NULL OR username = :username)
             AND (:gone_before IS NULL OR (online = 0 AND since <= :gone_before))
             AND (:flapping IS NULL OR (flapping_until > :now) = :flapping)";
        let total = db.query_row(
            &format!("SELECT COUNT(*) AS total FROM devices WHERE {filter}"),
            named_params! {
                ":online": wanted.online,
                ":clientid": wanted.clientid,
                ":like": wanted.like_clientid,
                ":username": wanted.username,
                ":gone_before": wanted.gone_before_ms,
                ":flapping": wanted.flapping,
                ":now": wanted.now_ms,
            },
            |row| uint(row, "total"),
        )?;
        let (than, direction) = if wanted.descending { ("<", "DESC") } else { (">", "ASC") };
        let (behind, order) = match wanted.sort {
            Sort::Clientid => (format!("clientid {than} :id"), format!("clientid {direction}")),
            sort => {
                let column = sort.name();
                let behind = format!("({column}, clientid) {than} (:value, :id)");
                (behind, format!("{column} {direction}, clientid {direction}"))
            }
        };
        let mut statement = db.prepare(&format!(
            "SELECT {COLUMNS} FROM devices WHERE {filter} AND (:id IS NULL OR (:value IS NOT NULL AND {behind}))
             ORDER BY {order} LIMIT :limit OFFSET :offset"
        ))?;
        let devices = statement.query_map(
            named_params! {
                ":online": wanted.online,
                ":clientid": wanted.clientid,
                ":like": wanted.like_clientid,
                ":username": wanted.username,
                ":gone_before": wanted.gone_before_ms,
                ":flapping": wanted.flapping,
                ":now": wanted.now_ms,
                ":value": wanted.after.as_ref().map(|it| it.value),
                ":id": wanted.after.as_ref().map(|it| it.clientid.as_str()),
                ":limit": int(wanted.limit),
                ":offset": int(wanted.offset),
            },
            from_row,
        )?;
        Ok((devices.collect::<Result<Vec<_>, _>>()?, total))
    };
    read().map_err(|source| StoreError::Sqlite { path: path.display().to_string(), source })
}

/// How often a device came and went in the day before `now_ms`.
///
/// # Errors
/// The database is not there or SQLite refused.
pub fn last_day(path: &Path, devices: &[Device], now_ms: i64) -> Result<Vec<(u64, u64)>, StoreError> {
    let read = || {
        let db = open_reader(path)?;
        let mut count = db.prepare(
            "SELECT COALESCE(SUM(came_offset IS NOT NULL AND came > ?2 AND came <= ?3), 0) AS connects,
                    COALESCE(SUM(went > ?2 AND went <= ?3), 0) AS disconnects
             FROM (SELECT * FROM _muster_sessions WHERE device = ?1 ORDER BY session DESC LIMIT 100000)",
        )?;
        let counts = devices.iter().map(|device| {
            let bounds = params![int(device.number), now_ms - DAY_MS, now_ms];
            count.query_row(bounds, |row| Ok((uint(row, "connects")?, uint(row, "disconnects")?)))
        });
        counts.collect::<Result<Vec<_>, rusqlite::Error>>()
    };
    read().map_err(|source| StoreError::Sqlite { path: path.display().to_string(), source })
}

/// Something that happened to a device.
#[derive(Debug, Clone, PartialEq)]
pub struct Happened {
    /// The offset of its event; none where the event was not seen.
    pub offset: Option<u64>,
    /// When, milliseconds since 1970.
    pub at_ms: i64,
    /// The event's name.
    pub kind: String,
    /// Its session, of comings and goings.
    pub session: Option<u64>,
    /// How long the session had lasted, of goings.
    pub duration_ms: Option<i64>,
    /// Why it went.
    pub reason: Option<String>,
    /// What else there is to say, a JSON object.
    pub detail: Value,
}

/// The events that a device's history has, and by whose names a part of it is asked for.
pub const SHOWN: [EventKind; 6] = [
    EventKind::ClientConnected,
    EventKind::ClientDisconnected,
    EventKind::SessionSubscribed,
    EventKind::SessionUnsubscribed,
    EventKind::AlarmActivated,
    EventKind::AlarmDeactivated,
];

/// The names of [`SHOWN`], for a message.
pub fn shown_names() -> String {
    SHOWN.map(EventKind::name).join(", ")
}

/// Which part of a device's history is wanted.
#[derive(Debug, Clone, Default)]
pub struct Part {
    /// Nothing before this moment.
    pub from_ms: Option<i64>,
    /// Nothing from this moment on.
    pub to_ms: Option<i64>,
    /// Only events of these names; of all, if there is none.
    pub kinds: Vec<String>,
    /// Only what comes before this offset.
    pub before: Option<u64>,
    /// How many to give at most.
    pub limit: usize,
}

/// What happened to the device of this number, the latest first.
///
/// # Errors
/// The database is not there or SQLite refused.
pub fn history(path: &Path, number: u64, part: &Part) -> Result<Vec<Happened>, StoreError> {
    let read = || {
        let db = open_reader(path)?;
        let is_wanted = |kind: &str| part.kinds.is_empty() || part.kinds.iter().any(|it| it == kind);
        // Sessions follow each other, so that those of the latest number ended last.
        let mut statement = db.prepare(
            "SELECT offset, at, kind, session, duration, reason, detail FROM (
                 SELECT went_offset AS offset, went AS at, 'client.disconnected' AS kind, session,
                        went - came AS duration, reason,
                        json_object('peername', peername, 'username', username) AS detail
                 FROM _muster_sessions WHERE device = :device AND went IS NOT NULL AND :went
             UNION ALL
                 SELECT came_offset, came, 'client.connected', session, NULL, NULL,
                        json_object('peername', peername, 'username', username)
                 FROM _muster_sessions WHERE device = :device AND :came
             UNION ALL
                 SELECT offset, at, kind, NULL, NULL, NULL, detail FROM _muster_device_events
                 WHERE device = :device AND :other)
             WHERE (:from IS NULL OR at >= :from) AND (:to IS NULL OR at < :to)
                 AND (:before IS NULL OR COALESCE(offset, session) < :before)
             ORDER BY COALESCE(offset, session) DESC, kind",
        )?;
        let went = is_wanted("client.disconnected");
        let came = is_wanted("client.connected");
        let rows = statement.query_map(
            named_params! {
                ":device": int(number), ":went": went, ":came": came, ":other": true,
                ":from": part.from_ms, ":to": part.to_ms, ":before": part.before.map(int),
            },
            |row| {
                let number = |column| {
                    row.get::<_, Option<i64>>(column).map(|it| it.and_then(|it| u64::try_from(it).ok()))
                };
                let detail: String = row.get("detail")?;
                Ok(Happened {
                    offset: number("offset")?,
                    at_ms: row.get("at")?,
                    kind: row.get("kind")?,
                    session: number("session")?,
                    duration_ms: row.get("duration")?,
                    reason: row.get("reason")?,
                    detail: serde_json::from_str(&detail).unwrap_or_default(),
                })
            },
        )?;
        let wanted = rows.filter(|row| row.as_ref().map_or(true, |row| is_wanted(&row.kind)));
        wanted.take(part.limit).collect::<Result<Vec<_>, _>>()
    };
    read().map_err(|source| StoreError::Sqlite { path: path.display().to_string(), source })
}
