//! Records as the volume would write them, without a volume: a file and its contents, straight into a log.

use anyhow::{Context, Result, bail};
use apply_engine::{Delta, NameRef, NewKind, NewObject, Oid, Operation, RecordPosition, Timestamp};
use ids::{LogPoint, Lsn};
use nvlog::{Log, RecordKind};

const AT: Timestamp = Timestamp { secs: 1, nanos: 0 };

/// Appends one operation and its data; the caller persists.
fn append(log: &Log, operation: &Operation<'_>, data: &[u8]) -> Result<RecordPosition> {
    let mut head = Vec::new();
    operation.encode_head(&mut head);
    let slot = log.reserve(head.len() + data.len())?;
    let at = RecordPosition { lsn: slot.lsn(), end: slot.end_lsn(), payload_lsn: slot.payload_lsn() };
    slot.publish(&[&head, data]);
    log.seal();
    Ok(at)
}

/// Logs a new file in the root directory.
pub fn create_file(
    log: &Log,
    oid: Oid,
    name: &str,
    mut seen: impl FnMut(RecordPosition, &Operation<'_>),
) -> Result<()> {
    let object = NewObject {
        oid,
        kind: NewKind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        generation: 1,
        xattrs: Vec::new(),
    };
    let name = NameRef::new(name.as_bytes()).context("a file's name")?;
    let operation = Operation::Create { parent: Oid::ROOT, name, object, parent_nlink: 2, at: AT };
    seen(append(log, &operation, &[])?, &operation);
    Ok(())
}

/// Logs the write of `data` at `offset`, by which the file does not become shorter.
pub fn write_file(
    log: &Log,
    oid: Oid,
    offset: u64,
    data: &[u8],
    mut seen: impl FnMut(RecordPosition, &Operation<'_>),
) -> Result<()> {
    let (len_bytes, size_after) = (u32::try_from(data.len())?, offset + data.len() as u64);
    let operation = Operation::Write { oid, offset, len_bytes, size_after, at: AT };
    seen(append(log, &operation, data)?, &operation);
    Ok(())
}

/// Absorbs every record of `[from, to)`, as a node does when it starts: heads are read, file contents stay in the
/// log. Returns how many there were.
pub fn absorb_all(log: &Log, from: LogPoint, to: Lsn, delta: &mut Delta) -> Result<u64> {
    let mut buffer = Vec::new();
    let mut count = 0;
    for record in log.records(from, to) {
        let record = record?;
        if record.kind != RecordKind::Data {
            continue;
        }
        let mut first = [0];
        log.copy_out(record.payload_lsn, &mut first[..record.payload_len.min(1)])?;
        buffer.resize(Operation::head_bytes_needed(first[0], record.payload_len), 0);
        log.copy_out(record.payload_lsn, &mut buffer)?;
        let operation = Operation::decode(&buffer, record.payload_len as u64)?;
        let at = RecordPosition { lsn: record.lsn, end: record.end, payload_lsn: record.payload_lsn };
        delta.absorb(at, &operation);
        count += 1;
    }
    if count == 0 {
        bail!("the log holds no records");
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use apply_engine::Vanished;

    #[test]
    fn what_is_logged_can_be_absorbed_again() {
        let log = crate::commit::log(1 << 20).unwrap();
        let (from, oid) = (log.end(), Oid(100));
        let mut seen = Delta::new(from.lsn, Vanished::Forget);
        create_file(&log, oid, "file", |at, operation| seen.absorb(at, operation)).unwrap();
        for offset in [0, 4096, 8192] {
            write_file(&log, oid, offset, &[7; 4096], |at, operation| seen.absorb(at, operation)).unwrap();
        }
        let mut again = Delta::new(from.lsn, Vanished::Forget);
        assert_eq!(absorb_all(&log, from, log.end().lsn, &mut again).unwrap(), 4);
        assert_eq!(again.object(oid), seen.object(oid));
        assert_eq!(again.object(oid).unwrap().extents.data_bytes(), 12288);
    }
}
