//! The answers, computed from the log by the plainest means. It must never know how a target computes them.

use std::collections::BTreeMap;

use muster_core::event::proto::event::Detail;
use muster_core::event::{Event, EventKind};
use muster_tests::log::LogContents;

use super::store::{Asked, Rows};

/// A connection.
#[derive(Debug)]
struct Session {
    client: String,
    began_ms: i64,
    ended: Option<(i64, String)>,
}

fn sessions(log: &LogContents) -> BTreeMap<(String, u64), Session> {
    let mut all = BTreeMap::new();
    for event in &log.events {
        let Some(client) = &event.body.client else { continue };
        let key = (client.clientid.clone(), client.session);
        match (&event.kind, &event.body.detail) {
            (EventKind::ClientConnected, Some(Detail::Connected(it))) => {
                let began_ms = it.connected_at_ms;
                all.insert(key, Session { client: client.clientid.clone(), began_ms, ended: None });
            }
            (EventKind::ClientDisconnected, Some(Detail::Disconnected(it))) => {
                let session = all.get_mut(&key).expect("a session that was begun");
                session.ended = Some((it.disconnected_at_ms, it.reason.clone()));
            }
            _ => {}
        }
    }
    all
}

/// What a query should answer.
pub(super) fn answer(log: &LogContents, query: &str, asked: &Asked) -> Rows {
    let all = sessions(log);
    match query {
        "offline" => {
            // Sessions come in their order: the last of a client stays.
            let last: BTreeMap<_, _> = all.values().map(|it| (it.client.clone(), &it.ended)).collect();
            let gone =
                last.into_iter().filter_map(|(client, ended)| ended.clone().map(|it| (it.0, client, it.1)));
            let mut gone = gone.collect::<Vec<_>>();
            gone.sort();
            gone.into_iter().map(|(at, client, reason)| vec![client, at.to_string(), reason]).collect()
        }
        "uptime" => {
            let mut online_ms = 0;
            for session in all.values().filter(|it| it.client == asked.client) {
                let ended_ms = session.ended.as_ref().map_or(asked.until_ms, |it| it.0.min(asked.until_ms));
                online_ms += (ended_ms - session.began_ms.max(asked.since_ms)).max(0);
            }
            vec![vec![asked.client.clone(), online_ms.to_string()]]
        }
        "flapping" => {
            let mut counts = BTreeMap::<&str, u64>::new();
            let window = asked.since_ms..asked.until_ms;
            for event in log.of(EventKind::ClientDisconnected).filter(|it| window.contains(&it.timestamp_ms))
            {
                *counts.entry(client(event)).or_default() += 1;
            }
            let mut counts = counts.into_iter().collect::<Vec<_>>();
            counts.sort_by_key(|(client, count)| (std::cmp::Reverse(*count), *client));
            counts
                .into_iter()
                .take(10)
                .map(|(client, count)| vec![client.to_owned(), count.to_string()])
                .collect()
        }
        _ => panic!("nobody asks {query}"),
    }
}

fn client(event: &Event) -> &str {
    event.body.client.as_ref().map_or("", |client| &client.clientid)
}

fn is_history(event: &Event) -> bool {
    matches!(event.kind, EventKind::ClientConnected | EventKind::ClientDisconnected)
}

/// Client, event and offset of each row of the history, from an offset on; sorted.
pub(super) fn history(log: &LogContents, from: u64) -> Rows {
    let events = log.events.iter().filter(|it| is_history(it) && it.offset >= from);
    sorted(
        events
            .map(|it| vec![client(it).to_owned(), it.kind.name().to_owned(), it.offset.to_string()])
            .collect(),
    )
}

/// Client, event and offset of each client's last row; sorted.
pub(super) fn status(log: &LogContents, from: u64) -> Rows {
    let events = log.events.iter().filter(|it| is_history(it) && it.offset >= from);
    let last = events.map(|it| (client(it), it)).collect::<BTreeMap<_, _>>();
    let row = |(client, it): (&str, &std::sync::Arc<Event>)| {
        vec![client.to_owned(), it.kind.name().to_owned(), it.offset.to_string()]
    };
    sorted(last.into_iter().map(row).collect())
}

/// Client and offset of each message below `devices/`, from an offset on; sorted.
pub(super) fn messages(log: &LogContents, from: u64) -> Rows {
    let events =
        log.of(EventKind::MessagePublish).filter(|it| it.offset >= from && it.topic.starts_with("devices/"));
    sorted(events.map(|it| vec![client(it).to_owned(), it.offset.to_string()]).collect())
}

/// Name, client, offset of the last event and duration of each alarm; sorted.
pub(super) fn alarms(log: &LogContents) -> Rows {
    let mut all = BTreeMap::new();
    for event in &log.events {
        if let Some(Detail::Alarm(it)) = &event.body.detail {
            let over = event.kind == EventKind::AlarmDeactivated;
            let lasted =
                if over { (it.deactivated_at_ms - it.activated_at_ms).to_string() } else { String::new() };
            let about = client(event).to_owned();
            let row = vec![it.name.clone(), about.clone(), event.offset.to_string(), lasted];
            all.insert((it.name.clone(), about, it.activated_at_ms), row);
        }
    }
    sorted(all.into_values().collect())
}

/// In one order, whatever order a target has.
pub(super) fn sorted(mut rows: Rows) -> Rows {
    rows.sort();
    rows
}
