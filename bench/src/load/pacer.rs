//! The clock of an open loop: wakes whoever is due, in turns, by a timer of the kernel that is exact to microseconds.
//! The runtime's own timers wake in whole milliseconds, and that would be most of what is measured of a fast broker.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use crate::clock::now_us;

/// Shortest time between two wakings: what is due within it is woken together.
const TICK_NS_MIN: u64 = 20_000;

/// The turns of all who send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turns {
    pub(crate) start_us: u64,
    /// From one turn to the next.
    pub(crate) each_us: f64,
    pub(crate) end_us: u64,
}

impl Turns {
    /// So many, and no more.
    pub(crate) fn all(start_us: u64, rate: f64, count: u64) -> Self {
        let turns = Self { start_us, each_us: 1e6 / rate, end_us: u64::MAX };
        Self { end_us: turns.due_us(count), ..turns }
    }

    /// The moment of a turn.
    pub(crate) fn due_us(&self, turn: u64) -> u64 {
        self.start_us + (self.each_us * turn as f64) as u64
    }
}

/// Wakes each at its turns until the end, and then all of them once more.
pub(crate) async fn run(turns: Turns, clients: Arc<[Notify]>) -> io::Result<()> {
    let ticked = tick(turns, &clients).await;
    clients.iter().for_each(Notify::notify_one);
    ticked
}

async fn tick(turns: Turns, clients: &[Notify]) -> io::Result<()> {
    let timer = watched(timer(turns)?)?;
    let mut turn = 0;
    loop {
        let now = now_us();
        while turns.due_us(turn) <= now && turns.due_us(turn) < turns.end_us {
            let client = turn.checked_rem(clients.len() as u64).and_then(|at| clients.get(at as usize));
            client.into_iter().for_each(Notify::notify_one);
            turn += 1;
        }
        if turns.due_us(turn) >= turns.end_us {
            return Ok(());
        }
        let mut ready = timer.readable().await?;
        // How often it ticked is all the same: the clock says who is due.
        let _ticks = ready.try_io(|it| Ok(rustix::io::read(it.get_ref(), &mut [0; 8])?));
    }
}

/// What owns its descriptor may be watched without more ado.
#[expect(deprecated, reason = "its successor is for descriptors that nobody owns, and unsafe")]
fn watched(timer: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(timer)
}

fn timer(turns: Turns) -> io::Result<OwnedFd> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    let first = Duration::from_micros(turns.start_us.saturating_sub(now_us()).max(1));
    let each = Duration::from_nanos(((turns.each_us * 1000.0) as u64).max(TICK_NS_MIN));
    let time = |it: Duration| -> io::Result<Timespec> { it.try_into().map_err(io::Error::other) };
    let times = Itimerspec { it_interval: time(each)?, it_value: time(first)? };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &times)?;
    Ok(timer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_is_woken_at_its_turns_and_not_before() {
        let clients: Arc<[Notify]> = (0..3).map(|_| Notify::new()).collect();
        let start_us = now_us() + 1_000;
        let turns = Turns { start_us, each_us: 500.0, end_us: start_us + 5_000 };
        let running = tokio::spawn(run(turns, Arc::clone(&clients)));
        for (client, due_us) in [(0, 0), (1, 500), (2, 1_000), (0, 1_500), (1, 2_000)] {
            clients[client].notified().await;
            assert!(now_us() >= start_us + due_us, "client {client} at {due_us}");
        }
        running.await.expect("it ends").expect("it ticks");
    }
}
