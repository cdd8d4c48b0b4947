//! Hashes, compression, base64 and JSON.

use std::io::{Read, Write};

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use flate2::Compression;
use md5::Digest;
use muster_core::value::Value;

use super::{Args, Function, pure, wrong};
use crate::program::{Fault, json, text};

/// Most bytes that `gunzip()`, `unzip()` and `zip_uncompress()` make of one text.
pub const INFLATED_BYTES_MAX: u64 = 16 * 1024 * 1024;

pub(super) const TABLE: &[Function] = &[
    pure("md5", 1, 1, "md5(text)", |args| hashed("md5", &args.bytes(0)?)),
    pure("sha", 1, 1, "sha(text)", |args| hashed("sha", &args.bytes(0)?)),
    pure("sha256", 1, 1, "sha256(text)", |args| hashed("sha256", &args.bytes(0)?)),
    pure("hash", 2, 2, "hash('sha256', text)", |args| hashed(args.text(0)?, &args.bytes(1)?)),
    pure("gzip", 1, 1, "gzip(bytes)", |args| {
        let mut coder = flate2::write::GzEncoder::new(Vec::new(), Compression::default());
        let done = coder.write_all(&args.bytes(0)?).and_then(|()| coder.finish());
        compressed(done)
    }),
    pure("gunzip", 1, 1, "gunzip(bytes)", |args| {
        inflated(flate2::read::GzDecoder::new(args.bytes(0)?.as_ref()))
    }),
    pure("zip", 1, 1, "zip(bytes)", |args| {
        let mut coder = flate2::write::DeflateEncoder::new(Vec::new(), Compression::default());
        let done = coder.write_all(&args.bytes(0)?).and_then(|()| coder.finish());
        compressed(done)
    }),
    pure("unzip", 1, 1, "unzip(bytes)", |args| {
        inflated(flate2::read::DeflateDecoder::new(args.bytes(0)?.as_ref()))
    }),
    pure("zip_compress", 1, 1, "zip_compress(bytes)", |args| {
        let mut coder = flate2::write::ZlibEncoder::new(Vec::new(), Compression::default());
        let done = coder.write_all(&args.bytes(0)?).and_then(|()| coder.finish());
        compressed(done)
    }),
    pure("zip_uncompress", 1, 1, "zip_uncompress(bytes)", |args| {
        inflated(flate2::read::ZlibDecoder::new(args.bytes(0)?.as_ref()))
    }),
    pure("base64_encode", 1, 3, "base64_encode(bytes[, 'no_padding'][, 'urlsafe'])", |args| {
        Ok(engine(&args)?.encode(args.bytes(0)?).into())
    }),
    pure("base64_decode", 1, 3, "base64_decode(text[, 'no_padding'][, 'urlsafe'])", base64_decode),
    pure("json_encode", 1, 1, "json_encode(x)", |args| Ok(text::json(args.get(0))?.into())),
    pure("json_decode", 1, 1, "json_decode(text)", |args| match args.get(0) {
        Value::Str(text) => json::decode(text),
        other => Err(wrong("a JSON text", other)),
    }),
];

fn hashed(name: &str, bytes: &[u8]) -> Result<Value, Fault> {
    fn hex<D: Digest>(bytes: &[u8]) -> String {
        super::convert::hex_upper(&D::digest(bytes)).to_lowercase()
    }
    let digest = match name {
        "md4" => hex::<md4::Md4>(bytes),
        "md5" => hex::<md5::Md5>(bytes),
        "sha" | "sha1" => hex::<sha1::Sha1>(bytes),
        "sha224" => hex::<sha2::Sha224>(bytes),
        "sha256" => hex::<sha2::Sha256>(bytes),
        "sha384" => hex::<sha2::Sha384>(bytes),
        "sha512" => hex::<sha2::Sha512>(bytes),
        "sha3_224" => hex::<sha3::Sha3_224>(bytes),
        "sha3_256" => hex::<sha3::Sha3_256>(bytes),
        "sha3_384" => hex::<sha3::Sha3_384>(bytes),
        "sha3_512" => hex::<sha3::Sha3_512>(bytes),
        "blake2b" => hex::<blake2::Blake2b512>(bytes),
        "blake2s" => hex::<blake2::Blake2s256>(bytes),
        other => return Err(Fault(format!("there is no hash '{other}'").into())),
    };
    Ok(digest.into())
}

fn compressed(done: std::io::Result<Vec<u8>>) -> Result<Value, Fault> {
    let bytes = done.map_err(|_| Fault::new("the text cannot be compressed"))?;
    Ok(Bytes::from(bytes).into())
}

fn inflated(reader: impl Read) -> Result<Value, Fault> {
    let mut out = Vec::new();
    let read = reader.take(INFLATED_BYTES_MAX + 1).read_to_end(&mut out);
    read.map_err(|_| Fault::new("the bytes are not compressed that way"))?;
    if out.len() as u64 > INFLATED_BYTES_MAX {
        return Err(Fault::new("the text would be too long"));
    }
    Ok(Bytes::from(out).into())
}

/// Options that are not known are ignored, as the reference does.
fn options(args: &Args) -> Result<(bool, bool), Fault> {
    let (mut padding, mut urlsafe) = (true, false);
    for n in 1..args.len() {
        match args.text(n)? {
            "no_padding" => padding = false,
            "urlsafe" => urlsafe = true,
            _ => {}
        }
    }
    Ok((padding, urlsafe))
}

fn engine(args: &Args) -> Result<GeneralPurpose, Fault> {
    let (padding, urlsafe) = options(args)?;
    let alphabet = if urlsafe { &alphabet::URL_SAFE } else { &alphabet::STANDARD };
    let mode = if padding { DecodePaddingMode::RequireCanonical } else { DecodePaddingMode::Indifferent };
    let config = GeneralPurposeConfig::new()
        .with_encode_padding(padding)
        .with_decode_padding_mode(mode)
        .with_decode_allow_trailing_bits(true);
    Ok(GeneralPurpose::new(alphabet, config))
}

fn base64_decode(args: Args) -> Result<Value, Fault> {
    let text: Vec<u8> = args.bytes(0)?.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
    let decoded = engine(&args)?.decode(text).map_err(|_| Fault::new("this is no base64"))?;
    Ok(Bytes::from(decoded).into())
}
