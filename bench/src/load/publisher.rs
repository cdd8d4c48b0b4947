//! A publisher: in open loop it sends when the schedule says so and counts latencies from there, whether or not the
//! broker lets it (so that a broker that stands still is not spared); in closed loop it keeps its window full.

use std::io;
use std::sync::Arc;

use tokio::io::AsyncWriteExt as _;
use tokio::time::{sleep_until, timeout};

use super::{DRAIN_MAX, Load, Shared};
use crate::client::Connection;
use crate::clock::{instant, now_us};
use crate::codec::{self, PUBACK, PUBCOMP, PUBREC, PUBREL, Packet, Template};
use crate::counts::add;
use crate::payload;

/// Messages of QoS 0 that are written at once: nothing is acknowledged that would end a batch.
const UNACKNOWLEDGED_BATCH: u16 = 32;

/// When a publisher sends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    Closed,
    Open { next_us: f64, interval_us: f64 },
}

impl Pace {
    /// Publishers take turns, so that the load is even.
    pub(crate) fn of(load: &Load, start_us: u64, number: usize) -> Self {
        match load.rate {
            None => Self::Closed,
            Some(rate) => {
                let all_us = 1e6 / rate;
                let next_us = start_us as f64 + all_us * number as f64;
                Self::Open { next_us, interval_us: all_us * load.publishers as f64 }
            }
        }
    }

    /// When the next message should be sent; none when it is not due yet.
    fn due(&mut self, now: u64) -> Option<u64> {
        match self {
            Self::Closed => Some(now),
            Self::Open { next_us, .. } if *next_us > now as f64 => None,
            Self::Open { next_us, interval_us } => {
                let due = *next_us as u64;
                *next_us += *interval_us;
                Some(due)
            }
        }
    }

    fn wake(&self, end: u64) -> u64 {
        match self {
            Self::Closed => end,
            Self::Open { next_us, .. } => (next_us.ceil() as u64).min(end),
        }
    }
}

pub(crate) struct Publisher {
    number: usize,
    connection: Connection,
    shared: Arc<Shared>,
    pace: Pace,
    template: Template,
    /// When each message on the way should have been sent; 0 where none is. The place is the packet's id less one.
    slots: Vec<u64>,
    free: Vec<u16>,
    next_message: u64,
    out: Vec<u8>,
    latencies: Vec<u64>,
}

impl Publisher {
    pub(crate) fn new(
        number: usize,
        topic: &str,
        connection: Connection,
        shared: Arc<Shared>,
        pace: Pace,
    ) -> Self {
        let load = &shared.load;
        let payload = payload::new(u32::try_from(number).unwrap_or(u32::MAX), load.payload_bytes);
        let template = codec::publish(load.version, topic, load.qos, &payload);
        let window = if load.qos == 0 { UNACKNOWLEDGED_BATCH } else { load.window };
        Self {
            number,
            connection,
            pace,
            template,
            slots: vec![0; usize::from(window)],
            free: (1..=window).rev().collect(),
            next_message: 0,
            out: Vec::new(),
            latencies: Vec::new(),
            shared,
        }
    }

    pub(crate) async fn run(mut self) {
        sleep_until(instant(self.shared.times.start)).await;
        let end = instant(self.shared.times.end) + DRAIN_MAX;
        let left = end.saturating_duration_since(instant(now_us()));
        match timeout(left, self.publish()).await {
            Ok(Ok(())) => self.connection.close().await,
            Ok(Err(_)) => add(&self.shared.counts.errors, 1),
            // What was not acknowledged by now is counted as lost.
            Err(_) => {}
        }
    }

    async fn publish(&mut self) -> io::Result<()> {
        let end = self.shared.times.end;
        loop {
            let now = now_us();
            self.fill(now);
            if !self.out.is_empty() {
                self.connection.stream.write_all(&self.out).await?;
                self.out.clear();
            }
            if self.shared.load.qos == 0 {
                self.recycle();
            }
            let over = now >= end || self.shared.load.messages.is_some_and(|all| self.next_message >= all);
            let on_the_way = self.slots.len() - self.free.len();
            if over && on_the_way == 0 {
                return Ok(());
            }
            self.wait(over).await?;
        }
    }

