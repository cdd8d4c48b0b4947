//! Simulated devices over real MQTT, by a client library that is not ours: they publish telemetry, drop the line
//! without a word, come back, and are taken over by a second connection with their name. Each keeps a book of what was
//! acknowledged to it, for the check at the end.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Outgoing, Packet, QoS};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// Requests that wait in the client library.
const REQUESTS_MAX: usize = 16;
/// How long a device waits for the broker before it gives up and tries again.
const PATIENCE: Duration = Duration::from_secs(5);

/// How the devices are doing, counted as they see it.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Publishes that were acknowledged.
    pub(super) acked: AtomicU64,
    /// CONNECTs that were accepted.
    pub(super) connects: AtomicU64,
    /// Lines dropped without DISCONNECT.
    pub(super) drops: AtomicU64,
    /// Sessions taken over by a second connection.
    pub(super) takeovers: AtomicU64,
}

/// What one device remembers.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// Its client id.
    pub(super) clientid: String,
    /// How many messages it handed to the client library, numbered from 1.
    pub(super) sent: u64,
    /// The numbers of those that were acknowledged.
    pub(super) acked: BTreeSet<u64>,
}

/// How a connection of a device ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    /// With DISCONNECT.
    Polite,
    /// The line drops.
    Drop,
    /// Another connection with the same name comes while this one is open.
    Takeover,
}

/// One device.
pub(super) struct Device {
    broker: SocketAddr,
    number: u16,
    rng: SmallRng,
    book: Book,
    temperature: f64,
}

impl Device {
    pub(super) fn new(broker: SocketAddr, number: u16, seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed.wrapping_mul(1 << 16).wrapping_add(number.into()));
        let temperature = rng.random_range(15.0..35.0);
        let book = Book { clientid: format!("sensor-{number:02}"), ..Book::default() };
        Self { broker, number, rng, book, temperature }
    }

    /// Lives until `stop`, then leaves with DISCONNECT. Returns what it remembers.
    pub(super) async fn run(mut self, tally: &Tally, stop: CancellationToken) -> Book {
        let pause = Duration::from_millis(self.rng.random_range(0..1_000));
        let mut next = self.line();
        let _stopped = stop.run_until_cancelled(sleep(pause)).await;
        while !stop.is_cancelled() {
            let mut line = std::mem::replace(&mut next, self.line());
            if !line.connect().await {
                let _stopped = stop.run_until_cancelled(sleep(Duration::from_millis(500))).await;
                continue;
            }
            tally.connects.fetch_add(1, Ordering::Relaxed);
            let exit = match self.rng.random_range(0..10) {
                0..3 => Exit::Polite,
                3..8 => Exit::Drop,
                _ => Exit::Takeover,
            };
            let stay = Duration::from_millis(self.rng.random_range(1_000..6_000));
            // A line that drops does so with messages under way: the broker may have them or not.
            let settle = exit != Exit::Drop || stop.is_cancelled();
            self.publish_for(&mut line, stay, settle, tally, &stop).await;
            match exit {
                _ if stop.is_cancelled() => line.leave().await,
                Exit::Polite => line.leave().await,
                Exit::Drop => {
                    tally.drops.fetch_add(1, Ordering::Relaxed);
                }
                Exit::Takeover => {
                    // The second connection is made while the first is open; the broker ends the first.
                    let mut second = self.line();
                    if second.connect().await {
                        tally.takeovers.fetch_add(1, Ordering::Relaxed);
                        tally.connects.fetch_add(1, Ordering::Relaxed);
                        drop(line);
                        let stay = Duration::from_millis(self.rng.random_range(1_000..4_000));
                        self.publish_for(&mut second, stay, true, tally, &stop).await;
                        second.leave().await;
                    }
                    continue;
                }
            }
            drop(line);
            let away = Duration::from_millis(self.rng.random_range(300..2_500));
            let _stopped = stop.run_until_cancelled(sleep(away)).await;
        }
        self.book
    }

    fn line(&self) -> Line {
        let mut options =
            MqttOptions::new(&self.book.clientid, self.broker.ip().to_string(), self.broker.port());
        options.set_keep_alive(Duration::from_secs(5)).set_credentials("demo", "demo");
        options.set_clean_session(true);
        let (client, eventloop) = AsyncClient::new(options, REQUESTS_MAX);
        Line { client, eventloop, handed_over: VecDeque::new(), in_flight: HashMap::new(), acked: Vec::new() }
    }

    /// Publishes at random moments until the time is over, the line breaks, or `stop`.
    async fn publish_for(
        &mut self,
        line: &mut Line,
        stay: Duration,
        settle: bool,
        tally: &Tally,
        stop: &CancellationToken,
    ) {
        let end = Instant::now() + stay;
        let mut next = Instant::now();
        loop {
            let alive = tokio::select! {
                () = stop.cancelled() => break,
                () = sleep_until(end) => break,
                () = sleep_until(next) => {
                    next = Instant::now() + Duration::from_millis(self.rng.random_range(100..700));
                    self.publish(line)
                }
                alive = line.poll() => alive,
            };
            self.keep_book(line, tally);
            if !alive {
                return;
            }
        }
        if settle || stop.is_cancelled() {
            let _late = timeout(PATIENCE, line.settle()).await;
            self.keep_book(line, tally);
        }
    }

    fn publish(&mut self, line: &mut Line) -> bool {
        self.temperature = (self.temperature + self.rng.random_range(-2.0..2.1)).clamp(-10.0, 60.0);
        let humidity = self.rng.random_range(20..80);
        let number = self.book.sent + 1;
        let payload = format!(r#"{{"temp":{:.1},"humidity":{humidity},"n":{number}}}"#, self.temperature);
        let topic = format!("sensors/{:02}/up", self.number);
        // A full queue means that the broker is slow: the device measures again later.
        if line.client.try_publish(topic, QoS::AtLeastOnce, false, payload).is_ok() {
            self.book.sent = number;
            line.handed_over.push_back(number);
        }
        true
    }

    fn keep_book(&mut self, line: &mut Line, tally: &Tally) {
        tally.acked.fetch_add(line.acked.len() as u64, Ordering::Relaxed);
        self.book.acked.extend(line.acked.drain(..));
    }
}

