//! The live view: bars on a terminal, a line a second elsewhere.

use std::io::Write as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::time::Instant;

use super::devices::Tally;
use crate::platform::Platform;

/// Where there is no terminal, a line this often.
const LINE: Duration = Duration::from_secs(1);

/// The demo at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    at: Instant,
    devices: u16,
    online: usize,
    events: u64,
    acked: u64,
    connects: u64,
    drops: u64,
    takeovers: u64,
    delivered: u64,
    dead: u64,
    lag_events: u64,
    lag_ms: u64,
}

impl Facts {
    pub(super) fn read(platform: &Platform, tally: &Tally, devices: u16) -> Self {
        let pipelines = platform.pipelines().status();
        Self {
            at: Instant::now(),
            devices,
            online: platform.broker().stats().connections,
            events: platform.journal().durable_offset(),
            acked: tally.acked.load(Ordering::Relaxed),
            connects: tally.connects.load(Ordering::Relaxed),
            drops: tally.drops.load(Ordering::Relaxed),
            takeovers: tally.takeovers.load(Ordering::Relaxed),
            delivered: pipelines.iter().map(|it| it.delivered).sum(),
            dead: pipelines.iter().map(|it| it.dead).sum(),
            lag_events: pipelines.iter().map(|it| it.lag_events).max().unwrap_or_default(),
            lag_ms: pipelines.iter().map(|it| it.lag_ms).max().unwrap_or_default(),
        }
    }
}

/// What the user sees.
pub(super) struct View {
    bars: Option<Bars>,
    start: Instant,
    last: Option<Facts>,
}

struct Bars {
    all: MultiProgress,
    devices: ProgressBar,
    events: ProgressBar,
    rows: ProgressBar,
    lag: ProgressBar,
}

impl View {
    pub(super) fn new(terminal: bool) -> Self {
        Self { bars: terminal.then(Bars::new), start: Instant::now(), last: None }
    }

    /// A line that stays.
    pub(super) fn say(&self, line: &str) {
        let shown = match &self.bars {
            Some(bars) => bars.all.println(line),
            None => writeln!(std::io::stdout(), "{line}"),
        };
        // Nobody reads it: that is no reason to stop.
        drop(shown);
    }

    /// Shows how it goes now.
    pub(super) fn show(&mut self, facts: &Facts) {
        let last = *self.last.get_or_insert(*facts);
        let seconds = facts.at.duration_since(last.at).as_secs_f64();
        let due = if self.bars.is_some() { seconds > 0.0 } else { seconds >= LINE.as_secs_f64() };
        if !due {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = (facts.events - last.events) as f64 / seconds;
        match &self.bars {
            Some(bars) => bars.show(facts, rate),
            None => self.say(&line(facts, rate, self.start)),
        }
        self.last = Some(*facts);
    }

    /// Leaves the last picture where it is.
    pub(super) fn finish(&self) {
        if let Some(bars) = &self.bars {
            for bar in [&bars.devices, &bars.events, &bars.rows, &bars.lag] {
                bar.finish();
            }
        }
    }
}

impl Bars {
    fn new() -> Self {
        let all = MultiProgress::new();
        let bar = |template: &str| {
            // A template that cannot be read would be a mistake of ours; the plain style serves as well.
            let style =
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            all.add(ProgressBar::new(0).with_style(style.progress_chars("=> ")))
        };
        Self {
            devices: bar("devices {bar:32.green} {msg}"),
            events: bar("events  {spinner} {msg}"),
            rows: bar("rows    {spinner} {msg}"),
            lag: bar("lag     {spinner} {msg}"),
            all,
        }
    }

    fn show(&self, it: &Facts, rate: f64) {
        self.devices.set_length(it.devices.into());
        self.devices.set_position(it.online as u64);
        let offline = usize::from(it.devices).saturating_sub(it.online);
        let Facts { drops, takeovers, connects, .. } = it;
        self.devices.set_message(format!(
            "{} online, {offline} offline; {connects} connects, {drops} lines dropped, {takeovers} takeovers",
            it.online
        ));
        self.events.set_message(format!(
            "{} in the log, {rate:.0}/s; {} publishes acknowledged",
            it.events, it.acked
        ));
        self.rows.set_message(format!("{} delivered, {} dead", it.delivered, it.dead));
        self.lag.set_message(format!("{} events, {} ms", it.lag_events, it.lag_ms));
        for bar in [&self.events, &self.rows, &self.lag] {
            bar.tick();
        }
    }
}

fn line(it: &Facts, rate: f64, start: Instant) -> String {
    let Facts {
        devices,
        online,
        events,
        acked,
        connects,
        drops,
        takeovers,
        delivered,
        dead,
        lag_events,
        lag_ms,
        ..
    } = it;
    let seconds = it.at.duration_since(start).as_secs();
    let offline = usize::from(*devices).saturating_sub(*online);
    format!(
        "{seconds:>4} s  devices {online} online {offline} offline ({connects} connects, {drops} dropped, {takeovers} \
         takeovers)  events {events} ({rate:.0}/s)  acked {acked}  rows {delivered} delivered {dead} dead  lag \
         {lag_events} events {lag_ms} ms"
    )
}