    /// Writes what is due and has room in the window.
    fn fill(&mut self, now: u64) {
        let messages_max = self.shared.load.messages.unwrap_or(u64::MAX);
        let mut count = 0;
        while now < self.shared.times.end && self.next_message < messages_max {
            let Some(id) = self.free.last().copied() else { break };
            let Some(due) = self.pace.due(now) else { break };
            self.free.pop();
            self.slots[usize::from(id) - 1] = due;
            self.template.set_id(id);
            payload::patch(self.template.payload(), self.next_message, due);
            self.out.extend_from_slice(&self.template.bytes);
            self.next_message += 1;
            count += 1;
        }
        add(&self.shared.counts.sent, count);
    }

    /// With QoS 0 what was written is done.
    fn recycle(&mut self) {
        let now = now_us();
        let mut count = 0;
        for (slot, id) in self.slots.iter_mut().zip(1..) {
            if *slot != 0 {
                self.free.push(id);
                *slot = 0;
                count += 1;
            }
        }
        if self.shared.times.measured(now) {
            add(&self.shared.counts.in_window, count);
        }
        add(&self.shared.counts.acked, count);
    }

    async fn wait(&mut self, over: bool) -> io::Result<()> {
        let room = !over && !self.free.is_empty();
        if room && matches!(self.pace, Pace::Closed) {
            // QoS 0, or acks came while it wrote.
            tokio::task::yield_now().await;
            return Ok(());
        }
        if room {
            let wake = sleep_until(instant(self.pace.wake(self.shared.times.end)));
            tokio::select! {
                () = wake => return Ok(()),
                filled = self.connection.input.fill(&mut self.connection.stream) => filled?,
            }
        } else {
            self.connection.input.fill(&mut self.connection.stream).await?;
        }
        self.take_acks()
    }

    fn take_acks(&mut self) -> io::Result<()> {
        let now = now_us();
        let (mut acked, mut unexpected, mut refused) = (0, 0, 0);
        while let Some(packet) = self.connection.input.next()? {
            let Packet::Ack { kind, id, code } = packet else {
                if packet == Packet::Disconnect {
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
                continue;
            };
            if kind & 0xf0 == PUBREC && code < 0x80 {
                codec::ack(&mut self.out, PUBREL, id);
                continue;
            }
            refused += u64::from(code >= 0x80);
            let due = self.slots.get_mut(usize::from(id).wrapping_sub(1)).map(std::mem::take).unwrap_or(0);
            if due == 0 || ![PUBACK, PUBCOMP, PUBREC].contains(&(kind & 0xf0)) {
                unexpected += 1;
                continue;
            }
            self.free.push(id);
            acked += u64::from(code < 0x80);
            if due >= self.shared.times.measure {
                self.latencies.push(now.saturating_sub(due));
            }
        }
        let counts = &self.shared.counts;
        add(&counts.acked, acked);
        add(&counts.unexpected, unexpected);
        add(&counts.refused, refused);
        if self.shared.times.measured(now) {
            add(&counts.in_window, acked);
        }
        // Where somebody listens, latencies are those of the deliveries.
        if self.shared.load.subscribers == 0 {
            self.shared.latencies.record(self.number, &mut self.latencies);
        }
        self.latencies.clear();
        Ok(())
    }
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("number", &self.number).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_loop_keeps_its_schedule_whatever_the_broker_does() {
        let load = Load { rate: Some(1_000.0), publishers: 2, ..Load::default() };
        let mut pace = Pace::of(&load, 10_000, 1);
        assert_eq!(pace.due(10_999), None);
        assert_eq!(pace.due(11_000), Some(11_000));
        assert_eq!(pace.wake(u64::MAX), 13_000);
        // It stood still for 10 ms: what it missed is due at the times of the schedule, not now.
        let late = std::iter::from_fn(|| pace.due(21_000)).collect::<Vec<_>>();
        assert_eq!(late, [13_000, 15_000, 17_000, 19_000, 21_000]);
    }

    #[test]
    fn a_closed_loop_is_always_due() {
        let mut pace = Pace::of(&Load::default(), 0, 5);
        assert_eq!(pace.due(77), Some(77));
    }
}
