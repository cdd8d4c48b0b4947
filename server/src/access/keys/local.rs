//! The secret of this machine: drawn at each start and written where only the owner of the data directory can read it,
//! so that commands beside the server need no key.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::secret::{Digest, Secret};
use crate::error::{Error, ErrorKind};

/// The file in the data directory.
const FILE: &str = "local.key";
/// Its public half, and the name in the audit.
pub(super) const NAME: &str = "local";
/// Bytes of the file that are read at most.
const FILE_BYTES_MAX: usize = 8 * 1_024;

/// The secret of this run.
#[derive(Debug)]
pub(super) struct Local {
    path: PathBuf,
    secret: Secret,
    digest: Digest,
}

impl Local {
    pub(super) fn draw(data: &Path) -> Result<Self, Error> {
        let secret = Secret::draw()?;
        Ok(Self { path: data.join(FILE), digest: secret.digest(), secret })
    }

    pub(super) fn write(&self, tls: Option<&LocalTls>) -> Result<(), Error> {
        let path = &self.path;
        let tls = tls.map_or_else(String::new, |tls| format!("certificates: {}\n", tls.certificates));
        let write = || {
            // Never in the place of a file that others may read already.
            let draft = path.with_extension("draft");
            if let Err(error) = std::fs::remove_file(&draft)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                return Err(error);
            }
            let mut file =
                std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
            write!(file, "key: {NAME}\nsecret: {}\n{tls}", self.secret.reveal())?;
            std::fs::rename(&draft, path)
        };
        write().map_err(|error| {
            Error::because(ErrorKind::Start, format!("cannot write {}", path.display()), error)
        })
    }

    pub(super) fn is(&self, id: &str, offered: &Digest) -> bool {
        let is_right = self.digest.is(offered);
        id == NAME && is_right
    }
}

/// That REST speaks TLS, as commands on this machine are told.
#[derive(Debug)]
pub struct LocalTls {
    certificates: String,
}

impl LocalTls {
    /// By the certificate that is the first in this file.
    ///
    /// # Errors
    /// The file has no absolute path, or one that does not fit into a line.
    pub fn new(certificates: &Path) -> Result<Self, Error> {
        let cannot = || format!("cannot tell commands where {} is", certificates.display());
        let path = std::path::absolute(certificates)
            .map_err(|error| Error::because(ErrorKind::Start, cannot(), error))?;
        let path = path.to_str().filter(|path| !path.contains(char::is_control));
        let path = path.ok_or_else(|| Error::new(ErrorKind::Start, cannot()))?;
        Ok(Self { certificates: path.to_owned() })
    }
}

/// What the server that runs on this machine has left for commands.
#[derive(Debug)]
pub struct LocalAccess {
    /// The public half of its key, and the secret.
    pub key: (String, Secret),
    /// Where it speaks TLS: the file whose first certificate it shows.
    pub certificates: Option<PathBuf>,
}

/// What the server that runs on this data directory has left, as far as the caller may read it.
pub fn read_local(data: &Path) -> Option<LocalAccess> {
    let text = std::fs::read_to_string(data.join(FILE)).ok().filter(|text| text.len() <= FILE_BYTES_MAX)?;
    let line = |name| text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
    let key = (line("key: ")?, Secret::from(line("secret: ")?));
    Some(LocalAccess { key, certificates: line("certificates: ").map(PathBuf::from) })
}
