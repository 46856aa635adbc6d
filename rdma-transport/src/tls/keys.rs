//! A node's key pair: a file that only its owner reads, and one line of text that anybody may have.
//!
//! The private file is PKCS#8 in PEM, as `openssl genpkey -algorithm ed25519` makes it too. Invariants: a private
//! key is never shown, not even by `Debug`; a file that others may read is refused; [`PrivateKey::create`]
//! replaces nothing.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::rand::SystemRandom;
use ring::signature::Ed25519KeyPair;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// What a public key's text begins with.
const PREFIX: &str = "ed25519:";
const KEY_BYTES: usize = 32;
/// SubjectPublicKeyInfo of an Ed25519 key (RFC 8410, section 4), up to the key itself.
const SPKI_HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// No private key is longer.
const MAX_FILE_BYTES: u64 = 4096;
/// Characters in a line of PEM (RFC 7468).
const PEM_LINE: usize = 64;

/// Why a key cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No public key.
    #[error(
        "{0:?} is not a public key: write what `twinfiler keygen` printed, {PREFIX}... with 44 characters behind"
    )]
    Malformed(String),
    /// The file cannot be read.
    #[error("private key {path}: {source}; `twinfiler keygen {path}` makes one")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file cannot be made.
    #[error(
        "private key {path} cannot be made: {source}. Is its directory there (`mkdir -p {}`), and may you write into it?",
        directory(.path)
    )]
    Make {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is a file already.
    #[error(
        "{0} exists and is not replaced: a lost key locks this node out; move it away, or name another file"
    )]
    Exists(PathBuf),
    /// Others than its owner may read the file.
    #[error(
        "private key {path} has mode {mode:04o}, others may use it: `chmod 600 {path}`, or make a new one"
    )]
    Readable {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The file belongs to somebody else.
    #[error("private key {path} belongs to user {owner}: `chown root {path}`, or run as its owner")]
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// It holds something else.
    #[error("{path} holds no Ed25519 private key ({why}); `twinfiler keygen` makes one")]
    NoKey {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers for a key")]
    Random,
}

/// The directory of a file, for a message.
fn directory(path: &Path) -> std::path::Display<'_> {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).display()
}

/// Who a node is, for others: the public half of its key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; KEY_BYTES]);

impl PublicKey {
    /// The key in what rustls calls a peer's certificate; `None` when it is another kind of key, or a real one.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Option<PublicKey> {
        PublicKey::of_spki(certificate)
    }

    pub(super) fn of_spki(der: &[u8]) -> Option<PublicKey> {
        let key = der.strip_prefix(&SPKI_HEAD)?;
        Some(PublicKey(key.try_into().ok()?))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", BASE64.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<PublicKey, KeyError> {
        let decoded = text.trim().strip_prefix(PREFIX).and_then(|encoded| BASE64.decode(encoded).ok());
        let key = decoded.and_then(|bytes| bytes.try_into().ok());
        key.map(PublicKey).ok_or_else(|| KeyError::Malformed(text.to_owned()))
    }
}

/// A node's key pair.
#[derive(Clone)]
pub struct PrivateKey {
    certified: Arc<CertifiedKey>,
    public: PublicKey,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey(of {})", self.public)
    }
}

impl PartialEq for PrivateKey {
    fn eq(&self, other: &PrivateKey) -> bool {
        self.public == other.public
    }
}

impl Eq for PrivateKey {}

/// Opens a file with a secret, which must be this process's user's or root's and readable by its owner alone.
///
/// # Errors
/// [`KeyError::File`], [`KeyError::NoKey`] when it is no file, [`KeyError::Readable`], [`KeyError::Owner`].
pub fn open_secret(path: &Path) -> Result<File, KeyError> {
    let failed = |source| KeyError::File { path: path.to_owned(), source };
    // Without O_NONBLOCK a FIFO in its place would make the node wait for ever.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(KeyError::NoKey { path: path.to_owned(), why: "it is no file".to_owned() });
    }
    let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
    if mode & 0o077 != 0 {
        return Err(KeyError::Readable { path: path.to_owned(), mode });
    }
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return Err(KeyError::Owner { path: path.to_owned(), owner });
    }
    Ok(file)
}

