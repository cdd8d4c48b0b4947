//! What can go wrong with the log: one type, with a [`LogErrorKind`] to decide by and a sentence for people.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::unpack::BlockDamage;

/// An error of the log or the journal. Cheap to clone: one failed group answers to all who wait for it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// The disk refused something outside a commit.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, e.g. `open`.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// Another process has the log.
    #[error("the log in {} is in use by another process; stop that one first, or use another directory", dir.display())]
    Locked {
        /// The log's directory.
        dir: PathBuf,
    },
    /// A byte before the tail is not what was written.
    #[error(
        "the log is damaged: {} at byte {byte} (offset {offset}): {what}; nothing was changed; \
         `muster log repair` copies what is good to a new log",
        segment.display()
    )]
    Corrupt {
        /// The segment.
        segment: PathBuf,
        /// The record's offset, or the first offset that is missing.
        offset: u64,
        /// Where in the file.
        byte: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// The file is in a format that this version does not read.
    #[error(
        "{} is of format version {found}; this version of muster reads versions up to {newest}; use a newer one",
        segment.display()
    )]
    NewerVersion {
        /// The segment.
        segment: PathBuf,
        /// The version in its header.
        found: u16,
        /// The newest version that can be read.
        newest: u16,
    },
    /// No room: the disk is full, or the log has reached its cap. It goes on by itself when there is room again.
    #[error("the log has no room: {reason}; nothing is acknowledged until there is")]
    DiskFull {
        /// Which limit was met.
        reason: &'static str,
        /// What the system said, if it was the system.
        #[source]
        source: Option<Arc<io::Error>>,
    },
    /// A write or a sync failed in a way after which the disk cannot be trusted. Only a restart helps.
    #[error(
        "the log takes nothing more until muster is started again on a sound disk, because it could not {action} {}",
        path.display()
    )]
    ReadOnly {
        /// What failed.
        action: &'static str,
        /// On which segment.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
    /// The record is larger than the log takes.
    #[error("a record of {bytes} bytes is larger than the log takes ({bytes_max})")]
    TooLarge {
        /// Its size with header and topic.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The queue has no room now; only from calls that do not wait.
    #[error("the log's queue is full")]
    QueueFull,
    /// What a reader wanted is no longer there.
    #[error("offset {offset} is no longer in the log, which begins at {first}")]
    Trimmed {
        /// What was wanted.
        offset: u64,
        /// The first offset that is there.
        first: u64,
    },
    /// A record that is whole but no event.
    #[error("the record is not an event")]
    Event(#[source] Arc<crate::event::EventError>),
    /// A setting that cannot be.
    #[error("log setting {setting}: {reason}")]
    Config {
        /// Its name.
        setting: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// What to do about a [`LogError`] depends on this alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogErrorKind {
    /// The disk refused something.
    Io,
    /// The disk refused because of permissions.
    Permission,
    /// Another process has the log.
    Locked,
    /// Damage before the tail.
    Corrupt,
    /// Written by a newer version.
    NewerVersion,
    /// No room; passes by itself.
    DiskFull,
    /// Nothing more is written until a restart.
    ReadOnly,
    /// Closed.
    Closed,
    /// The record is too large.
    TooLarge,
    /// The queue is full.
    QueueFull,
    /// Removed by retention.
    Trimmed,
    /// A record that is no event.
    Event,
    /// A wrong setting.
    Config,
}

impl LogError {
    /// What it is, to match on.
    pub fn kind(&self) -> LogErrorKind {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                LogErrorKind::Permission
            }
            Self::Io { .. } => LogErrorKind::Io,
            Self::Locked { .. } => LogErrorKind::Locked,
            Self::Corrupt { .. } => LogErrorKind::Corrupt,
            Self::NewerVersion { .. } => LogErrorKind::NewerVersion,
            Self::DiskFull { .. } => LogErrorKind::DiskFull,
            Self::ReadOnly { .. } => LogErrorKind::ReadOnly,
            Self::Closed => LogErrorKind::Closed,
            Self::TooLarge { .. } => LogErrorKind::TooLarge,
            Self::QueueFull => LogErrorKind::QueueFull,
            Self::Trimmed { .. } => LogErrorKind::Trimmed,
            Self::Event(_) => LogErrorKind::Event,
            Self::Config { .. } => LogErrorKind::Config,
        }
    }

    /// For `map_err` on a call to the disk.
    pub(super) fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io { action, path: path.to_owned(), source: Arc::new(source) }
    }

    /// For `map_err` on reading records: a compressed segment says in this way that it is damaged.
    pub(super) fn read<'a>(path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |error| match error.downcast::<BlockDamage>() {
            Ok(BlockDamage { offset, byte, what }) => {
                Self::Corrupt { segment: path.to_owned(), offset, byte, what }
            }
            Err(error) => Self::io("read", path)(error),
        }
    }

    /// Whether it says that a file is not there.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// For `map_err` on a write within a commit: a full disk passes, anything else is final.
    pub(super) fn write<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| {
            if is_full(&source) {
                Self::DiskFull { reason: "the disk is full", source: Some(Arc::new(source)) }
            } else {
                Self::sync(action, path)(source)
            }
        }
    }

    /// For `map_err` on a sync within a commit: whatever it says, the pages cannot be trusted any more.
    pub(super) fn sync<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::ReadOnly { action, path: path.to_owned(), source: Arc::new(source) }
    }
}

/// Whether the system says that there is no room, by whatever limit.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
