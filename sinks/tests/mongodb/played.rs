//! A server of MongoDB's protocol that answers what a test tells it to: for answers that no server here can be brought
//! to give. It checks nothing, and stores nothing.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use mongodb::bson::{Document, RawDocumentBuf, doc};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// The number of messages with sections, the only kind that there still is.
const OP_MSG: i32 = 2013;
const HEADER_BYTES: usize = 16;

/// A command, its first word, and what was sent beside it.
pub struct Asked {
    pub name: String,
    pub command: Document,
    pub documents: Vec<Document>,
}

type Answer = Arc<Mutex<dyn FnMut(&Asked) -> Document + Send>>;

/// Starts one; it ends with the runtime. `answer` is asked for everything but greetings.
pub async fn start(answer: impl FnMut(&Asked) -> Document + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer: Answer = Arc::new(Mutex::new(answer));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(serve(client, answer.clone()));
        }
    });
    address
}

async fn serve(mut client: TcpStream, answer: Answer) {
    let mut header = [0; HEADER_BYTES];
    while client.read_exact(&mut header).await.is_ok() {
        let int = |at: usize| i32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        let (length, request, code) = (int(0) as usize, int(4), int(12));
        assert_eq!(code, OP_MSG);
        let mut body = vec![0; length - HEADER_BYTES];
        client.read_exact(&mut body).await.unwrap();
        let asked = read(&body[4..]);
        let words = match asked.name.to_lowercase().as_str() {
            "hello" | "ismaster" => greeting(),
            "endsessions" | "ping" => doc! { "ok": 1.0 },
            _ => (answer.lock().unwrap())(&asked),
        };
        let words = RawDocumentBuf::try_from(&words).unwrap().into_bytes();
        let length = (HEADER_BYTES + 5 + words.len()) as i32;
        let mut reply = Vec::new();
        for number in [length, 0, request, OP_MSG, 0] {
            reply.extend(number.to_le_bytes());
        }
        reply.push(0);
        reply.extend(words);
        if client.write_all(&reply).await.is_err() {
            return;
        }
    }
}

fn greeting() -> Document {
    doc! {
        "ok": 1.0, "isWritablePrimary": true, "ismaster": true, "minWireVersion": 0, "maxWireVersion": 21,
        "maxBsonObjectSize": 16 * 1024 * 1024, "maxMessageSizeBytes": 48_000_000, "maxWriteBatchSize": 100_000,
        "readOnly": false,
    }
}

/// The sections of a message: the command, and lists of documents beside it.
fn read(mut body: &[u8]) -> Asked {
    let (mut command, mut documents) = (Document::new(), Vec::new());
    while let Some((kind, rest)) = body.split_first() {
        body = rest;
        if *kind == 0 {
            command = take(&mut body);
            continue;
        }
        let (mut list, rest) = body.split_at(length(body));
        body = rest;
        let name_end = 4 + list[4..].iter().position(|byte| *byte == 0).unwrap();
        list = &list[name_end + 1..];
        while !list.is_empty() {
            documents.push(take(&mut list));
        }
    }
    let name = command.keys().next().cloned().unwrap_or_default();
    Asked { name, command, documents }
}

fn take(bytes: &mut &[u8]) -> Document {
    let (document, rest) = bytes.split_at(length(bytes));
    *bytes = rest;
    Document::try_from(RawDocumentBuf::from_bytes(document.to_vec()).unwrap()).unwrap()
}

fn length(bytes: &[u8]) -> usize {
    i32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize
}
