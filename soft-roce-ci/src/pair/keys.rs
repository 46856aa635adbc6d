//! The keys of a pair and its witness: made on the host, whose files the guests see.

use crate::lab::Side;
use anyhow::{Result, bail};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a node's configuration says of others, and where its own key is.
#[derive(Clone, Debug)]
pub struct Doors {
    /// The witness's address for guests.
    pub witness: SocketAddr,
    /// Where the private keys lie.
    pub dir: PathBuf,
    /// The public keys of both nodes and of the witness.
    pub public: [String; 3],
}

impl Doors {
    /// Makes new keys in `dir`, and the witness's file of nodes.
    pub fn make(program: &Path, dir: &Path, witness: SocketAddr) -> Result<Doors> {
        let mut doors = Doors { witness, dir: dir.to_owned(), public: Default::default() };
        let files = [doors.key(Side::A), doors.key(Side::B), doors.witness_key()];
        for (file, public) in files.iter().zip(&mut doors.public) {
            if file.exists() {
                std::fs::remove_file(file)?;
            }
            let made = Command::new(program).arg("keygen").arg(file).output()?;
            if !made.status.success() {
                bail!("keygen: {}", String::from_utf8_lossy(&made.stderr));
            }
            *public = String::from_utf8_lossy(&made.stdout).trim().to_owned();
        }
        std::fs::write(doors.nodes(), format!("{} *\n{} *\n", doors.public[0], doors.public[1]))?;
        Ok(doors)
    }

    /// A node's private key.
    pub fn key(&self, side: Side) -> PathBuf {
        self.dir.join(format!("{}.key", side.name()))
    }

    /// The witness's private key.
    pub fn witness_key(&self) -> PathBuf {
        self.dir.join("witness.key")
    }

    /// Whom the witness lets in.
    pub fn nodes(&self) -> PathBuf {
        self.dir.join("nodes")
    }
}
