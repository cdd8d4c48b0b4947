//! What InfluxDB's answers mean: written, about the points, or about the server. Pure, so that every version's words
//! can be tried. It must never know HTTP beyond a status.

use std::time::Duration;

use reqwest::StatusCode;

use crate::error::{ErrorKind, SinkError};

/// How much of the server's words is kept as a reason.
const REASON_BYTES_MAX: usize = 300;

/// An answer as it came.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<Duration>,
    /// The server's version, if it said so.
    pub(super) version: Option<String>,
    pub(super) text: String,
}

/// What became of the points of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All are durable.
    Written,
    /// Some or all are refused; the others may be written or not.
    Refused(Refusal),
}

/// Why points were refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// In the server's words, short enough for a dead letter.
    pub(super) reason: String,
    /// How many, if the server said so. A server with many shards counts those of one.
    pub(super) dropped: Option<usize>,
    pub(super) cause: Cause,
}

/// What tells the refused points from the others. The server names one cause even where it has several.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// A field has another type than it had before.
    Conflict {
        /// The measurement.
        measurement: String,
        /// The field.
        field: String,
        /// The type that was refused.
        is: String,
    },
    /// Older than the retention policy keeps.
    Retention,
    /// Lines that could not be read, as they were sent.
    Unparsable(Vec<String>),
    /// Whatever it is, the words do not say for which point.
    Other,
}

impl Answer {
    /// The server's words, or what stands for them.
    pub(super) fn said(&self) -> String {
        let said = message(&self.text);
        if said.is_empty() { self.status.to_string() } else { short(&said).to_owned() }
    }

    pub(super) fn is_version_1(&self) -> bool {
        self.version.as_deref().is_some_and(|version| version.trim_start_matches('v').starts_with("1."))
    }
}

/// What `answer` means for the points that were posted to `target` at `shown`.
pub(super) fn judge(answer: &Answer, shown: &str, target: &str) -> Result<Verdict, SinkError> {
    let retry_after = answer.retry_after;
    let said = message(&answer.text);
    let error = |kind| SinkError::new(kind, format!("{shown} answered {}: {}", answer.status, short(&said)));
    let misconfigured = |hint: String| Err(error(ErrorKind::Misconfigured).with_hint(hint));
    match answer.status.as_u16() {
        204 => Ok(Verdict::Written),
        400 | 422 if is_about_capacity(&said) => misconfigured(
            "the server takes no more series: raise `max-values-per-tag` or `max-series-per-database` there, or name \
             fewer columns in `tags`; nothing is lost meanwhile"
                .into(),
        ),
        400 if said.contains("orgID") => misconfigured("name the organisation in `org`".into()),
        400 | 422 => Ok(Verdict::Refused(Refusal::read(&said))),
        413 => Ok(Verdict::Refused(Refusal {
            reason: "larger than the server takes in one request".into(),
            dropped: None,
            cause: Cause::Other,
        })),
        401 | 407 => misconfigured(
            "see that `token` (in InfluxDB 1.8 `user:password`), or `username` and `password`, are right".into(),
        ),
        403 => misconfigured(format!("see that the token or the user may write to {target}")),
        404 if said.contains("organization") => {
            misconfigured("the organisation is not there, or the token may not see it: see `org`".into())
        }
        404 if said.contains("not found") && !said.contains("page not found") => {
            misconfigured(format!("{target} is not there: correct the option, or create it with `muster migrate`"))
        }
        404 | 405 => misconfigured("no InfluxDB takes points there: see `url` and `api` (before 1.8 only `v1`)".into()),
        500 if said.contains("retention policy not found") => {
            misconfigured("the retention policy is not there: correct it, or run `muster migrate`".into())
        }
        429 => Err(error(ErrorKind::Throttled { retry_after })),
        500.. if retry_after.is_some() => Err(error(ErrorKind::Throttled { retry_after })),
        408 | 425 | 500.. => Err(error(ErrorKind::Unavailable)),
        300..400 => misconfigured("redirects are not followed; write the final address into `url`".into()),
        // Only 204 is a promise: whoever answers otherwise, a captive portal for one, is no InfluxDB.
        _ => misconfigured("that is no answer of InfluxDB's; see `url`".into()),
    }
}

impl Refusal {
    /// Reads the words of 1.x, and of 2.x, which says the same with more before it.
    pub(super) fn read(said: &str) -> Self {
        let inner = said.split_once("partial write: ").map_or(said, |(_, inner)| inner);
        let (inner, dropped) = match inner.rsplit_once(" dropped=") {
            Some((inner, count)) if !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit()) => {
                (inner, count.parse().ok())
            }
            _ => (inner, None),
        };
        let cause = if inner.starts_with("points beyond retention policy") {
            Cause::Retention
        } else if inner.contains("unable to parse '") {
            Cause::Unparsable(unparsable(inner))
        } else {
            conflict(inner).unwrap_or(Cause::Other)
        };
        let reason = if inner.is_empty() { "without a reason" } else { short(inner) };
        Self { reason: reason.to_owned(), dropped, cause }
    }
}

/// `field type conflict: input field "F" on measurement "M" is type T, already exists as type U`. Names stand there as
/// they are, quotes and all, so the outermost words are looked for.
fn conflict(said: &str) -> Option<Cause> {
    let (_, rest) = said.split_once("field type conflict: input field \"")?;
    let (names, types) = rest.rsplit_once("\" is type ")?;
    let (field, measurement) = names.split_once("\" on measurement \"")?;
    let (is, _) = types.split_once(',')?;
    Some(Cause::Conflict { measurement: measurement.to_owned(), field: field.to_owned(), is: is.to_owned() })
}

/// The lines in `unable to parse 'LINE': REASON`, of which there may be many.
fn unparsable(said: &str) -> Vec<String> {
    let each = said.split("unable to parse '").skip(1);
    each.filter_map(|one| Some(one.rsplit_once("': ")?.0.to_owned())).collect()
}

/// Limits on how many series there may be: not the point is wrong.
fn is_about_capacity(said: &str) -> bool {
    said.contains("max-values-per-tag limit exceeded")
        || said.contains("max-series-per-database limit exceeded")
}

/// `{"error": ...}` of 1.x, `{"code": ..., "message": ...}` of 2.x, or whatever a proxy says.
fn message(text: &str) -> String {
    let json: Option<serde_json::Value> = serde_json::from_str(text).ok();
    let named = |name: &str| Some(json.as_ref()?.get(name)?.as_str()?.to_owned());
    named("message").or_else(|| named("error")).unwrap_or_else(|| text.to_owned())
}

fn short(text: &str) -> &str {
    let mut end = text.len().min(REASON_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}
