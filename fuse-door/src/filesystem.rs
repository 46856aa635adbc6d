//! Requests of the kernel, each one call of the volume.
//!
//! Inode numbers are OIDs, so file handles are not needed but for directories, whose listing belongs to the
//! opening; a file's tells whether it was opened for writing. Requests are served by the session's threads; one that
//! has to wait gives its thread back and is answered by another one later ([`Volume::serve`]), so however many wait, the
//! rest are served.
//!
//! What can go wrong: a request that the kernel has interrupted is still carried out; POSIX allows that. One that waits
//! is let go within seconds when its client is killed.

use super::convert::{Caller, attributes, client, oid, set_time, timestamp};
use super::handles::Directories;
use super::in_flight::InFlight;
use super::options::MountOptions;
use super::reply::{NOTHING, attr, empty, entry, number, xattr};
use super::watch::Signal;
use apply_engine::Attributes;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use volume::{
    Access, AllocateMode, Errno, Node, NodeKind, RenameMode, SeekTo, SetAttributes, Volume, XattrMode,
};

/// Largest write that the kernel sends in one request.
const MAX_WRITE_BYTES: u32 = 1 << 20;
/// How far the kernel may read ahead.
const MAX_READAHEAD_BYTES: u32 = 1 << 20;
/// Requests that the kernel may have under way in the background (read-ahead, writeback).
const MAX_BACKGROUND_REQUESTS: u16 = 64;
/// What the kernel may be late by when an answer's time is over: a tick of the slowest usual clock.
const KERNEL_TICK: Duration = Duration::from_millis(10);
/// Unit of `statfs`.
const STATFS_BLOCK_BYTES: u64 = 4096;

/// Everything a file has opened may be kept in the page cache: only this kernel changes it.
const OPENED: FopenFlags = FopenFlags::FOPEN_KEEP_CACHE;

/// The handle of what was opened for reading.
const READABLE: FileHandle = FileHandle(0);
/// The handle of what was opened for writing, or made.
const WRITABLE: FileHandle = FileHandle(1);

fn access(flags: OpenFlags) -> Access {
    if flags.0 & libc::O_ACCMODE == libc::O_RDONLY { Access::Read } else { Access::Write }
}

fn handle_for(access: Access) -> FileHandle {
    if access == Access::Write { WRITABLE } else { READABLE }
}

/// How long the kernel may keep an answer: not beyond the right to give it.
#[derive(Clone)]
pub(super) struct Lifetime {
    volume: Arc<Volume>,
    most: Duration,
}

impl Lifetime {
    /// That of an answer which is given now, for it may have been waited for.
    pub fn now(&self) -> Duration {
        let left = self.volume.lease_left().unwrap_or(Duration::MAX);
        self.most.min(left.saturating_sub(KERNEL_TICK))
    }

    /// That of an answer about `changed` after a change: none, if its blocks would have had to be asked of a disk.
    fn after(&self, changed: &Result<Attributes, Errno>) -> Duration {
        match changed {
            Ok(changed) if !self.volume.knows_blocks(changed.oid) => Duration::ZERO,
            _ => self.now(),
        }
    }
}

/// A volume as fuser wants it.
pub(super) struct FuseFilesystem {
    pub(super) volume: Arc<Volume>,
    pub(super) ttl: Lifetime,
    writeback_cache: bool,
    pub(super) answers_from_memory: bool,
    /// To be told when the session ends.
    signal: Arc<Signal>,
    pub(super) directories: Arc<Directories>,
    /// Reads and writes that are under way.
    pub(super) in_flight: Arc<InFlight>,
}

impl FuseFilesystem {
    pub fn new(volume: Arc<Volume>, options: &MountOptions, signal: Arc<Signal>) -> FuseFilesystem {
        if options.writeback_cache {
            volume.expect_write_back();
        }
        FuseFilesystem {
            ttl: Lifetime { volume: volume.clone(), most: options.cache_ttl },
            volume,
            in_flight: Arc::default(),
            writeback_cache: options.writeback_cache,
            answers_from_memory: options.answers_from_memory,
            signal,
            directories: Arc::default(),
        }
    }
}

