//! A publisher: in open loop it sends all that the schedule says and counts latencies from there, whether or not the
//! broker lets it (so that a broker that stands still is not spared); in closed loop it keeps its window full.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::io::Interest;
use tokio::sync::Notify;
use tokio::time::{sleep_until, timeout_at};

use super::pacer::Turns;
use super::{Load, Shared, Times};
use crate::client::Connection;
use crate::clock::{instant, now_us};
use crate::codec::{self, PINGREQ, PUBACK, PUBCOMP, PUBREC, PUBREL, Packet, Template};
use crate::counts::add;
use crate::payload;

/// Messages of QoS 0 that are written at once: nothing is acknowledged that would end a batch.
const UNACKNOWLEDGED_BATCH: u16 = 32;
/// After so many messages of QoS 0 the broker is asked whether it has read them: what a hundred publishers wrote since
/// then is a hundredth of what is counted in a second.
const PING_MESSAGES: u64 = 64;
/// Messages of QoS 0 of one publisher that are written and not known to be read: without a bound the kernel's buffers
/// fill for a second or more before a run is steady.
const UNREAD_MAX: u64 = 1_024;
/// After this time it is asked too, if there are fewer.
const PING_US: u64 = 50_000;

/// When a publisher sends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    Closed { end_us: u64 },
    Open { turns: Turns, turn: u64, publishers: u64 },
}

impl Pace {
    /// Publishers take turns, so that the load is even.
    pub(crate) fn of(load: &Load, times: &Times, number: usize) -> Self {
        match load.turns(times) {
            None => Self::Closed { end_us: times.end },
            Some(turns) => Self::Open { turns, turn: number as u64, publishers: load.publishers as u64 },
        }
    }

    /// When the next message should be sent; none when it is not due yet, or none is left.
    fn due(&mut self, now: u64) -> Option<u64> {
        match self {
            Self::Closed { end_us } => (now < *end_us).then_some(now),
            Self::Open { turns, turn, publishers } => {
                let due = turns.due_us(*turn);
                let is_due = due <= now && due < turns.end_us;
                is_due.then(|| *turn += *publishers);
                is_due.then_some(due)
            }
        }
    }

