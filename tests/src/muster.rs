//! The binary under test, running.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};

use crate::tools;
use crate::wait::{PATIENCE, soon, until};

/// The binary that was built with the tests; `E2E_BINARY` names another.
///
/// # Panics
/// When it is not there.
pub fn binary() -> PathBuf {
    let given = std::env::var_os("E2E_BINARY").map(PathBuf::from);
    let binary = given.unwrap_or_else(|| built("muster"));
    assert!(binary.is_file(), "{} is no file", binary.display());
    binary
}

/// The same program with a wall clock that [`Home::step_clock`](crate::Home::step_clock) steps.
///
/// # Panics
/// When it is not there.
pub fn stepped() -> PathBuf {
    built("muster-stepped")
}

fn built(name: &str) -> PathBuf {
    // .../debug/deps/e2e-0123 and .../debug/bench-rest both stand beside or below .../debug/muster.
    let test = std::env::current_exe().expect("this program has a path");
    let folders = test.ancestors().skip(1).take(2);
    let mut places = folders.map(|folder| folder.join(name));
    let found = places.find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("no {name} binary; tests/run builds it: cargo build --workspace"))
}

/// `muster run`, until the test ends it.
#[derive(Debug)]
pub struct Muster {
    child: Child,
    output: Arc<Mutex<Vec<String>>>,
    /// Where devices connect by plain TCP; `0.0.0.0:0` where they cannot.
    pub mqtt: SocketAddr,
    /// Where REST is served.
    pub http: SocketAddr,
}

impl Muster {
    /// Starts the command and waits until it has printed where it listens.
    pub async fn start(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = tools::spawn(&mut command);
        let output = Arc::new(Mutex::new(Vec::new()));
        collect(child.stdout.take().expect("a pipe"), &output);
        collect(child.stderr.take().expect("a pipe"), &output);
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut muster = Self { child, output, mqtt: unknown, http: unknown };
        until("muster prints where it listens", PATIENCE, async || {
            let http = muster.find("http listening on http://");
            muster.http = http.or_else(|| muster.find("http listening on https://"))?;
            // Said before it, unless devices connect in other ways alone.
            muster.mqtt = muster.find("mqtt listening on mqtt://").unwrap_or(unknown);
            Some(())
        })
        .await;
        muster
    }

    /// The address behind the first `prefix` that was printed.
    fn find(&mut self, prefix: &str) -> Option<SocketAddr> {
        let ended = self.child.try_wait().expect("its state");
        let output = self.output();
        assert!(ended.is_none(), "muster ended at once:\n{}", output.join("\n"));
        let rest = output.iter().find_map(|line| line.split_once(prefix))?.1.to_owned();
        let end = rest.find(|c: char| !(c.is_ascii_digit() || ".:[]".contains(c))).unwrap_or(rest.len());
        Some(rest[..end].parse().unwrap_or_else(|_| panic!("no address: {rest}")))
    }

    /// Where devices connect by another way: `mqtts`, `ws` or `wss`.
    ///
    /// # Panics
    /// When it does not listen there.
    pub fn at(&mut self, scheme: &str) -> SocketAddr {
        let prefix = format!("mqtt listening on {scheme}://");
        self.find(&prefix).unwrap_or_else(|| panic!("no {scheme}:\n{}", self.output().join("\n")))
    }

    /// All lines that it has printed, on either stream.
    pub fn output(&self) -> Vec<String> {
        self.output.lock().expect("no test panics with it").clone()
    }

    /// Waits until it has printed a line that holds `text`, and gives the line.
    pub async fn until_printed(&self, text: &str) -> String {
        let what = format!("muster prints `{text}`");
        until(&what, PATIENCE, async || self.output().into_iter().find(|line| line.contains(text))).await
    }

    /// kill -9.
    pub async fn kill(mut self) {
        self.child.start_kill().expect("it runs");
        self.child.wait().await.expect("its end");
    }

    /// Ctrl-C; gives how it ended, all it printed, and how long it took.
    pub async fn interrupt(mut self) -> (ExitStatus, Vec<String>, Duration) {
        let started = tokio::time::Instant::now();
        self.signal(Signal::INT);
        let status = soon("muster ends after Ctrl-C", self.child.wait()).await.expect("its end");
        let took = started.elapsed();
        (status, self.output(), took)
    }

