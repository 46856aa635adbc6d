//! The whole chain on a directory of this machine: write, report, damage, judge. An oracle that accepts anything
//! would be worse than none, so most of this is about what it must reject.

use super::content::{self, BLOCK_BYTES, LINE_BYTES, LINES_PER_BLOCK, Writer};
use super::directory::{Root, directory_name};
use super::oracle::Oracle;
use super::report::Report;
use super::sequence::{Operation, Sequence};
use super::verdict::{Allowed, Point, judge};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

const WRITER: Writer = Writer { run: 3, thread: 1 };

struct Written {
    _dir: tempfile::TempDir,
    path: PathBuf,
    root: Root,
    sequence: Sequence,
}

/// A directory after this many operations.
fn written(operations: u64) -> Written {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::of_tree(dir.path()).unwrap();
    let mut sequence = Sequence::new(WRITER);
    while sequence.done() < operations {
        root.perform(&sequence).unwrap();
        sequence.advance();
    }
    Written { path: dir.path().join(directory_name(WRITER)), _dir: dir, root, sequence }
}

impl Written {
    fn judge(&self, from: u64, to: u64) -> Result<Point, Vec<String>> {
        let allowed = Allowed { writer: WRITER, from: Point::after(from), to: Point::after(to) };
        judge(&allowed, &self.root.read(WRITER).unwrap())
    }

    fn wrong(&self) -> String {
        let done = self.sequence.done();
        self.judge(done, done + 20).unwrap_err().join("\n")
    }

    /// Some file that has whole blocks, with its name and id.
    fn file(&self) -> (String, u64, u64) {
        let files = self.sequence.model().files().unwrap();
        let (name, file) = files.iter().max_by_key(|(_, file)| file.lines.len()).unwrap();
        assert!(file.lines.len() as u64 >= 2 * LINES_PER_BLOCK);
        (name.clone(), file.id, file.lines.len() as u64)
    }

    fn overwrite(&self, name: &str, offset: usize, bytes: &[u8]) {
        let file = std::fs::File::options().write(true).open(self.path.join(name)).unwrap();
        file.write_all_at(bytes, offset as u64).unwrap();
    }
}

/// Enough operations for all kinds of them.
const MANY: u64 = 300;

#[test]
fn the_state_is_found_wherever_it_lies_in_what_is_allowed() {
    assert_eq!(written(0).judge(0, 5), Ok(Point::after(0)));
    let written = written(MANY);
    for (from, to) in [(MANY, MANY), (MANY - 7, MANY + 7), (0, MANY), (MANY, 100 * MANY)] {
        let point = written.judge(from, to).unwrap();
        // Reads and fsyncs leave no trace, so that a neighbouring state may look the same.
        assert!(point.operations.abs_diff(MANY) <= 5, "{point}");
    }
}

#[test]
fn a_lost_operation_is_rejected_with_the_number_of_what_is_lost() {
    let written = written(MANY);
    let wrong = written.judge(MANY + 10, MANY + 20).unwrap_err().join("\n");
    assert!(wrong.contains("LOST") && wrong.contains("operations lost"), "{wrong}");
}

#[test]
fn an_operation_that_was_never_begun_is_rejected() {
    let wrong = written(MANY).judge(MANY - 20, MANY - 10).unwrap_err().join("\n");
    assert!(wrong.contains("ever begun"), "{wrong}");
}

#[test]
fn a_lost_directory_is_rejected() {
    let written = written(MANY);
    std::fs::remove_dir_all(&written.path).unwrap();
    let wrong = written.wrong();
    assert!(wrong.contains("LOST: shows the state 0.0"), "{wrong}");
}

#[test]
fn stale_content_is_rejected() {
    let written = written(MANY);
    let (name, id, _) = written.file();
    // An older version of a line: written by the operation that created the file, say.
    written.overwrite(&name, LINE_BYTES, &content::lines(WRITER, id, id, 1, 1));
    let wrong = written.wrong();
    assert!(wrong.contains("line 1 is what operation"), "{wrong}");
}

#[test]
fn zeros_foreign_and_misplaced_content_are_rejected() {
    let (foreign, elsewhere) = ([0x55; LINE_BYTES], content::lines(WRITER, 1, 1, 70, 1));
    let of_another = content::lines(Writer { run: 3, thread: 2 }, 1, 1, 2, 1);
    for (bytes, expected) in [
        (&[0; LINE_BYTES][..], "zeros"),
        (&foreign, "what nobody wrote"),
        (&elsewhere, "line 70 of writer 1 of run 3"),
        (&of_another, "line 2 of writer 2 of run 3"),
    ] {
        let written = written(MANY);
        let (name, _, _) = written.file();
        written.overwrite(&name, 2 * LINE_BYTES, bytes);
        let wrong = written.wrong();
        assert!(wrong.contains(&format!("line 2 is {expected}")), "{wrong}");
    }
}

