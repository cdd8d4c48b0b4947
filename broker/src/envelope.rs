//! What a message carries on its way to subscribers besides topic and payload, and how it is stored: a binary header
//! before the payload, which is not copied when it is read.
//!
//! Layout, big endian: flags (1), id (16), received at (8, ms), length and bytes of client id (2), user name (2),
//! properties (4, Protocol Buffers), where the flags say so who republished it (4, Protocol Buffers), then the payload.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use muster_core::event::{Event, EventId, proto};
use prost::Message as _;

use crate::codec::Qos;
use crate::info::RetainedInfo;

const QOS: u8 = 0b0011;
const RETAIN: u8 = 0b0100;
const USERNAME: u8 = 0b1000;
const PROPS: u8 = 0b1_0000;
const REPUBLISHED: u8 = 0b10_0000;

/// A message on its way from publisher to subscribers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Envelope {
    /// The id of its `message.publish` event.
    pub(crate) id: [u8; 16],
    pub(crate) qos: Qos,
    /// As the publisher set it.
    pub(crate) retain: bool,
    pub(crate) received_at_ms: i64,
    /// UTF-8.
    pub(crate) from_clientid: Bytes,
    /// UTF-8.
    pub(crate) from_username: Option<Bytes>,
    /// Encoded; decoded only by who sends them on.
    pub(crate) props: Option<Bytes>,
    /// An encoded message that says who republished it and nothing else; decoded only for events about its delivery.
    pub(crate) republished: Option<Bytes>,
    pub(crate) payload: Bytes,
}

/// What [`Envelope::republished`] holds of a message.
pub(crate) fn republished(message: &proto::Message) -> Option<Bytes> {
    let origin = proto::Message {
        republished_by: message.republished_by.clone(),
        republication: message.republication,
        ..Default::default()
    };
    (!message.republished_by.is_empty()).then(|| origin.encode_to_vec().into())
}

impl Envelope {
    /// The message of a `message.publish` event, as it is in the log; none where it is none.
    pub(crate) fn of(event: &Event) -> Option<Self> {
        let message = event.body.message.as_ref()?;
        let client = event.body.client.as_ref();
        Some(Self {
            id: event.id.to_bytes(),
            qos: u8::try_from(message.qos).ok().and_then(Qos::from_u8)?,
            retain: message.retain,
            received_at_ms: message.publish_received_at_ms,
            from_clientid: event.clientid().to_owned().into(),
            from_username: client.and_then(|client| client.username.clone()).map(Bytes::from),
            props: message.props.as_ref().map(|props| props.encode_to_vec().into()),
            republished: republished(message),
            payload: message.payload.clone(),
        })
    }

    /// In the place of a message that nobody needs any more.
    pub(crate) fn nothing(qos: Qos) -> Self {
        Self {
            id: [0; 16],
            qos,
            retain: false,
            received_at_ms: 0,
            from_clientid: Bytes::new(),
            from_username: None,
            props: None,
            republished: None,
            payload: Bytes::new(),
        }
    }

    /// What others are told of a message that is kept.
    pub(crate) fn info(self, topic: String) -> RetainedInfo {
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        RetainedInfo {
            id: EventId::new(u128::from_be_bytes(self.id), 0),
            topic,
            qos: self.qos.as_u8(),
            published_at_ms: self.received_at_ms,
            from_clientid: text(&self.from_clientid),
            from_username: self.from_username.as_ref().map(text),
            payload: self.payload,
        }
    }

