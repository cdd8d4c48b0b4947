//! What a test run that is killed leaves behind: nothing, whatever was killed and how.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use muster_tests::{PATIENCE, until};
use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process_group};
use tempfile::TempDir;

/// A server that runs until it is told to stop, with a child.
const SERVER: &str =
    "#!/usr/bin/env bash\ncase $1 in install | ready) exit 0 ;; esac\nwhile :; do sleep 1000 & wait; done\n";
/// A cargo whose tests start a server, as `muster_test_servers` does, and never end.
const CARGO: &str = "#!/usr/bin/env bash\n[ \"$1\" = test ] || exit 0\ncd \"$(dirname \"$0\")\"\nmkdir -p server\n\
                     sleep 1000 | tests/servers/keep fake server 1\n";

/// A checkout with `tests/run`, `keep`, a server and a cargo that is none.
struct Checkout(TempDir);

impl Checkout {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let ours = Path::new(env!("CARGO_MANIFEST_DIR"));
        fs::create_dir_all(folder.path().join("tests/servers")).expect("a folder");
        let read = |name: &str| fs::read_to_string(ours.join(name)).expect("a script");
        for (name, text) in [
            ("tests/run", read("run").as_str()),
            ("tests/servers/keep", read("servers/keep").as_str()),
            ("tests/servers/fake", SERVER),
            ("cargo", CARGO),
        ] {
            let path = folder.path().join(name);
            fs::write(&path, text).expect("a file");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a script");
        }
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Starts a command in this folder, in a process group of its own.
    fn start(&self, command: &mut Command) -> Started {
        let path = std::env::var("PATH").expect("a path");
        command.env("PATH", format!("{}:{path}", self.0.path().display())).current_dir(self.0.path());
        command.env_remove("E2E_RUN").stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        Started(command.spawn().expect("it starts"))
    }

    /// Waits until the server runs; its process group.
    async fn server(&self) -> Pid {
        let pid = async || fs::read_to_string(self.path("server/pid")).ok()?.trim().parse().ok();
        Pid::from_raw(until("the server runs", PATIENCE, pid).await).expect("a process id")
    }
}

/// A process that ends with the test, also where the test fails.
struct Started(Child);

impl Started {
    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id().cast_signed()).expect("a process id")
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ended = self.0.kill().and_then(|()| self.0.wait());
    }
}

async fn until_gone(what: &str, group: Pid) {
    let gone = async || test_kill_process_group(group).is_err().then_some(());
    until(&format!("{what} is gone"), PATIENCE, gone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_ends_with_whoever_started_it() {
    let checkout = Checkout::new();
    fs::create_dir(checkout.path("server")).expect("a folder");
    let mut holder =
        checkout.start(Command::new("bash").args(["-c", "sleep 1000 | tests/servers/keep fake server 1"]));
    let server = checkout.server().await;
    kill_process_group(holder.pid(), Signal::KILL).expect("it runs");
    holder.0.wait().expect("its end");
    until_gone("the server", server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_killed_leaves_no_process() {
    for signal in [Signal::KILL, Signal::TERM] {
        let checkout = Checkout::new();
        let mut run =
            checkout.start(Command::new("tests/run").env("CARGO_TARGET_DIR", checkout.path("target")));
        let server = checkout.server().await;
        kill_process(run.pid(), signal).expect("it runs");
        run.0.wait().expect("its end");
        until_gone("the server", server).await;
        let proc = async || {
            let of_this =
                |name: &str| fs::read_to_string(format!("/proc/{name}/cmdline")).unwrap_or_default();
            let folder = checkout.0.path().to_string_lossy().into_owned();
            let entries = fs::read_dir("/proc").expect("processes").filter_map(Result::ok);
            let mut names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
            (!names.any(|name| of_this(&name).contains(&folder))).then_some(())
        };
        until(&format!("nothing is left after {signal:?}"), PATIENCE, proc).await;
    }
}