    /// Ctrl-C, and everything in order.
    ///
    /// # Panics
    /// When the exit code is not 0.
    pub async fn stop(self) {
        let (status, output, _) = self.interrupt().await;
        assert!(status.success(), "{status}:\n{}", output.join("\n"));
    }

    fn signal(&self, signal: Signal) {
        let id = self.child.id().expect("it runs");
        let pid = Pid::from_raw(id.cast_signed()).expect("a process id");
        kill_process(pid, signal).expect("a signal reaches it");
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("its state").is_none()
    }

    /// How many files, sockets among them, it has open.
    pub fn open_files(&self) -> usize {
        let id = self.child.id().expect("it runs");
        std::fs::read_dir(format!("/proc/{id}/fd")).expect("the system says so").count()
    }

    /// How much memory it has, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most memory that it has had, in bytes.
    pub fn memory_bytes_max(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, what: &str) -> u64 {
        let id = self.child.id().expect("it runs");
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("the system says so");
        let line = status.lines().find_map(|line| line.strip_prefix(what)).expect("its size");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib * 1024
    }

    /// GET a path: status and body.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let url = format!("http://{}{path}", self.http);
        let response = soon(path, http_client().get(url).send()).await.expect("an answer");
        let status = response.status().as_u16();
        (status, response.text().await.expect("a body"))
    }

    /// GET a path that answers 200 with JSON.
    pub async fn json(&self, path: &str) -> Value {
        let (status, body) = self.get(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
    }

    /// A request with a JSON body, or with none where it is `null`; status, and the body as JSON, `null` where there
    /// is none.
    ///
    /// # Panics
    /// When the answer is no JSON.
    pub async fn send(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request = http_client().request(method, format!("http://{}{path}", self.http));
        if !body.is_null() {
            request = request.json(&body);
        }
        let response = soon(path, request.send()).await.expect("an answer");
        let status = response.status().as_u16();
        let text = response.text().await.expect("a body");
        let body = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).expect("JSON") };
        (status, body)
    }

    /// A POST with an `Idempotency-Key`: status, body, and whether the answer says that it is an earlier one.
    ///
    /// # Errors
    /// There is no answer, e.g. because the process was killed.
    pub async fn send_keyed(
        &self,
        path: &str,
        key: &str,
        body: &Value,
    ) -> Result<(u16, String, bool), reqwest::Error> {
        send_keyed(self.http, path, key, body).await
    }

    /// A request whose body is sent as it is, under a content type: status and body.
    pub async fn send_raw(&self, method: &str, path: &str, content_type: &str, body: &str) -> (u16, String) {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        let request = http_client().request(method, format!("http://{}{path}", self.http));
        let request = request.header("content-type", content_type).body(body.to_owned());
        let response = soon(path, request.send()).await.expect("an answer");
        let status = response.status().as_u16();
        (status, response.text().await.expect("a body"))
    }
}

/// As [`Muster::send_keyed`], for whoever outlives the process.
///
/// # Errors
/// There is no answer.
pub async fn send_keyed(
    server: SocketAddr,
    path: &str,
    key: &str,
    body: &Value,
) -> Result<(u16, String, bool), reqwest::Error> {
    let request = http_client().post(format!("http://{server}{path}")).header("idempotency-key", key);
    let response = soon(path, request.json(body).send()).await?;
    let is_replayed = response.headers().get("idempotent-replayed").is_some_and(|it| it == "true");
    let status = response.status().as_u16();
    Ok((status, response.text().await?, is_replayed))
}

fn collect(stream: impl AsyncRead + Unpin + Send + 'static, output: &Arc<Mutex<Vec<String>>>) {
    let output = Arc::clone(output);
    tokio::spawn(async move {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            // The test harness shows it when the test fails.
            eprintln!("muster: {line}");
            output.lock().expect("no test panics with it").push(line);
        }
    });
}

/// A client of HTTP that no setting of the environment bends.
pub fn http_client() -> reqwest::Client {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        rustls::crypto::ring::default_provider().install_default().expect("no other provider");
    });
    reqwest::Client::builder().no_proxy().build().expect("a client")
}
