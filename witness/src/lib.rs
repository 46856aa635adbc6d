//! The built-in witness: a compare-and-swap register per volume, on a third machine.
//!
//! Protocol: over TCP, a frame is a `u32` big-endian length and that many bytes of JSON, a
//! [`Request`](pair::witness::Request) one way and an [`Answer`](pair::witness::Answer) the other, one at a
//! time per connection. With keys this goes through TLS 1.3, in which both sides prove a key that the other has been
//! given; a node may ask for the volumes that [`Nodes`] lets it. Without, anybody who can reach the port can ask.
//!
//! Invariants: an answered swap is on disk; a frame is at most [`MAX_FRAME_BYTES`]; connections, registers
//! and waiting times are bounded, most of all for who has not proved a key or asked a question yet. What can go wrong: the state file is damaged. Then the server does not
//! start, because a guessed register could let both nodes serve.

mod client;
mod configured;
pub mod etcd;
mod nodes;
mod openings;
mod server;
mod store;
mod stream;

pub use client::{Client, WitnessError};
pub use configured::{Reply, WitnessClient, WitnessConfig, WitnessKeeper, client};
pub use nodes::{Access, Nodes, NodesError};
pub use server::{ServeError, serve};
pub use store::StoreError;

use std::io::{self, Read, Write};

/// Longest frame, either way.
pub const MAX_FRAME_BYTES: u32 = 16 * 1024;

fn write_frame(to: &mut impl Write, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len()).ok().filter(|length| *length <= MAX_FRAME_BYTES);
    let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "frame too long"))?;
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend(length.to_be_bytes());
    frame.extend(body);
    to.write_all(&frame)
}

fn read_frame(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > MAX_FRAME_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes")));
    }
    let mut body = vec![0; length as usize];
    from.read_exact(&mut body)?;
    Ok(body)
}

#[cfg(test)]
mod door_tests;
#[cfg(test)]
mod etcd_tests;
#[cfg(test)]
mod tests;
