//! Which cores are whose: on a machine of four or more, servers have one half and the load generator the other, so that
//! neither is measured by how well the system's scheduler keeps them apart.

use std::path::Path;
use std::sync::OnceLock;

use tokio::process::Command;

/// Below this many cores nothing is pinned: a broker with one core alone is another broker.
const CORES_MIN: usize = 4;

/// Those of the servers, as `taskset` wants them; none where nothing is pinned.
static SERVERS: OnceLock<String> = OnceLock::new();

/// Moves this process to its half, and says what was done; servers that are started later get the other half.
pub(crate) fn pin() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let Some((servers, load)) = halves(cores) else {
        return format!("nothing is pinned: {cores} cores, and {CORES_MIN} are needed");
    };
    let own = std::process::id().to_string();
    let moved = std::process::Command::new("taskset").args(["-a", "-c", "-p", &load, &own]).output();
    if !moved.is_ok_and(|it| it.status.success()) {
        return "nothing is pinned: taskset does not do it".to_owned();
    }
    let said = format!("servers on cores {servers}; the load, and PostgreSQL, on {load}");
    SERVERS.get_or_init(|| servers);
    said
}

/// A server's program, on the servers' cores.
pub(crate) fn server(program: &Path) -> Command {
    match SERVERS.get() {
        None => Command::new(program),
        Some(cores) => {
            // It becomes the program: the process that is watched is the server's.
            let mut command = Command::new("taskset");
            command.args(["-c", cores]).arg(program);
            command
        }
    }
}

/// The servers' and the load's.
fn halves(cores: usize) -> Option<(String, String)> {
    (cores >= CORES_MIN).then(|| {
        let servers = cores / 2;
        (format!("0-{}", servers - 1), format!("{servers}-{}", cores - 1))
    })
}

#[cfg(test)]
mod tests {
    use super::halves;

    #[test]
    fn few_cores_are_shared_and_many_are_halved() {
        assert_eq!(halves(2), None);
        assert_eq!(halves(4), Some(("0-1".to_owned(), "2-3".to_owned())));
        assert_eq!(halves(5), Some(("0-1".to_owned(), "2-4".to_owned())));
    }
}
