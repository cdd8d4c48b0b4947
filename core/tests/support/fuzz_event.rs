//! What is asked of arbitrary bytes as an event: they are decoded or refused; what is decoded can be shown and, encoded
//! again, is the same event.

use bytes::Bytes;
use muster_core::event::{Column, Event, EventKind};

/// The first byte is the kind, the second the length of the topic; topic and body follow.
pub fn check(input: &[u8]) {
    let [code, topic_bytes, rest @ ..] = input else { return };
    let Some((topic, body)) = rest.split_at_checked(usize::from(*topic_bytes)) else { return };
    let code = u16::from(*code);
    let decode = |body: Bytes| Event::decode(1 << 64, 42, 1_700_000_000_000, code, topic, body);
    let event = match decode(Bytes::copy_from_slice(body)) {
        Ok(event) => event,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    assert_eq!(Some(event.kind), EventKind::from_code(code));
    let again = decode(event.encode_body()).expect("what was encoded can be decoded");
    assert_eq!(event, again);
    let shown = event.columns().to_json();
    assert!(serde_json::from_str::<serde::de::IgnoredAny>(&shown).is_ok(), "no JSON: {shown}");
    for column in Column::all() {
        let _ = event.get(*column).to_json();
    }
    let _ = (event.clientid(), event.session(), event.seq(), event.payload(), event.message_id());
}
