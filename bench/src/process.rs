//! Processor time and memory of processes by what /proc says of them; a server that is several processes (a broker and
//! a bridge, PostgreSQL with its workers) counts as one.

use std::collections::HashMap;
use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// /proc counts processor time in hundredths of a second on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// The processes that a run watches.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watched(pub(crate) Vec<u32>);

impl Watched {
    /// Processor time of all and of their children, in seconds; none when nobody is watched.
    pub(crate) fn cpu_s(&self) -> Option<f64> {
        if self.0.is_empty() {
            return None;
        }
        let mut ticks = 0;
        for pid in self.family() {
            let fields = stat(pid).unwrap_or_default();
            // Its own, and of children that have ended.
            ticks += fields.iter().skip(10).take(4).sum::<u64>();
        }
        Some(ticks as f64 / TICKS_PER_SECOND)
    }

    /// Most memory that each of them ever had, summed, in bytes.
    pub(crate) fn peak_bytes(&self) -> Option<u64> {
        self.status("VmHWM:")
    }

    /// Memory that they have now, summed, in bytes.
    pub(crate) fn resident_bytes(&self) -> Option<u64> {
        self.status("VmRSS:")
    }

    fn status(&self, name: &str) -> Option<u64> {
        if self.0.is_empty() {
            return None;
        }
        Some(self.family().into_iter().filter_map(|pid| status_kib(pid, name)).sum::<u64>() * 1024)
    }

    /// The watched and all below them.
    fn family(&self) -> Vec<u32> {
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if let Some(parent) = stat(pid).and_then(|fields| u32::try_from(*fields.first()?).ok()) {
                children.entry(parent).or_default().push(pid);
            }
        }
        let mut family = self.0.clone();
        let mut at = 0;
        while let Some(pid) = family.get(at) {
            family.extend(children.remove(pid).unwrap_or_default());
            at += 1;
        }
        family
    }
}

/// The numbers behind the state in /proc/PID/stat: the parent is the first of them.
fn stat(pid: u32) -> Option<Vec<u64>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(numbers_after_state(&text))
}

/// A program's name may hold blanks and parentheses; the last one ends it.
fn numbers_after_state(text: &str) -> Vec<u64> {
    let rest = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
    rest.split(' ').skip(1).map(|field| field.trim().parse().unwrap_or(0)).collect()
}

fn status_kib(pid: u32, name: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Processor time of this process alone, in seconds.
pub(crate) fn own_cpu_s() -> f64 {
    let fields = stat(std::process::id()).unwrap_or_default();
    fields.iter().skip(10).take(2).sum::<u64>() as f64 / TICKS_PER_SECOND
}

/// Lets this process and those that it starts have as many files as the system allows.
pub(crate) fn raise_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum;
    let _kept = setrlimit(Resource::Nofile, Rlimit { current: wanted, maximum: wanted });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_move_the_fields() {
        let text = "7 (a b) (c) S 3 7 7 0 -1 4 10 20 30 40 150 50 2 3 20 0\n";
        let fields = numbers_after_state(text);
        assert_eq!(fields[0], 3);
        assert_eq!(fields[10..14], [150, 50, 2, 3]);
    }

    #[test]
    fn this_process_has_memory_and_time() {
        let me = Watched(vec![std::process::id()]);
        assert!(me.peak_bytes().expect("watched") >= 1 << 20);
        assert!(me.cpu_s().expect("watched") >= 0.0);
        assert_eq!(Watched::default().cpu_s(), None);
    }
}
