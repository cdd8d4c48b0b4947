//! TLS for whoever listens: certificate and key out of files, and again when the files change, without a restart. The
//! library is rustls with ring. It must never know what is spoken over the line, and never show a key.

mod load;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

use crate::clock::SharedClock;

/// How long before its end a certificate is warned of.
const EXPIRY_WARNING: Duration = Duration::from_secs(14 * 24 * 3_600);

/// How often it is warned of.
const EXPIRY_WARNING_INTERVAL: Duration = Duration::from_secs(24 * 3_600);

/// Whether clients show a certificate. Those that do must have one that the client authority signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientCertificates {
    /// They may; only where there is a client authority.
    #[default]
    Optional,
    /// They must.
    Required,
}

/// Where certificate and key are, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Our certificate first, then those between it and the authority.
    pub certificates: PathBuf,
    /// The key of the first of them, without a password.
    pub key: PathBuf,
    /// Who signs the certificates of clients; without it no client is asked for one.
    pub client_ca: Option<PathBuf>,
    /// Whether clients must show one; only with `client_ca`.
    pub client_certificates: ClientCertificates,
}

/// Why files cannot be used. It names the file and what to do about it, and shows nothing of a key.
#[derive(Debug, thiserror::Error)]
#[error("{} {what}; {hint}", path.display())]
pub struct TlsError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub what: &'static str,
    /// What an operator can do.
    pub hint: &'static str,
    /// What the system or the library said; nothing where that could show a part of the file.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// What is served now.
struct Current {
    config: Arc<ServerConfig>,
    /// Of the files it was made of.
    digest: [u8; 32],
    /// When its first certificate ends.
    expires_at_ms: i64,
}

struct Shared {
    files: TlsFiles,
    alpn: Vec<Vec<u8>>,
    current: ArcSwap<Current>,
    /// One change at a time.
    reloading: Mutex<()>,
}

/// Certificate and key that follow their files. Clones are the same.
#[derive(Clone)]
pub struct Tls(Arc<Shared>);

/// Only where it comes from.
impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Tls").field(&self.0.files).finish()
    }
}

impl Tls {
    /// Reads the files. `alpn` are the protocols that are offered, the most wanted first; none leaves that out.
    ///
    /// # Errors
    /// A file cannot be read or holds something else, or certificate and key do not fit.
    pub fn load(files: TlsFiles, alpn: &[&[u8]]) -> Result<Self, TlsError> {
        let alpn: Vec<Vec<u8>> = alpn.iter().map(|it| it.to_vec()).collect();
        let current = load::Contents::read(&files)?.into_current(&files, &alpn)?;
        let current = ArcSwap::from_pointee(current);
        Ok(Self(Arc::new(Shared { files, alpn, current, reloading: Mutex::default() })))
    }

    /// What the next connection is served with.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.0.current.load().config.clone()
    }

    /// Whether `other` is a clone of this.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// When the certificate that is served ends, in milliseconds since 1970.
    pub fn expires_at_ms(&self) -> i64 {
        self.0.current.load().expires_at_ms
    }

    /// Reads the files again; whether something changed. Connections that are open stay as they are. Blocks on the
    /// disk.
    ///
    /// # Errors
    /// As [`Tls::load`]; what was served before is served on.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let _one_at_a_time = self.0.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let contents = load::Contents::read(&self.0.files)?;
        if contents.digest() == self.0.current.load().digest {
            return Ok(false);
        }
        self.0.current.store(Arc::new(contents.into_current(&self.0.files, &self.0.alpn)?));
        Ok(true)
    }

    /// Looks at the files `every` so often, until `stop`, and says in the log what happened, and when the certificate
    /// is about to end.
    pub async fn follow(self, every: Duration, clock: SharedClock, stop: CancellationToken) {
        let mut watch = Watch::default();
        let mut interval = tokio::time::interval(every);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = interval.tick() => {}
            }
            let again = self.clone();
            let Ok(reloaded) = tokio::task::spawn_blocking(move || again.reload()).await else {
                continue;
            };
            watch.tell(&self.0.files, reloaded);
            let left_ms = self.expires_at_ms().saturating_sub(clock.wall_ms());
            if watch.is_due(left_ms, clock.monotonic()) {
                warn_of_expiry(&self.0.files, left_ms);
            }
        }
    }
}

/// What was said already, so that it is said once.
#[derive(Default)]
struct Watch {
    failure: Option<String>,
    warned_at: Option<Duration>,
}

impl Watch {
    fn tell(&mut self, files: &TlsFiles, reloaded: Result<bool, TlsError>) {
        match reloaded {
            Ok(true) => {
                *self = Self::default();
                tracing::info!(certificates = %files.certificates.display(), "the new certificate is served from now on");
            }
            Ok(false) => self.failure = None,
            Err(error) => {
                let text = error.to_string();
                if self.failure.as_ref() != Some(&text) {
                    tracing::warn!("the certificate is served as it was before: {text}");
                    self.failure = Some(text);
                }
            }
        }
    }

    /// Whether it is time to warn of a certificate that ends in `left_ms`.
    fn is_due(&mut self, left_ms: i64, now: Duration) -> bool {
        let warning_ms = i64::try_from(EXPIRY_WARNING.as_millis()).unwrap_or(i64::MAX);
        let is_quiet = self.warned_at.is_some_and(|at| now.saturating_sub(at) < EXPIRY_WARNING_INTERVAL);
        if left_ms > warning_ms || is_quiet {
            return false;
        }
        self.warned_at = Some(now);
        true
    }
}

fn warn_of_expiry(files: &TlsFiles, left_ms: i64) {
    let certificates = files.certificates.display();
    if left_ms <= 0 {
        tracing::warn!(%certificates, "the certificate has expired; no client that looks will connect");
    } else {
        let days = left_ms / (24 * 3_600 * 1_000);
        tracing::warn!(%certificates, days, "the certificate expires soon; put a new one in its place");
    }
}
