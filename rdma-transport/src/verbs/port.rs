//! Which device, port and GID: the configuration's choice, or the first that works.
//!
//! What a machine has is read into plain values first ([`survey`]); choosing among them ([`choose`]) touches no
//! device.

use super::device::{Device, DeviceList};
use super::error::VerbsError;
use super::settings::{LinkLayer, Settings};
use rdma_sys::{
    IBV_LINK_LAYER_ETHERNET, ibv_gid, ibv_gid_entry, ibv_gid_global_t, ibv_mtu, ibv_port_attr,
    ibv_port_state, ibv_query_gid_table, ibv_query_port,
};
use std::io;
use std::mem::MaybeUninit;
use std::net::Ipv6Addr;

/// GIDs of one device that are looked at.
const MAX_GIDS: usize = 256;
/// `enum ibv_gid_type`: RoCE v2.
const GID_ROCE_V2: u32 = 2;

/// One entry of a port's GID table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Gid {
    pub index: u8,
    pub raw: [u8; 16],
    pub roce_v2: bool,
}

impl Gid {
    pub(super) fn text(&self) -> String {
        Ipv6Addr::from(self.raw).to_string()
    }

    fn is_ipv4(&self) -> bool {
        Ipv6Addr::from(self.raw).to_ipv4_mapped().is_some()
    }
}

/// What one port is.
#[derive(Clone, Debug)]
pub(super) struct Port {
    pub number: u8,
    /// `None`: active; otherwise what it is instead.
    pub inactive: Option<&'static str>,
    pub layer: LinkLayer,
    pub lid: u16,
    /// `enum ibv_mtu`: 1 is 256 bytes, 5 is 4096.
    pub mtu: u8,
    pub max_message_bytes: u32,
    pub gids: Vec<Gid>,
}

/// What one device is.
pub(super) struct Surveyed {
    pub name: String,
    pub ports: Vec<Port>,
}

/// What was chosen.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    pub device: usize,
    pub port: Port,
    pub gid: Gid,
    /// Packets carry a global route header.
    pub global: bool,
}

/// Bytes of an `enum ibv_mtu`.
pub(super) fn mtu_bytes(mtu: u8) -> u32 {
    128 << u32::from(mtu.clamp(1, 5))
}

/// Reads the devices that `settings` allow.
pub(super) fn survey(list: &DeviceList, settings: &Settings) -> Result<Vec<Surveyed>, VerbsError> {
    let names = list.names();
    let wanted = |name: &String| settings.device.as_ref().is_none_or(|wanted| wanted == name);
    if let Some(name) = &settings.device
        && !names.contains(name)
    {
        return Err(VerbsError::DeviceMissing { name: name.clone(), available: names });
    }
    let mut devices = Vec::new();
    for (index, name) in names.into_iter().enumerate() {
        // Places are kept, so that a choice names the device in the list.
        let ports = if wanted(&name) { read_ports(&list.open(index)?)? } else { Vec::new() };
        devices.push(Surveyed { name, ports });
    }
    Ok(devices)
}

/// What an open device's port and GIDs are now.
pub(super) fn survey_open(device: &Device) -> Result<Surveyed, VerbsError> {
    Ok(Surveyed { name: device.name.clone(), ports: read_ports(device)? })
}

/// Chooses among `devices`.
pub(super) fn choose(devices: &[Surveyed], settings: &Settings) -> Result<Choice, VerbsError> {
    let mut inactive = Vec::new();
    for (index, device) in devices.iter().enumerate() {
        if settings.device.as_ref().is_some_and(|wanted| *wanted != device.name) {
            continue;
        }
        if let Some(number) = settings.port {
            let found = device.ports.iter().find(|port| port.number == number);
            match found {
                None if settings.device.is_some() => {
                    let ports = device.ports.len() as u8;
                    return Err(VerbsError::PortMissing { device: device.name.clone(), port: number, ports });
                }
                Some(Port { inactive: Some(state), .. }) if settings.device.is_some() => {
                    let device = device.name.clone();
                    return Err(VerbsError::PortDown { device, port: number, state });
                }
                _ => {}
            }
        }
        for port in device.ports.iter().filter(|port| settings.port.is_none_or(|n| n == port.number)) {
            match port.inactive {
                Some(state) => inactive.push(format!("{} port {}: {state}", device.name, port.number)),
                None => return choose_gid(index, &device.name, port, settings),
            }
        }
    }
    Err(VerbsError::NoActivePort { ports: inactive })
}