    /// Whether nothing is left.
    fn over(&self, now: u64) -> bool {
        match self {
            Self::Closed { end_us } => now >= *end_us,
            Self::Open { turns, turn, .. } => turns.due_us(*turn) >= turns.end_us,
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
    /// With QoS 0: how many were written before each PINGREQ that has no answer yet.
    pings: VecDeque<u64>,
    /// How many were written before the last one, and when that was.
    pinged: (u64, u64),
    /// With QoS 0: how many the broker has read.
    read: u64,
    /// Of an open loop: who is woken at each turn.
    clients: Arc<[Notify]>,
    out: Vec<u8>,
    latencies: Vec<u64>,
    lags: Vec<u64>,
}

impl Publisher {
    pub(crate) fn new(
        number: usize,
        topic: &str,
        connection: Connection,
        shared: Arc<Shared>,
        clients: Arc<[Notify]>,
    ) -> Self {
        let load = &shared.load;
        let pace = Pace::of(load, &shared.times, number);
        let payload = payload::new(u32::try_from(number).unwrap_or(u32::MAX), load.payload_bytes);
        let template = codec::publish(load.target.version, topic, load.qos, &payload);
        let window = if load.qos == 0 { UNACKNOWLEDGED_BATCH } else { load.window };
        Self {
            number,
            connection,
            pace,
            template,
            slots: vec![0; usize::from(window)],
            free: (1..=window).rev().collect(),
            next_message: 0,
            pings: VecDeque::new(),
            pinged: (0, 0),
            read: 0,
            clients,
            out: Vec::new(),
            latencies: Vec::new(),
            lags: Vec::new(),
            shared,
        }
    }

    pub(crate) async fn run(mut self) {
        sleep_until(instant(self.shared.times.start)).await;
        if let Ok(Err(_)) = timeout_at(instant(self.shared.times.given_up), self.publish()).await {
            add(&self.shared.counts.errors, 1);
        }
        self.give_up();
        self.connection.close();
    }

    /// Counts what was due, and what never came as if it had come when the last is given up.
    fn give_up(&mut self) {
        let shared = Arc::clone(&self.shared);
        let given_up = shared.times.given_up;
        let messages_max = shared.load.messages.unwrap_or(u64::MAX);
        // With QoS 0 nobody knows when it came.
        let mut never = std::mem::take(&mut self.slots);
        let mut due = self.next_message;
        while due < messages_max
            && let Some(unsent) = self.pace.due(given_up)
        {
            never.push(unsent);
            due += 1;
        }
        never.retain(|due| *due >= shared.times.measure);
        self.latencies.extend(never.into_iter().map(|due| given_up.saturating_sub(due)));
        add(&shared.counts.due, due);
        self.record();
    }

    async fn publish(&mut self) -> io::Result<()> {
        loop {
            let now = now_us();
            self.fill(now);
            let all_sent = self.shared.load.messages.is_some_and(|all| self.next_message >= all);
            let over = all_sent || self.pace.over(now);
            self.ping(now, over);
            self.write().await?;
            if over && self.nothing_is_on_the_way() {
                return Ok(());
            }
            self.wait(over).await?;
        }
    }

    /// Writes all, and reads meanwhile: what a broker that is slow to take more has said must not wait for that.
    async fn write(&mut self) -> io::Result<()> {
        let mut written = 0;
        while written < self.out.len() {
            let stream = &self.connection.stream;
            let ready = stream.ready(Interest::READABLE | Interest::WRITABLE).await?;
            if ready.is_writable() {
                match stream.try_write(self.out.get(written..).unwrap_or_default()) {
                    Ok(count) => written += count,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
            // What it answers goes to the end of what is written here.
            if ready.is_readable() && self.connection.input.fill_now(stream)? {
                self.take_acks()?;
            }
        }
        self.out.clear();
        Ok(())
    }

    fn has_room(&self) -> bool {
        let unread = if self.shared.load.qos == 0 { self.next_message - self.read } else { 0 };
        !self.free.is_empty() && unread < UNREAD_MAX
    }

    fn nothing_is_on_the_way(&self) -> bool {
        if self.shared.load.qos == 0 {
            self.read == self.next_message
        } else {
            self.slots.len() == self.free.len()
        }
    }

    /// Writes what is due and has room in the window.
    fn fill(&mut self, now: u64) {
        let load = &self.shared.load;
        let (messages_max, qos) = (load.messages.unwrap_or(u64::MAX), load.qos);
        let open = matches!(self.pace, Pace::Open { .. });
        let mut count = 0;
        while self.has_room() && self.next_message < messages_max && count < self.slots.len() as u64 {
            let Some(id) = self.free.last().copied() else { break };
            let Some(due) = self.pace.due(now) else { break };
            if qos > 0 {
                self.free.pop();
                self.slots[usize::from(id) - 1] = due;
                self.template.set_id(id);
            }
            payload::patch(self.template.payload(), self.next_message, due);
            self.out.extend_from_slice(&self.template.bytes);
            if open && due >= self.shared.times.measure {
                self.lags.push(now.saturating_sub(due));
            }
            self.next_message += 1;
            count += 1;
        }
        add(&self.shared.counts.sent, count);
    }

    /// With QoS 0 nothing is acknowledged: the answer to PINGREQ says what the broker has read, as it reads in order.
    fn ping(&mut self, now: u64, over: bool) {
        let (written, at) = self.pinged;
        let new = self.next_message - written;
        if self.shared.load.qos > 0 || new == 0 {
            return;
        }
        if new >= PING_MESSAGES || now.saturating_sub(at) >= PING_US || over {
            self.out.extend_from_slice(&PINGREQ);
            self.pings.push_back(self.next_message);
            self.pinged = (self.next_message, now);
        }
    }

    async fn wait(&mut self, over: bool) -> io::Result<()> {
        let room = !over && self.has_room();
        let connection = &mut self.connection;
        match self.pace {
            // QoS 0, or acks came while it wrote.
            Pace::Closed { .. } if room => {
                if !connection.input.fill_now(&connection.stream)? {
                    tokio::task::yield_now().await;
                    return Ok(());
                }
            }
            Pace::Open { .. } if room => {
                let Some(client) = self.clients.get(self.number) else { return Ok(()) };
                tokio::select! {
                    () = client.notified() => return Ok(()),
                    filled = connection.input.fill(&mut connection.stream) => filled?,
                }
            }
            _ => connection.input.fill(&mut connection.stream).await?,
        }
        self.take_acks()
    }

    fn take_acks(&mut self) -> io::Result<()> {
        let now = now_us();
        let (mut acked, mut unexpected, mut refused) = (0, 0, 0);
        while let Some(packet) = self.connection.input.next()? {
            let (kind, id, code) = match packet {
                Packet::Ack { kind, id, code } => (kind, id, code),
                Packet::PingResp => {
                    let read = self.pings.pop_front().unwrap_or(self.read);
                    acked += read - self.read;
                    self.read = read;
                    continue;
                }
                Packet::Disconnect => return Err(io::ErrorKind::ConnectionReset.into()),
                _ => continue,
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
        if acked > 0 {
            counts.last_us.fetch_max(now, Ordering::Relaxed);
        }
        self.record();
        Ok(())
    }

    /// Where somebody listens, latencies are those of the deliveries.
    fn record(&mut self) {
        if self.shared.load.subscribers == 0 {
            self.shared.latencies.record(self.number, &mut self.latencies);
        }
        self.latencies.clear();
        self.shared.lags.record(self.number, &mut self.lags);
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

    fn times(start: u64, end: u64) -> Times {
        Times { start, measure: start, end, given_up: end }
    }

    #[test]
    fn an_open_loop_keeps_its_schedule_whatever_the_broker_does() {
        let load = Load { rate: Some(1_000.0), publishers: 2, ..Load::default() };
        let mut pace = Pace::of(&load, &times(10_000, 22_000), 1);
        assert_eq!(pace.due(10_999), None);
        assert_eq!(pace.due(11_000), Some(11_000));
        // It stood still for 10 ms: what it missed is due at the times of the schedule, not now.
        let late = std::iter::from_fn(|| pace.due(20_000)).collect::<Vec<_>>();
        assert_eq!(late, [13_000, 15_000, 17_000, 19_000]);
        // And what was due before the end is due after it too.
        assert!(!pace.over(30_000));
        assert_eq!((pace.due(30_000), pace.due(30_000)), (Some(21_000), None));
        assert!(pace.over(30_000));
    }

    #[test]
    fn a_closed_loop_is_always_due_until_its_end() {
        let mut pace = Pace::of(&Load::default(), &times(0, 100), 5);
        assert_eq!((pace.due(77), pace.due(100)), (Some(77), None));
        assert!(!pace.over(77) && pace.over(100));
    }
}
