//! What MongoDB's error codes mean to delivery. The names are those of the server's list of codes.

use crate::error::ErrorKind;

/// What a code is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The document is there, or another has what must be unique.
    Duplicate,
    /// The document is refused for what it is.
    Document,
    /// No document would be taken: rights, names, options.
    Configuration,
    /// Too much at once.
    Throttled,
    /// It passes.
    Passing,
    /// Nothing we know.
    Unknown,
}

impl Meaning {
    /// Of the answer to a single document: what judges one document alone and is not known to pass is about it.
    pub(super) fn of_document(code: i32) -> Self {
        match Self::of(code) {
            Self::Unknown => Self::Document,
            known => known,
        }
    }

    /// Of the answer to a whole command.
    pub(super) fn of(code: i32) -> Self {
        let known = CODES.iter().find(|(_, codes)| codes.iter().any(|(known, _)| *known == code));
        known.map_or(Self::Unknown, |(meaning, _)| *meaning)
    }

    /// The kind of an error that ends a whole command.
    pub(super) fn kind(self) -> ErrorKind {
        match self {
            Self::Duplicate | Self::Document => ErrorKind::RejectedBatch,
            Self::Configuration => ErrorKind::Misconfigured,
            Self::Throttled => ErrorKind::Throttled { retry_after: None },
            Self::Passing | Self::Unknown => ErrorKind::Unavailable,
        }
    }
}

/// Codes that judge a document, that would refuse every one, and that pass.
const CODES: &[(Meaning, &[(i32, &str)])] = &[
    (
        Meaning::Duplicate,
        &[(11000, "DuplicateKey"), (11001, "DuplicateKey, of old"), (12582, "the same, sharded")],
    ),
    (
        Meaning::Document,
        &[
            (2, "BadValue"),
            (9, "FailedToParse"),
            (14, "TypeMismatch"),
            (15, "Overflow"),
            (22, "InvalidBSON"),
            (28, "PathNotViable"),
            (40, "ConflictingUpdateOperators"),
            (52, "DollarPrefixedFieldName"),
            (53, "InvalidIdField"),
            (54, "NotSingleValueField"),
            (55, "InvalidDBRef"),
            (56, "EmptyFieldName"),
            (57, "DottedFieldName"),
            (66, "ImmutableField"),
            (121, "DocumentValidationFailure"),
            (171, "CannotIndexParallelArrays"),
            (10334, "BSONObjectTooLarge"),
            (16755, "a shape that a geographic index cannot take"),
            (17280, "KeyTooLong"),
            (17419, "the document would become too large"),
            (17420, "the document would become too large"),
        ],
    ),
    (
        Meaning::Configuration,
        &[
            (11, "UserNotFound"),
            (13, "Unauthorized"),
            (18, "AuthenticationFailed"),
            (20, "IllegalOperation"),
            (26, "NamespaceNotFound"),
            (31, "RoleNotFound"),
            (59, "CommandNotFound"),
            (72, "InvalidOptions"),
            (73, "InvalidNamespace"),
            (79, "UnknownReplWriteConcern"),
            (100, "UnsatisfiableWriteConcern"),
            (115, "CommandNotSupported"),
            (166, "CommandNotSupportedOnView"),
            (167, "OptionNotSupportedOnView"),
            (238, "NotImplemented"),
            (334, "MechanismUnavailable"),
            (8000, "AtlasError"),
        ],
    ),
    (
        Meaning::Throttled,
        &[
            (462, "IngressRequestRateLimitExceeded"),
            (16500, "RequestRateTooLarge, of stores that speak MongoDB's protocol"),
        ],
    ),
    (
        Meaning::Passing,
        &[
            (1, "InternalError"),
            (6, "HostUnreachable"),
            (7, "HostNotFound"),
            (8, "UnknownError"),
            (24, "LockTimeout"),
            (46, "LockBusy"),
            (50, "MaxTimeMSExpired"),
            (63, "StaleShardVersion"),
            (64, "WriteConcernTimeout"),
            (89, "NetworkTimeout"),
            (91, "ShutdownInProgress"),
            (112, "WriteConflict"),
            (117, "ConflictingOperationInProgress"),
            (133, "FailedToSatisfyReadPreference"),
            (134, "ReadConcernMajorityNotAvailableYet"),
            (150, "StaleEpoch"),
            (189, "PrimarySteppedDown"),
            (202, "NetworkInterfaceExceededTimeLimit"),
            (246, "SnapshotUnavailable"),
            (251, "NoSuchTransaction"),
            (261, "TooManyLogicalSessions"),
            (262, "ExceededTimeLimit"),
            (317, "ConnectionPoolExpired"),
            (391, "ReauthenticationRequired"),
            (9001, "SocketException"),
            (10058, "LegacyNotPrimary"),
            (10107, "NotWritablePrimary"),
            (11600, "InterruptedAtShutdown"),
            (11601, "Interrupted"),
            (11602, "InterruptedDueToReplStateChange"),
            (12586, "BackgroundOperationInProgressForDatabase"),
            (12587, "BackgroundOperationInProgressForNamespace"),
            (13388, "StaleConfig"),
            (13435, "NotPrimaryNoSecondaryOk"),
            (13436, "NotPrimaryOrSecondary"),
            (14031, "OutOfDiskSpace"),
        ],
    ),
];

/// What an operator can do about a code, where there is more to say than its kind has.
pub(super) fn hint(code: i32) -> Option<&'static str> {
    Some(match code {
        11 | 18 | 334 | 8000 => {
            "see that `username`, `password`, `auth_source` and `auth_mechanism` are those of a user of the server"
        }
        13 => {
            "give the user the role readWrite on the sink's database, or log in where the server asks for it"
        }
        20 => {
            "a server that is no replica set refuses retried writes: add `retryWrites=false` to the address"
        }
        73 => "see that `database` and the collection's name are such as the server takes",
        79 | 100 => "the replica set cannot do what `write_concern` asks for; see how many members it has",
        166 | 167 => "the target is a view; name a collection",
        14031 => "the server's disk is full; make room, and delivery goes on by itself",
        _ => return None,
    })
}
