//! Handshakes of both sides in memory, records, and key files.

use super::*;
use rustls::ServerConfig;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

fn server(own: &PrivateKey, accepted: PublicKey, purpose: Purpose) -> Arc<ServerConfig> {
    server_config(own, Arc::new(move |key| *key == accepted), purpose).unwrap()
}

/// Bytes of the client, then of the server, until both have proved their keys or one has not.
fn handshake(
    client: &mut Opening,
    server: &mut Opening,
    mut on_the_way: impl FnMut(bool, &mut Vec<u8>),
) -> Result<(), (bool, TlsError)> {
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    let mut progress = client.advance(0, &mut to_server).map_err(|error| (true, error))?;
    for _ in 0..10 {
        on_the_way(true, &mut to_server);
        let room = server.room();
        let len = to_server.len().min(room.len());
        room[..len].copy_from_slice(&to_server[..len]);
        to_server.clear();
        let answered = server.advance(len, &mut to_client);
        if let Err(error) = answered {
            // What the client makes of the server's last words.
            return Err((false, error));
        }
        if (progress, answered.unwrap()) == (Progress::Proved, Progress::Proved) {
            return Ok(());
        }
        on_the_way(false, &mut to_client);
        client.room()[..to_client.len()].copy_from_slice(&to_client);
        let len = to_client.len();
        to_client.clear();
        progress = client.advance(len, &mut to_server).map_err(|error| (true, error))?;
    }
    // Both wait for the rest of what was changed on the way.
    Err((true, TlsError::Ended))
}

/// Two sides that trust each other.
fn openings() -> (Opening, Opening) {
    let (a, b) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    let client = Opening::client(client_config(&a, b.public(), Purpose::Link).unwrap()).unwrap();
    (client, Opening::server(server(&b, a.public(), Purpose::Link), 0).unwrap())
}

pub(crate) fn opened() -> (Opened, Opened) {
    let (mut client, mut server) = openings();
    handshake(&mut client, &mut server, |_, _| {}).unwrap();
    (client.finish().unwrap(), server.finish().unwrap())
}

fn open_all(opener: &mut Opener, mut records: Vec<u8>) -> Result<Vec<u8>, RecordError> {
    let (mut at, mut out) = (0, Vec::new());
    while let Some(len) = record_bytes(&records[at..])? {
        let opened = opener.open(&mut records, at, at..at + len)?;
        out.extend(&records[at..at + opened]);
        at += len;
    }
    assert_eq!(at, records.len());
    Ok(out)
}

#[test]
fn both_sides_prove_their_keys_and_understand_each_other() {
    let (mut client, mut server) = opened();
    assert_ne!(client.peer, server.peer);
    let long: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
    for _ in 0..3 {
        for (from, to) in [(&mut client.sealer, &mut server.opener), (&mut server.sealer, &mut client.opener)]
        {
            for message in [&b""[..], b"x", &long] {
                let mut records = Vec::new();
                from.seal_all(message, &mut records);
                assert!(!records.windows(8).any(|part| message.len() > 8 && part == &message[..8]));
                assert_eq!(open_all(to, records).unwrap(), message);
            }
        }
    }
}

#[test]
fn a_key_that_is_not_configured_is_refused_by_either_side() {
    let keys = [(); 3].map(|()| PrivateKey::generate().unwrap());
    let [a, b, other] = &keys;
    let client = |own, peer| Opening::client(client_config(own, peer, Purpose::Link).unwrap()).unwrap();
    let server = |own, peer| Opening::server(server(own, peer, Purpose::Link), 0).unwrap();
    let wrong_client =
        handshake(&mut client(other, b.public()), &mut server(b, a.public()), |_, _| {}).unwrap_err();
    assert!(matches!(wrong_client, (false, TlsError::WrongKey)), "{wrong_client:?}");
    let wrong_server =
        handshake(&mut client(a, b.public()), &mut server(other, a.public()), |_, _| {}).unwrap_err();
    assert!(matches!(wrong_server, (true, TlsError::WrongKey)), "{wrong_server:?}");
    // Who knows the public key only cannot prove it: the signature is by another key.
    let thief = client(a, b.public());
    let mut honest = server(b, a.public());
    let mut changed = thief;
    let cut = handshake(&mut changed, &mut honest, |from_client, bytes| {
        if from_client && bytes.len() < 400 && !bytes.is_empty() {
            // Some byte of the client's proof, which is sealed: it does not even open.
            let at = bytes.len() / 2;
            bytes[at] ^= 1;
        }
    });
    assert!(cut.is_err());
}

