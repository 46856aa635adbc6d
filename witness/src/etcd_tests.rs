//! The etcd witness against real etcd processes: one member and three, one of three killed, TLS.

use super::etcd::{Etcd, EtcdEndpoint, EtcdError, EtcdSettings};
use ids::{Epoch, VolumeId};
use pair::witness::{Answer, Mode, Register, Request};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const VOLUME: VolumeId = VolumeId([7; 16]);
/// One request; a loaded machine's etcd syncs its disk in it.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A cluster that starts, or elects a new leader.
const SETTLED: Duration = Duration::from_secs(60);

fn register(epoch: u64, primary: &str, mode: Mode, generation: u64) -> Register {
    Register { volume: VOLUME, epoch: Epoch(epoch), primary: primary.parse().unwrap(), mode, generation }
}

fn cas(expected: Option<&Register>, new: &Register) -> Request {
    Request::CompareAndSwap { expected: expected.cloned(), new: new.clone() }
}

const READ: Request = Request::Read { volume: VOLUME };

/// Members of one cluster, ended with the value.
struct Cluster {
    members: Vec<Child>,
    endpoints: Vec<String>,
    directory: tempfile::TempDir,
    ca: Option<PathBuf>,
}

impl Cluster {
    fn start(size: usize, tls: bool) -> Cluster {
        let directory = tempfile::tempdir().unwrap();
        let scheme = if tls { "https" } else { "http" };
        // Held until all are chosen, so that no two are the same.
        let held: Vec<TcpListener> =
            (0..2 * size).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let url = |at: usize, scheme: &str| format!("{scheme}://{}", held[at].local_addr().unwrap());
        let endpoints: Vec<String> = (0..size).map(|member| url(member, scheme)).collect();
        let peers: Vec<String> = (0..size).map(|member| url(size + member, "http")).collect();
        drop(held);
        let all: Vec<String> = peers.iter().enumerate().map(|(at, url)| format!("m{at}={url}")).collect();
        let ca = tls.then(|| certificate(directory.path()));
        let members = (0..size)
            .map(|member| {
                let log = File::create(directory.path().join(format!("m{member}.log"))).unwrap();
                let mut command = Command::new("etcd");
                command
                    .args(["--name", &format!("m{member}"), "--initial-cluster", &all.join(",")])
                    .arg("--data-dir")
                    .arg(directory.path().join(format!("m{member}")))
                    .args(["--listen-client-urls", &endpoints[member]])
                    .args(["--advertise-client-urls", &endpoints[member]])
                    .args(["--listen-peer-urls", &peers[member]])
                    .args(["--initial-advertise-peer-urls", &peers[member]])
                    .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
                    .stdout(Stdio::null())
                    .stderr(log);
                if tls {
                    command.arg("--cert-file").arg(directory.path().join("cert.pem"));
                    command.arg("--key-file").arg(directory.path().join("key.pem"));
                }
                command.spawn().expect("etcd starts (Debian package etcd-server)")
            })
            .collect();
        let cluster = Cluster { members, endpoints, directory, ca };
        let mut client = cluster.client();
        cluster.until("the cluster answers", || client.request(&READ, TIMEOUT).is_ok());
        cluster
    }

    fn settings(&self) -> EtcdSettings {
        EtcdSettings {
            endpoints: self.endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect(),
            prefix: "/twinfiler/".to_owned(),
            ca: self.ca.clone(),
            client: None,
        }
    }

    fn client(&self) -> Etcd {
        Etcd::new(&self.settings()).unwrap()
    }

    fn kill(&mut self, member: usize) {
        self.members[member].kill().unwrap();
        self.members[member].wait().unwrap();
    }

