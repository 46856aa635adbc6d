//! The control socket of a node: one line of JSON each way.
//!
//! Spoken to directly instead of through the program, because a takeover is watched every few milliseconds. The
//! answer stays JSON: this crate depends on nothing of the product, and a missing field is a missing value.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long a node may take to tell its status.
const STATUS_LIMIT: Duration = Duration::from_secs(2);

/// How long a consistency point may take.
const CONSISTENCY_POINT_LIMIT: Duration = Duration::from_secs(60);

/// How long a switchover may take.
const SWITCHOVER_LIMIT: Duration = Duration::from_secs(20);

/// What a node says about itself and its one volume.
#[derive(Clone, Debug)]
pub struct NodeView(Value);

impl NodeView {
    fn volume(&self) -> &Value {
        &self.0["volumes"][0]
    }

    /// "primary", "partner", ...; empty when it does not say.
    pub fn role(&self) -> &str {
        self.volume()["role"].as_str().unwrap_or_default()
    }

    /// "mirrored", "solo", ...; empty when it does not say.
    pub fn mode(&self) -> &str {
        self.volume()["mode"].as_str().unwrap_or_default()
    }

    /// True for a primary that serves its mount.
    pub fn serves(&self) -> bool {
        self.role() == "primary" && self.volume()["mounted_at"].is_string()
    }

    /// False while the node says that it, or its partner, cannot apply to its local tree.
    pub fn can_apply(&self) -> bool {
        let faults = self.volume()["faults"].as_array().map_or(&[][..], Vec::as_slice);
        let own = |fault: &Value| fault["what"].as_str().is_some_and(|what| what.starts_with("applying"));
        !faults.iter().any(own) && self.volume()["partner"]["fault"].is_null()
    }

    /// True while the node says that its local filesystem has refused something, which it keeps itself.
    pub fn has_refused(&self) -> bool {
        let faults = self.volume()["faults"].as_array().map_or(&[][..], Vec::as_slice);
        let refused = |what: &str| what.starts_with("the base filesystem does not hold");
        faults.iter().any(|fault| fault["what"].as_str().is_some_and(refused))
    }

    /// A cursor by its name; None while the node does not tell.
    pub fn cursor(&self, name: &str) -> Option<u64> {
        self.volume()["cursors"][name].as_u64()
    }

    /// What an acknowledgement survives, in the node's words.
    pub fn acknowledgement(&self) -> Value {
        self.volume()["acknowledgement"].clone()
    }

    /// The last takeover by this node: each step's name and microseconds, and the epoch it began.
    pub fn last_takeover(&self) -> Option<Takeover> {
        let timing = self.volume().get("last_takeover").filter(|timing| timing.is_object())?;
        let step = |name: &str| timing[name].as_u64().unwrap_or_default();
        Some(Takeover {
            detection_us: step("detection_us"),
            fencing_us: step("fencing_us"),
            witness_us: step("witness_us"),
            first_served_us: step("first_served_us"),
        })
    }

    /// Everything, for people.
    pub fn pretty(&self) -> String {
        serde_json::to_string_pretty(&self.0).unwrap_or_else(|error| error.to_string())
    }

    #[cfg(test)]
    pub fn from_json(value: Value) -> Self {
        NodeView(value)
    }
}

/// How long each step of a takeover took, as the node itself measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Takeover {
    /// From the partner's last message until it counted as lost.
    pub detection_us: u64,
    /// Revoking its right to write, and waiting its lease out.
    pub fencing_us: u64,
    /// Asking the witness.
    pub witness_us: u64,
    /// From the grant until the first operation was served.
    pub first_served_us: u64,
}

/// What a node says about itself.
pub fn status(socket: &Path) -> Result<NodeView> {
    Ok(NodeView(call(socket, &json!({"command": "status"}), "status", STATUS_LIMIT)?))
}

/// Brings a node's local tree up to date.
pub fn consistency_point(socket: &Path, volume: &str) -> Result<()> {
    let request = json!({"command": "consistency_point", "volume": volume});
    call(socket, &request, "consistency_point", CONSISTENCY_POINT_LIMIT).map(drop)
}

/// Asks a node to hand over to its partner.
pub fn switchover(socket: &Path, volume: &str) -> Result<()> {
    let timeout_ms = SWITCHOVER_LIMIT.as_millis() as u64;
    let request = json!({"command": "switchover", "volume": volume, "timeout_ms": timeout_ms});
    call(socket, &request, "done", SWITCHOVER_LIMIT).map(drop)
}

fn call(socket: &Path, request: &Value, expected: &str, limit: Duration) -> Result<Value> {
    let stream = UnixStream::connect(socket).with_context(|| format!("no daemon at {}", socket.display()))?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    let mut line = request.to_string();
    line.push('\n');
    (&stream).write_all(line.as_bytes()).context("cannot ask the daemon")?;
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer).context("the daemon does not answer")?;
    let answer: Value =
        serde_json::from_str(&answer).with_context(|| format!("not an answer: {answer:?}"))?;
    match answer.get(expected) {
        Some(value) => Ok(value.clone()),
        // An answer without content is its name.
        None if answer == expected => Ok(Value::Null),
        None => bail!("the daemon refused {request}: {answer}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn answered(answer: &'static str, ask: impl FnOnce(&Path) -> Result<()>) -> (String, Result<()>) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut request = String::new();
            BufReader::new(&stream).read_line(&mut request).unwrap();
            (&stream).write_all(answer.as_bytes()).unwrap();
            request
        });
        let outcome = ask(&socket);
        (server.join().unwrap(), outcome)
    }

    #[test]
    fn a_refusal_is_an_error_that_names_the_reason() {
        let (request, outcome) =
            answered("{\"error\":{\"kind\":\"refused\",\"message\":\"not primary\"}}\n", |socket| {
                consistency_point(socket, "demo")
            });
        assert_eq!(request, "{\"command\":\"consistency_point\",\"volume\":\"demo\"}\n");
        assert!(format!("{:#}", outcome.unwrap_err()).contains("not primary"));
    }

    #[test]
    fn status_is_read_leniently() {
        let (_, outcome) = answered("{\"status\":{\"volumes\":[{\"role\":\"primary\"}]}}\n", |socket| {
            let view = status(socket)?;
            assert_eq!((view.role(), view.mode()), ("primary", ""));
            assert!(!view.serves() && view.last_takeover().is_none());
            Ok(())
        });
        outcome.unwrap();
    }

    #[test]
    fn a_takeover_is_read() {
        let view = NodeView::from_json(
            json!({"volumes": [{"role": "primary", "mounted_at": "/m", "last_takeover":
            {"detection_us": 1, "fencing_us": 2, "witness_us": 3, "first_served_us": 4, "reason": "partner lost"}}]}),
        );
        let expected = Takeover { detection_us: 1, fencing_us: 2, witness_us: 3, first_served_us: 4 };
        assert_eq!(view.last_takeover(), Some(expected));
        assert!(view.serves());
    }
}
