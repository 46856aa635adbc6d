//! Kernel file handles: the address of an inode that survives renames and restarts.
//!
//! A handle is what `name_to_handle_at` gives and `open_by_handle_at` takes. It names an inode and its
//! generation, so a handle of a deleted inode is refused (ESTALE) even when the inode number is used again.
//! What can go wrong: the handle belongs to another filesystem (the tree was copied), which is why the label
//! of what it opens is always compared with the OID it was looked up for.
//!
//! `unsafe` lives here because neither std nor rustix wraps the two system calls.

use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// The kernel's own limit (`MAX_HANDLE_SZ`); ext4 uses 8 bytes, xfs 12, btrfs 20.
const MAX_HANDLE_BYTES: usize = 128;

#[repr(C, align(4))]
struct RawHandle {
    handle_bytes: u32,
    handle_type: i32,
    bytes: [u8; MAX_HANDLE_BYTES],
}

/// An inode's handle, relative to the filesystem that a mount descriptor names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileHandle {
    kind: i32,
    bytes: Vec<u8>,
}

impl FileHandle {
    /// The handle of the inode behind `fd` (an `O_PATH` descriptor is enough).
    ///
    /// # Errors
    /// `EOPNOTSUPP` on a filesystem that has none.
    pub fn of(fd: BorrowedFd<'_>) -> Result<FileHandle, Errno> {
        let mut raw =
            RawHandle { handle_bytes: MAX_HANDLE_BYTES as u32, handle_type: 0, bytes: [0; MAX_HANDLE_BYTES] };
        let mut mount_id: libc::c_int = 0;
        // SAFETY: `raw` has the layout of `struct file_handle` with room for `handle_bytes` bytes, the empty
        // path is NUL-terminated, and both out pointers live for the whole call.
        let status = unsafe {
            libc::name_to_handle_at(
                fd.as_raw_fd(),
                c"".as_ptr(),
                (&raw mut raw).cast::<libc::file_handle>(),
                &raw mut mount_id,
                libc::AT_EMPTY_PATH,
            )
        };
        if status != 0 {
            return Err(last_errno());
        }
        let len = (raw.handle_bytes as usize).min(MAX_HANDLE_BYTES);
        Ok(FileHandle { kind: raw.handle_type, bytes: raw.bytes[..len].to_vec() })
    }

    /// Opens the inode as an `O_PATH` descriptor.
    ///
    /// # Errors
    /// `ESTALE`: it is gone.
    pub fn open(&self, mount: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
        let mut raw = RawHandle {
            handle_bytes: self.bytes.len() as u32,
            handle_type: self.kind,
            bytes: [0; MAX_HANDLE_BYTES],
        };
        raw.bytes[..self.bytes.len()].copy_from_slice(&self.bytes);
        // SAFETY: `raw` has the layout of `struct file_handle` and holds `handle_bytes` valid bytes.
        let fd = unsafe {
            libc::open_by_handle_at(
                mount.as_raw_fd(),
                (&raw mut raw).cast::<libc::file_handle>(),
                libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC,
            )
        };
        if fd < 0 {
            return Err(last_errno());
        }
        // SAFETY: the kernel has just given us this descriptor and nobody else knows it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// The bytes that the index stores.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut stored = self.kind.to_le_bytes().to_vec();
        stored.extend_from_slice(&self.bytes);
        stored
    }

    /// What [`FileHandle::to_bytes`] stored; `None` for anything else.
    pub(crate) fn from_bytes(stored: &[u8]) -> Option<FileHandle> {
        let (kind, bytes) = stored.split_first_chunk::<4>()?;
        (!bytes.is_empty() && bytes.len() <= MAX_HANDLE_BYTES)
            .then(|| FileHandle { kind: i32::from_le_bytes(*kind), bytes: bytes.to_vec() })
    }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