    /// Which member leads, as its own gateway says.
    fn leader(&self) -> usize {
        let asked = |member: usize| -> Option<bool> {
            let url = format!("{}/v3/maintenance/status", self.endpoints[member]);
            let mut answer = ureq::post(&url).send_json(serde_json::json!({})).ok()?;
            let status: serde_json::Value = answer.body_mut().read_json().ok()?;
            Some(status["leader"] == status["header"]["member_id"])
        };
        let mut leader = None;
        self.until("there is a leader", || {
            leader = (0..self.endpoints.len()).find(|member| asked(*member) == Some(true));
            leader.is_some()
        });
        leader.unwrap()
    }

    fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let limit = Instant::now() + SETTLED;
        while !holds() {
            let log = || std::fs::read_to_string(self.directory.path().join("m0.log")).unwrap_or_default();
            assert!(Instant::now() < limit, "{what}: not within {SETTLED:?}\n{}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            // Those that a test killed are gone already.
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}

/// A certificate for 127.0.0.1 that is its own authority's, and one that has expired (`expired.pem`).
fn certificate(directory: &Path) -> PathBuf {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = authority.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let names = vec!["127.0.0.1".to_owned()];
    let mut member = rcgen::CertificateParams::new(names).unwrap();
    let signed = member.signed_by(&key, &issuer).unwrap();
    std::fs::write(directory.join("cert.pem"), signed.pem()).unwrap();
    (member.not_before, member.not_after) =
        (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2021, 1, 1));
    let expired = member.signed_by(&key, &issuer).unwrap();
    std::fs::write(directory.join("expired.pem"), expired.pem()).unwrap();
    std::fs::write(directory.join("key.pem"), key.serialize_pem()).unwrap();
    let ca = directory.join("ca.pem");
    std::fs::write(&ca, root.pem()).unwrap();
    ca
}

/// The life of a register: created, swapped, defended against who is late.
fn lives(client: &mut Etcd) -> Register {
    let first = register(1, "a", Mode::Solo, 1);
    let second = register(1, "a", Mode::Mirrored, 2);
    let stale = register(2, "b", Mode::Solo, 2);
    let mut ask = |request: &Request| client.request(request, TIMEOUT).unwrap();
    assert_eq!(ask(&READ), Answer::Is { register: None });
    assert_eq!(ask(&cas(None, &first)), Answer::Swapped { register: first.clone() });
    assert_eq!(ask(&cas(None, &first)), Answer::Conflict { register: Some(first.clone()) });
    assert_eq!(ask(&cas(Some(&first), &second)), Answer::Swapped { register: second.clone() });
    assert_eq!(ask(&cas(Some(&first), &stale)), Answer::Conflict { register: Some(second.clone()) });
    let skips = register(3, "b", Mode::Solo, 9);
    assert!(matches!(ask(&cas(Some(&second), &skips)), Answer::Refused { .. }));
    assert_eq!(ask(&READ), Answer::Is { register: Some(second.clone()) });
    second
}

#[test]
fn one_member_keeps_the_register() {
    let mut cluster = Cluster::start(1, false);
    lives(&mut cluster.client());
    cluster.kill(0);
    let failed = cluster.client().request(&READ, TIMEOUT).unwrap_err();
    assert!(!failed.maybe_applied, "a read changes nothing");
    assert!(failed.error.to_string().contains("etcdctl endpoint health"), "{}", failed.error);
}

#[test]
fn only_one_of_many_swaps_of_the_same_value_succeeds() {
    let cluster = Cluster::start(1, false);
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let swapped: Vec<bool> = std::thread::scope(|scope| {
        let racers = names.map(|name| {
            let mut client = cluster.client();
            scope.spawn(move || {
                let answer = client.request(&cas(None, &register(1, name, Mode::Solo, 1)), TIMEOUT);
                matches!(answer.unwrap(), Answer::Swapped { .. })
            })
        });
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    assert_eq!(swapped.iter().filter(|won| **won).count(), 1);
}

#[test]
fn three_members_go_on_without_their_leader_and_stop_without_a_majority() {
    let mut cluster = Cluster::start(3, false);
    let mut client = cluster.client();
    let second = lives(&mut client);
    let leader = cluster.leader();
    cluster.kill(leader);
    cluster.until("the others answer", || {
        matches!(client.request(&READ, TIMEOUT), Ok(Answer::Is { register: Some(read) }) if read == second)
    });
    let third = register(2, "b", Mode::Solo, 3);
    let mut swapped = None;
    cluster.until("the others swap", || {
        // In doubt after an answer that was lost: then the register itself says what became of it.
        swapped = client.request(&cas(Some(&second), &third), TIMEOUT).ok();
        swapped.is_some()
    });
    let done =
        [Answer::Swapped { register: third.clone() }, Answer::Conflict { register: Some(third.clone()) }];
    assert!(done.contains(swapped.as_ref().unwrap()), "{swapped:?}");

    let other = (leader + 1) % 3;
    cluster.kill(other);
    let wait = Duration::from_millis(1500);
    assert!(client.request(&READ, wait).is_err(), "one of three must not answer for all");
    let fourth = register(3, "a", Mode::Solo, 4);
    assert!(client.request(&cas(Some(&third), &fourth), wait).is_err());
}

#[test]
fn what_is_no_register_is_refused_and_left_alone() {
    use base64::Engine;
    let cluster = Cluster::start(1, false);
    let encode = |text: &str| base64::prelude::BASE64_STANDARD.encode(text);
    let put = |value: &str| {
        let question =
            serde_json::json!({ "key": encode(&format!("/twinfiler/{VOLUME}")), "value": encode(value) });
        ureq::post(format!("{}/v3/kv/put", cluster.endpoints[0])).send_json(question).unwrap();
    };
    for value in ["hello", "{}", &serde_json::to_string(&other_volume()).unwrap()] {
        put(value);
        let asked = cas(None, &register(1, "a", Mode::Solo, 1));
        let failed = cluster.client().request(&asked, TIMEOUT).unwrap_err();
        assert!(matches!(failed.error, EtcdError::Foreign { .. }), "{value}: {}", failed.error);
        assert!(!failed.maybe_applied);
    }
}

fn other_volume() -> Register {
    Register { volume: VolumeId([8; 16]), ..register(1, "a", Mode::Solo, 1) }
}

#[test]
fn over_tls_only_a_member_of_the_named_authority_is_asked() {
    let cluster = Cluster::start(1, true);
    lives(&mut cluster.client());
    let stranger = tempfile::tempdir().unwrap();
    let settings = EtcdSettings { ca: Some(certificate(stranger.path())), ..cluster.settings() };
    let failed = Etcd::new(&settings).unwrap().request(&READ, TIMEOUT).unwrap_err();
    assert!(matches!(failed.error, EtcdError::NoAnswer { .. }), "{}", failed.error);
}

#[test]
fn a_member_whose_certificate_has_expired_is_not_asked() {
    let cluster = Cluster::start(1, true);
    // A member reads its certificate anew for each connection.
    let in_cluster = |name: &str| cluster.directory.path().join(name);
    let renewed = std::fs::read(in_cluster("cert.pem")).unwrap();
    std::fs::copy(in_cluster("expired.pem"), in_cluster("cert.pem")).unwrap();
    let failed = cluster.client().request(&READ, TIMEOUT).unwrap_err();
    let text = failed.error.to_string();
    assert!(!failed.maybe_applied && text.contains("certificate expired"), "{text}");
    std::fs::write(in_cluster("cert.pem"), renewed).unwrap();
    lives(&mut cluster.client());
}

#[test]
fn a_member_that_says_nothing_leaves_time_for_the_others() {
    let cluster = Cluster::start(1, false);
    // Its backlog takes connections; nobody ever answers them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut settings = cluster.settings();
    let address = silent.local_addr().unwrap();
    settings.endpoints.insert(0, EtcdEndpoint { https: false, address });
    let mut client = Etcd::new(&settings).unwrap();
    lives(&mut client);
}

#[test]
fn unusable_pem_files_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let empty = directory.path().join("empty.pem");
    File::create(&empty).unwrap();
    for ca in [directory.path().join("none.pem"), empty] {
        let settings =
            EtcdSettings { endpoints: Vec::new(), prefix: String::new(), ca: Some(ca.clone()), client: None };
        let error = Etcd::new(&settings).unwrap_err().to_string();
        assert!(error.contains(&ca.display().to_string()), "{error}");
    }
}

/// As after a month without compaction: it answers every range, and nothing can be written.
#[test]
fn a_cluster_without_space_says_so_to_who_only_reads() {
    let cluster = Cluster::start(1, false);
    let mut client = cluster.client();
    let second = lives(&mut client);
    let alarm = |action: &str| {
        let url = format!("{}/v3/maintenance/alarm", cluster.endpoints[0]);
        ureq::post(url).send_json(serde_json::json!({ "action": action, "alarm": "NOSPACE" })).unwrap();
    };
    alarm("ACTIVATE");
    let failed = client.request(&READ, TIMEOUT).unwrap_err();
    assert!(!failed.maybe_applied && failed.error.to_string().contains("space"), "{}", failed.error);
    alarm("DEACTIVATE");
    assert_eq!(client.request(&READ, TIMEOUT).unwrap(), Answer::Is { register: Some(second) });
}

/// Passes the first request to one cluster and every later one to another, as if the cluster were restored in between.
fn restored_between(one: &Cluster, other: &Cluster) -> String {
    let targets = [one, other].map(|cluster| cluster.endpoints[0].trim_start_matches("http://").to_owned());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let pass_on = move |near: &TcpStream, target: &str| -> std::io::Result<()> {
        let mut from = BufReader::new(near);
        let (mut head, mut len) = (Vec::new(), 0);
        loop {
            let mut line = String::new();
            if from.read_line(&mut line)? <= 2 {
                break;
            }
            let (name, value) = line.split_once(':').unwrap_or((&line, ""));
            match name.to_ascii_lowercase().as_str() {
                "content-length" => len = value.trim().parse().unwrap(),
                "connection" => continue,
                _ => {}
            }
            head.extend_from_slice(line.as_bytes());
        }
        let mut body = vec![0; len];
        from.read_exact(&mut body)?;
        let mut far = TcpStream::connect(target)?;
        far.write_all(&[&head[..], b"Connection: close\r\n\r\n", &body].concat())?;
        std::io::copy(&mut far, &mut &*near).map(drop)
    };
    std::thread::spawn(move || {
        for (at, near) in listener.incoming().flatten().enumerate() {
            let _closed = pass_on(&near, &targets[at.min(1)]);
        }
    });
    format!("http://{address}")
}

/// Its revisions are given a second time then: what is compared must be the value.
#[test]
fn a_cluster_restored_between_reading_and_writing_is_not_written() {
    let (one, other) = (Cluster::start(1, false), Cluster::start(1, false));
    let (first, newer) = (register(1, "a", Mode::Solo, 1), register(4, "b", Mode::Solo, 1));
    for (cluster, kept) in [(&one, &first), (&other, &newer)] {
        let made = cluster.client().request(&cas(None, kept), TIMEOUT).unwrap();
        assert_eq!(made, Answer::Swapped { register: kept.clone() });
    }
    let settings =
        EtcdSettings { endpoints: vec![restored_between(&one, &other).parse().unwrap()], ..one.settings() };
    let claim = cas(Some(&first), &register(3, "a", Mode::Solo, 2));
    let answer = Etcd::new(&settings).unwrap().request(&claim, TIMEOUT).unwrap();
    assert_eq!(answer, Answer::Conflict { register: Some(newer.clone()) });
    let kept = other.client().request(&READ, TIMEOUT).unwrap();
    assert_eq!(kept, Answer::Is { register: Some(newer) });
}
