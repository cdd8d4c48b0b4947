//! A disk in memory that does what real ones do: it forgets what was not synced, in any order and torn at any byte; it
//! forgets names of a directory that was not synced; it reads short, fills up, fails to sync and then pretends that
//! all is well. It lies about nothing that was synced. All of it follows a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use muster_core::log::{Access, Disk, DiskFile, DiskLock, FileEntry};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

/// Small, so that a few records span several.
const PAGE_BYTES: usize = 128;

/// A handle to the disk; clones are the same one.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

struct State {
    rng: SmallRng,
    files: Vec<File>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Changes of names since the directory was synced, in order.
    pending: Vec<NameChange>,
    capacity: Option<u64>,
    fail: Faults,
    held: BTreeMap<String, u64>,
    locks: u64,
    pub syncs: u64,
}

/// Which calls fail next; each says after how many calls that change something.
#[derive(Default, Clone, Copy)]
pub struct Faults {
    pub write_in: Option<u32>,
    pub sync_in: Option<u32>,
    /// Renames, removals and syncs of the directory.
    pub names_in: Option<u32>,
    /// Everything fails from then on, as if the power had gone in the middle.
    pub all_in: Option<u32>,
}

#[derive(Default, Clone)]
struct File {
    current: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

#[derive(Clone)]
enum NameChange {
    Set(String, usize),
    Remove(String),
}

impl SimDisk {
    pub fn new(seed: u64) -> Self {
        let state = State {
            rng: SmallRng::seed_from_u64(seed),
            files: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending: Vec::new(),
            capacity: None,
            fail: Faults::default(),
            held: BTreeMap::new(),
            locks: 0,
            syncs: 0,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    pub fn shared(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }

    /// The process is killed: what it wrote is there, synced or not.
    pub fn kill(&self) {
        let mut state = self.lock();
        state.held.clear();
        state.fail = Faults::default();
    }

    /// The power goes: of what was not synced, anything may be there.
    pub fn crash(&self) {
        self.kill();
        let mut state = self.lock();
        let State { rng, files, names, durable_names, pending, .. } = &mut *state;
        for change in pending.drain(..) {
            if rng.random() {
                change.apply(durable_names);
            }
        }
        // A file of two names, as after half a rename, keeps one.
        let mut seen = BTreeSet::new();
        durable_names.retain(|_, file| seen.insert(*file));
        *names = durable_names.clone();
        for file in files {
            file.crash(rng);
        }
    }

    pub fn set_capacity(&self, capacity: Option<u64>) {
        self.lock().capacity = capacity;
    }

    pub fn used(&self) -> u64 {
        self.lock().used()
    }

    pub fn set_faults(&self, faults: Faults) {
        self.lock().fail = faults;
    }

    pub fn names(&self) -> Vec<String> {
        self.lock().names.keys().cloned().collect()
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let state = self.lock();
        state.files[state.names[name]].current.clone()
    }

    /// Changes a file behind the log's back, durably.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let mut state = self.lock();
        let file = match state.names.get(name) {
            Some(file) => *file,
            None => state.add_file(name),
        };
        state.durable_names.insert(name.to_owned(), file);
        state.files[file] = File { current: bytes.to_vec(), durable: bytes.to_vec(), dirty: BTreeSet::new() };
    }

    /// Removes a file behind the log's back, durably.
    pub fn delete(&self, name: &str) {
        let mut state = self.lock();
        state.names.remove(name);
        state.durable_names.remove(name);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl State {
    fn used(&self) -> u64 {
        self.names.values().map(|file| self.files[*file].current.len() as u64).sum()
    }

    fn add_file(&mut self, name: &str) -> usize {
        self.files.push(File::default());
        let file = self.files.len() - 1;
        self.names.insert(name.to_owned(), file);
        file
    }

    fn rename_now(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.pending.push(change);
    }

    /// Counts a call that changes names; an error if its time has come.
    fn tick_names(&mut self) -> io::Result<()> {
        self.tick()?;
        match &mut self.fail.names_in {
            Some(0) => Err(io::Error::from_raw_os_error(5)),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Counts a call that changes something; an error if its time has come.
    fn tick(&mut self) -> io::Result<()> {
        match &mut self.fail.all_in {
            Some(0) => Err(io::Error::other("the power is gone")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Set(name, file) => {
                names.insert(name.clone(), *file);
            }
            Self::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

impl File {
    fn write(&mut self, bytes: &[u8], at: usize) {
        if bytes.is_empty() {
            return;
        }
        let end = at + bytes.len();
        let from = self.current.len().min(at);
        if self.current.len() < end {
            self.current.resize(end, 0);
        }
        self.current[at..end].copy_from_slice(bytes);
        self.dirty.extend(from / PAGE_BYTES..=(end - 1) / PAGE_BYTES);
    }

    fn crash(&mut self, rng: &mut SmallRng) {
        let (short, long) = (self.durable.len(), self.current.len());
        let length = if short == long || rng.random() {
            long
        } else {
            rng.random_range(short.min(long)..=short.max(long))
        };
        let mut after = std::mem::take(&mut self.durable);
        after.resize(length, 0);
        for page in std::mem::take(&mut self.dirty) {
            let (from, to) = (page * PAGE_BYTES, ((page + 1) * PAGE_BYTES).min(length).min(long));
            if from >= to {
                continue;
            }
            let kept = match rng.random_range(0..4) {
                0 => from,
                1 => rng.random_range(from..=to),
                _ => to,
            };
            after[from..kept].copy_from_slice(&self.current[from..kept]);
        }
        self.current.clone_from(&after);
        self.durable = after;
    }

    /// Exactly what is dirty reaches the disk, and the length: a page that a failed sync lost stays lost.
    fn sync(&mut self) {
        self.durable.resize(self.current.len(), 0);
        for page in std::mem::take(&mut self.dirty) {
            let (from, to) = (page * PAGE_BYTES, ((page + 1) * PAGE_BYTES).min(self.current.len()));
            if from < to {
                self.durable[from..to].copy_from_slice(&self.current[from..to]);
            }
        }
    }

    /// Some pages reach the disk and some do not; all count as clean from now on, as on Linux.
    fn fail_sync(&mut self, rng: &mut SmallRng) {
        for page in std::mem::take(&mut self.dirty) {
            let (from, to) = (page * PAGE_BYTES, ((page + 1) * PAGE_BYTES).min(self.current.len()));
            if from < to && rng.random() {
                if self.durable.len() < to {
                    self.durable.resize(to, 0);
                }
                self.durable[from..to].copy_from_slice(&self.current[from..to]);
            }
        }
    }
}

/// Files in `/sim` go by their names, others by their paths.
fn name_of(path: &Path) -> String {
    path.strip_prefix("/sim").unwrap_or(path).to_str().unwrap().to_owned()
}

impl Disk for SimDisk {
    fn create_dir_all(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<FileEntry>> {
        let state = self.lock();
        let entry = |(name, file): (&String, &usize)| {
            let path = Path::new("/sim").join(name);
            (path.parent() == Some(dir)).then(|| FileEntry {
                name: path.file_name().unwrap().to_str().unwrap().to_owned(),
                bytes: state.files[*file].current.len() as u64,
            })
        };
        Ok(state.names.iter().filter_map(entry).collect())
    }

    fn open(&self, path: &Path, _access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.lock().names.get(&name_of(path)).copied();
        let file = file.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(Arc::new(SimFile { disk: self.clone(), file }))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let name = name_of(path);
        let mut state = self.lock();
        state.tick()?;
        let file = match state.names.get(&name).copied() {
            Some(file) => file,
            None => {
                let file = state.add_file(&name);
                state.pending.push(NameChange::Set(name, file));
                file
            }
        };
        state.files[file].current.clear();
        drop(state);
        Ok(Arc::new(SimFile { disk: self.clone(), file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.tick_names()?;
        let (from, to) = (name_of(from), name_of(to));
        let file = *state.names.get(&from).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        state.rename_now(NameChange::Set(to, file));
        state.rename_now(NameChange::Remove(from));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.tick_names()?;
        state.rename_now(NameChange::Remove(name_of(path)));
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.tick_names()?;
        state.pending.clear();
        state.durable_names = state.names.clone();
        Ok(())
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        let mut state = self.lock();
        let name = name_of(path);
        if state.held.contains_key(&name) {
            return Ok(None);
        }
        state.locks += 1;
        let id = state.locks;
        state.held.insert(name.clone(), id);
        Ok(Some(Box::new(SimLock { disk: self.clone(), name, id })))
    }
}

struct SimLock {
    disk: SimDisk,
    name: String,
    id: u64,
}

impl DiskLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.lock();
        if state.held.get(&self.name) == Some(&self.id) {
            state.held.remove(&self.name);
        }
    }
}

struct SimFile {
    disk: SimDisk,
    file: usize,
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let mut state = self.disk.lock();
        let State { rng, files, .. } = &mut *state;
        if rng.random_range(0..100) == 0 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let bytes = &files[self.file].current;
        let at = usize::try_from(at).unwrap().min(bytes.len());
        let most = buffer.len().min(bytes.len() - at);
        let read = if most > 1 && rng.random_range(0..8) == 0 { rng.random_range(1..=most) } else { most };
        buffer[..read].copy_from_slice(&bytes[at..at + read]);
        Ok(read)
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        let at = usize::try_from(at).unwrap();
        let torn = state.rng.random_range(0..=bytes.len());
        let fails = match &mut state.fail.write_in {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        };
        if fails {
            state.files[self.file].write(&bytes[..torn], at);
            return Err(io::Error::from_raw_os_error(5));
        }
        if let Err(error) = state.tick() {
            state.files[self.file].write(&bytes[..torn], at);
            return Err(error);
        }
        let end = at + bytes.len();
        let grows = end.saturating_sub(state.files[self.file].current.len()) as u64;
        let room = state.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(state.used()));
        if grows > room {
            state.files[self.file].write(&bytes[..torn.min(usize::try_from(room).unwrap())], at);
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.files[self.file].write(bytes, at);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.tick()?;
        state.syncs += 1;
        let State { rng, files, fail, .. } = &mut *state;
        let file = &mut files[self.file];
        match &mut fail.sync_in {
            Some(0) => {
                file.fail_sync(rng);
                fail.sync_in = None;
                return Err(io::Error::from_raw_os_error(5));
            }
            Some(left) => *left -= 1,
            None => {}
        }
        file.sync();
        Ok(())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.tick()?;
        state.files[self.file].current.resize(usize::try_from(bytes).unwrap(), 0);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.lock().files[self.file].current.len() as u64)
    }
}
