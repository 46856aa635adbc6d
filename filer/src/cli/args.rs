//! The words of the command line.

use clap::{Args, Parser, Subcommand};
use config::{ByteSize, DEFAULT_PATH, HumanDuration, LogKind};
use ids::VolumeId;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Two file servers that behave as one which does not fail.
#[derive(Parser, Debug)]
#[command(name = "twinfiler", version, max_term_width = 100)]
#[command(
    after_help = "Exit codes: 0 done, 1 objects differ (verify), 64 usage, 65 data of another volume or damaged, 66 no such file, \
    69 unavailable, 70 internal, 73 exists already, 74 input/output, 75 try again later, 77 no permission, \
    78 configuration."
)]
pub struct Arguments {
    /// Configuration file
    #[arg(short, long, global = true, env = "TWINFILER_CONFIG", default_value = DEFAULT_PATH)]
    pub config: PathBuf,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run the node until SIGTERM, which hands over to the partner or stops cleanly
    Serve,
    /// Make a new volume on this node: label the base directory and format the log
    Init(InitArguments),
    /// Make this machine's key pair; prints the public key, one line for the others' configurations
    Keygen(KeygenArguments),
    /// Show what the node is doing
    Status(StatusArguments),
    /// Hand a volume to the partner: run it on the primary
    Switchover {
        /// The volume
        volume: String,
        /// Longest wait
        #[arg(long, default_value = "30s", value_parser = duration)]
        timeout: HumanDuration,
    },
    /// Make this node primary of a volume: the primary hands it over
    Takeover {
        /// The volume
        volume: String,
        /// Without the primary and without the consent of the witness. If the partner still serves, or has
        /// acknowledged what this node lacks, both sides diverge and one of them must be discarded later
        #[arg(long)]
        force: bool,
    },
    /// Bring the local tree of a volume up to date now
    ConsistencyPoint {
        /// The volume
        volume: String,
    },
    /// On the partner: compare its whole tree with the primary's by content, and replace what differs
    Resync {
        /// The volume
        volume: String,
    },
    /// See and settle a split: both nodes acknowledged what the other lacks
    #[command(subcommand)]
    Split(SplitCommand),
    /// Compare the trees of both nodes, object by object, while clients go on. Run it on the primary. The exit code is 1
    /// when objects differ
    Verify(VerifyArguments),
    /// Give up the floating addresses that a killed daemon has left on this node; its unit runs this whenever it ends
    ReleaseAddress,
    /// Stop the daemon cleanly, as SIGTERM does
    Shutdown,
    /// Run a witness: the third party that says which node may serve alone
    Witness(WitnessArguments),
    /// Look into a log
    #[command(subcommand)]
    Log(LogCommand),
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
}

