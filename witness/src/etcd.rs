//! etcd as the witness: the register is the value of one key, changed by a transaction through etcd's JSON gateway.
//!
//! A swap reads the register, applies the rule that every keeper follows ([`pair::witness::swap`]), and writes in a
//! transaction that holds only if the key was not modified in between (`mod_revision`, and the value: a restored
//! cluster gives revisions a second time). Both are linearizable, so
//! a member without a majority answers nothing. No lease is used: a register that expires would let an outdated
//! node serve.
//!
//! What can go wrong: a member is down (the next one is asked, as long as nothing can have been changed); the
//! cluster has no leader (no answer; the pair asks again); a transaction whose answer is lost (in doubt, and told
//! so); a key that somebody else wrote (refused, never overwritten).

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use pair::witness::{Answer, Register, Request, swap};
use rdma_transport::tls::{self, KeyError};
use rustix::fs::OFlags;
use serde::Deserialize;
use serde_json::{Value, json};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use ureq::Agent;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

/// Longest answer that is read.
const MAX_ANSWER_BYTES: u64 = 64 * 1024;
/// Shortest time that one request is given.
const MIN_WAIT: Duration = Duration::from_millis(1);
/// Longest file of certificates or keys that is read.
const MAX_PEM_BYTES: u64 = 1 << 20;

/// A member's address. Names are not resolved: a takeover must not wait for a name server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EtcdEndpoint {
    /// Over TLS.
    pub https: bool,
    /// Where.
    pub address: SocketAddr,
}

impl fmt::Display for EtcdEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.https { "https" } else { "http" }, self.address)
    }
}

impl FromStr for EtcdEndpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<EtcdEndpoint, String> {
        let not_one = || format!("{text:?} is no `http://` or `https://` with an IP address and a port");
        let (scheme, rest) = text.split_once("://").ok_or_else(not_one)?;
        let https = match scheme {
            "http" => false,
            "https" => true,
            _ => return Err(not_one()),
        };
        let address = rest.trim_end_matches('/').parse().map_err(|_| not_one())?;
        Ok(EtcdEndpoint { https, address })
    }
}

/// How etcd is reached and trusted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EtcdSettings {
    /// The members of one cluster.
    pub endpoints: Vec<EtcdEndpoint>,
    /// What every key starts with.
    pub prefix: String,
    /// The authority that signed the members' certificates; required for `https://`.
    pub ca: Option<PathBuf>,
    /// This node's certificate and its key, where the cluster asks for one.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// Why there is no answer, or no client.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// A file of certificates or keys cannot be used.
    #[error("{path}: {why}; name a PEM file with the {what}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// Such a file cannot be read.
    #[error("{path}: {source}; name a PEM file with the {what}")]
    File {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The private key is not this node's alone.
    #[error(transparent)]
    Key(KeyError),
    /// No answer, or one that is an error.
    #[error(
        "etcd at {endpoint}: {why}; check that the cluster is healthy (`etcdctl endpoint health`) and that no certificate has expired"
    )]
    NoAnswer {
        /// The member.
        endpoint: String,
        /// What happened.
        why: String,
    },
    /// The key holds something else.
    #[error("etcd key {key} holds no register of this volume ({why}); move it away or choose another prefix")]
    Foreign {
        /// The key.
        key: String,
        /// What is wrong.
        why: String,
    },
}

/// A failed request, and whether it may have been carried out.
#[derive(Debug)]
pub struct Failed {
    /// Why.
    pub error: EtcdError,
    /// False only when it certainly was not.
    pub maybe_applied: bool,
}

/// A cluster that keeps the registers.
#[derive(Debug)]
pub struct Etcd {
    agent: Agent,
    /// The one that answered last comes first.
    endpoints: Vec<EtcdEndpoint>,
    prefix: String,
}

/// The register as the key holds it now.
struct Kept {
    register: Option<Register>,
    /// 0: the key does not exist.
    mod_revision: u64,
    /// As it was read, in Base64.
    value: Option<String>,
}

#[derive(Default, Deserialize)]
struct RangeAnswer {
    #[serde(default)]
    kvs: Vec<KeyValue>,
}

/// To a transaction whose last part is a range.
#[derive(Deserialize)]
struct ReadAnswer {
    #[serde(default)]
    responses: Vec<ReadResponse>,
}

#[derive(Deserialize)]
struct ReadResponse {
    #[serde(default)]
    response_range: RangeAnswer,
}

#[derive(Deserialize)]
struct KeyValue {
    value: String,
    mod_revision: String,
}

