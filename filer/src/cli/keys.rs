//! `twinfiler keygen`, and how the witness is told whom it may let in.
//!
//! Invariant: nothing that is there is overwritten, and nothing but the public key is printed.

use super::args::{KeygenArguments, WitnessArguments};
use super::commands::remark;
use super::exit::{ExitCode, Failure};
use rdma_transport::tls::PrivateKey;
use witness::{Access, Nodes};

/// Makes a key pair, or looks at the one that is there; gives the line for the others' configurations.
pub(super) fn keygen(arguments: &KeygenArguments) -> anyhow::Result<String> {
    let file = &arguments.file;
    let key = if arguments.show { PrivateKey::load(file)? } else { PrivateKey::create(file)? };
    if !arguments.show {
        remark(&format!(
            "{} is this machine's private key. Keep it here, and give its public half to the others:",
            file.display()
        ));
    }
    Ok(key.public().to_string())
}

/// Who may ask a witness that was started like this.
pub(super) fn access(arguments: &WitnessArguments) -> anyhow::Result<Access> {
    if let (Some(key), Some(nodes)) = (&arguments.private_key, &arguments.nodes) {
        return Ok(Access::Keys { own: PrivateKey::load(key)?, nodes: Nodes::load(nodes)? });
    }
    let listen = arguments.listen;
    if !listen.ip().is_loopback() && !arguments.plaintext {
        let message = format!(
            "the witness has no keys and {listen} can be reached over a network: make a key with `twinfiler keygen \
             /etc/twinfiler/witness.key` and name it with --private-key, and a file of the nodes' public keys with --nodes \
             (docs/security.md); or say --plaintext: then everybody in that network can decide who serves"
        );
        return Err(Failure::new(ExitCode::Usage, message).into());
    }
    Ok(Access::Anybody)
}