#[test]
fn changed_names_lengths_modes_and_attributes_are_rejected() {
    type Damage = fn(&Written, &str);
    let cases: [(&str, Damage); 6] = [
        ("missing", |written, name| std::fs::remove_file(written.path.join(name)).unwrap()),
        ("must not be", |written, _| std::fs::write(written.path.join("stray"), b"").unwrap()),
        ("bytes instead of", |written, name| {
            let file = std::fs::File::options().write(true).open(written.path.join(name)).unwrap();
            file.set_len(file.metadata().unwrap().len() - 1).unwrap();
        }),
        ("lines and 0 bytes instead of", |written, name| {
            let file = std::fs::File::options().write(true).open(written.path.join(name)).unwrap();
            file.set_len(file.metadata().unwrap().len() + LINE_BYTES as u64).unwrap();
        }),
        ("mode", |written, name| {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::Permissions::from_mode(0o4700);
            std::fs::set_permissions(written.path.join(name), mode).unwrap();
        }),
        ("attribute", |written, name| {
            let path = written.path.join(name);
            rustix::fs::setxattr(&path, "user.mark", &[9; 8], rustix::fs::XattrFlags::empty()).unwrap();
        }),
    ];
    for (expected, damage) in cases {
        let written = written(MANY);
        damage(&written, &written.file().0);
        let wrong = written.wrong();
        assert!(wrong.contains(expected), "expected {expected}: {wrong}");
    }
}

#[test]
fn an_operation_without_the_one_before_it_is_rejected() {
    let mut written = written(MANY);
    // Leave one operation out that leaves a trace, and do what follows.
    while !matches!(written.sequence.next(), Operation::Write { .. }) {
        written.root.perform(&written.sequence).unwrap();
        written.sequence.advance();
    }
    let left_out = written.sequence.done() + 1;
    written.sequence.advance();
    for _ in 0..10 {
        // Reading would notice.
        if !matches!(written.sequence.next(), Operation::Read { .. }) {
            written.root.perform(&written.sequence).unwrap();
        }
        written.sequence.advance();
    }
    let wrong = written.judge(left_out - 1, left_out + 100).unwrap_err();
    assert!(!wrong.is_empty());
}

#[test]
fn a_write_that_was_cut_off_at_a_page_is_allowed_and_remembered() {
    let mut written = written(MANY);
    while written.sequence.splits() < 2 {
        written.root.perform(&written.sequence).unwrap();
        written.sequence.advance();
    }
    let done = written.sequence.done();
    let Operation::Write { name, first, .. } = written.sequence.next().clone() else { unreachable!() };
    let id = written.sequence.model().file(&name).unwrap().id;
    let block = content::lines(WRITER, id, done + 1, first, LINES_PER_BLOCK);
    assert_eq!(block.len(), BLOCK_BYTES);
    written.overwrite(&name, first as usize * LINE_BYTES, &block);
    let point = written.judge(done, done + 5).unwrap();
    assert_eq!(point, Point { operations: done, blocks: 1 });
    // Once seen it must stay, and half a page is never allowed.
    let allowed = Allowed { writer: WRITER, from: point, to: point };
    let seen = written.root.read(WRITER).unwrap();
    assert_eq!(judge(&allowed, &seen), Ok(point));
    written.overwrite(&name, first as usize * LINE_BYTES + BLOCK_BYTES, &block[..BLOCK_BYTES / 2]);
    assert!(written.judge(done, done + 5).is_err());
}

#[test]
fn reading_back_notices_what_is_wrong() {
    let mut written = written(MANY);
    while !matches!(written.sequence.next(), Operation::Read { .. }) {
        written.root.perform(&written.sequence).unwrap();
        written.sequence.advance();
    }
    written.root.perform(&written.sequence).unwrap();
    let Operation::Read { name } = written.sequence.next().clone() else { unreachable!() };
    std::fs::write(written.path.join(&name), b"something else").unwrap();
    let error = written.root.perform(&written.sequence).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
}

#[test]
fn a_mount_that_is_none_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = Root::of_mount(dir.path()).err().unwrap();
    assert!(refused.to_string().contains("no volume is mounted"));
}

#[test]
fn the_oracle_allows_from_what_was_reported_to_what_was_begun() {
    let mut oracle = Oracle::new(1, 2, 1000);
    let range = |oracle: &Oracle, index| {
        let allowed = oracle.allowed().nth(index).unwrap();
        (allowed.from, allowed.to)
    };
    oracle.observe(&Report::Acknowledged { thread: 0, operation: 4 }).unwrap();
    // Its last reports may be lost: everything that it could have begun is possible.
    assert_eq!(range(&oracle, 0), (Point::after(4), Point::after(1000)));
    assert_eq!(oracle.acknowledged(), 4);
    oracle.observe(&Report::Failed { thread: 0, done: 6, what: "EIO".to_owned() }).unwrap();
    assert_eq!(range(&oracle, 0), (Point::after(6), Point::after(7)));
    oracle.observe(&Report::Ended { thread: 1, done: 9 }).unwrap();
    assert_eq!(range(&oracle, 1), (Point::after(9), Point::after(9)));
    assert!(oracle.has_ended());
    assert_eq!(oracle.errors(), ["run 1, thread 0, after 6 operations: EIO"]);
    let partly = Point { operations: 6, blocks: 2 };
    oracle.seen(Writer { run: 1, thread: 0 }, partly);
    assert_eq!(range(&oracle, 0), (partly, partly));
}

#[test]
fn the_oracle_rejects_reports_that_can_not_be_true() {
    let mut oracle = Oracle::new(1, 1, 10);
    oracle.observe(&Report::Acknowledged { thread: 0, operation: 4 }).unwrap();
    assert!(oracle.observe(&Report::Acknowledged { thread: 0, operation: 3 }).is_err());
    assert!(oracle.observe(&Report::Acknowledged { thread: 0, operation: 11 }).is_err());
    assert!(oracle.observe(&Report::Acknowledged { thread: 1, operation: 1 }).is_err());
    oracle.observe(&Report::Ended { thread: 0, done: 4 }).unwrap();
    assert!(oracle.observe(&Report::Acknowledged { thread: 0, operation: 5 }).is_err());
}
