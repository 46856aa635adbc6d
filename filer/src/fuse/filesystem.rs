//! Requests of the kernel, each one call of the volume.
//!
//! Inode numbers are OIDs, so file handles are not needed but for directories, whose listing belongs to the
//! opening; a file's tells whether it was opened for writing. Requests are served by the session's threads; one that waits for a commit keeps its thread, and
//! others gather behind the same batch.
//!
//! What can go wrong: a request that the kernel has interrupted is still carried out; POSIX allows that.

use super::convert::{Caller, attributes, file_type, ino, oid, set_time, timestamp};
use super::options::MountOptions;
use super::reply::{NOTHING, empty, entry, number, xattr};
use crate::volume::{
    Access, AllocateMode, DirectoryStream, Errno, Node, NodeKind, Principal, RenameMode, SeekTo,
    SetAttributes, Volume, WriteAt, XattrMode,
};
use apply_engine::Attributes;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use parking_lot::Mutex;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Largest write that the kernel sends in one request.
const MAX_WRITE_BYTES: u32 = 1 << 20;
/// How far the kernel may read ahead.
const MAX_READAHEAD_BYTES: u32 = 1 << 20;
/// Requests that the kernel may have under way in the background (read-ahead, writeback).
const MAX_BACKGROUND_REQUESTS: u16 = 64;
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

