//! What a lab's machines are made of.

use std::net::Ipv4Addr;

/// The two machines and what is between them.
#[derive(Clone, Debug)]
pub struct Spec {
    /// A and B.
    pub guests: [GuestSpec; 2],
    /// The link between their first network interfaces.
    pub wire: WireKind,
    /// MTU of the link. Soft-RoCE's path MTU is the largest of 256 to 4096 that fits with its headers: 1024 for 1500
    /// bytes, 4096 from 4200 bytes on.
    pub mtu_bytes: u16,
    /// Boot A alone; B stays off until [`super::Guest::boot`].
    pub only_a: bool,
    /// Give both a terminal for people.
    pub terminals: bool,
}

impl Default for Spec {
    fn default() -> Spec {
        Spec {
            guests: [GuestSpec::default(), GuestSpec::default()],
            wire: WireKind::Relayed,
            mtu_bytes: 1500,
            only_a: false,
            terminals: false,
        }
    }
}

/// One machine.
#[derive(Clone, Debug)]
pub struct GuestSpec {
    /// Virtual processors.
    pub vcpus: u8,
    /// Memory, without the NVDIMM.
    pub memory_mib: u32,
    /// Size of the NVDIMM; 0 for none.
    pub nvdimm_mib: u32,
    /// How the guest uses it.
    pub nvdimm_mode: NvdimmMode,
    /// Size of the disk `/dev/vda`, sparse on the host.
    pub disk_mib: u32,
    /// Size of a second disk `/dev/vdb`; 0 for none.
    pub extra_disk_mib: u32,
    /// Make `rxe0` on the wire.
    pub soft_roce: bool,
}

impl Default for GuestSpec {
    fn default() -> GuestSpec {
        GuestSpec {
            vcpus: 2,
            memory_mib: 1024,
            nvdimm_mib: 256,
            nvdimm_mode: NvdimmMode::Devdax,
            disk_mib: 2048,
            extra_disk_mib: 0,
            soft_roce: true,
        }
    }
}

/// How a guest uses its NVDIMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NvdimmMode {
    /// As the character device `/dev/dax0.0`, mapped by one program.
    Devdax,
    /// As the block device `/dev/pmem0`, for a filesystem with direct access (ext4 needs `-b 4096`).
    Fsdax,
}

impl NvdimmMode {
    /// The kernel's word for it.
    pub fn name(self) -> &'static str {
        match self {
            NvdimmMode::Devdax => "devdax",
            NvdimmMode::Fsdax => "fsdax",
        }
    }
}

/// What is between the two machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireKind {
    /// Through the harness, which can cut and delay it.
    Relayed,
    /// From emulator to emulator: for measurements.
    Direct,
}

/// One of the two machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The first.
    A,
    /// The second.
    B,
}

impl Side {
    /// Both.
    pub const BOTH: [Side; 2] = [Side::A, Side::B];

    /// The other one.
    pub fn other(self) -> Side {
        match self {
            Side::A => Side::B,
            Side::B => Side::A,
        }
    }

    /// The guest's host name, and its name in messages and files.
    pub fn name(self) -> &'static str {
        match self {
            Side::A => "a",
            Side::B => "b",
        }
    }

    /// Its address on the wire.
    pub fn address(self) -> Ipv4Addr {
        match self {
            Side::A => Ipv4Addr::new(192, 168, 77, 1),
            Side::B => Ipv4Addr::new(192, 168, 77, 2),
        }
    }

    /// 0 and 1, for tables.
    pub fn index(self) -> usize {
        match self {
            Side::A => 0,
            Side::B => 1,
        }
    }
}