/// One connection.
struct Line {
    client: AsyncClient,
    eventloop: EventLoop,
    /// Numbers of messages that have no packet identifier yet, in order.
    handed_over: VecDeque<u64>,
    /// Packet identifier to number.
    in_flight: HashMap<u16, u64>,
    acked: Vec<u64>,
}

impl Line {
    async fn connect(&mut self) -> bool {
        let accepted = async {
            loop {
                match self.eventloop.poll().await {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => return true,
                    Ok(_) => {}
                    Err(_) => return false,
                }
            }
        };
        timeout(PATIENCE, accepted).await.unwrap_or(false)
    }

    /// Lets the client library do one step; false when the line is broken.
    async fn poll(&mut self) -> bool {
        match self.eventloop.poll().await {
            Ok(Event::Outgoing(Outgoing::Publish(id))) => {
                if let Some(number) = self.handed_over.pop_front() {
                    self.in_flight.insert(id, number);
                }
                true
            }
            Ok(Event::Incoming(Packet::PubAck(ack))) => {
                self.acked.extend(self.in_flight.remove(&ack.pkid));
                true
            }
            Ok(_) => true,
            Err(_) => false,
        }
    }

    /// Until everything that was handed over is acknowledged, or the line is broken.
    async fn settle(&mut self) {
        while !(self.handed_over.is_empty() && self.in_flight.is_empty()) {
            if !self.poll().await {
                return;
            }
        }
    }

    /// Says DISCONNECT and sees it on its way.
    async fn leave(&mut self) {
        if self.client.try_disconnect().is_ok() {
            let gone = async { while self.poll().await {} };
            let _late = timeout(PATIENCE, gone).await;
        }
    }
}
