//! The kinds of values that the file holds, and what to tell someone who wrote another one.

use super::model::{CommandLine, Compress, LogFormat, LogKind, TransportKind, VolumeName};
use super::section::nearest;
use super::units::{AddressPrefix, ByteSize, HumanDuration};
use ids::{AnswerFrom, NodeName, VolumeId};
use rdma_transport::tls::PublicKey;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use toml::de::DeValue;
use witness::etcd::EtcdEndpoint;

/// Longest name of a network interface (the kernel's IFNAMSIZ less the terminating zero).
const MAX_INTERFACE_NAME_BYTES: usize = 15;
/// Longest name of an RDMA device (the kernel's IB_DEVICE_NAME_MAX less the terminating zero).
const MAX_DEVICE_NAME_BYTES: usize = 63;

/// A value of the file.
pub(super) trait Field: Sized {
    /// What it must be, as the end of "write ...".
    const WANTED: &'static str;
    /// A value as it would stand in the file.
    const EXAMPLE: &'static str;
    /// Reads it, or says what is wrong with it.
    fn read(value: &DeValue<'_>) -> Result<Self, String>;
}

/// "a string", "an integer", ...
pub(super) fn kind_of(value: &DeValue<'_>) -> String {
    let name = value.type_str();
    let article = if name.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {name}")
}

fn text<'v>(value: &'v DeValue<'_>) -> Result<&'v str, String> {
    value.as_str().ok_or_else(|| format!("it is {}", kind_of(value)))
}

fn parsed<T: FromStr>(value: &DeValue<'_>) -> Result<T, String>
where
    T::Err: ToString,
{
    text(value)?.parse().map_err(|error: T::Err| error.to_string())
}

macro_rules! parsed_field {
    ($type:ty, $wanted:literal, $example:literal) => {
        impl Field for $type {
            const WANTED: &'static str = $wanted;
            const EXAMPLE: &'static str = $example;
            fn read(value: &DeValue<'_>) -> Result<Self, String> {
                parsed(value)
            }
        }
    };
}

parsed_field!(NodeName, "a node name", "\"filer-a\"");
parsed_field!(VolumeName, "a volume name", "\"home\"");
parsed_field!(
    VolumeId,
    "the volume id that `twinfiler init` printed",
    "\"00112233445566778899aabbccddeeff\""
);
parsed_field!(
    PublicKey,
    "the line that `twinfiler keygen` printed on the other machine",
    "\"ed25519:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\""
);
parsed_field!(EtcdEndpoint, "`http://` or `https://`, an IP address and a port", "\"http://10.0.0.3:2379\"");
parsed_field!(ByteSize, "a whole number and a unit", "\"1GiB\"");
parsed_field!(HumanDuration, "a whole number and a unit (us, ms, s, min, h; at most 24h)", "\"500ms\"");
parsed_field!(AddressPrefix, "the address and the length of its network prefix", "\"10.0.0.9/24\"");

impl Field for String {
    const WANTED: &'static str = "a text";
    const EXAMPLE: &'static str = "\"info\"";
    fn read(value: &DeValue<'_>) -> Result<String, String> {
        text(value).map(str::to_owned)
    }
}

impl Field for bool {
    const WANTED: &'static str = "true or false";
    const EXAMPLE: &'static str = "true";
    fn read(value: &DeValue<'_>) -> Result<bool, String> {
        value.as_bool().ok_or_else(|| format!("it is {}", kind_of(value)))
    }
}

impl Field for usize {
    const WANTED: &'static str = "a whole number";
    const EXAMPLE: &'static str = "4";
    fn read(value: &DeValue<'_>) -> Result<usize, String> {
        let number = value.as_integer().ok_or_else(|| format!("it is {}", kind_of(value)))?;
        usize::from_str_radix(number.as_str(), number.radix())
            .map_err(|_| format!("{} is out of range", number.as_str()))
    }
}

impl Field for SocketAddr {
    const WANTED: &'static str = "an IP address and a port";
    const EXAMPLE: &'static str = "\"10.0.0.1:7400\"";
    fn read(value: &DeValue<'_>) -> Result<SocketAddr, String> {
        let text = text(value)?;
        // Names are not resolved: a takeover must not wait for a name server.
        let address: SocketAddr =
            text.parse().map_err(|_| format!("{text:?} is not an IP address and a port"))?;
        if address.port() == 0 {
            return Err(format!("{text:?} has port 0"));
        }
        Ok(address)
    }
}

impl Field for PathBuf {
    const WANTED: &'static str = "an absolute path without `..`";
    const EXAMPLE: &'static str = "\"/var/lib/twinfiler/home\"";
    fn read(value: &DeValue<'_>) -> Result<PathBuf, String> {
        let path = Path::new(text(value)?);
        let climbs = path.components().any(|part| part == std::path::Component::ParentDir);
        let shown = path.display().to_string();
        if !path.is_absolute() {
            return Err(format!("{shown:?} is not an absolute path"));
        }
        if climbs {
            return Err(format!("{shown:?} has `..` in it"));
        }
        Ok(path.components().collect())
    }
}

/// A list; one value may also stand alone.
impl<T: Field> Field for Vec<T> {
    const WANTED: &'static str = T::WANTED;
    const EXAMPLE: &'static str = T::EXAMPLE;
    fn read(value: &DeValue<'_>) -> Result<Vec<T>, String> {
        let Some(array) = value.as_array() else { return Ok(vec![T::read(value)?]) };
        if array.is_empty() {
            return Err("the list is empty".to_owned());
        }
        array.iter().map(|item| T::read(item.get_ref())).collect()
    }
}

impl Field for CommandLine {
    const WANTED: &'static str = "a list: the program's absolute path, then its arguments";
    const EXAMPLE: &'static str = "[\"/usr/local/bin/announce\", \"--fast\"]";
    fn read(value: &DeValue<'_>) -> Result<CommandLine, String> {
        let array = value.as_array().ok_or_else(|| format!("it is {}", kind_of(value)))?;
        let words: Vec<&str> = array.iter().map(|word| text(word.get_ref())).collect::<Result<_, _>>()?;
        let (program, arguments) = words.split_first().ok_or("the list is empty")?;
        if !Path::new(program).is_absolute() {
            return Err(format!("{program:?} is not an absolute path"));
        }
        Ok(CommandLine {
            program: PathBuf::from(program),
            arguments: arguments.iter().map(|word| (*word).to_owned()).collect(),
        })
    }
}

/// One of a few names.
pub(super) fn choice<T: Copy>(value: &DeValue<'_>, choices: &[(&'static str, T)]) -> Result<T, String> {
    let text = text(value)?;
    if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == text) {
        return Ok(*choice);
    }
    let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
    Err(match nearest(text, &names) {
        Some(near) => format!("{text:?} is not known here; did you mean {near:?}?"),
        None => format!("{text:?} is not known here"),
    })
}