#[derive(Deserialize)]
struct TxnAnswer {
    #[serde(default)]
    succeeded: bool,
}

impl Etcd {
    /// A client; connects with the first request.
    ///
    /// # Errors
    /// [`EtcdError::Pem`], [`EtcdError::File`], [`EtcdError::Key`].
    pub fn new(settings: &EtcdSettings) -> Result<Etcd, EtcdError> {
        let mut tls = TlsConfig::builder();
        if let Some(path) = &settings.ca {
            let certificates = certificates(path, "certificate of the authority")?;
            tls = tls.root_certs(RootCerts::Specific(Arc::new(certificates)));
        }
        if let Some((certificate, key)) = &settings.client {
            let chain = certificates(certificate, "certificate of this node")?;
            let what = "private key of this node's certificate";
            let key =
                PrivateKey::from_pem(&read_secret_pem(key, what)?).map_err(|error| pem(key, what, &error))?;
            tls = tls.client_cert(Some(ClientCert::new_with_certs(&chain, key)));
        }
        let agent = Agent::config_builder().http_status_as_error(false).proxy(None).tls_config(tls.build());
        Ok(Etcd {
            agent: agent.build().into(),
            endpoints: settings.endpoints.clone(),
            prefix: settings.prefix.clone(),
        })
    }

    /// Asks, and waits no longer than `timeout`.
    ///
    /// # Errors
    /// [`Failed`].
    pub fn request(&mut self, request: &Request, timeout: Duration) -> Result<Answer, Failed> {
        let limit = Instant::now() + timeout;
        let key = format!("{}{}", self.prefix, request.volume());
        let kept = self.read(&key, request, limit).map_err(|error| Failed { error, maybe_applied: false })?;
        let Request::CompareAndSwap { expected, new } = request else {
            return Ok(Answer::Is { register: kept.register });
        };
        let register = match swap(kept.register.as_ref(), expected.as_ref(), new) {
            Ok(register) => register,
            Err(answer) => return Ok(answer),
        };
        let in_doubt = |error| Failed { error, maybe_applied: true };
        if self.write(&key, &register, &kept, limit).map_err(in_doubt)? {
            return Ok(Answer::Swapped { register });
        }
        // Somebody was faster. What the key holds now tells who.
        let kept = self.read(&key, request, limit).map_err(|error| Failed { error, maybe_applied: false })?;
        Ok(Answer::Conflict { register: kept.register })
    }