impl PrivateKey {
    /// A new key that is kept nowhere.
    ///
    /// # Errors
    /// [`KeyError::Random`].
    pub fn generate() -> Result<PrivateKey, KeyError> {
        PrivateKey::of_pkcs8(random_pkcs8()?).map_err(|_| KeyError::Random)
    }

    /// Makes a new key and keeps it in a new file at `path` that only its owner can read. Durable on return.
    ///
    /// # Errors
    /// [`KeyError::Exists`] when there is anything at `path`; otherwise nothing is left there.
    pub fn create(path: &Path) -> Result<PrivateKey, KeyError> {
        let pkcs8 = random_pkcs8()?;
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AlreadyExists => KeyError::Exists(path.to_owned()),
            _ => KeyError::Make { path: path.to_owned(), source },
        };
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        let kept = file.write_all(pem(&pkcs8).as_bytes()).and_then(|()| file.sync_all()).and_then(|()| {
            let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
        });
        if let Err(source) = kept {
            // Half a key is of no use; the first error is the one that counts.
            let _ = std::fs::remove_file(path);
            return Err(failed(source));
        }
        PrivateKey::of_pkcs8(pkcs8).map_err(|why| KeyError::NoKey { path: path.to_owned(), why })
    }

    /// Reads the key in the file at `path`, which must be this process's user's or root's and readable by its owner
    /// alone.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn load(path: &Path) -> Result<PrivateKey, KeyError> {
        let failed = |source| KeyError::File { path: path.to_owned(), source };
        let no_key = |why: String| KeyError::NoKey { path: path.to_owned(), why };
        let file = open_secret(path)?;
        let mut text = Vec::new();
        file.take(MAX_FILE_BYTES).read_to_end(&mut text).map_err(failed)?;
        let pkcs8 = PrivatePkcs8KeyDer::from_pem_slice(&text).map_err(|error| no_key(error.to_string()))?;
        PrivateKey::of_pkcs8(pkcs8).map_err(no_key)
    }

    fn of_pkcs8(pkcs8: PrivatePkcs8KeyDer<'static>) -> Result<PrivateKey, String> {
        let key = rustls::crypto::ring::sign::any_eddsa_type(&pkcs8).map_err(|error| error.to_string())?;
        let spki = key.public_key().ok_or("it has no public half")?;
        let public = PublicKey::of_spki(&spki).ok_or("it is a key of another kind")?;
        let certified = CertifiedKey::new(vec![CertificateDer::from(spki.to_vec())], key);
        Ok(PrivateKey { certified: Arc::new(certified), public })
    }

    /// What others must know.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    pub(super) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }
}

fn random_pkcs8() -> Result<PrivatePkcs8KeyDer<'static>, KeyError> {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| KeyError::Random)?;
    Ok(PrivatePkcs8KeyDer::from(document.as_ref().to_vec()))
}

fn pem(pkcs8: &PrivatePkcs8KeyDer<'_>) -> String {
    let encoded = BASE64.encode(PrivateKeyDer::from(pkcs8.clone_key()).secret_der());
    let mut text = String::from("-----BEGIN PRIVATE KEY-----\n");
    for (index, character) in encoded.chars().enumerate() {
        if index > 0 && index % PEM_LINE == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    text.push_str("\n-----END PRIVATE KEY-----\n");
    text
}

/// The keys at a door: this node's own, and those of all partners that are configured, whether their volumes are served
/// at the moment or not. So a partner of a volume that starts or stops hears that, and not that its key is a wrong one.
#[derive(Clone, Debug)]
pub struct DoorKeys {
    /// This node's.
    pub own: PrivateKey,
    /// The partners'.
    pub partners: Vec<PublicKey>,
}

impl From<LinkKeys> for DoorKeys {
    fn from(LinkKeys { own, peer }: LinkKeys) -> DoorKeys {
        DoorKeys { own, partners: vec![peer] }
    }
}

/// The keys of a link: this node's own, and the only one that the partner may prove.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkKeys {
    /// This node's.
    pub own: PrivateKey,
    /// The partner's.
    pub peer: PublicKey,
}
