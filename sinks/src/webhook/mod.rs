//! Webhook: each row, or each batch, is a POST. The receiver is told apart attempts from news by Standard Webhooks'
//! `webhook-id`, which is the same on every attempt, also after a crash.

mod client;
mod config;
mod deliver;
mod encode;
#[cfg(test)]
mod tests;

use std::time::Duration;

use muster_core::clock::SharedClock;

use crate::delivery::{DEAD_LETTERS_PER_MINUTE, Limits};
use crate::error::SinkError;
use crate::registry::{Kind, OptionSpec};
use crate::sink::{Batch, BoxFuture, Memory, Outcome, PipelineId, Sink};

use client::Client;
use config::Config;

/// This sink's row in the registry.
pub(crate) const KIND: Kind = Kind {
    name: "webhook",
    summary: "an HTTP endpoint that takes each row, or batches of rows, as JSON (Standard Webhooks)",
    options: &[
        OptionSpec::secret("url", "where to POST to, http:// or https://"),
        OptionSpec::secret("secret", "signs each request; `whsec_` and base64, as Standard Webhooks has it"),
        OptionSpec::new("batch", Some("false"), "`true`: one request a batch, with an array of rows"),
        OptionSpec::new("timeout_ms", Some("10000"), "how long an answer may take"),
        OptionSpec::new(
            "in_flight",
            Some("1"),
            "requests at the same time; rows of one client still go one after the other",
        ),
        OptionSpec::secret("header.", "a header of each request, e.g. `header.Authorization = 'Bearer ...'`"),
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
        let config = Config::parse(options)?;
        Ok(Box::new(Webhook { config, clock: env.clock.clone(), client: None }))
    },
};

struct Webhook {
    config: Config,
    clock: SharedClock,
    client: Option<Client>,
}

impl Webhook {
    fn client(&mut self) -> Result<&Client, SinkError> {
        if self.client.is_none() {
            self.client = Some(Client::new(&self.config, self.clock.clone())?);
        }
        self.client.as_ref().ok_or_else(|| SinkError::unavailable("the sink is not open"))
    }
}

impl Sink for Webhook {
    /// A batch is one request with one id, so it must be the same batch again. Rows have ids of their own.
    fn wants_recorded_batches(&self) -> bool {
        self.config.batch
    }

    fn open<'a>(&'a mut self, _pipeline: &'a PipelineId) -> BoxFuture<'a, Result<Memory, SinkError>> {
        Box::pin(async move {
            self.client()?;
            Ok(Memory::None)
        })
    }

    fn deliver<'a>(&'a mut self, batch: &'a Batch) -> BoxFuture<'a, Result<Outcome, SinkError>> {
        Box::pin(async move {
            let (whole, in_flight) = (self.config.batch, self.config.in_flight);
            let client = self.client()?;
            if whole {
                deliver::whole(client, batch).await
            } else {
                Ok(deliver::rows(client, batch, in_flight).await)
            }
        })
    }

    /// Whether somebody listens at the address; no row is invented to try it.
    fn check(&mut self) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(async move { self.client()?.check().await })
    }
}
