//! Who may ask the witness for what.
//!
//! A file with a line for each node: its public key, then the ids of the volumes that it may ask for, or `*` for all. What
//! follows a `#` is a remark. What can go wrong: a line that is neither, or names no volume (a forgotten id must not give
//! everything); the witness does not start then, because a
//! node that was left out by a typing error would be without a witness on the day that it needs one.

use ids::VolumeId;
use rdma_transport::tls::{PrivateKey, PublicKey};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

/// Longest file that is read.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// How nodes get in.
#[derive(Clone, Debug)]
pub enum Access {
    /// Whoever reaches the port.
    Anybody,
    /// Who proves a key of `nodes`, to the owner of `own`.
    Keys {
        /// The witness's key.
        own: PrivateKey,
        /// Whom it knows.
        nodes: Nodes,
    },
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NodesError {
    /// It cannot be read.
    #[error("the nodes' keys in {path}: {source}; write a line for each node: its public key")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line is neither empty nor a key with volumes.
    #[error(
        "{path}:{line}: {why}; write the node's public key as `twinfiler keygen` printed it, and behind it the ids of its \
         volumes, or `*` for every volume"
    )]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
}

/// The nodes that a witness knows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Nodes {
    volumes: HashMap<PublicKey, Volumes>,
}

/// What a node may ask for.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Volumes {
    All,
    These(Vec<VolumeId>),
}

/// Every volume, in the file.
const ALL: &str = "*";

impl Nodes {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// See [`NodesError`].
    pub fn load(path: &Path) -> Result<Nodes, NodesError> {
        let unreadable = |source| NodesError::Unreadable { path: path.to_owned(), source };
        if std::fs::metadata(path).map_err(unreadable)?.len() > MAX_FILE_BYTES {
            return Err(unreadable(io::Error::other("it is longer than 1 MiB")));
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let line = |(line, why)| NodesError::Line { path: path.to_owned(), line, why };
        let nodes = Nodes::parse(&text).map_err(line)?;
        if nodes.volumes.is_empty() {
            return Err(line((1, "it names no node".to_owned())));
        }
        Ok(nodes)
    }

    fn parse(text: &str) -> Result<Nodes, (usize, String)> {
        let mut nodes = Nodes::default();
        for (index, line) in text.lines().enumerate() {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let Some(key) = words.next() else { continue };
            let wrong = |why: String| (index + 1, why);
            let key: PublicKey = key.parse().map_err(|_| wrong(format!("{key:?} is no public key")))?;
            let words: Vec<&str> = words.collect();
            let volumes = match words[..] {
                [] => return Err(wrong(format!("{key} has no volume"))),
                [ALL] => Volumes::All,
                _ => {
                    let ids = words
                        .iter()
                        .map(|id| id.parse().map_err(|_| wrong(format!("{id:?} is no volume id"))));
                    Volumes::These(ids.collect::<Result<_, _>>()?)
                }
            };
            if nodes.volumes.insert(key, volumes).is_some() {
                return Err(wrong(format!("{key} stands here twice")));
            }
        }
        Ok(nodes)
    }

    pub(super) fn knows(&self, key: &PublicKey) -> bool {
        self.volumes.contains_key(key)
    }

    pub(super) fn lets_ask(&self, key: &PublicKey, volume: VolumeId) -> bool {
        self.volumes.get(key).is_some_and(|volumes| match volumes {
            Volumes::All => true,
            Volumes::These(ids) => ids.contains(&volume),
        })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.volumes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_a_node_and_its_volumes() {
        let keys = [(); 2].map(|()| PrivateKey::generate().unwrap().public());
        let (one, other) = (VolumeId([1; 16]), VolumeId([2; 16]));
        let text = format!("# rack 7\n\n{} * # a\n  {} {one}\t# b\n", keys[0], keys[1]);
        let nodes = Nodes::parse(&text).unwrap();
        assert_eq!(nodes.count(), 2);
        assert!(nodes.lets_ask(&keys[0], one) && nodes.lets_ask(&keys[0], other));
        assert!(nodes.lets_ask(&keys[1], one) && !nodes.lets_ask(&keys[1], other));
        let stranger = PrivateKey::generate().unwrap().public();
        assert!(!nodes.knows(&stranger) && !nodes.lets_ask(&stranger, one));
        for (text, line) in [
            (format!("{} *\nnonsense\n", keys[0]), 2),
            (format!("{} 12\n", keys[0]), 1),
            (format!("{0} *\n\n{0} *\n", keys[0]), 3),
            (format!("{} * # all\n{}  # and this one?\n", keys[0], keys[1]), 2),
            (format!("{} * {one}\n", keys[0]), 1),
        ] {
            assert_eq!(Nodes::parse(&text).unwrap_err().0, line, "{text}");
        }
    }

    #[test]
    fn a_file_without_nodes_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nodes");
        assert!(matches!(Nodes::load(&path), Err(NodesError::Unreadable { .. })));
        std::fs::write(&path, "# none yet\n").unwrap();
        assert!(Nodes::load(&path).unwrap_err().to_string().contains("names no node"));
    }
}