fn choose_gid(index: usize, device: &str, port: &Port, settings: &Settings) -> Result<Choice, VerbsError> {
    let available = || {
        let kind = |gid: &Gid| match (port.layer, gid.roce_v2) {
            (LinkLayer::Infiniband, _) => "InfiniBand",
            (LinkLayer::Roce, true) => "RoCEv2",
            (LinkLayer::Roce, false) => "RoCEv1",
        };
        port.gids.iter().map(|gid| format!("{} = {} ({})", gid.index, gid.text(), kind(gid))).collect()
    };
    let first = |accept: &dyn Fn(&Gid) -> bool| port.gids.iter().find(|gid| accept(gid)).copied();
    let gid = match (settings.gid_index, port.layer) {
        (Some(wanted), _) => first(&|gid| gid.index == wanted).ok_or_else(|| VerbsError::GidMissing {
            device: device.to_owned(),
            port: port.number,
            index: wanted,
            available: available(),
        })?,
        (None, LinkLayer::Infiniband) => {
            first(&|_| true).unwrap_or(Gid { index: 0, raw: [0; 16], roce_v2: false })
        }
        (None, LinkLayer::Roce) => {
            first(&|gid| gid.roce_v2 && gid.is_ipv4()).or_else(|| first(&|gid| gid.roce_v2)).ok_or_else(
                || VerbsError::NoGid { device: device.to_owned(), port: port.number, available: available() },
            )?
        }
    };
    let global = port.layer == LinkLayer::Roce || settings.gid_index.is_some();
    Ok(Choice { device: index, port: port.clone(), gid, global })
}

fn read_ports(device: &Device) -> Result<Vec<Port>, VerbsError> {
    let gids = read_gids(device)?;
    (1..=device.limits.ports).map(|number| read_port(device, number, &gids)).collect()
}

/// Reads one port; `gids` are those of the whole device, with their ports.
fn read_port(device: &Device, number: u8, gids: &[(u32, Gid)]) -> Result<Port, VerbsError> {
    let mut attributes = MaybeUninit::<ibv_port_attr>::zeroed();
    // SAFETY: the context is open, the port exists, and the structure takes the answer.
    let errno = unsafe { ibv_query_port(device.context(), number, attributes.as_mut_ptr()) };
    if errno != 0 {
        let source = io::Error::from_raw_os_error(errno);
        return Err(VerbsError::Os { what: "asking for a port's state", source });
    }
    // SAFETY: zeroed bytes are a valid value of this structure of integers, and the call filled it.
    let attributes = unsafe { attributes.assume_init() };
    let layer = if attributes.link_layer == IBV_LINK_LAYER_ETHERNET {
        LinkLayer::Roce
    } else {
        LinkLayer::Infiniband
    };
    Ok(Port {
        number,
        inactive: match attributes.state {
            ibv_port_state::IBV_PORT_ACTIVE => None,
            ibv_port_state::IBV_PORT_DOWN => Some("down"),
            ibv_port_state::IBV_PORT_INIT => Some("initializing"),
            ibv_port_state::IBV_PORT_ARMED => Some("armed"),
            _ => Some("not ready"),
        },
        layer,
        lid: attributes.lid,
        mtu: attributes.active_mtu.clamp(1, 5) as u8,
        max_message_bytes: attributes.max_msg_sz,
        gids: gids.iter().filter(|(port, _)| *port == u32::from(number)).map(|(_, gid)| *gid).collect(),
    })
}

fn read_gids(device: &Device) -> Result<Vec<(u32, Gid)>, VerbsError> {
    let empty = ibv_gid_entry {
        gid: ibv_gid { global: ibv_gid_global_t { subnet_prefix: 0, interface_id: 0 } },
        gid_index: 0,
        port_num: 0,
        gid_type: 0,
        ndev_ifindex: 0,
    };
    let mut entries = vec![empty; MAX_GIDS];
    // SAFETY: the context is open and the array has as many entries as is said.
    let found = unsafe { ibv_query_gid_table(device.context(), entries.as_mut_ptr(), entries.len(), 0) };
    let Ok(found) = usize::try_from(found) else {
        let source = io::Error::from_raw_os_error(found.unsigned_abs() as i32);
        return Err(VerbsError::Os { what: "reading the device's GID table", source });
    };
    entries.truncate(found);
    let gid = |entry: &ibv_gid_entry| {
        let index = u8::try_from(entry.gid_index).ok()?;
        // SAFETY: both variants are sixteen plain bytes.
        let raw = unsafe { entry.gid.raw };
        Some((entry.port_num, Gid { index, raw, roce_v2: entry.gid_type == GID_ROCE_V2 }))
    };
    let mut gids: Vec<_> = entries.iter().filter_map(gid).collect();
    gids.sort_by_key(|(port, gid)| (*port, gid.index));
    Ok(gids)
}

