//! A line a second for whoever watches a single load.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::Shared;
use crate::counts::{Counts, get};

const EACH: Duration = Duration::from_secs(1);

/// Until it is stopped.
pub(super) async fn tell(shared: Arc<Shared>) {
    let mut before = [0; 3];
    for second in 1_u64.. {
        sleep(EACH).await;
        let now = counted(&shared.counts);
        let [sent, acked, received] =
            std::array::from_fn(|at| now.get(at).zip(before.get(at)).map_or(0, |(now, before)| now - before));
        eprintln!("{second:4} s: {sent} sent, {acked} acknowledged or read, {received} received");
        before = now;
    }
}

fn counted(counts: &Counts) -> [u64; 3] {
    [&counts.sent, &counts.acked, &counts.received].map(get)
}
