//! A subscriber: takes what comes, acknowledges it, and knows which messages it has had.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::io::AsyncWriteExt as _;
use tokio::sync::watch;

use super::Shared;
use crate::client::Connection;
use crate::clock::now_us;
use crate::codec::{self, PUBACK, PUBCOMP, PUBREC, PUBREL, Packet};
use crate::counts::add;
use crate::payload;
use crate::seen::Seen;

#[derive(Debug)]
pub(crate) struct Subscriber {
    number: usize,
    connection: Connection,
    shared: Arc<Shared>,
    stopped: watch::Receiver<bool>,
    seen: Seen,
    out: Vec<u8>,
    latencies: Vec<u64>,
}

impl Subscriber {
    pub(crate) fn new(
        number: usize,
        connection: Connection,
        shared: Arc<Shared>,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        let (seen, out, latencies) = Default::default();
        Self { number, connection, shared, stopped, seen, out, latencies }
    }

    pub(crate) async fn run(mut self) {
        match self.receive().await {
            Ok(()) => self.connection.close(),
            Err(_) => add(&self.shared.counts.errors, 1),
        }
    }

    async fn receive(&mut self) -> io::Result<()> {
        loop {
            self.take()?;
            if !self.out.is_empty() {
                self.connection.stream.write_all(&self.out).await?;
                self.out.clear();
            }
            tokio::select! {
                filled = self.connection.input.fill(&mut self.connection.stream) => filled?,
                _ = self.stopped.changed() => return Ok(()),
            }
        }
    }

    fn take(&mut self) -> io::Result<()> {
        let now = now_us();
        let (before, twice) = (self.seen.distinct(), self.seen.duplicated());
        let mut strangers = 0;
        while let Some(packet) = self.connection.input.next()? {
            match packet {
                Packet::Publish { qos, id, payload } => {
                    match qos {
                        1 => codec::ack(&mut self.out, PUBACK, id),
                        2 => codec::ack(&mut self.out, PUBREC, id),
                        _ => {}
                    }
                    let Some(stamp) = payload::read(payload) else {
                        strangers += 1;
                        continue;
                    };
                    self.seen.mark(stamp.publisher, stamp.message);
                    if stamp.intended_us >= self.shared.times.measure {
                        self.latencies.push(now.saturating_sub(stamp.intended_us));
                    }
                }
                Packet::Ack { kind: PUBREL, id, .. } => codec::ack(&mut self.out, PUBCOMP, id),
                Packet::Disconnect => return Err(io::ErrorKind::ConnectionReset.into()),
                _ => {}
            }
        }
        let (new, again) = (self.seen.distinct() - before, self.seen.duplicated() - twice);
        let counts = &self.shared.counts;
        add(&counts.received, new + again);
        add(&counts.duplicated, again);
        add(&counts.unexpected, strangers);
        if new > 0 {
            counts.last_us.fetch_max(now, Ordering::Relaxed);
        }
        if self.shared.times.measured(now) {
            add(&counts.received_in_window, new);
        }
        self.shared.latencies.record(self.number, &mut self.latencies);
        Ok(())
    }
}