    /// Reads the register from the first member that answers, by a transaction that would write if a revision were
    /// negative: it changes nothing, and a cluster that could not write now (no space, no quorum) says so before it has
    /// to decide. A plain range is answered all the same.
    fn read(&mut self, key: &str, request: &Request, limit: Instant) -> Result<Kept, EtcdError> {
        let key_in_base64 = BASE64_STANDARD.encode(key);
        let question = json!({
            "compare": [{ "key": key_in_base64, "target": "MOD", "result": "LESS", "mod_revision": "0" }],
            "success": [{ "request_put": { "key": key_in_base64, "value": "" } }],
            "failure": [{ "request_range": { "key": key_in_base64 } }],
        });
        let mut first = None;
        for at in 0..self.endpoints.len() {
            // A member that says nothing must leave time for the others.
            let others = u32::try_from(self.endpoints.len() - at).unwrap_or(u32::MAX);
            let wait = limit.saturating_duration_since(Instant::now()) / others;
            match self.post::<ReadAnswer>(at, "txn", &question, wait) {
                Ok(answer) => {
                    self.endpoints[..=at].rotate_right(1);
                    let range = answer.responses.into_iter().next().map(|response| response.response_range);
                    return kept(key, request, range.unwrap_or_default());
                }
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or_else(|| EtcdError::NoAnswer {
            endpoint: "no address".to_owned(),
            why: "none is configured".to_owned(),
        }))
    }

    /// Writes the register if the key was not modified since; false: it was. Asks the member that read it.
    ///
    /// A cluster that was restored from a backup in between gives revisions a second time, so the value counts too.
    fn write(&self, key: &str, register: &Register, kept: &Kept, limit: Instant) -> Result<bool, EtcdError> {
        let key = BASE64_STANDARD.encode(key);
        let value = BASE64_STANDARD.encode(serde_json::to_vec(register).expect("plain data always encodes"));
        let revision = kept.mod_revision.to_string();
        let unmodified = json!({ "key": key, "target": "MOD", "result": "EQUAL", "mod_revision": revision });
        let same = kept
            .value
            .as_ref()
            .map(|value| json!({ "key": key, "target": "VALUE", "result": "EQUAL", "value": value }));
        let question = json!({
            "compare": std::iter::once(unmodified).chain(same).collect::<Vec<_>>(),
            "success": [{ "request_put": { "key": key, "value": value } }],
        });
        let wait = limit.saturating_duration_since(Instant::now());
        self.post::<TxnAnswer>(0, "txn", &question, wait).map(|answer| answer.succeeded)
    }

    fn post<T: for<'de> Deserialize<'de>>(
        &self,
        endpoint: usize,
        call: &str,
        question: &Value,
        wait: Duration,
    ) -> Result<T, EtcdError> {
        let endpoint = self.endpoints[endpoint];
        let no_answer = |why: String| EtcdError::NoAnswer { endpoint: endpoint.to_string(), why };
        let url = format!("{endpoint}/v3/kv/{call}");
        let request = self.agent.post(&url).config().timeout_global(Some(wait.max(MIN_WAIT))).build();
        let mut answer = request.send_json(question).map_err(|error| no_answer(error.to_string()))?;
        let status = answer.status();
        let body = answer.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_vec();
        let body = body.map_err(|error| no_answer(error.to_string()))?;
        if !status.is_success() {
            let said = serde_json::from_slice::<Value>(&body).ok();
            let said = said.as_ref().and_then(|said| said["error"].as_str()).unwrap_or("no reason given");
            return Err(no_answer(format!("status {status}: {said}")));
        }
        serde_json::from_slice(&body).map_err(|error| no_answer(format!("not an answer of etcd: {error}")))
    }
}

/// What a range over one key says.
fn kept(key: &str, request: &Request, answer: RangeAnswer) -> Result<Kept, EtcdError> {
    let foreign = |why: String| EtcdError::Foreign { key: key.to_owned(), why };
    let Some(found) = answer.kvs.into_iter().next() else {
        return Ok(Kept { register: None, mod_revision: 0, value: None });
    };
    let value = BASE64_STANDARD.decode(&found.value).map_err(|error| foreign(error.to_string()))?;
    let register: Register = serde_json::from_slice(&value).map_err(|error| foreign(error.to_string()))?;
    if register.volume != request.volume() {
        return Err(foreign(format!("it is volume {}'s", register.volume)));
    }
    let mod_revision = found.mod_revision.parse().map_err(|_| foreign("its revision is no number".into()))?;
    Ok(Kept { register: Some(register), mod_revision, value: Some(found.value) })
}

fn pem(path: &Path, what: &'static str, why: &impl ToString) -> EtcdError {
    EtcdError::Pem { path: path.to_owned(), what, why: why.to_string() }
}

fn read_pem(path: &Path, what: &'static str) -> Result<Vec<u8>, EtcdError> {
    // A FIFO in its place would make the node wait for ever; it means nothing to a file.
    let no_wait = OFlags::NONBLOCK.bits().cast_signed();
    read_all(OpenOptions::new().read(true).custom_flags(no_wait).open(path), path, what)
}

fn read_secret_pem(path: &Path, what: &'static str) -> Result<Vec<u8>, EtcdError> {
    let file = match tls::open_secret(path) {
        Err(KeyError::File { source, .. }) => Err(source),
        Err(KeyError::NoKey { why, .. }) => return Err(pem(path, what, &why)),
        Err(error) => return Err(EtcdError::Key(error)),
        Ok(file) => Ok(file),
    };
    read_all(file, path, what)
}

fn read_all(file: io::Result<File>, path: &Path, what: &'static str) -> Result<Vec<u8>, EtcdError> {
    let mut bytes = Vec::new();
    file.and_then(|file| file.take(MAX_PEM_BYTES).read_to_end(&mut bytes))
        .map_err(|source| EtcdError::File { path: path.to_owned(), what, source })?;
    Ok(bytes)
}

fn certificates(path: &Path, what: &'static str) -> Result<Vec<Certificate<'static>>, EtcdError> {
    let bytes = read_pem(path, what)?;
    let mut found = Vec::new();
    for item in ureq::tls::parse_pem(&bytes) {
        if let ureq::tls::PemItem::Certificate(certificate) = item.map_err(|error| pem(path, what, &error))? {
            found.push(certificate);
        }
    }
    if found.is_empty() {
        return Err(pem(path, what, &"no certificate in it"));
    }
    Ok(found)
}
