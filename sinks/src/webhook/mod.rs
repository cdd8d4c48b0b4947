//! Webhook: each row, or each batch, is a POST. The receiver is told apart attempts from news by Standard Webhooks'
//! `webhook-id`, which is the same on every attempt, also after a crash.

mod client;
mod config;
mod deliver;
mod encode;
mod guard;
mod shape;
mod template;
#[cfg(test)]
mod tests;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use muster_core::clock::SharedClock;

use crate::delivery::{DEAD_LETTERS_PER_MINUTE, Limits};
use crate::error::{ErrorKind, SinkError};
use crate::registry::{Kind, OptionSpec};
use crate::sink::{Batch, BoxFuture, Memory, Outcome, PipelineId, Sink};

use client::Client;
use config::Config;

/// This sink's row in the registry.
pub(crate) const KIND: Kind = Kind {
    name: "webhook",
    summary: "an HTTP endpoint that takes each row, or batches of rows, as JSON (Standard Webhooks)",
    options: &[
        OptionSpec::secret(
            "url",
            "where to send to, http:// or https://; path and query may hold `${column}`",
        ),
        OptionSpec::secret(
            "secret",
            "signs each request; `whsec_` and base64, as Standard Webhooks has it; several, with blanks between, \
             sign each, so that a receiver can change from one to the other",
        ),
        OptionSpec::new("method", Some("POST"), "`POST`, `PUT` or `PATCH`"),
        OptionSpec::new("batch", Some("false"), "`true`: one request a batch, with an array of rows"),
        OptionSpec::new(
            "format",
            Some("json"),
            "`json`, or CloudEvents 1.0: `cloudevents_structured`, `cloudevents_binary`, `cloudevents_batch`",
        ),
        OptionSpec::new(
            "body",
            None,
            "a template of the body instead of the row as JSON; may hold `${column}`",
        ),
        OptionSpec::new(
            "content_type",
            Some("application/json"),
            "of the body; where it is JSON, values in `body` are written as JSON",
        ),
        OptionSpec::new("ce_source", None, "the `source` of CloudEvents (/muster/rules/RULE)"),
        OptionSpec::new("ce_type", None, "the `type` of CloudEvents (`muster.` and the event's name)"),
        OptionSpec::new("idempotency_key", Some("true"), "`false`: no header `Idempotency-Key`"),
        OptionSpec::new("timeout_ms", Some("10000"), "how long an answer may take"),
        OptionSpec::new(
            "in_flight",
            Some("1"),
            "requests at the same time; rows of one client still go one after the other",
        ),
        OptionSpec::new(
            "private_ranges",
            Some("allow"),
            "`refuse`: only public addresses are connected to, whatever the name resolves to",
        ),
        OptionSpec::new("ca_file", None, "PEM: whose certificates are trusted, instead of the system's"),
        OptionSpec::new("cert_file", None, "PEM: our certificate, for receivers that ask for one"),
        OptionSpec::new("key_file", None, "PEM: the key of `cert_file`"),
        OptionSpec::secret(
            "header.",
            "a header of each request, e.g. `header.Authorization = 'Bearer ...'`; may hold `${column}`",
        ),
    ],
    example: "CREATE SINK ops TYPE webhook WITH (url = 'https://ops.example.com/muster', secret = '${env:OPS_SECRET}');",
    page: "sinks/docs/webhook.md",
    limits: Limits {
        batch_rows_max: 100,
        batch_bytes_max: 1 << 20,
        batch_wait: Duration::from_millis(50),
        dead_letters_per_minute_max: DEAD_LETTERS_PER_MINUTE,
    },
    has_targets: false,
    migrate: None,
    build: |options, env| {
        let config = Config::parse(options, env)?;
        Ok(Box::new(Webhook { config, clock: env.clock.clone(), client: None }))
    },
};

struct Webhook {
    config: Config,
    clock: SharedClock,
    client: Option<Arc<Client>>,
}

impl Webhook {
    async fn open(&mut self) -> Result<(), SinkError> {
        if self.client.is_none() {
            self.client = Some(Arc::new(Client::new(&self.config, self.clock.clone()).await?));
        }
        Ok(())
    }
}

fn closed() -> SinkError {
    SinkError::unavailable("the sink is not open")
}

impl Sink for Webhook {
    /// A batch is one request with one id, so it must be the same batch again. Rows have ids of their own.
    fn wants_recorded_batches(&self) -> bool {
        self.config.shape.batch
    }

    fn open<'a>(&'a mut self, _pipeline: &'a PipelineId) -> BoxFuture<'a, Result<Memory, SinkError>> {
        Box::pin(async move {
            Self::open(self).await?;
            Ok(Memory::None)
        })
    }

    fn deliver<'a>(&'a mut self, batch: &'a Batch) -> BoxFuture<'a, Result<Outcome, SinkError>> {
        Box::pin(async move {
            Self::open(self).await?;
            let client = self.client.as_ref().ok_or_else(closed)?;
            let Config { shape, in_flight, .. } = &self.config;
            let outcome = if shape.batch {
                deliver::whole(client, shape, batch).await
            } else {
                Ok(deliver::rows(client, shape, batch, *in_flight).await)
            };
            if let Err(error) | Ok(Outcome::PerRow { error: Some(error), .. }) = &outcome
                && error.kind() == ErrorKind::Misconfigured
            {
                // The next attempt reads the files with certificates anew: somebody may have renewed them.
                self.client = None;
            }
            outcome
        })
    }

    /// Whether somebody listens at the address; no row is invented to try it.
    fn check(&mut self) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(async move {
            Self::open(self).await?;
            self.client.as_ref().ok_or_else(closed)?.check().await
        })
    }
}