thread_local! {
    /// Where a thread gathers the bytes of a read.
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A volume as fuser wants it.
pub(super) struct FuseFilesystem {
    volume: Arc<Volume>,
    ttl: Duration,
    writeback_cache: bool,
    directories: Mutex<HashMap<u64, Arc<DirectoryStream>>>,
    next_directory: AtomicU64,
}

impl FuseFilesystem {
    pub fn new(volume: Arc<Volume>, options: &MountOptions) -> FuseFilesystem {
        FuseFilesystem {
            volume,
            ttl: options.cache_ttl,
            writeback_cache: options.writeback_cache,
            directories: Mutex::default(),
            next_directory: AtomicU64::new(1),
        }
    }

    fn make(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        node: Node<'_>,
    ) -> Result<Attributes, Errno> {
        self.volume.create(&Caller::of(request), oid(parent), name.as_bytes(), node)
    }

    fn directory(&self, handle: FileHandle) -> Result<Arc<DirectoryStream>, Errno> {
        self.directories.lock().get(&handle.0).cloned().ok_or(Errno::EINVAL)
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
        for (_, stream) in self.directories.get_mut().drain() {
            self.volume.close_directory(&stream);
        }
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.volume.lookup(oid(parent), name.as_bytes()) {
            // Inode number 0 lets the kernel remember that there is nothing.
            Err(Errno::ENOENT) => reply.entry(&self.ttl, &NOTHING, Generation(0)),
            found => entry(reply, &self.ttl, found),
        }
    }

    fn forget(&self, _request: &Request, inode: INodeNo, _lookups: u64) {
        self.volume.forget(oid(inode));
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.volume.getattr(oid(inode)) {
            Ok(found) => reply.attr(&self.ttl, &attributes(&found)),
            Err(error) => reply.error(number(error)),
        }
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
        // Nothing to set, but for a change time that the kernel keeps: it is about to change the contents, and has
        // left to us what that takes away. Its cached mode is right then before the change is made.
        let about_to_change = SetAttributes { ctime: None, ..set } == SetAttributes::default();
        let changed = match about_to_change {
            true => self.volume.drop_privileges(&Caller::of(request), oid(inode)),
            false => self.volume.setattr(&Caller::of(request), oid(inode), set),
        };
        match changed {
            Ok(changed) => reply.attr(&self.ttl, &attributes(&changed)),
            Err(error) => reply.error(number(error)),
        }
    }

    fn readlink(&self, _request: &Request, inode: INodeNo, reply: ReplyData) {
        match self.volume.readlink(oid(inode)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(number(error)),
        }
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
        entry(reply, &self.ttl, self.make(request, parent, name, Node { kind, mode, umask, open: false }));
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
        let node = Node { kind: NodeKind::Directory, mode, umask, open: false };
        entry(reply, &self.ttl, self.make(request, parent, name, node));
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.volume.unlink(oid(parent), name.as_bytes()));
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.volume.rmdir(oid(parent), name.as_bytes()));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let kind = NodeKind::Symlink(target.as_os_str().as_bytes());
        entry(
            reply,
            &self.ttl,
            self.make(request, parent, name, Node { kind, mode: 0o777, umask: 0, open: false }),
        );
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
        let (from, to) = ((oid(parent), name.as_bytes()), (oid(new_parent), new_name.as_bytes()));
        let done = RenameMode::from_bits(flags.bits())
            .and_then(|mode| self.volume.rename(&Caller::of(request), from, to, mode));
        empty(reply, done);
    }

    fn link(&self, _request: &Request, inode: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(reply, &self.ttl, self.volume.link(oid(inode), oid(parent), name.as_bytes()));
    }

    fn open(&self, _request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let access = access(flags);
        match self.volume.open(oid(inode), access) {
            Ok(()) => reply.opened(handle_for(access), OPENED),
            Err(error) => reply.error(number(error)),
        }
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
        match self.make(request, parent, name, Node { kind: NodeKind::File, mode, umask, open: true }) {
            Ok(made) => {
                let generation = Generation(made.generation);
                reply.created(&self.ttl, &attributes(&made), generation, WRITABLE, OPENED);
            }
            Err(error) => reply.error(number(error)),
        }
    }

    fn read(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        READ_BUFFER.with_borrow_mut(|buffer| {
            let size = size as usize;
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            match self.volume.read(oid(inode), offset, &mut buffer[..size]) {
                Ok(filled) => reply.data(&buffer[..filled]),
                Err(error) => reply.error(number(error)),
            }
        });
    }

    fn write(
        &self,
        request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // The offset counts, whatever the file was opened with: the kernel appends at the size that it knows, under
        // its lock of the inode, and it alone changes sizes. With `O_APPEND` an offset before the end is meant
        // (`RWF_NOAPPEND`, or its own write-back).
        let at = WriteAt::Offset(offset);
        let caller = Caller::of(request);
        let kills = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        match self.volume.write(oid(inode), at, data, kills.then_some(&caller as &dyn Principal)) {
            Ok(written) => reply.written(written as u32),
            Err(error) => reply.error(number(error)),
        }
    }

    fn flush(&self, _r: &Request, _i: INodeNo, _h: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn fsync(&self, _r: &Request, _i: INodeNo, _h: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn fsyncdir(&self, _r: &Request, _i: INodeNo, _h: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn release(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.volume.release(oid(inode), if handle == WRITABLE { Access::Write } else { Access::Read });
        reply.ok();
    }

    fn opendir(&self, _request: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.volume.open_directory(oid(inode)) {
            Ok(stream) => {
                let handle = self.next_directory.fetch_add(1, Ordering::Relaxed);
                self.directories.lock().insert(handle, Arc::new(stream));
                reply.opened(FileHandle(handle), FopenFlags::empty());
            }
            Err(error) => reply.error(number(error)),
        }
    }

    fn readdir(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let filled = self.directory(handle).and_then(|stream| {
            self.volume.read_directory(&stream, offset, |entry| {
                let name = OsStr::from_bytes(entry.name);
                reply.add(ino(entry.oid), entry.after, file_type(entry.kind), name)
            })
        });
        match filled {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(number(error)),
        }
    }

    fn readdirplus(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let mut failed = Ok(());
        let filled = self.directory(handle).and_then(|stream| {
            self.volume.read_directory(&stream, offset, |entry| {
                match self.volume.listed_attributes(entry.oid) {
                    Ok(Some(found)) => {
                        let (shown, generation) = (attributes(&found), Generation(found.generation));
                        let name = OsStr::from_bytes(entry.name);
                        reply.add(shown.ino, entry.after, name, &self.ttl, &shown, generation)
                    }
                    Ok(None) => false,
                    Err(error) => {
                        failed = Err(error);
                        true
                    }
                }
            })
        });
        match filled.and(failed) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(number(error)),
        }
    }

    fn releasedir(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        if let Some(stream) = self.directories.lock().remove(&handle.0) {
            self.volume.close_directory(&stream);
        }
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _inode: INodeNo, reply: ReplyStatfs) {
        match self.volume.space() {
            Ok(space) => reply.statfs(
                space.total_bytes / STATFS_BLOCK_BYTES,
                space.free_bytes / STATFS_BLOCK_BYTES,
                space.available_bytes / STATFS_BLOCK_BYTES,
                space.total_inodes,
                space.free_inodes,
                STATFS_BLOCK_BYTES as u32,
                apply_engine::name::MAX_NAME_BYTES as u32,
                STATFS_BLOCK_BYTES as u32,
            ),
            Err(error) => reply.error(number(error)),
        }
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
        let done = XattrMode::from_bits(flags).and_then(|mode| {
            self.volume.set_xattr(&Caller::of(request), oid(inode), name.as_bytes(), value, mode)
        });
        empty(reply, done);
    }

    fn getxattr(&self, _request: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        xattr(reply, size, self.volume.xattr(oid(inode), name.as_bytes()));
    }

    fn listxattr(&self, request: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        xattr(reply, size, self.volume.xattr_names(&Caller::of(request), oid(inode)));
    }

    fn removexattr(&self, request: &Request, inode: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.volume.remove_xattr(&Caller::of(request), oid(inode), name.as_bytes()));
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
        let done = AllocateMode::from_bits(mode)
            .and_then(|mode| self.volume.allocate(&Caller::of(request), oid(inode), mode, offset, length));
        empty(reply, done);
    }

    fn lseek(
        &self,
        _request: &Request,
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
        match self.volume.seek(oid(inode), offset, to) {
            Ok(found) => reply.offset(found as i64),
            Err(error) => reply.error(number(error)),
        }
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
        match self.volume.copy_range(&Caller::of(request), from, to, len) {
            Ok(copied) => reply.written(copied as u32),
            Err(error) => reply.error(number(error)),
        }
    }
}
