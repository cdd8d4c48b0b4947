//! Puts out who is shut out: at once where an operator asks for it, and at the moment at which a ban begins that was
//! made for later. It must never know how a ban is made or what it looks at.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use muster_broker::{Broker, Doorkeeper as _, Visitor};
use muster_core::clock::SharedClock;
use tokio_util::sync::CancellationToken;

use crate::access::Bans;

/// Sessions that are ended at a time.
const KICKS_MAX: usize = 64;
/// Clients that are looked at before others have their turn.
const STEP_CLIENTS: usize = 512;
/// Longest wait in one piece for a ban to begin: the wall clock may be set meanwhile.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Ends the sessions of all who are shut out now; how many there were.
pub(crate) async fn put_out(broker: &Broker, bans: &Bans) -> u64 {
    let mut out = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let step = broker.clients_after(after.as_deref(), STEP_CLIENTS);
        for view in &step {
            let it = view.fixed();
            let address = it.peername.parse().ok().map(|it: SocketAddr| it.ip().to_canonical());
            let visitor = Visitor { clientid: &it.clientid, username: it.username.as_deref(), address };
            if bans.is_banned(&visitor) {
                out.push(it.clientid.clone());
            }
        }
        if step.len() < STEP_CLIENTS {
            break;
        }
        after = step.last().map(|last| last.fixed().clientid.clone());
        tokio::task::yield_now().await;
    }
    let ended = stream::iter(out).map(|id| {
        let broker = broker.clone();
        async move { broker.kick_banned(&id).await }
    });
    ended.buffer_unordered(KICKS_MAX).fold(0, async |sum, one| sum + u64::from(one)).await
}

/// Puts out whom a ban names when it begins, until it is stopped.
pub(super) async fn follow(broker: Broker, bans: Arc<Bans>, clock: SharedClock, stop: CancellationToken) {
    // All bans that began up to here have been enforced.
    let mut seen_ms = clock.wall_ms();
    loop {
        let now_ms = clock.wall_ms();
        // A clock that was set back makes moments come again.
        seen_ms = seen_ms.min(now_ms);
        let due_ms = bans.next_begin_ms(seen_ms);
        if due_ms.is_some_and(|due_ms| due_ms <= now_ms) {
            let sessions = put_out(&broker, &bans).await;
            tracing::info!(sessions, "a ban has begun");
            seen_ms = now_ms;
            continue;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = bans.changed() => {}
            () = wait(due_ms, now_ms) => {}
        }
    }
}

async fn wait(due_ms: Option<i64>, now_ms: i64) {
    let Some(due_ms) = due_ms else { return std::future::pending().await };
    let left = Duration::from_millis(u64::try_from(due_ms.saturating_sub(now_ms)).unwrap_or(0));
    tokio::time::sleep(left.min(WAIT_MAX)).await;
}