/// The path MTU of a link between ports of these MTUs (both `enum ibv_mtu`).
pub(super) fn path_mtu(mine: u8, theirs: u8) -> ibv_mtu::Type {
    mine.min(theirs).clamp(1, 5).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gid(index: u8, text: &str, roce_v2: bool) -> Gid {
        Gid { index, raw: text.parse::<Ipv6Addr>().unwrap().octets(), roce_v2 }
    }

    fn port(number: u8, inactive: Option<&'static str>, layer: LinkLayer, gids: &[Gid]) -> Port {
        Port { number, inactive, layer, lid: 7, mtu: 3, max_message_bytes: 8 << 20, gids: gids.to_vec() }
    }

    fn machine() -> Vec<Surveyed> {
        let soft =
            [gid(0, "fe80::1", true), gid(1, "::ffff:10.0.0.1", true), gid(2, "::ffff:10.0.0.1", false)];
        let infiniband = [gid(0, "fe80::2", false)];
        vec![
            Surveyed {
                name: "mlx5_0".into(),
                ports: vec![
                    port(1, Some("down"), LinkLayer::Roce, &soft),
                    port(2, None, LinkLayer::Infiniband, &infiniband),
                ],
            },
            Surveyed { name: "rxe0".into(), ports: vec![port(1, None, LinkLayer::Roce, &soft)] },
        ]
    }

    fn settings(device: Option<&str>, port: Option<u8>, gid_index: Option<u8>) -> Settings {
        Settings { device: device.map(str::to_owned), port, gid_index, ..Settings::default() }
    }

    #[test]
    fn the_first_active_port_and_the_gid_of_an_ipv4_address_are_chosen() {
        let choice = choose(&machine(), &settings(None, None, None)).unwrap();
        assert_eq!((choice.device, choice.port.number, choice.global), (0, 2, false));
        let choice = choose(&machine(), &settings(Some("rxe0"), None, None)).unwrap();
        assert_eq!((choice.device, choice.gid.index, choice.global), (1, 1, true));
        assert_eq!(choice.gid.text(), "::ffff:10.0.0.1");
        let choice = choose(&machine(), &settings(None, Some(1), None)).unwrap();
        assert_eq!(choice.device, 1, "port 1 of the first device is down");
        let choice = choose(&machine(), &settings(Some("mlx5_0"), None, Some(0))).unwrap();
        assert!(choice.global, "a named GID on InfiniBand asks for global routing");
    }

    #[test]
    fn what_is_missing_is_named_with_what_there_is() {
        let refused = |settings: &Settings| choose(&machine(), settings).unwrap_err().to_string();
        let text = refused(&settings(Some("rxe0"), Some(2), None));
        assert!(text.contains("no port 2") && text.contains("ports 1 to 1"), "{text}");
        let text = refused(&settings(Some("mlx5_0"), Some(1), None));
        assert!(text.contains("is down"), "{text}");
        let text = refused(&settings(Some("rxe0"), None, Some(9)));
        assert!(text.contains("index 9") && text.contains("1 = ::ffff:10.0.0.1 (RoCEv2)"), "{text}");
        let mut machine = machine();
        machine[1].ports[0].gids.retain(|gid| !gid.roce_v2);
        let text = choose(&machine, &settings(Some("rxe0"), None, None)).unwrap_err().to_string();
        assert!(text.contains("give its network interface an IP address"), "{text}");
        machine.truncate(1);
        machine[0].ports.truncate(1);
        let text = choose(&machine, &settings(None, None, None)).unwrap_err().to_string();
        assert!(text.contains("mlx5_0 port 1: down"), "{text}");
    }

    #[test]
    fn mtus_are_named_in_bytes_and_the_smaller_one_is_used() {
        assert_eq!([1, 2, 3, 4, 5].map(mtu_bytes), [256, 512, 1024, 2048, 4096]);
        assert_eq!(path_mtu(3, 5), ibv_mtu::IBV_MTU_1024);
    }
}
