//! Answers out of memory: what waits for which device.

use super::*;

/// The link of these tests.
const LINK: u64 = 7;

/// A path that answers out of memory, both logs, and a partner that takes in everything and keeps it in memory; its device is
/// the test's.
fn answering(heard: &Arc<Heard>) -> (Arc<CommitPath>, Arc<Log>, Arc<Log>, Partner) {
    let (a, b) = (log(), log());
    let path = path(&a, heard);
    let (at_a, at_b) = links(&a, &b);
    let partner = Partner::start_unpersisted(b.clone(), at_b, b.end());
    path.start_mirror(LINK, at_a.sender, b.end(), AnswerFrom::Memory).unwrap();
    path.set_rule(AckRule::Memory).unwrap();
    (path, a, b, partner)
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
    let heard = Arc::new(Heard::default());
    let (path, a, b, mut partner) = answering(&heard);
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
    path.partner_is_durable(LINK, b.end());
    fsync.join().unwrap().unwrap();
    assert!(path.committed() >= end);
    partner.stop();
}

#[test]
fn one_word_of_the_partner_is_for_all_who_wait() {
    let (path, a, b, mut partner) = answering(&Arc::default());
    let fsyncs: Vec<_> = (0..8).map(|n| syncing(&path, append(&path, &[n; 100]))).collect();
    let last = append(&path, b"last");
    path.wait_answerable(last).unwrap();
    until("it is never written here", || {
        path.want_durable(last);
        path.persist_all();
        a.persisted() >= last
    });
    path.partner_is_durable(LINK, b.end());
    for fsync in fsyncs {
        fsync.join().unwrap().unwrap();
    }
    partner.stop();
}

#[test]
fn what_another_link_said_counts_for_nothing() {
    let (path, _a, b, mut partner) = answering(&Arc::default());
    let end = append(&path, b"x");
    path.wait_answerable(end).unwrap();
    path.persist_all();
    path.partner_is_durable(LINK - 1, b.end());
    assert_eq!(path.committed(), Lsn(0), "a link before this one");
    drop(path.stop_mirror());
    path.partner_is_durable(LINK, b.end());
    assert_eq!(path.committed(), Lsn(0), "a link that mirrors no more");
    partner.stop();
}

#[test]
fn answers_wait_for_a_device_that_falls_behind() {
    let (path, _a, b, mut partner) = answering(&Arc::default());
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
    path.partner_is_durable(LINK, b.end());
    waiting.join().unwrap().unwrap();
    path.watch_behind();
    let third = append(&path, b"out of memory again");
    path.wait_answerable(third).unwrap();
    assert!(path.committed() < third);
    partner.stop();
}

#[test]
fn an_fsync_of_a_node_that_serves_no_more_is_refused() {
    let (path, _a, _b, mut partner) = answering(&Arc::default());
    let end = append(&path, b"x");
    path.wait_answerable(end).unwrap();
    let fsync = syncing(&path, end);
    path.close(NotServing::NotPrimary);
    assert_eq!(fsync.join().unwrap(), Err(NotServing::NotPrimary));
    partner.stop();
}

#[test]
fn alone_an_answer_waits_for_the_device() {
    let (path, a, _b, mut partner) = answering(&Arc::default());
    path.wait_answerable(append(&path, b"both have it")).unwrap();
    path.set_rule(AckRule::Nobody).unwrap();
    drop(path.stop_mirror());
    path.set_rule(AckRule::Local).unwrap();
    let end = append(&path, b"one has it");
    path.wait_answerable(end).unwrap();
    assert!(a.persisted() >= end && path.committed() >= end);
    partner.stop();
}

/// The thread that writes behind comes between the log, which a resync begins anew, and the cursors, which follow.
#[test]
fn a_log_that_begins_anew_is_not_written_behind() {
    let log = log();
    let path = path(&log, &Arc::default());
    let at = LogPoint { lsn: Lsn(3 * CAPACITY_BYTES), crc: ids::ChainCrc(7) };
    path.reset_log(at).unwrap();
    path.persist_all();
    path.begun_anew(at).unwrap();
    assert_eq!(path.cursors().local_durable(), at.lsn);
}
