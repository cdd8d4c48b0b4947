//! A device that does what devices do, chosen by chance: it comes, goes, is cut off, falls silent, comes twice, is put
//! out; and writes down what it saw of each of its connections. It must never look into the log.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use muster_tests::PATIENCE;
use muster_tests::mqtt::{Client, Connect, VERSIONS, Version, kind, packet, publish};
use muster_tests::wait::soon;
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use tokio::time::Instant;

/// Reasons of a connection that another one of the same client may have ended.
const OVERTAKEN: &[&str] = &["takenover", "discarded"];
/// Of one that was cut, while the broker may notice the next one first.
const CUT: &[&str] = &["tcp_closed", "takenover", "discarded"];

/// What became of a connection.
#[derive(Debug, Clone)]
pub(super) enum Fate {
    /// The device believes that it is connected, or does not know.
    Open,
    /// It ends for one of these reasons, unless something else ends it first that ends everything.
    Ending(&'static [&'static str]),
    /// The device saw its end at this moment.
    Ended(&'static [&'static str], Instant),
}

/// How a run of Muster ended.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RunEnd {
    /// When it was killed; none where it was stopped in order.
    pub(super) killed_at: Option<Instant>,
    /// The same by Muster's wall clock, milliseconds since 1970; none where that is stepped.
    pub(super) killed_ms: Option<i64>,
}

impl RunEnd {
    /// Why connections ended that were open then.
    pub(super) fn reason(self) -> &'static str {
        if self.killed_at.is_some() { "server_restart" } else { "server_shutting_down" }
    }
}

/// A connection from the device's side.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) clientid: String,
    pub(super) peername: String,
    /// Where Muster listened.
    pub(super) broker: String,
    /// Which run of Muster it was.
    pub(super) run: usize,
    /// Whether CONNACK came.
    pub(super) accepted: bool,
    pub(super) fate: Fate,
}

/// What all devices share in one run of Muster.
#[derive(Debug)]
pub(super) struct World {
    /// Which run of Muster it is, from 0.
    pub(super) run: usize,
    pub(super) broker: SocketAddr,
    pub(super) http: SocketAddr,
    /// Asks there.
    pub(super) asker: reqwest::Client,
    /// Set before Muster is told to end: from then on a device may fail.
    pub(super) ending: AtomicBool,
    /// How much was done.
    pub(super) acts: AtomicUsize,
    pub(super) seen: Arc<Mutex<Vec<Seen>>>,
}

impl World {
    fn note(&self, index: usize, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.lock().expect("no test panics with it")[index]);
    }
}

/// The run of Muster is over, or about to be.
#[derive(Debug)]
pub(super) struct Gone;

/// A connection that is open as far as the device knows.
struct Open {
    client: Client,
    version: Version,
    index: usize,
}

/// A device.
pub(super) struct Device {
    clientid: String,
    random: StdRng,
    world: Arc<World>,
    open: Option<Open>,
}

impl Device {
    pub(super) fn new(clientid: String, random: StdRng, world: Arc<World>) -> Self {
        Self { clientid, random, world, open: None }
    }

    /// Does so many things, or as many as it can until Muster goes.
    pub(super) async fn live(mut self, acts: usize) -> Self {
        for _ in 0..acts {
            if self.world.ending.load(Ordering::SeqCst) || self.act().await.is_err() {
                break;
            }
            self.world.acts.fetch_add(1, Ordering::SeqCst);
        }
        self
    }

    async fn act(&mut self) -> Result<(), Gone> {
        let Some(open) = self.open.take() else {
            return match self.random.random_range(0..5) {
                0 => self.race().await,
                _ => self.come().await,
            };
        };
        match self.random.random_range(0..100) {
            0..16 => self.drop_line(open).await,
            16..32 => self.say_goodbye(open).await,
            32..52 => self.come_again(open).await,
            52..64 => self.be_kicked(open).await,
            64..67 => self.fall_silent(open).await,
            67..72 => {
                self.world.note(open.index, |seen| seen.fate = Fate::Ending(CUT));
                drop(open);
                self.race().await
            }
            72..80 => self.subscribe(open).await,
            80..95 => self.publish(open).await,
            _ => {
                self.open = Some(open);
                tokio::time::sleep(Duration::from_millis(self.random.random_range(0..100))).await;
                Ok(())
            }
        }
    }

    /// What a connection's failure means: while nobody ends Muster, none may fail.
    fn failed(&self, what: &str, error: &dyn std::fmt::Debug) -> Gone {
        let ending = self.world.ending.load(Ordering::SeqCst);
        assert!(ending, "{} cannot {what}, and Muster was not told to end: {error:?}", self.clientid);
        Gone
    }

