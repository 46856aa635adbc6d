//! The command that runs in a guest and tells the node's status again and again, one line each: asking costs a
//! process only once, which matters on emulated processors.

use super::view::{View, no_answer};
use anyhow::{Context, Result};
use serde_json::Value;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a node may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// The question, in the words of the control socket.
const QUESTION: &[u8] = b"{\"command\":\"status\"}\n";

/// Arguments of the hidden command `watch`.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// The node's control socket
    #[arg(long)]
    pub control: PathBuf,
    /// Pause between two questions
    #[arg(long)]
    pub interval_ms: u64,
}

/// Tells until nobody reads any more.
pub fn run(arguments: &Arguments) -> Result<()> {
    loop {
        let line = match ask(&arguments.control) {
            Ok(view) => view.to_line(),
            Err(error) => no_answer(&format!("{error:#}")),
        };
        io::stdout().lock().write_all(format!("{line}\n").as_bytes()).context("nobody reads the status")?;
        std::thread::sleep(Duration::from_millis(arguments.interval_ms));
    }
}

fn ask(control: &Path) -> Result<View> {
    let stream = UnixStream::connect(control)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.set_write_timeout(Some(ANSWER_LIMIT))?;
    (&stream).write_all(QUESTION)?;
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer)?;
    let answer: Value = serde_json::from_str(&answer).context("the answer is no JSON")?;
    View::of_answer(&answer).with_context(|| format!("the answer is no status: {answer}"))
}