impl Field for LogKind {
    const WANTED: &'static str = "one of \"emulated\", \"block\", \"fsdax\", \"devdax\"";
    const EXAMPLE: &'static str = "\"block\"";
    fn read(value: &DeValue<'_>) -> Result<LogKind, String> {
        choice(value, &LogKind::ALL)
    }
}

impl Field for LogFormat {
    const WANTED: &'static str = "one of \"text\", \"json\"";
    const EXAMPLE: &'static str = "\"text\"";
    fn read(value: &DeValue<'_>) -> Result<LogFormat, String> {
        choice(value, &[("text", LogFormat::Text), ("json", LogFormat::Json)])
    }
}

impl Field for Compress {
    const WANTED: &'static str = "one of \"auto\", \"always\", \"never\"";
    const EXAMPLE: &'static str = "\"auto\"";
    fn read(value: &DeValue<'_>) -> Result<Compress, String> {
        let names = [("auto", Compress::Auto), ("always", Compress::Always), ("never", Compress::Never)];
        choice(value, &names)
    }
}

impl Field for AnswerFrom {
    const WANTED: &'static str = "one of \"power\", \"memory\"";
    const EXAMPLE: &'static str = "\"power\"";
    fn read(value: &DeValue<'_>) -> Result<AnswerFrom, String> {
        choice(value, &[("power", AnswerFrom::Power), ("memory", AnswerFrom::Memory)])
    }
}

impl Field for TransportKind {
    const WANTED: &'static str = "one of \"tcp\", \"verbs\", \"shm\"";
    const EXAMPLE: &'static str = "\"tcp\"";
    fn read(value: &DeValue<'_>) -> Result<TransportKind, String> {
        let kinds = [TransportKind::Tcp, TransportKind::Verbs, TransportKind::Shm];
        choice(value, &["tcp", "verbs", "shm"].into_iter().zip(kinds).collect::<Vec<_>>())
    }
}

/// The name of an RDMA device.
pub(super) struct DeviceName(pub(super) String);

impl Field for DeviceName {
    const WANTED: &'static str = "the name of an RDMA device (`rdma link` lists them)";
    const EXAMPLE: &'static str = "\"mlx5_0\"";
    fn read(value: &DeValue<'_>) -> Result<DeviceName, String> {
        let name = text(value)?;
        let usable = !name.is_empty()
            && name.len() <= MAX_DEVICE_NAME_BYTES
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
            && !matches!(name, "." | "..");
        if usable {
            Ok(DeviceName(name.to_owned()))
        } else {
            Err(format!("{name:?} cannot name an RDMA device"))
        }
    }
}

/// The name of a network interface.
pub(super) struct InterfaceName(pub(super) String);

impl Field for InterfaceName {
    const WANTED: &'static str = "the name of a network interface";
    const EXAMPLE: &'static str = "\"eth0\"";
    fn read(value: &DeValue<'_>) -> Result<InterfaceName, String> {
        let name = text(value)?;
        let usable = !name.is_empty()
            && name.len() <= MAX_INTERFACE_NAME_BYTES
            && !name.starts_with('-')
            && !matches!(name, "." | "..")
            && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':');
        if usable {
            Ok(InterfaceName(name.to_owned()))
        } else {
            Err(format!("{name:?} cannot name an interface"))
        }
    }
}
