//! Packets byte by byte, and bytes that are no packets.

use bytes::{BufMut as _, Bytes, BytesMut};
use muster_core::event::proto;
use proptest::prelude::*;

use super::encode::{self, ConnAck, PublishOut};
use super::*;

/// Everything that can be decoded from `bytes`, until the first error. Ends because each round takes at least two
/// bytes.
fn decode_all(bytes: &[u8], version: Version, packet_bytes_max: usize) -> Vec<Result<Packet, DecodeError>> {
    let mut buffer = BytesMut::from(bytes);
    let mut packets = Vec::new();
    loop {
        match split(&mut buffer, packet_bytes_max) {
            Ok(Split::Frame(frame)) => packets.push(decode(frame, version)),
            Ok(Split::Needs(count)) => {
                assert!(count > 0);
                return packets;
            }
            Err(error) => {
                packets.push(Err(error));
                return packets;
            }
        }
    }
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.split_whitespace().collect();
    digits.iter().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

/// The parts one after the other, behind a type byte and their length.
fn packet(first: u8, parts: &[Vec<u8>]) -> Vec<u8> {
    let body = parts.concat();
    [vec![first, u8::try_from(body.len()).unwrap()], body].concat()
}

/// Properties behind their length.
fn props(text: &str) -> Vec<u8> {
    let bytes = hex(text);
    [vec![u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

/// One valid packet of each type that a client sends, with every property.
fn valid() -> Vec<Vec<u8>> {
    let connect = packet(
        0x10,
        &[
            hex("00 04 4d 51 54 54 05 ee 00 3c"),
            props(
                "11 00 00 00 0a 21 00 14 27 00 00 10 00 22 00 05 19 01 17 01 26 00 01 6b 00 01 76 26 00 01 6b 00 00",
            ),
            hex("00 03 63 6c 69"),
            props(
                "18 00 00 00 05 01 01 02 00 00 00 09 03 00 01 63 08 00 01 72 09 00 02 ff fe 26 00 01 61 00 01 62",
            ),
            hex("00 03 77 2f 74 00 02 68 69 00 02 75 73 00 03 70 00 ff"),
        ],
    );
    let publish = props("01 01 02 00 00 00 01 23 00 01 09 00 01 00");
    vec![
        connect,
        // MQTT 3.1.1 and 3.1.
        packet(0x10, &[hex("00 04 4d 51 54 54 04 82 00 3c 00 02 61 62 00 01 75")]),
        packet(0x10, &[hex("00 06 4d 51 49 73 64 70 03 02 00 00 00 02 61 62")]),
        // PUBLISH of each QoS.
        packet(0x30, &[hex("00 01 74 00 61 62 63")]),
        packet(0x3B, &[hex("00 03 61 2f 62 00 0a"), publish, hex("68 65 6c 6c")]),
        packet(0x34, &[hex("00 03 61 2f 62 ff ff 00 00 01")]),
        // Acknowledgements, short and long.
        packet(0x40, &[hex("00 01")]),
        packet(0x50, &[hex("00 01 10")]),
        packet(0x62, &[hex("00 01 92"), props("1f 00 03 62 61 64")]),
        packet(0x70, &[hex("00 01 00 00")]),
        packet(0x82, &[hex("00 01"), props("0b 07"), hex("00 03 61 2f 23 2e 00 03 2b 2f 62 01")]),
        packet(0xA2, &[hex("00 02 00 00 03 61 2f 23 00 03 2b 2f 62")]),
        packet(0xC0, &[]),
        packet(0xE0, &[]),
        packet(0xE0, &[hex("04"), props("11 00 00 00 0a")]),
        packet(0xF0, &[hex("18 00")]),
    ]
}

#[test]
fn the_valid_packets_are_valid() {
    for bytes in valid() {
        let decoded = decode_all(&bytes, Version::V5, 1 << 20);
        assert!(matches!(decoded[..], [Ok(_)]), "{bytes:02x?}: {decoded:?}");
    }
}

#[test]
fn a_connect_says_everything_but_its_password() {
    let Ok(Packet::Connect(connect)) = &decode_all(&valid()[0], Version::V4, 1 << 20)[0] else { panic!() };
    assert_eq!(connect.version, Version::V5);
    assert_eq!((connect.clientid.as_str(), connect.username.as_deref()), ("cli", Some("us")));
    assert_eq!(connect.password, Some(Secret(Bytes::from_static(b"p\0\xff"))));
    assert_eq!(connect.props.session_expiry_interval, Some(10));
    assert_eq!(connect.props.user_property.len(), 2);
    let will = connect.will.as_ref().unwrap();
    assert_eq!(
        (will.topic.as_str(), &will.payload[..], will.qos, will.retain),
        ("w/t", &b"hi"[..], Qos::AtLeastOnce, true)
    );
    assert_eq!(will.props.as_ref().unwrap().will_delay_interval, Some(5));
    let shown = format!("{connect:?}");
    assert!(shown.contains("***") && !shown.contains("255"), "{shown}");
}

#[test]
fn the_server_s_packets_have_their_bytes() {
    let write = |write: &dyn Fn(&mut BytesMut)| {
        let mut out = BytesMut::new();
        write(&mut out);
        out.to_vec()
    };
    assert_eq!(write(&|out| encode::ack(out, Version::V4, 4, 258, 0x87)), hex("40 02 01 02"));
    assert_eq!(write(&|out| encode::ack(out, Version::V5, 6, 258, 0x92)), hex("62 03 01 02 92"));
    assert_eq!(write(&|out| encode::suback(out, Version::V4, 1, &[1, 0x97])), hex("90 04 00 01 01 80"));
    assert_eq!(write(&|out| encode::suback(out, Version::V5, 1, &[1, 0x97])), hex("90 05 00 01 00 01 97"));
    assert_eq!(write(&|out| encode::unsuback(out, Version::V5, 1, &[0x11])), hex("b0 04 00 01 00 11"));
    assert_eq!(write(&|out| encode::disconnect(out, Version::V4, 0x8B)), hex(""));
    assert_eq!(write(&|out| encode::disconnect(out, Version::V5, 0x8B)), hex("e0 01 8b"));
    let ack = ConnAck { session_present: true, code: reason::BANNED, ..ConnAck::default() };
    assert_eq!(write(&|out| encode::connack(out, Version::V4, &ack)), hex("20 02 01 05"));
    assert_eq!(write(&|out| encode::connack(out, Version::V5, &ack)), hex("20 03 01 8a 00"));
}

/// Every input that the fuzzer found worth keeping.
#[test]
fn the_corpus_of_the_fuzz_target_passes() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/packets");
    let files: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 10, "the corpus is there");
    for file in files {
        crate::codec_check::check(&std::fs::read(file).unwrap());
    }
}

proptest! {
    #[test]
    fn no_bytes_panic_or_hang(bytes in any::<Vec<u8>>(), level in 0usize..3, max in 0usize..600) {
        drop(decode_all(&bytes, [Version::V3, Version::V4, Version::V5][level], max));
    }

    /// A valid packet with some bytes changed, cut or doubled: the ways in which real ones go wrong.
    #[test]
    fn no_mutation_panics(
        which in 0usize..16, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(), doubled in any::<bool>(), level in 0usize..3,
    ) {
        let mut bytes = valid()[which].clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        if doubled {
            bytes.extend(bytes.clone());
        }
        drop(decode_all(&bytes, [Version::V3, Version::V4, Version::V5][level], 1 << 20));
    }

    /// Packets behind a CONNECT, some of them changed: what the fuzz target asks.
    #[test]
    fn packets_of_a_connection_come_back(
        choice in 0x80u8.., which in prop::collection::vec(0usize..16, 1..4),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        let mut bytes = vec![choice];
        bytes.extend(which.iter().flat_map(|which| valid()[*which].clone()));
        for (at, byte) in changes {
            let at = 1 + at.index(bytes.len() - 1);
            bytes[at] = byte;
        }
        crate::codec_check::check(&bytes);
    }

    /// What a frame claims about its own length does not matter to what is inside.
    #[test]
    fn no_body_panics(first in any::<u8>(), body in any::<Vec<u8>>(), level in 0usize..3) {
        let version = [Version::V3, Version::V4, Version::V5][level];
        drop(decode(Frame { first, body: body.into() }, version));
    }

    /// What the server writes as PUBLISH, the decoder reads as the same message.
    #[test]
    fn a_publish_round_trips(
        (topic, payload) in (".{0,60}", any::<Vec<u8>>()), qos in 0u8..3, pkid in 1u16.., retain in any::<bool>(),
        content_type in prop::option::of("[^\0]{0,20}"),
        user in prop::collection::vec(("[^\0]{0,5}", "[^\0]{0,5}"), 0..4),
        expiry in prop::option::of(any::<u32>()), v5 in any::<bool>(),
    ) {
        prop_assume!(!topic.contains('\0'));
        let version = if v5 { Version::V5 } else { Version::V4 };
        let qos = Qos::from_u8(qos).unwrap();
        let user_property = user.into_iter().map(|(key, value)| proto::UserProperty { key, value }).collect();
        let props = proto::Properties {
            content_type, user_property, message_expiry_interval: expiry, ..Default::default()
        };
        let payload = Bytes::from(payload);
        let publish = PublishOut {
            topic: &topic, payload: &payload, qos, retain, dup: false, pkid, props: Some(&props),
            expiry_seconds: expiry, subscription_ids: &[],
        };
        let mut out = BytesMut::new();
        encode::publish(&mut out, version, &publish, usize::MAX).unwrap();
        let length = out.len();
        prop_assert!(encode::publish(&mut BytesMut::new(), version, &publish, length - 1).is_err());
        prop_assert!(encode::publish(&mut BytesMut::new(), version, &publish, length).is_ok());
        let decoded = decode_all(&out, version, usize::MAX);
        let Ok(Packet::Publish(got)) = &decoded[0] else { panic!("{decoded:?}") };
        prop_assert_eq!((&got.topic, &got.payload, got.qos, got.retain), (&topic, &payload, qos, retain));
        prop_assert_eq!(got.pkid, if qos == Qos::AtMostOnce { 0 } else { pkid });
        if v5 {
            prop_assert_eq!(got.props.clone().unwrap_or_default(), props);
        }
    }

    #[test]
    fn a_stream_in_pieces_is_the_same_stream(cuts in prop::collection::vec(1usize..9, 1..40)) {
        let whole: Vec<u8> = valid().concat();
        let mut buffer = BytesMut::new();
        let (mut frames, mut at, mut cuts) = (0, 0, cuts.into_iter().cycle());
        while at < whole.len() {
            let end = (at + cuts.next().unwrap()).min(whole.len());
            buffer.put_slice(&whole[at..end]);
            at = end;
            while let Split::Frame(_) = split(&mut buffer, 1 << 20).unwrap() {
                frames += 1;
            }
        }
        prop_assert_eq!(frames, valid().len());
        prop_assert!(buffer.is_empty());
    }
}
