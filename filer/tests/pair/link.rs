//! The link between two nodes that both live, and both reach the witness, is cut.

use crate::harness::{Cluster, Load, Side, Spec, check_all};
use filer::status::{Mode, Role};
use rdma_transport::tls::PrivateKey;
use std::io::copy;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A wire that can be cut: forwards connections to a port.
struct Wire {
    port: u16,
    whole: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
}

impl Wire {
    fn to(target: u16) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let wire = Wire { port, whole: Arc::new(AtomicBool::new(true)), connections: Arc::default() };
        let (whole, connections) = (wire.whole.clone(), wire.connections.clone());
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if !whole.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(far) = TcpStream::connect(("127.0.0.1", target)) else { continue };
                for stream in [&near, &far] {
                    stream.set_nodelay(true).unwrap();
                    connections.lock().unwrap().push(stream.try_clone().unwrap());
                }
                for (mut from, mut to) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)]
                {
                    std::thread::spawn(move || {
                        let _cut = copy(&mut from, &mut to);
                        let _cut_already = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        wire
    }

    fn cut(&self) {
        self.whole.store(false, Ordering::SeqCst);
        for stream in self.connections.lock().unwrap().drain(..) {
            let _ended_already = stream.shutdown(Shutdown::Both);
        }
    }

    fn mend(&self) {
        self.whole.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_cut_link_leaves_one_node_serving_and_heals() {
    cut_link(true);
}

/// Both nodes and the witness as they are on one machine without keys.
#[test]
fn without_keys_a_cut_link_heals_too() {
    cut_link(false);
}

fn cut_link(keys: bool) {
    let mut pair = Cluster::prepare(Spec { capacity: "256MiB", keys, ..Spec::default() });
    // The lower name connects, so this is the only way between the two.
    let wire = Wire::to(pair.port(Side::B));
    let text = std::fs::read_to_string(pair.config(Side::A)).unwrap();
    let direct = format!("127.0.0.1:{}", pair.port(Side::B));
    assert!(text.contains(&direct));
    std::fs::write(pair.config(Side::A), text.replace(&direct, &format!("127.0.0.1:{}", wire.port))).unwrap();
    for side in Side::BOTH {
        pair.start_node(side);
    }
    let mut primary = pair.wait_mirrored();
    for round in 0..3 {
        let load = Load::start(&pair.mount(primary), &format!("r{round}-"), 2);
        load.wait_for(30);
        wire.cut();
        let serving = pair.wait("one node to serve alone", |pair| {
            Side::BOTH.into_iter().find(|side| {
                pair.volume(*side).is_some_and(|v| v.role == Role::Primary && v.mode == Mode::Solo)
            })
        });
        std::thread::sleep(Duration::from_secs(3));
        let other = pair.volume(serving.other()).unwrap();
        assert!(other.acknowledgement.is_none(), "both acknowledge: {other:?}");
        let outcomes = if serving == primary {
            load.wait_for(20);
            load.finish()
        } else {
            load.join()
        };
        wire.mend();
        primary = pair.wait_mirrored();
        assert_eq!(primary, serving);
        check_all(&pair.mount(primary), &outcomes);
        pair.check_trees_equal();
    }
}

/// A node believes only who proves the configured key; both then say what to compare.
#[test]
fn a_partner_with_another_key_is_no_partner() {
    let mut pair = Cluster::prepare(Spec::default());
    let right = std::fs::read_to_string(pair.config(Side::A)).unwrap();
    let key = |side: Side| PrivateKey::load(&pair.node_dir(side).join("key")).unwrap().public().to_string();
    let wrong = right.replace(&key(Side::B), &key(Side::A));
    assert_ne!(right, wrong);
    std::fs::write(pair.config(Side::A), wrong).unwrap();
    for side in Side::BOTH {
        pair.start_node(side);
    }
    pair.wait("the reason in the log of node a", |pair| {
        let output = std::fs::read_to_string(pair.output(Side::A)).ok()?;
        output.contains("it proved another key than the configured `public_key`").then_some(())
    });
    assert_eq!(pair.volume(Side::A).map(|volume| volume.transport.connects), Some(0));
    assert!(pair.terminate(Side::A).success());
    std::fs::write(pair.config(Side::A), right).unwrap();
    pair.start_node(Side::A);
    pair.wait_mirrored();
    let link = pair.volume(Side::A).unwrap().transport;
    assert!(link.tls, "{link:?}");
}
