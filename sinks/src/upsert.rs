//! Tables that hold one row a key instead of one row an event, such as the status of each device: which columns are
//! the key, and which one says that a row is newer than what is there. Shared by the sinks that can do it.

use crate::error::SinkError;
use crate::registry::{OptionSpec, Options};

/// The options; each kind that can do it lists them.
pub(crate) const KEY: OptionSpec = OptionSpec::new(
    "key.",
    None,
    "`key.TABLE`: the columns, with commas between, of which TABLE holds one row each (for device_status: clientid; \
     for device_alarms: name,clientid,activated_at)",
);
/// See [`KEY`].
pub(crate) const GUARD: OptionSpec = OptionSpec::new(
    "guard.",
    None,
    "`guard.TABLE`: a row replaces another of its key only if this column is larger (for device_status: seq; \
     for device_alarms: offset)",
);

/// The tables that have a key and a guard without being told: the status of each device, and each alarm that was
/// raised, whose deactivation is its later row.
const KNOWN: [(&str, &str, &str); 2] =
    [("device_status", "clientid", "seq"), ("device_alarms", "name,clientid,activated_at", "offset")];

/// How rows of a table replace each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Upsert {
    /// The columns that make the key; at least one.
    pub(crate) key: Vec<String>,
    /// The column that must grow; without it the later row wins.
    pub(crate) guard: Option<String>,
}

impl Upsert {
    /// What the options say of `table`; none where it holds one row an event.
    pub(crate) fn parse(options: &Options<'_>, table: &str) -> Result<Option<Self>, SinkError> {
        let (mut key, mut guard) = (None, None);
        if let Some((_, columns, grows)) = KNOWN.iter().find(|(name, ..)| *name == table) {
            (key, guard) = (Some(*columns), Some(*grows));
        }
        let given =
            |prefix| options.with_prefix(prefix).find(|(name, _)| *name == table).map(|(_, value)| value);
        if let Some(columns) = given(KEY.name) {
            // Another key than the usual one has no usual guard.
            (key, guard) = (Some(columns), guard.filter(|_| Some(columns) == key));
        }
        guard = given(GUARD.name).or(guard);
        let names = |list: &str| list.split(',').map(|name| name.trim().to_owned()).collect::<Vec<_>>();
        match (key.map(names), guard) {
            (Some(key), _) if key.iter().any(String::is_empty) => {
                Err(options.wrong(&format!("{}{table}", KEY.name), "names a column without a name"))
            }
            (_, Some("")) => Err(options.wrong(&format!("{}{table}", GUARD.name), "names no column")),
            (Some(key), guard) => Ok(Some(Self { key, guard: guard.map(str::to_owned) })),
            (None, Some(_)) => {
                let guard = format!("{}{table}", GUARD.name);
                Err(options.wrong(&guard, &format!("is of no use without `{}{table}`", KEY.name)))
            }
            (None, None) => Ok(None),
        }
    }
}
