//! What a scrape shows, and what the server does with odd requests.

use super::*;
use crate::status::AckLevel;
use ids::Durability;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

fn exchange(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn latencies_carry_the_level_in_force() {
    let metrics = Metrics::new();
    let home = metrics.volume("home");
    home.commit.observe(Duration::from_micros(10));
    home.set_level(Some(AckLevel { local: Durability::Power, peer: Some(Durability::Process) }), None);
    home.commit.observe(Duration::from_micros(20));
    home.operations.add(3);
    home.stages.observe(Stage::There, Duration::from_micros(9));
    home.set_link(LinkMetrics {
        counters: Arc::default(),
        transport: "verbs".into(),
        persistence: "message".into(),
    });
    assert!(Arc::ptr_eq(&home, &metrics.volume("home")));
    metrics.observe_status(crate::status::sample());
    let text = metrics.encode();
    for line in [
        "twinfiler_commit_latency_seconds_count{volume=\"home\",durability=\"none\",nodes=\"0\"} 1",
        "twinfiler_commit_latency_seconds_count{volume=\"home\",durability=\"process\",nodes=\"2\"} 1",
        "twinfiler_commit_stage_seconds_count{volume=\"home\",stage=\"durable-there\"} 1",
        "twinfiler_operations_total{volume=\"home\"} 3",
        "twinfiler_link_sent_bytes_total{volume=\"home\",transport=\"verbs\",persistence=\"message\"} 0",
        "twinfiler_link_resets_total{volume=\"home\",transport=\"verbs\",persistence=\"message\"} 0",
        "twinfiler_link_round_trip_seconds_count{volume=\"home\",transport=\"verbs\",persistence=\"message\"} 0",
        "twinfiler_link_batch_bytes_sum{volume=\"home\",transport=\"verbs\",persistence=\"message\"} 0.0",
        "twinfiler_transport_info{volume=\"home\",transport=\"verbs\",persistence=\"message\",device=\"mlx5_0\",\
         port=\"1\",gid=\"::ffff:10.0.0.1\",mtu_bytes=\"4096\",fencing=\"memory window\"} 1",
        "twinfiler_epoch{volume=\"home\",durability=\"process\",nodes=\"2\"} 7.0",
        "twinfiler_role{volume=\"home\",role=\"primary\"} 1",
        "twinfiler_role{volume=\"home\",role=\"partner\"} 0",
        "twinfiler_mode{volume=\"home\",mode=\"mirrored\"} 1",
        "twinfiler_fault{volume=\"home\",kind=\"split\"} 0",
        "twinfiler_fault{volume=\"home\",kind=\"other\"} 1",
        "# EOF",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
    assert!(text.contains("le=\"+Inf\""), "{text}");
    assert_eq!(home.commit.summary().map(|s| s.count), Some(2));
}

#[test]
fn the_server_answers_and_stops() {
    let server = MetricsServer::start("127.0.0.1:0".parse().unwrap(), || "page\n".to_owned()).unwrap();
    let address = server.address();
    let answer = exchange(address, b"GET /metrics?x=1 HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\npage\n"), "{answer}");
    assert!(exchange(address, b"GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
    assert!(exchange(address, b"POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405"));
    assert!(exchange(address, b"\xff\xff\r\n\r\n").starts_with("HTTP/1.1 400"));
    assert!(MetricsServer::start(address, String::new).is_err(), "the port is taken");
    drop(server);
    assert!(TcpStream::connect(address).is_err());
}