impl Filesystem for FuseFilesystem {
    /// Not asked for: `FUSE_ASYNC_DIO`, with which the kernel keeps pages that readers put into its cache while a
    /// direct write was under way.
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let mut wanted = InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2
            | InitFlags::FUSE_POSIX_ACL
            | InitFlags::FUSE_DONT_MASK
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_EXPLICIT_INVAL_DATA
            | InitFlags::FUSE_EXPORT_SUPPORT
            | InitFlags::FUSE_ABORT_ERROR;
        wanted.set(InitFlags::FUSE_WRITEBACK_CACHE, self.writeback_cache);
        if let Err(missing) = config.add_capabilities(wanted) {
            tracing::info!(?missing, "the kernel lacks FUSE features; going on without them");
            // What is left of the wanted ones is a subset of what it has.
            let _ = config.add_capabilities(wanted.difference(missing));
        }
        // Each refusal names the nearest value that will do.
        let _ = config.set_max_write(MAX_WRITE_BYTES);
        let _ = config
            .set_max_readahead(MAX_READAHEAD_BYTES)
            .map_err(|nearest| config.set_max_readahead(nearest));
        let _ = config.set_max_background(MAX_BACKGROUND_REQUESTS);
        Ok(())
    }

    fn destroy(&mut self) {
        for stream in self.directories.remove_all() {
            self.volume.close_directory(&stream);
        }
        self.signal.session_ended();
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let ttl = self.ttl.clone();
        let look = move |volume: &Volume, name: &[u8]| volume.lookup(oid(parent), name);
        self.named(request, name, look, move |found| match found {
            // Inode number 0 lets the kernel remember that there is nothing.
            Err(Errno::ENOENT) => reply.entry(&ttl.now(), &NOTHING, Generation(0)),
            found => entry(reply, &ttl.now(), found),
        });
    }

    fn forget(&self, _request: &Request, inode: INodeNo, _lookups: u64) {
        self.volume.forget(oid(inode));
    }

    fn getattr(&self, request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        let ttl = self.ttl.clone();
        let get = move |volume: &Volume| volume.getattr(oid(inode));
        self.plain(request, get, move |found| attr(reply, &ttl.now(), found));
    }

    fn setattr(
        &self,
        request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttributes {
            mode,
            uid,
            gid,
            size,
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
            ctime: ctime.map(timestamp),
        };
        // Nothing to set, but for a change time that the kernel keeps.
        let names_nothing = SetAttributes { ctime: None, ..set } == SetAttributes::default();
        let (ttl, who) = (self.ttl.clone(), Caller::of(request));
        let act = move |volume: &Volume| match names_nothing {
            true => volume.set_nothing(&who, oid(inode), set.ctime),
            false => volume.setattr(&who, oid(inode), set),
        };
        self.plain(request, act, move |changed| attr(reply, &ttl.after(&changed), changed));
    }

    fn readlink(&self, request: &Request, inode: INodeNo, reply: ReplyData) {
        self.plain(
            request,
            move |volume| volume.readlink(oid(inode)),
            move |target| match target {
                Ok(target) => reply.data(&target),
                Err(error) => reply.error(number(error)),
            },
        );
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let kind = match mode & libc::S_IFMT {
            libc::S_IFIFO => NodeKind::Fifo,
            libc::S_IFSOCK => NodeKind::Socket,
            libc::S_IFCHR => NodeKind::CharDevice(u64::from(rdev)),
            libc::S_IFBLK => NodeKind::BlockDevice(u64::from(rdev)),
            libc::S_IFREG | 0 => NodeKind::File,
            _ => return reply.error(fuser::Errno::EINVAL),
        };
        let (ttl, node) = (self.ttl.clone(), Node { kind, mode, umask, open: false });
        self.make(request, parent, name, node, move |made| entry(reply, &ttl.now(), made));
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let (ttl, node) = (self.ttl.clone(), Node { kind: NodeKind::Directory, mode, umask, open: false });
        self.make(request, parent, name, node, move |made| entry(reply, &ttl.now(), made));
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let act = move |volume: &Volume, name: &[u8]| volume.unlink(oid(parent), name);
        self.named(request, name, act, move |done| empty(reply, done));
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let act = move |volume: &Volume, name: &[u8]| volume.rmdir(oid(parent), name);
        self.named(request, name, act, move |done| empty(reply, done));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let kind = NodeKind::Symlink(target.as_os_str().as_bytes());
        let (ttl, node) = (self.ttl.clone(), Node { kind, mode: 0o777, umask: 0, open: false });
        self.make(request, parent, name, node, move |made| entry(reply, &ttl.now(), made));
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = match RenameMode::from_bits(flags.bits()) {
            Ok(mode) => mode,
            Err(error) => return reply.error(number(error)),
        };
        self.rename_entry(request, (parent, name), (new_parent, new_name), mode, reply);
    }

    fn link(&self, request: &Request, inode: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let ttl = self.ttl.clone();
        let act = move |volume: &Volume, name: &[u8]| volume.link(oid(inode), oid(parent), name);
        self.named(request, name, act, move |linked| entry(reply, &ttl.after(&linked), linked));
    }

    fn open(&self, request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let access = access(flags);
        self.plain(
            request,
            move |volume| volume.open(oid(inode), access),
            move |done| match done {
                Ok(()) => reply.opened(handle_for(access), OPENED),
                Err(error) => reply.error(number(error)),
            },
        );
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let (ttl, node) = (self.ttl.clone(), Node { kind: NodeKind::File, mode, umask, open: true });
        self.make(request, parent, name, node, move |made| match made {
            Ok(made) => {
                let generation = Generation(made.generation);
                reply.created(&ttl.now(), &attributes(&made), generation, WRITABLE, OPENED);
            }
            Err(error) => reply.error(number(error)),
        });
    }

    fn read(
        &self,
        request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.read_file(request, inode, offset, size, reply);
    }

    fn write(
        &self,
        request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // The offset counts, whatever the file was opened with: the kernel appends at the size that it knows, under
        // its lock of the inode, and it alone changes sizes. With `O_APPEND` an offset before the end is meant
        // (`RWF_NOAPPEND`, or its own write-back).
        // `O_SYNC` has the bit of `O_DSYNC`, and RWF_DSYNC sets it here; what the kernel itself gathered it syncs itself.
        let sync = self.answers_from_memory && flags.0 & libc::O_DSYNC != 0;
        self.write_file(request, inode, (offset, data), (write_flags, sync), reply);
    }

    fn flush(&self, _r: &Request, _i: INodeNo, _h: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn fsync(&self, request: &Request, _i: INodeNo, _h: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.sync(request, reply);
    }

    fn fsyncdir(&self, request: &Request, _i: INodeNo, _h: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.sync(request, reply);
    }

    fn release(
        &self,
        request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let access = if handle == WRITABLE { Access::Write } else { Access::Read };
        self.release_object(request, oid(inode), access, reply);
    }

    fn opendir(&self, request: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let directories = self.directories.clone();
        self.plain(
            request,
            move |volume| volume.open_directory(oid(inode)),
            move |opened| match opened {
                Ok(stream) => reply.opened(directories.add(stream), FopenFlags::empty()),
                Err(error) => reply.error(number(error)),
            },
        );
    }

    fn readdir(
        &self,
        request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        self.read_page(request, handle, offset, reply);
    }

    fn readdirplus(
        &self,
        request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.read_page_plus(request, handle, offset, reply);
    }

    fn releasedir(
        &self,
        request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        match self.directories.remove(handle).and_then(|stream| stream.counted_object()) {
            Some(oid) => self.release_object(request, oid, Access::Read, reply),
            None => reply.ok(),
        }
    }

    fn statfs(&self, request: &Request, _inode: INodeNo, reply: ReplyStatfs) {
        self.plain(request, Volume::space, move |space| match space {
            Ok(space) => reply.statfs(
                space.total_bytes / STATFS_BLOCK_BYTES,
                space.free_bytes / STATFS_BLOCK_BYTES,
                space.available_bytes / STATFS_BLOCK_BYTES,
                space.total_inodes,
                space.shown_inodes(),
                STATFS_BLOCK_BYTES as u32,
                apply_engine::name::MAX_NAME_BYTES as u32,
                STATFS_BLOCK_BYTES as u32,
            ),
            Err(error) => reply.error(number(error)),
        });
    }

    fn setxattr(
        &self,
        request: &Request,
        inode: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let mode = match XattrMode::from_bits(flags) {
            Ok(mode) => mode,
            Err(error) => return reply.error(number(error)),
        };
        let (who, oid, name) = (Caller::of(request), oid(inode), name.as_bytes());
        let now = || self.volume.set_xattr(&who, oid, name, value, mode);
        let later = |_| {
            let (volume, who) = (self.volume.clone(), who.clone());
            let (name, value) = (name.to_vec(), value.to_vec());
            (value.len(), move || volume.set_xattr(&who, oid, &name, &value, mode))
        };
        self.volume.serve(client(request), now, later, move |done| empty(reply, done));
    }

    fn getxattr(&self, request: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let act = move |volume: &Volume, name: &[u8]| volume.xattr(oid(inode), name);
        self.named(request, name, act, move |value| xattr(reply, size, value));
    }

    fn listxattr(&self, request: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        let who = Caller::of(request);
        let act = move |volume: &Volume| volume.xattr_names(&who, oid(inode));
        self.plain(request, act, move |names| xattr(reply, size, names));
    }

    fn removexattr(&self, request: &Request, inode: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let who = Caller::of(request);
        let act = move |volume: &Volume, name: &[u8]| volume.remove_xattr(&who, oid(inode), name);
        self.named(request, name, act, move |done| empty(reply, done));
    }

    fn bmap(&self, _request: &Request, _inode: INodeNo, _blocksize: u32, _index: u64, reply: ReplyBmap) {
        reply.error(fuser::Errno::EINVAL);
    }

    fn ioctl(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(fuser::Errno::ENOTTY);
    }

    fn fallocate(
        &self,
        request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let mode = match AllocateMode::from_bits(mode) {
            Ok(mode) => mode,
            Err(error) => return reply.error(number(error)),
        };
        let who = Caller::of(request);
        let act = move |volume: &Volume| volume.allocate(&who, oid(inode), mode, offset, length);
        self.plain(request, act, move |done| empty(reply, done));
    }

    fn lseek(
        &self,
        request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let to = match whence {
            libc::SEEK_DATA => SeekTo::Data,
            libc::SEEK_HOLE => SeekTo::Hole,
            _ => return reply.error(fuser::Errno::EINVAL),
        };
        // With its own write-back the kernel alone knows where a file ends: it then takes all of it as data.
        if self.writeback_cache {
            return reply.error(fuser::Errno::ENOSYS);
        }
        let Ok(offset) = u64::try_from(offset) else { return reply.error(fuser::Errno::ENXIO) };
        let act = move |volume: &Volume| volume.seek(oid(inode), offset, to);
        self.plain(request, act, move |found| match found {
            Ok(found) => reply.offset(found as i64),
            Err(error) => reply.error(number(error)),
        });
    }

    fn copy_file_range(
        &self,
        request: &Request,
        inode_in: INodeNo,
        _handle_in: FileHandle,
        offset_in: u64,
        inode_out: INodeNo,
        _handle_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (from, to) = ((oid(inode_in), offset_in), (oid(inode_out), offset_out));
        let who = Caller::of(request);
        let act = move |volume: &Volume| volume.copy_range(&who, from, to, len);
        self.plain(request, act, move |copied| match copied {
            Ok(copied) => reply.written(copied as u32),
            Err(error) => reply.error(number(error)),
        });
    }
}