    /// Marks the end that the device has just seen. Whether it was Muster's own decision cannot be told once Muster was
    /// told to end.
    fn ended(&self, index: usize, reasons: &'static [&'static str]) {
        let ending = self.world.ending.load(Ordering::SeqCst);
        let fate = if ending { Fate::Ending(reasons) } else { Fate::Ended(reasons, Instant::now()) };
        self.world.note(index, |seen| seen.fate = fate);
    }

    fn connect(&mut self) -> Connect {
        let version = *VERSIONS.choose(&mut self.random).expect("two");
        Connect {
            clean: self.random.random_bool(0.5),
            expiry: if self.random.random_bool(0.5) { 300 } else { 0 },
            // Longer than anybody waits: those who are to be put out for silence ask for another.
            keep_alive: if self.random.random_bool(0.5) { 3_600 } else { 0 },
            username: self.random.random_bool(0.5).then(|| format!("user of {}", self.clientid)),
            ..Connect::new(version, &self.clientid)
        }
    }

    /// Opens a connection; none where it was overtaken before it had its CONNACK.
    async fn greet(&self, connect: &Connect) -> Result<Option<Open>, Gone> {
        let open = Client::open(self.world.broker, connect.version).await;
        let mut client = open.map_err(|error| self.failed("reach the broker", &error))?;
        let seen = Seen {
            clientid: self.clientid.clone(),
            peername: client.local_address().to_string(),
            broker: self.world.broker.to_string(),
            run: self.world.run,
            accepted: false,
            fate: Fate::Open,
        };
        let index = {
            let mut all = self.world.seen.lock().expect("no test panics with it");
            all.push(seen);
            all.len() - 1
        };
        let answer = async {
            client.send(&connect.encode()).await?;
            client.receive().await
        };
        match soon("an answer to CONNECT", answer).await {
            Ok(Some(packet)) if packet.kind() == kind::CONNACK && packet.body[1] == 0 => {
                self.world.note(index, |seen| seen.accepted = true);
                Ok(Some(Open { client, version: connect.version, index }))
            }
            Ok(Some(packet)) if packet.kind() != kind::CONNACK => {
                self.world.note(index, |seen| seen.fate = Fate::Ending(OVERTAKEN));
                Ok(None)
            }
            Ok(None) => {
                self.world.note(index, |seen| seen.fate = Fate::Ending(OVERTAKEN));
                Ok(None)
            }
            other => Err(self.failed("connect", &other)),
        }
    }

    async fn come(&mut self) -> Result<(), Gone> {
        let connect = self.connect();
        self.open = self.greet(&connect).await?;
        if self.open.is_none() {
            self.failed("connect, alone", &"closed without an answer");
            return Err(Gone);
        }
        Ok(())
    }

    /// The line breaks: no DISCONNECT. Sometimes it waits until the broker knows.
    async fn drop_line(&mut self, open: Open) -> Result<(), Gone> {
        let index = open.index;
        self.world.note(index, |seen| seen.fate = Fate::Ending(CUT));
        drop(open);
        if self.random.random_bool(0.6) {
            return Ok(());
        }
        let path = format!("http://{}/api/v5/clients/{}", self.world.http, self.clientid);
        let until = Instant::now() + PATIENCE;
        while self.is_listed(&path).await? {
            assert!(
                Instant::now() < until,
                "{}: the broker does not notice a line that broke",
                self.clientid
            );
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
        self.ended(index, &["tcp_closed"]);
        Ok(())
    }

    /// Whether the broker takes it for connected.
    async fn is_listed(&self, path: &str) -> Result<bool, Gone> {
        let answer = self.world.asker.get(path).send().await;
        let answer = answer.map_err(|error| self.failed("ask for itself", &error))?;
        if answer.status() == 404 {
            return Ok(false);
        }
        let body = answer.text().await.map_err(|error| self.failed("ask for itself", &error))?;
        Ok(!body.contains("\"connected\":false"))
    }

    async fn say_goodbye(&mut self, mut open: Open) -> Result<(), Gone> {
        self.world.note(open.index, |seen| seen.fate = Fate::Ending(&["normal"]));
        let goodbye = packet(kind::DISCONNECT << 4, &[]);
        open.client.send(&goodbye).await.map_err(|error| self.failed("say goodbye", &error))?;
        open.client.until_closed().await;
        self.ended(open.index, &["normal"]);
        Ok(())
    }

    /// Another connection of the same client takes the place of the one that is open.
    async fn come_again(&mut self, old: Open) -> Result<(), Gone> {
        let connect = self.connect();
        let reasons: &'static [_] = if connect.clean { &["discarded"] } else { &["takenover"] };
        self.overtake(old, &connect, reasons).await
    }

    async fn overtake(
        &mut self,
        mut old: Open,
        connect: &Connect,
        reasons: &'static [&'static str],
    ) -> Result<(), Gone> {
        self.world.note(old.index, |seen| seen.fate = Fate::Ending(reasons));
        let Some(new) = self.greet(connect).await? else {
            self.failed("take its own place", &"closed without an answer");
            return Err(Gone);
        };
        self.open = Some(new);
        let said = old.client.until_closed().await;
        self.ended(old.index, reasons);
        let ending = self.world.ending.load(Ordering::SeqCst);
        if old.version == Version::V5 && !ending {
            let taken_over = said.last().map(|packet| (packet.kind(), packet.reason()));
            assert_eq!(
                taken_over,
                Some((kind::DISCONNECT, 0x8E)),
                "{}: the old connection is told",
                self.clientid
            );
        }
        Ok(())
    }

    /// Two connections at once: one of them stays.
    async fn race(&mut self) -> Result<(), Gone> {
        let (first, second) = (self.connect(), self.connect());
        let (first, second) = tokio::join!(self.greet(&first), self.greet(&second));
        if first.is_err() || second.is_err() {
            // The one without an answer may have taken the other's place before Muster went.
            for open in [&first, &second].into_iter().filter_map(|it| it.as_ref().ok()?.as_ref()) {
                self.world.note(open.index, |seen| seen.fate = Fate::Ending(OVERTAKEN));
            }
        }
        let (mut first, mut second) = match (first?, second?) {
            (Some(first), Some(second)) => (first, second),
            (Some(only), None) | (None, Some(only)) => {
                if self.world.ending.load(Ordering::SeqCst) {
                    // The other may have taken its place and been cut off before it heard so.
                    self.world.note(only.index, |seen| seen.fate = Fate::Ending(OVERTAKEN));
                }
                self.open = Some(only);
                return Ok(());
            }
            (None, None) => {
                self.failed("connect twice", &"both were closed");
                return Err(Gone);
            }
        };
        for open in [&first, &second] {
            self.world.note(open.index, |seen| seen.fate = Fate::Ending(OVERTAKEN));
        }
        let stays = tokio::select! {
            _ = first.client.until_closed() => second,
            _ = second.client.until_closed() => first,
        };
        if !self.world.ending.load(Ordering::SeqCst) {
            self.world.note(stays.index, |seen| seen.fate = Fate::Open);
        }
        self.open = Some(stays);
        Ok(())
    }

    /// An operator puts it out.
    async fn be_kicked(&mut self, mut open: Open) -> Result<(), Gone> {
        self.world.note(open.index, |seen| seen.fate = Fate::Ending(&["kicked"]));
        let path = format!("http://{}/api/v5/clients/{}", self.world.http, self.clientid);
        let answer = self.world.asker.delete(path).send().await;
        let answer = answer.map_err(|error| self.failed("be put out", &error))?;
        if answer.status() != 204 {
            return Err(self.failed("be put out", &answer));
        }
        open.client.until_closed().await;
        self.ended(open.index, &["kicked"]);
        Ok(())
    }

    /// It comes again with a short keep-alive and says nothing until it is put out.
    async fn fall_silent(&mut self, old: Open) -> Result<(), Gone> {
        let connect = Connect { keep_alive: 1, ..self.connect() };
        let reasons: &'static [_] = if connect.clean { &["discarded"] } else { &["takenover"] };
        let started = Instant::now();
        self.overtake(old, &connect, reasons).await?;
        let Some(mut open) = self.open.take() else { return Ok(()) };
        self.world.note(open.index, |seen| seen.fate = Fate::Ending(&["keepalive_timeout"]));
        open.client.until_closed().await;
        self.ended(open.index, &["keepalive_timeout"]);
        // One and a half of it, whatever the wall clock does meanwhile.
        let waited = started.elapsed();
        let in_time = (Duration::from_millis(1_400)..Duration::from_secs(20)).contains(&waited);
        assert!(in_time || self.world.ending.load(Ordering::SeqCst), "{}: {waited:?}", self.clientid);
        Ok(())
    }

    async fn subscribe(&mut self, open: Open) -> Result<(), Gone> {
        let mut body = vec![0, 1];
        if open.version == Version::V5 {
            body.push(0);
        }
        body.extend([0, 3, b'm', b'/', b'#', 1]);
        self.exchange(open, &packet(kind::SUBSCRIBE << 4 | 2, &body), kind::SUBACK).await
    }

    async fn publish(&mut self, open: Open) -> Result<(), Gone> {
        let bytes = publish(open.version, &format!("m/{}", self.clientid), b"{}", 1, false, 7);
        self.exchange(open, &bytes, kind::PUBACK).await
    }

    async fn exchange(&mut self, mut open: Open, bytes: &[u8], answer: u8) -> Result<(), Gone> {
        let exchange = async {
            open.client.send(bytes).await?;
            loop {
                match open.client.receive().await? {
                    Some(packet) if packet.kind() == answer => return Ok(()),
                    // Messages of others.
                    Some(packet) if packet.kind() == kind::PUBLISH => {}
                    Some(packet) => return Err(io::Error::other(format!("{packet:?}"))),
                    None => return Err(io::ErrorKind::UnexpectedEof.into()),
                }
            }
        };
        let done = soon("an answer", exchange).await;
        done.map_err(|error| self.failed("exchange a packet", &error))?;
        self.open = Some(open);
        Ok(())
    }
}
