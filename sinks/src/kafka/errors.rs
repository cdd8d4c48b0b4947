//! What librdkafka's errors mean to delivery, and what an operator can do about them. Pure.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::error::{ErrorKind, SinkError};

const CREDENTIALS: &str = "see that `username`, `password` and `sasl_mechanism` are what the brokers know";
const TLS: &str = "see that `ca_file` holds the authority of the brokers' certificates, that they name the host that \
                   `brokers` names, and that the listener speaks TLS";
const RIGHTS: &str = "let the user write to the topic, and under `delivery = 'exactly_once'` use the transactional id \
                      and read and write the checkpoint topic; to create topics takes that right, too";
const TOO_OLD: &str =
    "the brokers are too old or set up otherwise; `delivery = 'at_least_once'` asks for less";
const TOO_LONG: &str = "lower `timeout_ms`, or raise the brokers' `transaction.max.timeout.ms`";

/// An error of a call, made to `what`.
pub(super) fn of(error: KafkaError, what: &str) -> SinkError {
    let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
    with_hint(SinkError::new(kind(code), format!("Kafka did not {what}")), code).caused_by(error)
}

/// An error that librdkafka told of its own accord, in its words.
pub(super) fn of_code(code: Code, reason: String) -> SinkError {
    with_hint(SinkError::new(kind(code), reason), code)
}

/// Why a client cannot even be made: a file that is missing, a key that does not open. librdkafka names its properties;
/// operators know our options.
pub(super) fn of_creation(error: KafkaError) -> SinkError {
    let mut words = error.to_string();
    for (property, option) in [
        ("ssl.ca.location", "`ca_file`"),
        ("ssl.certificate.location", "`cert_file`"),
        ("ssl.key.location", "`key_file`"),
        ("ssl.key.password", "`key_password`"),
    ] {
        words = words.replace(property, option);
    }
    SinkError::misconfigured(format!("the options cannot be used: {words}")).with_hint(
        "see that `ca_file`, `cert_file`, `key_file` and `key_password` are right, and may be read",
    )
}

/// Whether the fault is in the record: any other record may be taken.
pub(super) fn is_about_the_record(code: Code) -> bool {
    kind(code) == ErrorKind::RejectedRow
}

/// Whether the broker has named the records that it does not take, and this one only came with them.
pub(super) fn is_innocent(code: Code) -> bool {
    code == Code::InvalidDifferentRecord
}

/// Whether more waiting cannot help: what the operator must see now.
pub(super) fn is_settled(code: Code) -> bool {
    matches!(code, Code::Authentication | Code::SaslAuthenticationFailed | Code::SSL)
}

/// Whether the call only wants more time.
pub(super) fn is_waiting(error: &KafkaError) -> bool {
    use Code::{
        AllBrokersDown, BrokerTransportFailure, ConcurrentTransactions, CoordinatorLoadInProgress,
        CoordinatorNotAvailable, LeaderNotAvailable, NotCoordinator, OperationTimedOut, RequestTimedOut,
        Resolve, WaitingForCoordinator,
    };
    matches!(
        error.rdkafka_error_code(),
        Some(
            AllBrokersDown
                | BrokerTransportFailure
                | ConcurrentTransactions
                | CoordinatorLoadInProgress
                | CoordinatorNotAvailable
                | LeaderNotAvailable
                | NotCoordinator
                | OperationTimedOut
                | RequestTimedOut
                | Resolve
                | WaitingForCoordinator
        )
    )
}

/// Whether the broker says that another producer has our transactional id, or that our transaction took too long.
pub(super) fn is_fence(error: &SinkError) -> bool {
    error.kind() == ErrorKind::Fenced
}

/// What a code means where it is the answer to a batch of records or to a call.
pub(super) fn kind(code: Code) -> ErrorKind {
    match code {
        Code::MessageSizeTooLarge
        | Code::MessageBatchTooLarge
        | Code::InvalidMessageSize
        | Code::InvalidRecord
        | Code::InvalidTimestamp => ErrorKind::RejectedRow,
        Code::Fenced
        | Code::ProducerFenced
        | Code::InvalidProducerEpoch
        | Code::TransactionCoordinatorFenced => ErrorKind::Fenced,
        Code::ThrottlingQuotaExceeded => ErrorKind::Throttled { retry_after: None },
        Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::SSL
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState
        | Code::TopicAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::SecurityDisabled
        | Code::UnsupportedVersion
        | Code::UnsupportedFeature
        | Code::UnsupportedForMessageFormat
        | Code::UnsupportedCompressionType
        | Code::InvalidTransactionTimeout
        | Code::InvalidRequiredAcks
        | Code::InvalidConfig
        | Code::InvalidPartitions
        | Code::InvalidReplicationFactor
        | Code::InvalidTopic
        | Code::PolicyViolation
        | Code::InvalidArgument
        | Code::NotConfigured => ErrorKind::Misconfigured,
        _ => ErrorKind::Unavailable,
    }
}

fn with_hint(error: SinkError, code: Code) -> SinkError {
    match code {
        Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState => error.with_hint(CREDENTIALS),
        Code::SSL => error.with_hint(TLS),
        Code::TopicAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::GroupAuthorizationFailed => error.with_hint(RIGHTS),
        Code::UnsupportedVersion | Code::UnsupportedFeature | Code::UnsupportedForMessageFormat => {
            error.with_hint(TOO_OLD)
        }
        Code::InvalidTransactionTimeout => error.with_hint(TOO_LONG),
        Code::InvalidPartitions | Code::InvalidReplicationFactor => {
            error.with_hint("see that `partitions` and `replication_factor` are what the cluster can have")
        }
        _ => error,
    }
}

/// Whether the code only says that something else has failed before.
pub(super) fn is_consequence(code: Code) -> bool {
    matches!(code, Code::PurgeQueue | Code::PurgeInflight | Code::State | Code::Fatal)
}

/// Whether it is about a group, of which the reader of checkpoints makes no use.
pub(super) fn is_about_the_group(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(Code::GroupAuthorizationFailed)
}
