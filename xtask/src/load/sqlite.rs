//! An SQLite database under transactions, through the sqlite3 program.
//!
//! A transaction inserts several rows and moves an amount between two accounts. It is acknowledged when sqlite3
//! has answered after COMMIT. After a change of mounts the database must pass its integrity check, every
//! acknowledged transaction must be there whole, none may be there in part, and the accounts must balance.

use super::{Checked, Load};
use crate::random::content;
use crate::steps::kill_group;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// Rows of one transaction.
const ROWS: u64 = 3;

/// Sum of all accounts, always.
const TOTAL: i64 = 1_000_000;

/// Transactions stop here, so that checks stay quick.
const MAX_TRANSACTIONS: u64 = 5000;

/// The pause when there is nothing more to do.
const REST: Duration = Duration::from_millis(50);

/// How SQLite makes transactions atomic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JournalMode {
    /// A rollback journal, deleted at each commit.
    Delete,
    /// A write-ahead log with an index in shared memory (mmap).
    Wal,
}

impl JournalMode {
    fn name(self) -> &'static str {
        match self {
            JournalMode::Delete => "delete",
            JournalMode::Wal => "wal",
        }
    }
}

/// See the module.
pub struct Sqlite {
    mode: JournalMode,
    errors: PathBuf,
    acknowledged: u64,
    in_doubt: bool,
    shell: Option<Shell>,
}

impl Sqlite {
    /// A load on its own database. What sqlite3 complains about goes to a file in `logs`.
    pub fn new(mode: JournalMode, logs: &Path) -> Self {
        let errors = logs.join(format!("sqlite-{}.log", mode.name()));
        Sqlite { mode, errors, acknowledged: 0, in_doubt: false, shell: None }
    }
}

/// A running sqlite3.
struct Shell {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Shell {
    fn start(database: &Path, errors: &Path) -> io::Result<Self> {
        let errors = File::options().create(true).append(true).open(errors)?;
        let mut child = Command::new("sqlite3")
            .args(["-batch", "-bail", "-init", "/dev/null"])
            .arg(database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .process_group(0)
            .spawn()?;
        let missing = || io::Error::other("sqlite3 has no pipes");
        let input = child.stdin.take().ok_or_else(missing)?;
        let output = BufReader::new(child.stdout.take().ok_or_else(missing)?);
        Ok(Shell { child, input, output })
    }

    /// Runs statements; gives the lines that they print before `END`.
    fn run(&mut self, sql: &str) -> io::Result<Vec<String>> {
        self.input.write_all(format!("{sql}\nSELECT 'END';\n").as_bytes())?;
        self.input.flush()?;
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line)? == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "sqlite3 gave up; its log says why",
                ));
            }
            match line.trim_end() {
                "END" => return Ok(lines),
                other => lines.push(other.to_owned()),
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        kill_group(&self.child);
        let _ = self.child.wait(); // killed: this only reaps
    }
}

fn body(transaction: u64, row: u64) -> String {
    let len = 20 + (transaction % 50) as usize * 8;
    content(transaction * ROWS + row, len).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn transaction(number: u64) -> String {
    let rows: Vec<String> =
        (0..ROWS).map(|row| format!("({number},{row},'{}')", body(number, row))).collect();
    let (from, to, amount) = (number % 10, (number * 7 + 1) % 10, number % 100);
    format!(
        "BEGIN IMMEDIATE; INSERT INTO ledger VALUES {}; \
         UPDATE account SET amount = amount - {amount} WHERE id = {from}; \
         UPDATE account SET amount = amount + {amount} WHERE id = {to}; COMMIT;",
        rows.join(",")
    )
}

impl Load for Sqlite {
    fn name(&self) -> String {
        format!("SQLite ({} journal)", self.mode.name())
    }

    fn arrive(&mut self, mount: &Path) -> io::Result<Checked> {
        self.shell = None;
        let mut shell = Shell::start(&mount.join(format!("ledger-{}.db", self.mode.name())), &self.errors)?;
        shell.run(&format!(
            "PRAGMA journal_mode={}; PRAGMA synchronous=FULL; PRAGMA busy_timeout=5000;",
            self.mode.name()
        ))?;
        shell.run(&format!(
            "BEGIN IMMEDIATE; CREATE TABLE IF NOT EXISTS ledger(tx INTEGER, part INTEGER, body TEXT, PRIMARY KEY(tx, part)); \
             CREATE TABLE IF NOT EXISTS account(id INTEGER PRIMARY KEY, amount INTEGER); \
             INSERT OR IGNORE INTO account VALUES (0,{TOTAL}),(1,0),(2,0),(3,0),(4,0),(5,0),(6,0),(7,0),(8,0),(9,0); COMMIT;"
        ))?;
        let name = self.name();
        let mut checked = Checked::default();
        let integrity = shell.run("PRAGMA integrity_check;")?;
        if integrity != ["ok"] {
            checked.lost.push(format!("{name}: integrity check: {}", integrity.join("; ")));
        }
        let balance = shell.run("SELECT sum(amount) FROM account;")?;
        if balance != [TOTAL.to_string()] {
            checked.lost.push(format!("{name}: the accounts add up to {}, not {TOTAL}", balance.join("")));
        }
        let rows = shell.run("SELECT tx, part, body FROM ledger ORDER BY tx, part;")?;
        let there = rows.len() as u64 / ROWS;
        let allowed = self.acknowledged..=self.acknowledged + u64::from(self.in_doubt);
        if !allowed.contains(&there) || !(rows.len() as u64).is_multiple_of(ROWS) {
            checked.lost.push(format!(
                "{name}: {} rows; {} transactions of {ROWS} rows were acknowledged",
                rows.len(),
                self.acknowledged
            ));
        }
        for (index, row) in rows.iter().enumerate() {
            let (number, part) = (index as u64 / ROWS, index as u64 % ROWS);
            if *row != format!("{number}|{part}|{}", body(number, part)) {
                checked.lost.push(format!("{name}: row {part} of transaction {number} is wrong"));
                break;
            }
        }
        checked.compared += rows.len() as u64;
        self.acknowledged = there;
        self.in_doubt = false;
        self.shell = Some(shell);
        Ok(checked)
    }

    fn step(&mut self, _mount: &Path) -> io::Result<u64> {
        if self.acknowledged >= MAX_TRANSACTIONS {
            std::thread::sleep(REST);
            return Ok(0);
        }
        let mut shell = self.shell.take().ok_or_else(|| io::Error::other("not arrived"))?;
        self.in_doubt = true;
        shell.run(&transaction(self.acknowledged))?;
        self.in_doubt = false;
        self.acknowledged += 1;
        self.shell = Some(shell);
        Ok(1)
    }
}