/// Commands on splits.
#[derive(Subcommand, Debug)]
pub enum SplitCommand {
    /// List what each side changed since their common point
    Show {
        /// The volume
        volume: String,
        /// Objects and removed names shown of each side at most
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=10_000))]
        limit: u32,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Give up one side: what it changed is copied to its salvage directory, then it gets the other side's tree
    Discard {
        /// The node whose side is given up
        node: String,
        /// The volume; may be left out where only one is split
        volume: Option<String>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// Arguments of `init`.
#[derive(Args, Debug)]
pub struct InitArguments {
    /// Name of the volume
    #[arg(long, default_value = "home")]
    pub name: String,
    /// Directory that this node keeps the volume's tree in; must be empty
    #[arg(long, required_unless_present = "adopt", conflicts_with = "adopt")]
    pub base: Option<PathBuf>,
    /// Take over this directory with the files in it
    #[arg(long, value_name = "DIR")]
    pub adopt: Option<PathBuf>,
    /// The volume's id; needed on the second node, printed by `init` on the first
    #[arg(long)]
    pub volume_id: Option<VolumeId>,
    /// What the log lies in: emulated, block, fsdax or devdax
    #[arg(long, value_parser = log_kind, default_value = "emulated")]
    pub log_kind: LogKind,
    /// File or device of the log
    #[arg(long)]
    pub log: PathBuf,
    /// Length of the log, the same on both nodes [default: 1GiB, or what a smaller device has]
    #[arg(long, value_parser = size)]
    pub capacity: Option<ByteSize>,
}

fn log_kind(text: &str) -> Result<LogKind, String> {
    let found = LogKind::ALL.iter().find(|(name, _)| *name == text);
    found.map(|(_, kind)| *kind).ok_or_else(|| "use emulated, block, fsdax or devdax".to_owned())
}

/// Where keys lie when the command line names no other place.
pub const DEFAULT_KEY_PATH: &str = "/etc/twinfiler/node.key";

/// Arguments of `keygen`.
#[derive(Args, Debug)]
pub struct KeygenArguments {
    /// New file for the private key, which only its owner can read; nothing is overwritten
    #[arg(default_value = DEFAULT_KEY_PATH)]
    pub file: PathBuf,
    /// Make nothing: print the public key of the private key that is there
    #[arg(long)]
    pub show: bool,
}

/// Arguments of `status`.
#[derive(Args, Debug)]
pub struct StatusArguments {
    /// Show it again every second
    #[arg(long, conflicts_with = "json")]
    pub watch: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `verify`.
#[derive(Args, Debug)]
pub struct VerifyArguments {
    /// The volume
    pub volume: String,
    /// Make the partner's objects that differ those of the primary (this node), by a resync of just these; what is
    /// right is then what this node holds. If the partner's are right, `switchover` first
    #[arg(long)]
    pub repair: bool,
    /// With --repair: do not ask whether this node's objects are the right ones
    #[arg(long, requires = "repair")]
    pub yes: bool,
    /// Bytes per second that each side reads at most [default: `max_rate` of volume.resync]
    #[arg(long, value_parser = size)]
    pub max_rate: Option<ByteSize>,
}

/// Arguments of `witness`.
#[derive(Args, Debug)]
pub struct WitnessArguments {
    /// Address to listen at
    #[arg(long, default_value = "0.0.0.0:7402")]
    pub listen: SocketAddr,
    /// Directory that keeps the registers
    #[arg(long, default_value = "/var/lib/twinfiler/witness")]
    pub state: PathBuf,
    /// File of the witness's private key (`twinfiler keygen` makes one)
    #[arg(long, value_name = "FILE", requires = "nodes", conflicts_with = "plaintext")]
    pub private_key: Option<PathBuf>,
    /// File of the nodes' public keys: one in a line, behind it the ids of its volumes or `*`
    #[arg(long, value_name = "FILE", requires = "private_key")]
    pub nodes: Option<PathBuf>,
    /// Without keys, also for who comes over a network: everybody in it can decide who serves
    #[arg(long)]
    pub plaintext: bool,
}

/// Commands on logs.
#[derive(Subcommand, Debug)]
pub enum LogCommand {
    /// Decode superblock and records of a log, damaged ones too; changes nothing
    Inspect {
        /// File or device of the log
        path: PathBuf,
        /// Records shown at most
        #[arg(long, default_value_t = 64)]
        records: usize,
    },
}

/// Commands on the configuration.
#[derive(Subcommand, Debug)]
pub enum ConfigCommand {
    /// Check the file and tell everything that is wrong with it
    Check {
        /// Also look whether this machine has what it names (devices, directories, rights)
        #[arg(long)]
        here: bool,
    },
}

fn size(text: &str) -> Result<ByteSize, String> {
    text.parse().map_err(|error| format!("{error}: write a whole number and a unit, as in 64MiB or 1GiB"))
}

fn duration(text: &str) -> Result<HumanDuration, String> {
    text.parse().map_err(|error| format!("{error}: write a whole number and a unit, as in 250ms, 2s or 5min"))
}