#[test]
fn a_link_key_is_no_use_at_the_witness() {
    let (a, b) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    let mut client = Opening::client(client_config(&a, b.public(), Purpose::Link).unwrap()).unwrap();
    let mut server = Opening::server(server(&b, a.public(), Purpose::Witness), 0).unwrap();
    assert!(handshake(&mut client, &mut server, |_, _| {}).is_err());
}

/// Every byte of every flight, changed: nobody ends up with keys that the other does not have too.
#[test]
fn a_changed_flight_proves_nothing() {
    for flight in 0..3 {
        for at in (0..120).step_by(7) {
            let (mut client, mut server) = openings();
            let mut seen = 0;
            let result = handshake(&mut client, &mut server, |_, bytes| {
                if seen == flight && at < bytes.len() {
                    bytes[at] ^= 0x55;
                }
                seen += usize::from(!bytes.is_empty());
            });
            // The records' version and a few reserved bytes are looked at by nobody; then both have the same keys.
            if result.is_ok() {
                let (mut one, mut other) = (client.finish().unwrap(), server.finish().unwrap());
                let mut records = Vec::new();
                one.sealer.seal_all(b"same", &mut records);
                assert_eq!(
                    open_all(&mut other.opener, records).unwrap(),
                    b"same",
                    "flight {flight} byte {at}"
                );
            }
        }
    }
}

#[test]
fn a_recorded_handshake_proves_nothing_the_second_time() {
    let (a, b) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    let config = server(&b, a.public(), Purpose::Link);
    let mut client = Opening::client(client_config(&a, b.public(), Purpose::Link).unwrap()).unwrap();
    let mut first = Opening::server(Arc::clone(&config), 0).unwrap();
    let mut recorded = Vec::new();
    handshake(&mut client, &mut first, |from_client, bytes| {
        if from_client && !bytes.is_empty() {
            recorded.push(bytes.clone());
        }
    })
    .unwrap();
    assert_eq!(recorded.len(), 2);
    let mut again = Opening::server(config, 0).unwrap();
    let mut out = Vec::new();
    let results: Vec<_> = recorded
        .iter()
        .map(|flight| {
            again.room()[..flight.len()].copy_from_slice(flight);
            again.advance(flight.len(), &mut out)
        })
        .collect();
    assert!(matches!(results[0], Ok(Progress::Blocked)) && results[1].is_err(), "{results:?}");
}

#[test]
fn an_opening_takes_a_bounded_number_of_bytes() {
    let (_, b) = openings();
    let mut server = b;
    // A handshake message that claims 64 KiB, in records of 1 KiB.
    let mut told = Vec::new();
    let mut record = vec![22, 3, 1, 4, 0];
    record.extend([1, 1, 0, 0]);
    record.resize(5 + 1024, 0);
    let ended = (0..64).find_map(|_| {
        let room = server.room();
        let len = record.len().min(room.len());
        room[..len].copy_from_slice(&record[..len]);
        server.advance(len, &mut told).err()
    });
    assert!(ended.is_some() && told.is_empty(), "{ended:?}");
}

#[test]
fn keys_are_renewed_in_the_middle_and_nothing_is_lost() {
    let (mut client, mut server) = opened();
    client.sealer.renew_after(3);
    let mut records = Vec::new();
    let mut expected = Vec::new();
    for byte in 0..20u8 {
        client.sealer.seal_all(&[byte], &mut records);
        expected.push(byte);
    }
    assert_eq!(open_all(&mut server.opener, records.clone()).unwrap(), expected);
    // Six renewals are six records more.
    let count =
        std::iter::successors(Some(0), |at| record_bytes(&records[*at..]).unwrap().map(|len| at + len));
    assert_eq!(count.count() - 1, 20 + 6);
}

