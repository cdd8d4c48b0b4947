//! What evaluation needs beside the event: the clock, randomness, the environment, and memory that is used again.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use muster_core::clock::SharedClock;
use muster_core::value::Value;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

use super::Fault;
use super::json::Tape;
use super::size;
use crate::functions::Prepared;

/// Most entries of the key-value store of `kv_store_put`.
pub const KV_ENTRIES_MAX: usize = 10_000;

/// Most bytes that keys and values of that store may take.
pub const KV_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Most regular expressions and jq programs kept that were not known at plan time.
pub const PREPARED_MAX: usize = 64;

/// Looks up `EMQXVAR_<name>` or what stands for it.
pub type EnvLookup = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// The surroundings of evaluation. One is kept for each thread of evaluation and used for every event; the payload of
/// the event at hand is parsed once, however many rules look at it.
pub struct EvalContext {
    clock: SharedClock,
    rng: StdRng,
    env: EnvLookup,
    pub(crate) local_offset_seconds: i64,
    tape: Tape,
    parsed: Option<(Bytes, Result<(), Fault>)>,
    pub(crate) kv: Store,
    prepared: HashMap<(&'static str, Bytes), Prepared>,
    /// How many payloads were parsed; for tests and benchmarks.
    pub(crate) parses: u64,
}

impl EvalContext {
    /// A context that takes its time from `clock` and its randomness from `seed`.
    pub fn new(clock: SharedClock, seed: u64) -> Self {
        Self {
            clock,
            rng: StdRng::seed_from_u64(seed),
            env: Arc::new(|_| None),
            local_offset_seconds: 0,
            tape: Tape::default(),
            parsed: None,
            kv: Store::default(),
            prepared: HashMap::new(),
            parses: 0,
        }
    }

    /// How `getenv()` finds its values.
    #[must_use]
    pub fn with_env(mut self, env: EnvLookup) -> Self {
        self.env = env;
        self
    }

    /// What `'local'` means in date functions, in seconds east of Greenwich.
    #[must_use]
    pub fn with_local_offset(mut self, seconds: i64) -> Self {
        self.local_offset_seconds = seconds;
        self
    }

    /// Milliseconds since 1970.
    pub(crate) fn now_ms(&self) -> i64 {
        self.clock.wall_ms()
    }

    pub(crate) fn clock(&self) -> &SharedClock {
        &self.clock
    }

    pub(crate) fn random(&mut self) -> u64 {
        self.rng.next_u64()
    }

    pub(crate) fn env(&self, name: &str) -> Option<String> {
        (self.env)(name)
    }

    /// The tape of a payload, parsed at most once as long as the payload stays the same.
    pub(crate) fn payload(&mut self, payload: &Bytes) -> Result<&Tape, Fault> {
        let known = self.parsed.as_ref().is_some_and(|(known, _)| {
            std::ptr::eq(known.as_ptr(), payload.as_ptr())
                && known.len() == payload.len()
                && !known.is_empty()
        });
        if !known {
            self.parses += 1;
            let result = self.tape.parse(payload);
            self.parsed = Some((payload.clone(), result));
        }
        match &self.parsed {
            Some((_, Err(fault))) => Err(Fault(format!("payload is {fault}").into())),
            _ => Ok(&self.tape),
        }
    }

    /// Something made ready from a text that only the event knows; kept for the next event.
    pub(crate) fn prepared(
        &mut self,
        kind: &'static str,
        text: &Bytes,
        make: impl FnOnce(&Bytes) -> Result<Prepared, Fault>,
    ) -> Result<Prepared, Fault> {
        let key = (kind, text.clone());
        if let Some(found) = self.prepared.get(&key) {
            return Ok(found.clone());
        }
        let made = make(text)?;
        if self.prepared.len() >= PREPARED_MAX {
            self.prepared.clear();
        }
        // The key must not keep a payload alive that the text was cut from.
        self.prepared.insert((kind, Bytes::copy_from_slice(text)), made.clone());
        Ok(made)
    }
}

/// The key-value store.
#[derive(Default)]
pub(crate) struct Store {
    entries: HashMap<Bytes, Value>,
    bytes: usize,
}

impl Store {
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Value> {
        self.entries.get(key)
    }

    /// Keeps copies: neither key nor value may keep a payload alive that it was cut from.
    pub(crate) fn put(&mut self, key: &[u8], value: &Value) -> Result<(), Fault> {
        let before = match self.entries.get(key) {
            Some(value) => key.len() + size::of(value),
            None if self.entries.len() >= KV_ENTRIES_MAX => return Err(Fault::new("the store is full")),
            None => 0,
        };
        let bytes = self.bytes - before + key.len() + size::of(value);
        if bytes > KV_BYTES_MAX {
            return Err(Fault::new("the store is full"));
        }
        self.bytes = bytes;
        self.entries.insert(Bytes::copy_from_slice(key), size::own(value));
        Ok(())
    }

    pub(crate) fn remove(&mut self, key: &[u8]) {
        if let Some(value) = self.entries.remove(key) {
            self.bytes -= key.len() + size::of(&value);
        }
    }
}

impl fmt::Debug for EvalContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EvalContext").field("parses", &self.parses).finish_non_exhaustive()
    }
}
