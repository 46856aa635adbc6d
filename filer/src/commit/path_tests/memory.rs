//! Answers out of memory: what waits for which device.

use super::*;

/// A partner that takes in everything and keeps it in memory; its device is the test's.
fn in_memory(path: &Arc<CommitPath>, a: &Log, b: &Arc<Log>, link: u64) -> Partner {
    let (at_a, at_b) = links(a, b);
    let partner = Partner::start_unpersisted(b.clone(), at_b, b.end());
    path.start_mirror(link, at_a.sender, b.end(), AnswerFrom::Memory).unwrap();
    partner
}

fn syncing(path: &Arc<CommitPath>, end: Lsn) -> std::thread::JoinHandle<Result<(), NotServing>> {
    let path = path.clone();
    std::thread::spawn(move || path.sync(end))
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn an_answer_waits_for_no_device_and_an_fsync_for_both() {
    let (a, b) = (log(), log());
    let heard = Arc::new(Heard::default());
    let path = path(&a, &heard);
    let mut partner = in_memory(&path, &a, &b, 1);
    path.set_rule(AckRule::Memory).unwrap();
    let end = append(&path, b"answered");
    path.wait_answerable(end).unwrap();
    assert_eq!((a.persisted(), b.persisted()), (Lsn(0), Lsn(0)), "nobody wrote to a device");
    assert_eq!(path.committed(), Lsn(0), "nothing of it is applied");
    let fsync = syncing(&path, end);
    until("the partner is never told", || !heard.wanted.lock().is_empty());
    until("its own device is never written", || a.persisted() >= end);
    assert_eq!(heard.wanted.lock()[0], end);
    assert!(!fsync.is_finished() && path.committed() < end, "the partner's device has not got it");
    b.persist(Lsn(0), b.end().lsn).unwrap();
    path.partner_is_durable(1, b.end());
    fsync.join().unwrap().unwrap();
    assert!(path.committed() >= end);
    partner.stop();
}

#[test]
fn one_word_of_the_partner_is_for_all_who_wait() {
    let (a, b) = (log(), log());
    let path = path(&a, &Arc::default());
    let mut partner = in_memory(&path, &a, &b, 1);
    path.set_rule(AckRule::Memory).unwrap();
    let fsyncs: Vec<_> = (0..8).map(|n| syncing(&path, append(&path, &[n; 100]))).collect();
    let last = append(&path, b"last");
    path.wait_answerable(last).unwrap();
    until("it is never written here", || {
        path.want_durable(last);
        path.persist_all();
        a.persisted() >= last
    });
    path.partner_is_durable(1, b.end());
    for fsync in fsyncs {
        fsync.join().unwrap().unwrap();
    }
    partner.stop();
}

#[test]
fn what_another_link_said_counts_for_nothing() {
    let (a, b) = (log(), log());
    let path = path(&a, &Arc::default());
    let mut partner = in_memory(&path, &a, &b, 7);
    path.set_rule(AckRule::Memory).unwrap();
    let end = append(&path, b"x");
    path.wait_answerable(end).unwrap();
    path.persist_all();
    path.partner_is_durable(6, b.end());
    assert_eq!(path.committed(), Lsn(0), "a link before this one");
    drop(path.stop_mirror());
    path.partner_is_durable(7, b.end());
    assert_eq!(path.committed(), Lsn(0), "a link that mirrors no more");
    partner.stop();
}

#[test]
fn answers_wait_for_a_device_that_falls_behind() {
    let (a, b) = (log(), log());
    let path = path(&a, &Arc::default());
    let mut partner = in_memory(&path, &a, &b, 1);
    path.set_rule(AckRule::Memory).unwrap();
    let first = append(&path, b"answered, and not durable");
    path.wait_answerable(first).unwrap();
    path.watch_behind();
    std::thread::sleep(Duration::from_millis(200));
    path.watch_behind();
    let second = append(&path, b"not before that is");
    let waiting = {
        let path = path.clone();
        std::thread::spawn(move || path.wait_answerable(second))
    };
    until("the partner never gets it", || b.end().lsn >= second);
    assert!(path.answerable() < second && !waiting.is_finished());
    path.persist_all();
    path.partner_is_durable(1, b.end());
    waiting.join().unwrap().unwrap();
    path.watch_behind();
    let third = append(&path, b"out of memory again");
    path.wait_answerable(third).unwrap();
    assert!(path.committed() < third);
    partner.stop();
}

#[test]
fn an_fsync_of_a_node_that_serves_no_more_is_refused() {
    let (a, b) = (log(), log());
    let path = path(&a, &Arc::default());
    let mut partner = in_memory(&path, &a, &b, 1);
    path.set_rule(AckRule::Memory).unwrap();
    let end = append(&path, b"x");
    path.wait_answerable(end).unwrap();
    let fsync = syncing(&path, end);
    path.close(NotServing::NotPrimary);
    assert_eq!(fsync.join().unwrap(), Err(NotServing::NotPrimary));
    partner.stop();
}

#[test]
fn alone_an_answer_waits_for_the_device() {
    let (a, b) = (log(), log());
    let path = path(&a, &Arc::default());
    let mut partner = in_memory(&path, &a, &b, 1);
    path.set_rule(AckRule::Memory).unwrap();
    path.wait_answerable(append(&path, b"both have it")).unwrap();
    path.set_rule(AckRule::Nobody).unwrap();
    drop(path.stop_mirror());
    path.set_rule(AckRule::Local).unwrap();
    let end = append(&path, b"one has it");
    path.wait_answerable(end).unwrap();
    assert!(a.persisted() >= end && path.committed() >= end);
    partner.stop();
}
