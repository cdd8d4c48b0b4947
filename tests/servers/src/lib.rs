//! Real servers for tests. A script a server (`tests/servers/NAME`) installs it, runs it in the foreground and says
//! whether it answers; [`Server`] starts it on a free port of the loopback interface, in a folder of its own, and
//! stops it by its process group. [`Proxy`] stands between a client and a server and cuts or delays what passes. It
//! must never know what the tests ask of a server.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test that cannot go on says so by a panic, and waits by the real clock"
)]

mod proxy;

use std::collections::HashMap;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

pub use proxy::Proxy;

/// How long a server may take to answer after its start: a busy machine and a virtual machine's warm-up together.
const START_MAX: Duration = Duration::from_secs(120);
/// How often it is asked.
const LOOK: Duration = Duration::from_millis(50);

/// A server of this test. Dropping it stops the server and removes its folder.
#[derive(Debug)]
pub struct Server {
    name: &'static str,
    address: SocketAddr,
    /// None where the environment named a server that others keep.
    own: Option<Own>,
}

#[derive(Debug)]
struct Own {
    dir: tempfile::TempDir,
    keeper: Option<Child>,
}

impl Server {
    /// A server that only the caller has: it may be stopped, killed and started again. None where it is not
    /// installed; that is then counted as not run.
    ///
    /// # Panics
    /// Where it is not installed and `CI=true`, and where it does not start.
    pub fn own(name: &'static str) -> Option<Self> {
        if !installed(name) {
            return None;
        }
        let dir = tempfile::Builder::new().prefix(&format!("muster-{name}-")).tempdir().expect("a folder");
        let mut server = Self { name, address: free_address(), own: Some(Own { dir, keeper: None }) };
        server.start();
        Some(server)
    }

    /// A server that all tests of this process share: whoever uses it takes names of its own. `MUSTER_TEST_NAME`
    /// (`host:port`) names one that runs already.
    ///
    /// # Panics
    /// As [`Server::own`].
    pub fn shared(name: &'static str) -> Option<Arc<Self>> {
        type Shared = HashMap<&'static str, Option<Arc<Server>>>;
        static SHARED: OnceLock<Mutex<Shared>> = OnceLock::new();
        let mut shared = SHARED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        let make = || {
            let server = match std::env::var(format!("MUSTER_TEST_{}", name.to_uppercase())) {
                Ok(address) => {
                    let address = address.parse().expect("MUSTER_TEST_*: an IP address and a port");
                    Some(Self { name, address, own: None })
                }
                Err(_) => Self::own(name),
            };
            server.map(Arc::new)
        };
        let server = shared.entry(name).or_insert_with(make).clone();
        if server.is_none() {
            not_run(name);
        }
        server
    }

    /// Where it listens, also while it is stopped.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts it again where it left off, and waits until it answers.
    ///
    /// # Panics
    /// Where it does not answer in time; the message holds the end of its log.
    pub fn start(&mut self) {
        let (name, port) = (self.name, self.address.port().to_string());
        let own = self.own.as_mut().expect("a server of our own");
        let dir = own.dir.path().to_owned();
        drop(std::fs::remove_file(dir.join("pid")));
        let mut command = Command::new(folder().join("keep"));
        command.arg(name).arg(&dir).arg(&port).stdin(Stdio::piped()).stdout(Stdio::null());
        own.keeper = Some(command.spawn().expect("tests/servers/keep"));
        let deadline = Instant::now() + START_MAX;
        while !script(name, &["ready".as_ref(), dir.as_os_str(), port.as_ref()]) {
            assert!(Instant::now() < deadline, "{name} does not answer:\n{}", log_end(&dir));
            std::thread::sleep(LOOK);
        }
    }

    /// Stops it in order.
    pub fn stop(&mut self) {
        let keeper = self.own.as_mut().and_then(|own| own.keeper.take());
        if let Some(mut keeper) = keeper {
            // The end of its input is what it waits for.
            drop(keeper.stdin.take());
            drop(keeper.wait());
        }
    }

    /// Ends it as a power cut would, as far as its processes are concerned.
    ///
    /// # Panics
    /// Where it does not run.
    pub fn kill(&mut self) {
        let own = self.own.as_mut().expect("a server of our own");
        let pid = std::fs::read_to_string(own.dir.path().join("pid")).expect("it was started");
        let pid = pid.trim().parse().ok().and_then(Pid::from_raw).expect("a process id");
        let _ = kill_process_group(pid, Signal::KILL);
        self.stop();
    }

    /// The folder with its files and its `log`; none where others keep the server.
    pub fn dir(&self) -> Option<&Path> {
        self.own.as_ref().map(|own| own.dir.path())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// An address of the loopback interface that nobody uses now.
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address")
}

/// Where the scripts are: in the checkout whose tests run, which need not be the one that this was built from when two
/// of them share a build folder.
fn folder() -> PathBuf {
    let built = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let running = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let above = running.iter().flat_map(|it| it.ancestors()).map(|it| it.join("tests/servers"));
    above.into_iter().find(|it| it.join("Cargo.toml").is_file()).unwrap_or(built)
}

/// Whether the server can be started; says so where it cannot.
fn installed(name: &str) -> bool {
    // `tests/run` has tried already, and says where it could not.
    let missing = std::env::var("E2E_MISSING").unwrap_or_default();
    if !missing.split(' ').any(|it| it == name) && script(name, &["install".as_ref()]) {
        return true;
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{name} is not installed; tests/run installs it");
    not_run(name);
    false
}

fn script(name: &str, arguments: &[&std::ffi::OsStr]) -> bool {
    let mut command = Command::new(folder().join(name));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Tells `tests/run` that the current test passes without having run.
fn not_run(name: &str) {
    let thread = std::thread::current();
    let line = format!("{}: {name} cannot be had here\n", thread.name().unwrap_or("a test"));
    eprint!("not run: {line}");
    if let Some(file) = std::env::var_os("E2E_NOT_RUN") {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(file);
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the list of tests not run");
    }
}

fn log_end(dir: &Path) -> String {
    let log = std::fs::read(dir.join("log")).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
