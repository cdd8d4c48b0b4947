//! `muster key`: API keys, by the registry of a data directory. A platform that runs on it notices within a second; the
//! log is told by it, or by the next one that starts.

use std::io::Write as _;
use std::time::Duration;

use clap::{Args, Subcommand};
use muster_core::clock::SystemClock;
use muster_core::registry::{DocumentChange, Registry};
use serde_json::{Value, json};

use super::run::block_on;
use super::{ConfigArgs, failed_output, time};
use crate::access::{KeyRecord, NewKey, Noted, Outbox, Role, Secret, Stored, is_name};
use crate::config::{Config, units};
use crate::error::{Error, ErrorKind};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a key; prints it and its secret, which is kept hashed and never shown again.
    Add(AddArgs),
    /// List keys, without their secrets.
    List(ConfigArgs),
    /// Take a key back: it opens nothing any more.
    Revoke(NameArgs),
    /// Give a key a new public half and a new secret; the old ones open nothing any more.
    Rotate(NameArgs),
}

#[derive(Debug, Args)]
pub(super) struct AddArgs {
    /// What it is called, in the audit and in `muster key list`.
    #[arg(long)]
    name: String,
    /// What it may: administrator (everything), viewer (look, change nothing), publisher (publish, nothing else).
    #[arg(long, value_parser = role)]
    role: Role,
    /// How long it may be used, e.g. 12h or 90d [default: for ever].
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    expires: Option<Duration>,
    /// What it is for.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    desc: String,
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Debug, Args)]
pub(super) struct NameArgs {
    /// What the key is called.
    name: String,
    #[command(flatten)]
    config: ConfigArgs,
}

pub(super) fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::Add(args) => add(args),
        Command::List(config) => list(&config.load()?),
        Command::Revoke(NameArgs { name, config }) => {
            let open = Open::of(&config.load()?)?;
            open.key(&name)?;
            open.commit(vec![open.stored.remove_key(&name)], "keys.delete", &name, json!({}))
        }
        Command::Rotate(NameArgs { name, config }) => {
            let open = Open::of(&config.load()?)?;
            let (key, secret) = open.key(&name)?.rotated()?;
            open.commit(vec![open.stored.put_key(&name, &key)?], "keys.rotate", &name, json!({}))?;
            show(&key, &secret)
        }
    }
}

pub(super) fn role(text: &str) -> Result<Role, String> {
    Role::parse(text).ok_or_else(|| format!("`{text}` is none of administrator, viewer, publisher"))
}

fn add(args: AddArgs) -> Result<(), Error> {
    let AddArgs { name, role, expires, desc, config } = args;
    check_name(&name)?;
    let open = Open::of(&config.load()?)?;
    if open.stored.load()?.0.contains_key(&name) {
        let message =
            format!("there is a key `{name}` already; `muster key rotate {name}` gives it a new secret");
        return Err(Error::new(ErrorKind::Negative, message));
    }
    let created_at_ms = open.now_ms;
    let expired_at_ms = expires.map(|wait| i64::try_from(wait.as_millis()).unwrap_or(i64::MAX));
    let expired_at_ms = expired_at_ms.map(|wait| created_at_ms.saturating_add(wait));
    let (key, secret) = NewKey { role, desc, enable: true, expired_at_ms, created_at_ms }.make()?;
    open.commit(vec![open.stored.put_key(&name, &key)?], "keys.create", &name, json!({"role": role}))?;
    show(&key, &secret)
}

pub(super) fn check_name(name: &str) -> Result<(), Error> {
    if is_name(name) {
        return Ok(());
    }
    let message = "a name begins with a letter or digit of ASCII and goes on with those and - _ . @";
    Err(Error::new(ErrorKind::Config, message))
}

/// Two lines that scripts read.
fn show(key: &KeyRecord, secret: &Secret) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "key: {}\nsecret: {}", key.key, secret.reveal()).or_else(failed_output)
}

fn list(config: &Config) -> Result<(), Error> {
    let open = Open::of(config)?;
    let mut out = std::io::stdout().lock();
    for (name, key) in open.stored.load()?.0 {
        let state = match (key.enable, key.is_expired(open.now_ms)) {
            (false, _) => "disabled",
            (true, true) => "expired",
            (true, false) => "good",
        };
        let until = key.expired_at_ms.map_or_else(|| "for ever".to_owned(), time);
        let line =
            format!("{name}  {}  {}  {state}  until {until}  {}", key.key, key.role.as_str(), key.desc);
        if let Err(error) = writeln!(out, "{}", line.trim_end()) {
            return failed_output(error);
        }
    }
    Ok(())
}

/// What is stored below a data directory, with the time at which it was opened.
pub(super) struct Open {
    pub(super) stored: Stored,
    outbox: Outbox,
    pub(super) now_ms: i64,
}

impl Open {
    /// Makes the directory where it is missing: a key may come before the first start.
    pub(super) fn of(config: &Config) -> Result<Self, Error> {
        let data = &config.data;
        std::fs::create_dir_all(data).map_err(|error| {
            let message = format!("cannot make the data directory {}", data.display());
            Error::because(ErrorKind::Start, message, error)
        })?;
        let registry = Registry::open(&data.join("registry.db"))
            .map_err(|error| Error::because(ErrorKind::Start, "cannot open the registry", error))?;
        let now_ms = SystemClock::shared().wall_ms();
        Ok(Self { stored: Stored::new(&registry), outbox: Outbox::new(&registry), now_ms })
    }

    /// Makes changes and notes them down for the log, in one transaction.
    pub(super) fn commit(
        &self,
        mut changes: Vec<DocumentChange>,
        action: &str,
        object: &str,
        details: Value,
    ) -> Result<(), Error> {
        let (action, actor, object) = (action.to_owned(), "cli".to_owned(), object.to_owned());
        changes.push(self.outbox.note(&Noted { action, actor, object, details, at_ms: self.now_ms })?);
        block_on(self.stored.commit(changes))
    }

    fn key(&self, name: &str) -> Result<KeyRecord, Error> {
        let found = self.stored.load()?.0.remove(name);
        found.ok_or_else(|| {
            Error::new(ErrorKind::Negative, format!("there is no key `{name}`; `muster key list` lists them"))
        })
    }
}
