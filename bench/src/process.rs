//! Processor time and memory of processes by what /proc says of them; a server that is several processes (a broker and
//! a bridge, PostgreSQL with its workers) counts as one. Time is that of each thread in nanoseconds, since hundredths
//! of a second are a fifth of what a small broker takes in a run.

use std::collections::HashMap;
use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

/// /proc counts processor time of whole processes in hundredths of a second on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;
/// By how much two such counts may differ from what was taken between them.
const TICKS_ERROR: u64 = 2;

/// The processes that a run watches.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watched(pub(crate) Vec<u32>);

/// The watched and their children, found before a window begins, so that nothing is looked for within it.
#[derive(Debug)]
pub(crate) struct Meter {
    roots: usize,
    family: Vec<u32>,
}

/// What they had used at a moment.
#[derive(Debug)]
pub(crate) struct Used {
    /// Nanoseconds of each thread that lives.
    threads: HashMap<(u32, u32), u64>,
    /// Of whole processes, with their threads and children that have ended.
    ticks: u64,
}

impl Meter {
    /// None when a watched process is gone.
    pub(crate) fn used(&self) -> Option<Used> {
        if self.roots == 0 {
            return None;
        }
        let (mut threads, mut ticks) = (HashMap::new(), 0);
        for (at, pid) in self.family.iter().enumerate() {
            let Some(fields) = stat(*pid) else {
                // What a child had is its parent's now.
                if at < self.roots { return None } else { continue }
            };
            // Its own, and of children that have ended.
            ticks += fields.iter().skip(10).take(4).sum::<u64>();
            for entry in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
                let text = fs::read_to_string(entry.path().join("schedstat")).unwrap_or_default();
                let ns = text.split(' ').next().and_then(|field| field.parse().ok());
                let thread = entry.file_name().to_str().and_then(|name| name.parse().ok());
                threads.extend(thread.zip(ns).map(|(thread, ns)| ((*pid, thread), ns)));
            }
        }
        Some(Used { threads, ticks })
    }

    /// Processor time since then, in seconds; none when nobody is watched, or one of them is gone.
    pub(crate) fn since(&self, before: Option<&Used>) -> Option<f64> {
        Some(self.used()?.since(before?))
    }
}

impl Used {
    /// By threads; by whole processes where threads or children ended meanwhile and took their count along.
    fn since(&self, before: &Self) -> f64 {
        let threads = self.threads.iter();
        let ns = threads.map(|(id, ns)| ns.saturating_sub(before.threads.get(id).copied().unwrap_or(0)));
        let ticks = self.ticks.saturating_sub(before.ticks).saturating_sub(TICKS_ERROR);
        (ns.sum::<u64>() as f64 / 1e9).max(ticks as f64 / TICKS_PER_SECOND)
    }
}

impl Watched {
    /// Of those that run now.
    pub(crate) fn meter(&self) -> Meter {
        Meter { roots: self.0.len(), family: if self.0.is_empty() { Vec::new() } else { self.family() } }
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

/// The numbers behind the state in /proc/PID/stat: the parent is the first of them. None of a process that has ended,
/// also where nobody has heard of its end yet.
fn stat(pid: u32) -> Option<Vec<u64>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let ended = text.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']));
    (!ended).then(|| numbers_after_state(&text))
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
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
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
        assert!(me.meter().used().is_some());
        assert!(Watched::default().meter().used().is_none());
    }

    #[test]
    fn a_busy_process_takes_time() {
        let mut child =
            std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().expect("sh");
        let meter = Watched(vec![child.id()]).meter();
        let (before, start) = (meter.used(), std::time::Instant::now());
        let took = || meter.since(before.as_ref()).expect("it lives");
        while took() < 0.02 && start.elapsed().as_secs() < 20 {
            std::thread::yield_now();
        }
        let (took, elapsed) = (took(), start.elapsed().as_secs_f64());
        child.kill().expect("it runs");
        child.wait().expect("it ended");
        assert!((0.02..=elapsed + 0.02).contains(&took), "{took} of {elapsed} s");
    }

    #[test]
    fn a_server_that_is_gone_took_no_time_that_is_known() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
        let meter = Watched(vec![child.id()]).meter();
        let before = meter.used();
        assert!(before.is_some());
        child.kill().expect("it runs");
        child.wait().expect("it ended");
        assert_eq!(meter.since(before.as_ref()), None);
    }

    #[test]
    fn time_never_goes_back_when_threads_end() {
        let used = |threads: &[(u32, u64)], ticks| Used {
            threads: threads.iter().map(|(id, ns)| ((1, *id), *ns)).collect(),
            ticks,
        };
        let before = used(&[(1, 1_000_000_000), (2, 5_000_000_000)], 600);
        assert_eq!(used(&[(1, 1_500_000_000)], 650).since(&before), 0.5);
        assert_eq!(used(&[(1, 1_500_000_000)], 752).since(&before), 1.5);
        assert_eq!(used(&[], 0).since(&before), 0.0);
    }
}
