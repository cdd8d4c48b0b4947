//! Foreign programs that the tests drive: mosquitto's clients, `sqlite3`, Pythons with paho and mongomock,
//! schemathesis. A test that needs one asks by [`need!`](crate::need); where it is missing the test fails in CI, and is
//! counted as not run elsewhere.

use std::ffi::OsStr;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

use crate::wait::soon;

/// The path of a foreign program, or the end of the test where it is missing.
#[macro_export]
macro_rules! need {
    ($tool:expr) => {
        match $crate::tools::find($tool) {
            Some(path) => path,
            None => return,
        }
    };
}

/// Where a program is; `paho` and `mongomock` are the Pythons that have them.
///
/// # Panics
/// When it is missing and `CI=true`: there, nothing may be left out.
pub fn find(tool: &str) -> Option<PathBuf> {
    let found = match tool {
        "paho" => std::env::var_os("E2E_PYTHON").map(PathBuf::from).filter(|it| has(it, "paho.mqtt.client")),
        "mongomock" => std::env::var_os("E2E_MONGOMOCK").map(PathBuf::from).filter(|it| has(it, "mongomock")),
        "schemathesis" => std::env::var_os("E2E_SCHEMATHESIS").map(PathBuf::from).filter(|it| it.is_file()),
        _ => in_path(tool),
    };
    if found.is_none() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{tool} is missing; tests/run installs it");
        not_run(&format!("{tool} is missing"));
    }
    found
}

fn in_path(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps servers in /usr/sbin, which is not in the PATH of everybody.
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join(tool)).find(|file| file.is_file())
}

fn has(python: &Path, module: &str) -> bool {
    let mut command = std::process::Command::new(python);
    command.args(["-c", &format!("import {module}")]).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Tells `tests/run` that the current test passes without having run.
fn not_run(reason: &str) {
    let thread = std::thread::current();
    let line = format!("{}: {reason}\n", thread.name().unwrap_or("a test"));
    eprint!("not run: {line}");
    if let Some(file) = std::env::var_os("E2E_NOT_RUN") {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(file);
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the list of tests not run");
    }
}

/// A command that ends with the test.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.kill_on_drop(true).stdin(Stdio::null());
    command
}

/// Starts a process that `tests/run` will find and stop should the test be unable to.
pub fn spawn(command: &mut Command) -> Child {
    let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    if let (Some(run), Some(pid)) = (std::env::var_os("E2E_RUN"), child.id()) {
        std::fs::write(PathBuf::from(run).join("pids").join(pid.to_string()), "")
            .expect("a note of the process");
    }
    child
}

/// Runs a command to its end and gives what it printed.
///
/// # Panics
/// When it fails.
pub async fn run(command: &mut Command) -> String {
    let (output, ok) = try_run(command).await;
    assert!(ok, "{command:?} failed:\n{output}");
    output
}

/// Runs a command to its end; what it printed on both streams, and whether it succeeded.
pub async fn try_run(command: &mut Command) -> (String, bool) {
    let output = soon(&format!("{command:?} ends"), command.output()).await.expect("the program starts");
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    (String::from_utf8_lossy(&text).into_owned(), output.status.success())
}

/// Runs a command with `input` on its standard input.
///
/// # Panics
/// When it fails.
pub async fn run_with_input(command: &mut Command, input: &str) -> String {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn(command);
    let mut stdin = child.stdin.take().expect("a pipe");
    let feed = async move {
        stdin.write_all(input.as_bytes()).await.expect("the program reads its input");
        drop(stdin);
    };
    let ((), output) =
        soon(&format!("{command:?} ends"), async { tokio::join!(feed, child.wait_with_output()) }).await;
    let output = output.expect("its output");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?} failed:\n{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// What a process prints on its standard output until it ends.
///
/// # Panics
/// When it fails.
pub async fn output(child: Child) -> String {
    let output = soon("the program ends", child.wait_with_output()).await.expect("its output");
    assert!(output.status.success(), "{}", output.status);
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// One of mosquitto's clients, aimed at a broker.
pub fn mosquitto(program: &Path, broker: SocketAddr) -> Command {
    let mut command = command(program);
    command.args(["-h", &broker.ip().to_string(), "-p", &broker.port().to_string()]);
    command
}
