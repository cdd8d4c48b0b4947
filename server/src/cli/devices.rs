//! `muster devices` and `muster device`: the roll call, and what is known of one device, from the tables that the
//! platform keeps; it may run meanwhile.

use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use clap::Args;
use serde_json::{Value, json};

use super::presence::moment;
use super::{ConfigArgs, failed_output, time};
use crate::config::{Config, duration};
use crate::error::{Error, ErrorKind};
use crate::presence::{self, AlarmOn, Device, Happened, Part, Sort, StoreError, Wanted};
use crate::rest::{device_json, happened_json};

/// `muster devices`.
#[derive(Debug, Args)]
pub(super) struct DevicesArgs {
    /// Only those that are connected.
    #[arg(long, conflicts_with = "offline")]
    online: bool,
    /// Only those that are not.
    #[arg(long)]
    offline: bool,
    /// Only those that have been gone for longer than this, e.g. 1h.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    offline_longer_than: Option<Duration>,
    /// Only those that come and go all the time.
    #[arg(long)]
    flapping: bool,
    /// Only those whose latest session has this user name.
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// Only those whose client id contains this.
    #[arg(long, value_name = "TEXT")]
    like: Option<String>,
    /// By what they are sorted: clientid, since, last_seen, connects, disconnects or longest_outage.
    #[arg(long, value_name = "COLUMN", default_value = "clientid", value_parser = sort)]
    sort: Sort,
    /// The other way round.
    #[arg(long)]
    desc: bool,
    /// How many at most.
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    limit: u64,
    /// One JSON object a line, as REST shows it.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// `muster device`.
#[derive(Debug, Args)]
pub(super) struct DeviceArgs {
    /// Its client id.
    #[arg(value_name = "ID")]
    clientid: String,
    /// How much of its history is shown, the latest first.
    #[arg(long, default_value_t = 20, value_name = "N")]
    limit: usize,
    /// Only what happened since then, e.g. 2026-01-02T03:04:05Z.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    from: Option<i64>,
    /// Only what happened before.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    to: Option<i64>,
    /// Only events of this name, e.g. client.disconnected; may be repeated.
    #[arg(long, value_name = "NAME", value_parser = kind)]
    kind: Vec<String>,
    /// One JSON object with the device and its history, as REST shows them.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

fn sort(name: &str) -> Result<Sort, String> {
    Sort::named(name).ok_or_else(|| {
        let names: Vec<_> = Sort::ALL.iter().map(|(_, name)| *name).collect();
        format!("write one of {}", names.join(", "))
    })
}

fn kind(name: &str) -> Result<String, String> {
    let is_known = presence::SHOWN.iter().any(|kind| kind.name() == name);
    is_known.then(|| name.to_owned()).ok_or_else(|| format!("write one of {}", presence::shown_names()))
}

/// Prints the devices that are wanted.
pub(super) fn list(args: &DevicesArgs) -> Result<(), Error> {
    let config = args.config.load()?;
    let now_ms = now_ms();
    let gone_for_ms = args.offline_longer_than.map(|it| i64::try_from(it.as_millis()).unwrap_or(i64::MAX));
    let wanted = Wanted {
        online: (args.online || args.offline).then_some(args.online),
        like_clientid: args.like.clone(),
        username: args.username.clone(),
        gone_before_ms: gone_for_ms.map(|ms| now_ms.saturating_sub(ms)),
        flapping: args.flapping.then_some(true),
        now_ms,
        sort: args.sort,
        descending: args.desc,
        limit: args.limit,
        ..Wanted::default()
    };
    let database = config.data.join(crate::platform::DATABASE);
    let read = presence::list(&database, &wanted)
        .and_then(|(devices, total)| Ok((described(&database, devices, now_ms)?, total)));
    let (devices, total) = read.map_err(|error| unreadable(&config, error))?;
    let widest = devices.iter().map(|it| it.device.clientid.chars().count()).max().unwrap_or_default().max(8);
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut print = || -> io::Result<()> {
        if args.json {
            for it in &devices {
                writeln!(out, "{}", it.json(now_ms))?;
            }
            return out.flush();
        }
        writeln!(out, "{:<widest$}  {:<7}  {:<24}  {:>8}  reason", "clientid", "state", "since", "connects")?;
        for it in &devices {
            writeln!(out, "{}", row(it, widest, now_ms))?;
        }
        let shown = devices.len();
        if (shown as u64) < total {
            writeln!(out, "{shown} of {total}; --limit shows more")?;
        }
        out.flush()
    };
    print().or_else(failed_output)
}

/// Prints one device with the latest of its history.
pub(super) fn one(args: &DeviceArgs) -> Result<(), Error> {
    let config = args.config.load()?;
    let now_ms = now_ms();
    let database = config.data.join(crate::platform::DATABASE);
    let wanted = Wanted { clientid: Some(args.clientid.clone()), limit: 1, ..Wanted::default() };
    let read = || {
        let (devices, _) = presence::list(&database, &wanted)?;
        let Some(known) = described(&database, devices, now_ms)?.pop() else { return Ok(None) };
        let part = Part {
            from_ms: args.from,
            to_ms: args.to,
            kinds: args.kind.clone(),
            limit: args.limit,
            ..Part::default()
        };
        let history = presence::history(&database, known.device.number, &part)?;
        Ok(Some((known, history)))
    };
    let known = read().map_err(|error| unreadable(&config, error))?;
    let Some((known, history)) = known else {
        let message = format!("no device {:?} was ever seen; `muster devices` lists all", args.clientid);
        return Err(Error::new(ErrorKind::Negative, message));
    };
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut print = || -> io::Result<()> {
        if args.json {
            let history: Vec<_> = history.iter().map(happened_json).collect();
            writeln!(out, "{}", json!({"device": known.json(now_ms), "history": history}))?;
            return out.flush();
        }
        about(&mut out, &known, now_ms)?;
        for it in &history {
            writeln!(out, "{}", line(it))?;
        }
        out.flush()
    };
    print().or_else(failed_output)
}

/// A device with what else is told of it.
struct Described {
    device: Device,
    last_day: (u64, u64),
    alarms: Vec<AlarmOn>,
}

impl Described {
    fn json(&self, now_ms: i64) -> Value {
        device_json(&self.device, self.last_day, &self.alarms, now_ms)
    }
}

fn described(database: &Path, devices: Vec<Device>, now_ms: i64) -> Result<Vec<Described>, StoreError> {
    let last_day = presence::last_day(database, &devices, now_ms)?;
    let alarms = presence::alarms_on(database, &devices)?;
    let all = devices.into_iter().zip(last_day).zip(alarms);
    Ok(all.map(|((device, last_day), alarms)| Described { device, last_day, alarms }).collect())
}

fn about(out: &mut impl Write, known: &Described, now_ms: i64) -> io::Result<()> {
    let Described { device: it, last_day, alarms } = known;
    let state = if it.online { "online" } else { "offline" };
    let reason = it.reason.as_deref().filter(|_| !it.online).map(|it| format!(" ({it})")).unwrap_or_default();
    let lasts = span(now_ms.saturating_sub(it.since_ms));
    writeln!(
        out,
        "{} is {state}{reason} since {}, for {lasts}",
        it.clientid.escape_debug(),
        time(it.since_ms)
    )?;
    let username = it.username.as_deref().unwrap_or("-").escape_debug().to_string();
    writeln!(out, "  user name        {username}")?;
    writeln!(out, "  address          {}", it.peername)?;
    writeln!(out, "  protocol         {} {}", it.proto_name, it.proto_ver)?;
    writeln!(out, "  last seen        {}", time(it.last_seen_ms))?;
    let (connects, disconnects) = *last_day;
    writeln!(out, "  connects         {}, {connects} in the last day", it.connects)?;
    writeln!(out, "  disconnects      {}, {disconnects} in the last day", it.disconnects)?;
    let away_ms = if it.online { 0 } else { now_ms.saturating_sub(it.since_ms) };
    writeln!(out, "  longest outage   {}", span(it.longest_outage_ms.max(away_ms)))?;
    if it.flapping_until_ms > now_ms {
        writeln!(out, "  flapping         until {}, unless it goes on", time(it.flapping_until_ms))?;
    }
    for AlarmOn { name, severity, activated_at_ms } in alarms {
        writeln!(out, "  alarm            {name} ({severity}) since {}", time(*activated_at_ms))?;
    }
    writeln!(out)
}

fn line(it: &Happened) -> String {
    let mut text = format!("{}  {:<20}", time(it.at_ms), it.kind);
    let word = |name: &str| it.detail[name].as_str().map(|it| it.escape_debug().to_string());
    if let Some(reason) = &it.reason {
        text.push_str(&format!("  {reason}"));
    }
    if let Some(duration_ms) = it.duration_ms {
        text.push_str(&format!("  after {}", span(duration_ms)));
    }
    for name in ["topic", "name", "message", "peername"] {
        if let Some(word) = word(name).filter(|_| name != "peername" || it.duration_ms.is_none()) {
            text.push_str("  ");
            text.push_str(&word);
        }
    }
    text.trim_end().to_owned()
}

fn row(known: &Described, widest: usize, now_ms: i64) -> String {
    let Described { device, alarms, .. } = known;
    let Device { clientid, online, since_ms, connects, reason, .. } = device;
    let state = if *online { "online" } else { "offline" };
    // Why it went is of interest while it is gone.
    let reason = reason.as_deref().filter(|_| !online).unwrap_or_default();
    let flapping = if device.flapping_until_ms > now_ms { " (flapping)" } else { "" };
    let names: Vec<_> = alarms.iter().map(|it| it.name.as_str()).collect();
    let alarms = if names.is_empty() { String::new() } else { format!(" (alarm: {})", names.join(", ")) };
    let clientid = clientid.escape_debug().to_string();
    let since = time(*since_ms);
    format!("{clientid:<widest$}  {state:<7}  {since:<24}  {connects:>8}  {reason}{flapping}{alarms}")
        .trim_end()
        .to_owned()
}

/// A length of time for a person: the two largest units.
pub(super) fn span(ms: i64) -> String {
    let ms = ms.max(0);
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
    match units.iter().position(|(_, unit)| ms >= *unit) {
        None => format!("{ms} ms"),
        Some(at) => {
            let mut rest = ms;
            let parts = units.iter().skip(at).take(2).map(|(name, unit)| {
                let count = rest / unit;
                rest %= unit;
                format!("{count}{name}")
            });
            parts.collect::<Vec<_>>().join(" ")
        }
    }
}

pub(super) fn unreadable(config: &Config, error: StoreError) -> Error {
    let message = format!("no devices in {}; --data names the data directory", config.data.display());
    Error::because(ErrorKind::Start, message, error)
}

#[expect(clippy::disallowed_methods, reason = "a command that ends at once has no clock to be given")]
pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_for_people() {
        for (ms, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (61_000, "1m 1s"),
            (3_600_000, "1h 0m"),
            (90_061_000, "1d 1h"),
            (-5, "0 ms"),
        ] {
            assert_eq!(span(ms), text);
        }
    }
}
