//! `muster user`: people who log in to REST. A password is read from standard input or a file, never from an argument,
//! which other people on the machine could read.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::key::{Open, check_name, role};
use super::{ConfigArgs, failed_output};
use crate::access::{PASSWORD_BYTES_MAX, Password, PersonRecord, Role};
use crate::error::{Error, ErrorKind};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Let somebody log in; their password is the first line of standard input, or of --password-file.
    Add(AddArgs),
    /// Give somebody a new password; what they were logged in to ends.
    Passwd(PasswordArgs),
    /// List people, without anything of their passwords.
    List(ConfigArgs),
    /// Let somebody log in no more; what they were logged in to ends.
    Remove {
        /// What they are called.
        name: String,
        #[command(flatten)]
        config: ConfigArgs,
    },
}

#[derive(Debug, Args)]
pub(super) struct AddArgs {
    /// What they are called.
    #[arg(long)]
    name: String,
    /// What they may: administrator (everything), viewer (look, change nothing).
    #[arg(long, value_parser = role)]
    role: Role,
    /// Who they are.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    desc: String,
    /// The file whose first line is the password [default: standard input].
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Debug, Args)]
pub(super) struct PasswordArgs {
    /// What they are called.
    name: String,
    /// The file whose first line is the password [default: standard input].
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
}

pub(super) fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::Add(args) => add(args),
        Command::Passwd(PasswordArgs { name, password_file, config }) => {
            let open = Open::of(&config.load()?)?;
            let person = PersonRecord { password: read_password(password_file)?, ..known(&open, &name)? };
            let change = open.stored.put_person(&name, &person)?;
            open.commit(vec![change], "users.change_pwd", &name, json!({}))
        }
        Command::List(config) => {
            let open = Open::of(&config.load()?)?;
            let mut out = std::io::stdout().lock();
            for (name, person) in open.stored.load()?.1 {
                let line = format!("{name}  {}  {}", person.role.as_str(), person.description);
                if let Err(error) = writeln!(out, "{}", line.trim_end()) {
                    return failed_output(error);
                }
            }
            Ok(())
        }
        Command::Remove { name, config } => {
            let open = Open::of(&config.load()?)?;
            known(&open, &name)?;
            open.commit(vec![open.stored.remove_person(&name)], "users.delete", &name, json!({}))
        }
    }
}

fn add(args: AddArgs) -> Result<(), Error> {
    let AddArgs { name, role, desc, password_file, config } = args;
    check_name(&name)?;
    let open = Open::of(&config.load()?)?;
    if open.stored.load()?.1.contains_key(&name) {
        return Err(Error::new(ErrorKind::Negative, format!("somebody is called `{name}` already")));
    }
    let password = read_password(password_file)?;
    let person = PersonRecord { password, role, description: desc, created_at_ms: open.now_ms };
    let change = open.stored.put_person(&name, &person)?;
    open.commit(vec![change], "users.create", &name, json!({"role": role}))
}

fn known(open: &Open, name: &str) -> Result<PersonRecord, Error> {
    let found = open.stored.load()?.1.remove(name);
    found.ok_or_else(|| {
        Error::new(ErrorKind::Negative, format!("nobody is called `{name}`; `muster user list` lists them"))
    })
}

/// The first line, without its end.
fn read_password(file: Option<PathBuf>) -> Result<Password, Error> {
    let limit = u64::try_from(PASSWORD_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(2);
    let mut text = String::new();
    let read = match &file {
        Some(path) => std::fs::File::open(path).and_then(|file| file.take(limit).read_to_string(&mut text)),
        None => std::io::stdin().lock().take(limit).read_to_string(&mut text),
    };
    read.map_err(|error| Error::because(ErrorKind::Config, "cannot read the password", error))?;
    Password::new(text.lines().next().unwrap_or_default())
}