#[test]
fn records_that_are_changed_repeated_or_left_out_are_refused_for_good() {
    let records = |sealer: &mut Sealer| -> Vec<Vec<u8>> {
        (0..3u8)
            .map(|byte| {
                let mut record = Vec::new();
                sealer.seal_all(&[byte; 10], &mut record);
                record
            })
            .collect()
    };
    let tries: [fn(&mut Vec<Vec<u8>>); 5] = [
        |all| all[1][20] ^= 1,
        |all| all[1][4] ^= 1,
        |all| all[1] = all[0].clone(),
        |all| drop(all.remove(1)),
        |all| all.swap(1, 2),
    ];
    for change in tries {
        let (mut client, mut server) = opened();
        let mut sent = records(&mut client.sealer);
        change(&mut sent);
        let mut results = sent.into_iter().map(|record| open_all(&mut server.opener, record));
        assert!(results.next().unwrap().is_ok());
        assert!(results.all(|result| matches!(result, Err(RecordError::Broken(_)))));
    }
}

#[test]
fn only_messages_that_have_a_place_behind_the_handshake_are_taken() {
    let said = |kind, payload: &[u8]| {
        let (mut client, mut server) = opened();
        let mut record = Vec::new();
        client.sealer.seal_kind(kind, payload, &mut record);
        open_all(&mut server.opener, record)
    };
    assert_eq!(said(21, &[1, 0]), Err(RecordError::Closed));
    assert_eq!(said(21, &[2, 49]), Err(RecordError::Alert(49)));
    for (kind, payload) in
        [(21, &[0][..]), (22, &[4, 0, 0, 0]), (22, &[24, 0, 0, 1, 1]), (0, &[]), (20, &[1])]
    {
        assert!(matches!(said(kind, payload), Err(RecordError::Broken(_))), "{kind} {payload:?}");
    }
    assert_eq!(said(23, &[]), Ok(vec![]));
}

#[test]
fn a_head_that_is_no_records_is_refused_before_its_bytes_come() {
    assert_eq!(record_bytes(&[23, 3, 3, 0]), Ok(None));
    assert_eq!(record_bytes(&[23, 3, 3, 0, 17]), Ok(Some(22)));
    for head in [[23, 3, 3, 0, 16], [23, 3, 3, 0x41, 0], [22, 3, 3, 0, 17], [23, 3, 1, 0, 17], *b"GET /"] {
        assert!(record_bytes(&head).is_err(), "{head:?}");
    }
}

#[test]
fn a_key_file_is_private_made_once_and_read_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.key");
    let made = PrivateKey::create(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(PrivateKey::load(&path).unwrap().public(), made.public());
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("-----BEGIN PRIVATE KEY-----\n") && text.lines().all(|line| line.len() <= 64));
    assert!(matches!(PrivateKey::create(&path), Err(KeyError::Exists(_))));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "nothing is overwritten");
    let public = made.public().to_string();
    assert_eq!(public.len(), 8 + 44);
    assert_eq!(public.parse::<PublicKey>().unwrap(), made.public());
    assert!(!format!("{made:?}").contains(text.lines().nth(1).unwrap()));
}

#[test]
fn a_key_file_that_is_not_private_or_holds_no_key_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.key");
    assert!(matches!(PrivateKey::load(&path), Err(KeyError::File { .. })));
    PrivateKey::create(&path).unwrap();
    let set_mode = |mode| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    set_mode(0o640);
    let readable = PrivateKey::load(&path).unwrap_err();
    assert!(
        matches!(readable, KeyError::Readable { mode: 0o640, .. })
            && readable.to_string().contains("chmod 600")
    );
    set_mode(0o600);
    for text in ["", "garbage", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
        std::fs::write(&path, text).unwrap();
        assert!(matches!(PrivateKey::load(&path), Err(KeyError::NoKey { .. })), "{text:?}");
    }
    assert!(matches!(PrivateKey::load(directory.path()), Err(KeyError::NoKey { .. })));
    for text in ["", "ed25519:", "ed25519:AAAA", "rsa:AAAA"] {
        assert!(text.parse::<PublicKey>().is_err(), "{text:?}");
    }
}
