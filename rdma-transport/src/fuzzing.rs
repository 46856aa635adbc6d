//! What the fuzz targets reach of this crate's inside. Not there in an ordinary build.

use crate::frame::{Frame, HEAD_BYTES};
use crate::handshake::{ANSWER_BYTES, PREAMBLE_BYTES, Preamble, decode_answer, encode_answer};
use crate::tls::{
    Opened, Opening, PrivateKey, Progress, Purpose, client_config, record_bytes, server_config,
};
use std::sync::{Arc, LazyLock};

/// Takes bytes as each kind of opening message and as a frame's head.
pub fn opening_messages(bytes: &[u8]) {
    if let Some(preamble) = bytes.first_chunk::<PREAMBLE_BYTES>()
        && let Ok(preamble) = Preamble::decode(preamble)
    {
        assert_eq!(Preamble::decode(&preamble.encode()), Ok(preamble));
    }
    if let Some(answer) = bytes.first_chunk::<ANSWER_BYTES>()
        && let Some(answer) = decode_answer(answer)
    {
        assert_eq!(decode_answer(&encode_answer(&answer)), Some(answer));
    }
    if let Some(head) = bytes.first_chunk::<HEAD_BYTES>()
        && let Ok(frame) = Frame::decode(head)
    {
        assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
    }
}

static KEYS: LazyLock<(PrivateKey, PrivateKey)> = LazyLock::new(|| {
    let key = || PrivateKey::generate().expect("the system gives random numbers");
    (key(), key())
});

fn server() -> Opening {
    let accepted = KEYS.0.public();
    let config = server_config(&KEYS.1, Arc::new(move |key| *key == accepted), Purpose::Link);
    Opening::server(config.expect("fixed settings"), PREAMBLE_BYTES).expect("fixed settings")
}

fn client() -> Opening {
    let config = client_config(&KEYS.0, KEYS.1.public(), Purpose::Link);
    Opening::client(config.expect("fixed settings")).expect("fixed settings")
}

fn give(to: &mut Opening, bytes: &[u8], out: &mut Vec<u8>) -> Option<Progress> {
    let room = to.room();
    let len = bytes.len().min(room.len());
    room[..len].copy_from_slice(&bytes[..len]);
    to.advance(len, out).ok()
}

/// A stranger's bytes, in pieces as the first byte says, at a door that wants keys and at a node that connects.
pub fn strangers(bytes: &[u8]) {
    let Some((piece, bytes)) = bytes.split_first() else { return };
    for mut side in [server(), client()] {
        let mut out = Vec::new();
        for part in bytes.chunks(usize::from(*piece) * 16 + 1) {
            match give(&mut side, part, &mut out) {
                None => break,
                Some(progress) => assert_eq!(progress, Progress::Blocked, "nobody proved a key"),
            }
        }
        assert!(out.len() <= 4096, "a stranger is told {} bytes", out.len());
    }
}

fn opened() -> (Opened, Opened) {
    let (mut client, mut server) = (client(), server());
    let (mut forth, mut back) = (Vec::new(), Vec::new());
    client.advance(0, &mut forth).expect("the first flight");
    give(&mut server, &std::mem::take(&mut forth), &mut back).expect("the second flight");
    give(&mut client, &back, &mut forth).expect("the third flight");
    give(&mut server, &forth, &mut Vec::new()).expect("both have proved their keys");
    (client.finish().expect("proved"), server.finish().expect("proved"))
}

/// A partner's bytes behind the handshake: sealed as the first byte says, then taken as they are.
pub fn records(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let (mut client, mut server) = opened();
    let payload = &bytes[..bytes.len().min(crate::tls::PAYLOAD_BYTES)];
    let mut stream = Vec::new();
    client.sealer.seal_kind(*kind, payload, &mut stream);
    let sealed = stream.len();
    stream.extend(bytes);
    let mut at = 0;
    while let Ok(Some(len)) = record_bytes(&stream[at..])
        && at + len <= stream.len()
    {
        match server.opener.open(&mut stream, at, at..at + len) {
            Ok(opened) if *kind == 23 => assert!(at < sealed && stream[..opened] == *payload),
            Ok(opened) => assert!(at < sealed && opened <= payload.len()),
            Err(_) => break,
        }
        at += len;
    }
}