    pub(crate) fn encode(&self) -> Bytes {
        let username = self.from_username.as_deref().unwrap_or_default();
        let props = self.props.as_deref().unwrap_or_default();
        let republished = self.republished.as_deref().unwrap_or_default();
        let texts = self.from_clientid.len() + username.len();
        let mut out =
            BytesMut::with_capacity(37 + texts + props.len() + republished.len() + self.payload.len());
        let mut flags = self.qos.as_u8();
        for (bit, set) in [
            (RETAIN, self.retain),
            (USERNAME, self.from_username.is_some()),
            (PROPS, self.props.is_some()),
            (REPUBLISHED, self.republished.is_some()),
        ] {
            flags |= if set { bit } else { 0 };
        }
        out.put_u8(flags);
        out.put_slice(&self.id);
        out.put_i64(self.received_at_ms);
        // Both come out of MQTT strings, which have two-byte lengths.
        for text in [&self.from_clientid[..], username] {
            out.put_u16(u16::try_from(text.len()).unwrap_or(u16::MAX));
            out.put_slice(&text[..text.len().min(usize::from(u16::MAX))]);
        }
        out.put_u32(u32::try_from(props.len()).unwrap_or_default());
        out.put_slice(props);
        if self.republished.is_some() {
            out.put_u32(u32::try_from(republished.len()).unwrap_or_default());
            out.put_slice(republished);
        }
        out.put_slice(&self.payload);
        out.freeze()
    }

    /// The envelope in `bytes`; none where they are no envelope, which only a bug can bring about.
    pub(crate) fn decode(mut bytes: Bytes) -> Option<Self> {
        let flags = bytes.try_get_u8().ok()?;
        let mut id = [0; 16];
        bytes.try_copy_to_slice(&mut id).ok()?;
        let received_at_ms = bytes.try_get_i64().ok()?;
        let clientid_len = usize::from(bytes.try_get_u16().ok()?);
        let from_clientid = take(&mut bytes, clientid_len)?;
        let username_len = usize::from(bytes.try_get_u16().ok()?);
        let username = take(&mut bytes, username_len)?;
        let props_len = usize::try_from(bytes.try_get_u32().ok()?).ok()?;
        let props = take(&mut bytes, props_len)?;
        let republished = match flags & REPUBLISHED {
            0 => None,
            _ => {
                let len = usize::try_from(bytes.try_get_u32().ok()?).ok()?;
                Some(take(&mut bytes, len)?)
            }
        };
        Some(Self {
            id,
            qos: Qos::from_u8(flags & QOS)?,
            retain: flags & RETAIN != 0,
            received_at_ms,
            from_clientid,
            from_username: (flags & USERNAME != 0).then_some(username),
            props: (flags & PROPS != 0).then_some(props),
            republished,
            payload: bytes,
        })
    }

    /// Who republished it, as the fields of a message; nobody where it was not republished.
    pub(crate) fn origin(&self) -> proto::Message {
        let bytes = self.republished.clone().unwrap_or_default();
        proto::Message::decode(bytes).unwrap_or_default()
    }

    /// The properties, decoded.
    pub(crate) fn properties(&self) -> Option<proto::Properties> {
        self.props.clone().and_then(|bytes| proto::Properties::decode(bytes).ok())
    }
}

fn take(bytes: &mut Bytes, count: usize) -> Option<Bytes> {
    (count <= bytes.len()).then(|| bytes.split_to(count))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_goes_in_comes_out(
            (id, qos, retain, received_at_ms) in (any::<[u8; 16]>(), 0u8..3, any::<bool>(), any::<i64>()),
            clientid in ".{0,40}", username in proptest::option::of(".{0,20}"),
            content_type in proptest::option::of(".{0,20}"), payload in any::<Vec<u8>>(), by in ".{0,9}",
        ) {
            let republished = republished(&proto::Message { republished_by: by, ..Default::default() });
            let props = content_type.map(|text| {
                proto::Properties { content_type: Some(text), ..Default::default() }.encode_to_vec().into()
            });
            let envelope = Envelope {
                id, qos: Qos::from_u8(qos).unwrap(), retain, received_at_ms,
                from_clientid: clientid.into(), from_username: username.map(Bytes::from), props,
                republished, payload: payload.into(),
            };
            prop_assert_eq!(Envelope::decode(envelope.encode()), Some(envelope));
        }

        #[test]
        fn no_bytes_panic(bytes in any::<Vec<u8>>()) {
            drop(Envelope::decode(bytes.into()));
        }
    }
}
