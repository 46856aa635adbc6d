//! Requests that may have to wait, in the shapes that they have in common: run at once with what the kernel's buffer
//! holds, or with a copy of it later ([`Volume::serve`]).
//!
//! Invariant: `now` and `again` are the same call. What can go wrong: see [`super::filesystem`].

use super::convert::{Caller, attributes, client, file_type, ino, oid};
use super::filesystem::FuseFilesystem;
use super::handles::{MadeOpen, shared};
use super::reply::{empty, number};
use apply_engine::Attributes;
use commit::{Attempt, attempt, settle};
use fuser::{
    FileHandle, Generation, INodeNo, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyWrite,
    Request, WriteFlags,
};
use ids::Oid;
use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use volume::{Access, Errno, Node, NodeKind, Principal, RenameMode, Volume, WriteAt};

thread_local! {
    /// Where a thread gathers the bytes of a read.
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl FuseFilesystem {
    pub(super) fn make(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        node: Node<'_>,
        answer: impl FnOnce(Result<Attributes, Errno>) + Send + 'static,
    ) {
        let (who, parent, name) = (Caller::of(request), oid(parent), name.as_bytes());
        let open = node.open;
        let keep = move |volume: &Arc<Volume>, made: Attributes| MadeOpen {
            volume: volume.clone(),
            made,
            answered: !open,
        };
        let now = || Ok(keep(&self.volume, self.volume.create(&who, parent, name, node)?));
        let later = |_| {
            let (volume, who, name) = (self.volume.clone(), who.clone(), name.to_vec());
            let Node { kind, mode, umask, open } = node;
            let target = if let NodeKind::Symlink(target) = kind { target.to_vec() } else { Vec::new() };
            let kind = kind.without_target();
            let again = move || {
                let kind = kind.unwrap_or(NodeKind::Symlink(&target));
                Ok(keep(&volume, volume.create(&who, parent, &name, Node { kind, mode, umask, open })?))
            };
            (0, again)
        };
        self.volume.serve(client(request), now, later, move |made| {
            answer(made.map(|mut made| {
                made.answered = true;
                made.made
            }))
        });
    }

    /// An operation without borrowed parts.
    pub(super) fn plain<T: Send + 'static>(
        &self,
        request: &Request,
        act: impl Fn(&Volume) -> Result<T, Errno> + Send + Clone + 'static,
        answer: impl FnOnce(Result<T, Errno>) + Send + 'static,
    ) {
        let later = |_| {
            let (volume, act) = (self.volume.clone(), act.clone());
            (0, move || act(&volume))
        };
        self.volume.serve(client(request), || act(&self.volume), later, answer);
    }

    /// An operation on a name.
    pub(super) fn named<T: Send + 'static>(
        &self,
        request: &Request,
        name: &OsStr,
        act: impl Fn(&Volume, &[u8]) -> Result<T, Errno> + Send + Clone + 'static,
        answer: impl FnOnce(Result<T, Errno>) + Send + 'static,
    ) {
        let name = name.as_bytes();
        let later = |_| {
            let (volume, act, name) = (self.volume.clone(), act.clone(), name.to_vec());
            (0, move || act(&volume, &name))
        };
        self.volume.serve(client(request), || act(&self.volume, name), later, answer);
    }

    /// One opening less. What has to wait then is to end an object without a name.
    pub(super) fn release_object(&self, request: &Request, oid: Oid, access: Access, reply: ReplyEmpty) {
        let now = || {
            self.volume.release(oid, access);
            Ok(())
        };
        let later = |_| {
            let volume = self.volume.clone();
            (0, move || volume.reap_if_unused(oid))
        };
        self.volume.serve(client(request), now, later, move |_| reply.ok());
    }

    pub(super) fn read_file(
        &self,
        request: &Request,
        inode: INodeNo,
        offset: u64,
        size: u32,
        reply: ReplyData,
    ) {
        let (oid, size) = (oid(inode), size as usize);
        // Bytes are copied only when all of them are committed, so that a read never owes anything.
        let read = move |volume: &Volume, buffer: &mut Vec<u8>| {
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            volume.read(oid, offset, &mut buffer[..size])
        };
        let call = self.in_flight.begin(oid, offset, size as u64);
        READ_BUFFER.with_borrow_mut(|buffer| {
            let (filled, made) = attempt(Attempt::default(), || read(&self.volume, buffer));
            if !made.must_wait() {
                drop(call);
                return match filled {
                    Ok(filled) => reply.data(&buffer[..filled]),
                    Err(error) => reply.error(number(error)),
                };
            }
            let volume = self.volume.clone();
            let again = move || {
                let mut buffer = Vec::new();
                let filled = read(&volume, &mut buffer)?;
                buffer.truncate(filled);
                Ok(buffer)
            };
            let answer = move |read: Result<Vec<u8>, Errno>| {
                drop(call);
                match read {
                    Ok(data) => reply.data(&data),
                    Err(error) => reply.error(number(error)),
                }
            };
            self.volume.park(client(request), made, 0, again, answer);
        });
    }

    /// Where every answered operation survives what an fsync does, the kernel need not ask again.
    pub(super) fn sync(&self, request: &Request, reply: ReplyEmpty) {
        if !self.answers_from_memory {
            return reply.error(fuser::Errno::ENOSYS);
        }
        self.plain(request, Volume::sync, move |done| empty(reply, done));
    }

    /// `sync`: the answer waits for what an fsync does. `kills`: a caller that may not keep set-id bits takes them away.
    pub(super) fn write_file(
        &self,
        request: &Request,
        inode: INodeNo,
        (offset, data): (u64, &[u8]),
        (flags, sync): (WriteFlags, bool),
        reply: ReplyWrite,
    ) {
        let (inode, who) = (oid(inode), Caller::of(request));
        let kills = flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let at = move |offset| match flags.contains(WriteFlags::FUSE_WRITE_CACHE) {
            true => WriteAt::Cached(offset),
            false => WriteAt::Offset(offset),
        };
        let later = |begun: Result<usize, Errno>| {
            let (volume, who, data) = (self.volume.clone(), who.clone(), data.to_vec());
            let (bytes, mut written) = (data.len(), begun.unwrap_or(0));
            let again = move || {
                let at = at(offset.saturating_add(written as u64));
                match volume.write(inode, at, &data[written..], kills.then_some(&who as &dyn Principal)) {
                    Ok(more) => written += more,
                    Err(error) if written == 0 => return Err(error),
                    Err(_) => {}
                }
                if sync {
                    volume.sync()?;
                }
                Ok(written)
            };
            (bytes, again)
        };
        let stranger = kills.then_some(&who as &dyn Principal);
        let now = || {
            let written = self.volume.write(inode, at(offset), data, stranger)?;
            if sync {
                self.volume.sync()?;
            }
            Ok(written)
        };
        let call = self.in_flight.begin(inode, offset, data.len() as u64);
        self.volume.serve(client(request), now, later, move |written| {
            drop(call);
            match written {
                Ok(written) => reply.written(written as u32),
                Err(error) => reply.error(number(error)),
            }
        });
    }

    pub(super) fn read_page(
        &self,
        request: &Request,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let stream = match self.directories.get(handle) {
            Ok(stream) => stream,
            Err(error) => return reply.error(number(error)),
        };
        let (fill, page) = shared(reply);
        let act = move |volume: &Volume| {
            volume.read_directory(&stream, offset, |entry| {
                let name = OsStr::from_bytes(entry.name);
                let add = |reply: &mut ReplyDirectory| {
                    reply.add(ino(entry.oid), entry.after, file_type(entry.kind), name)
                };
                fill.lock().as_mut().is_none_or(add)
            })
        };
        self.plain(request, act, move |filled| match (filled, page.lock().take()) {
            (Ok(()), Some(reply)) => reply.ok(),
            (Err(error), Some(reply)) => reply.error(number(error)),
            (_, None) => {}
        });
    }

    pub(super) fn read_page_plus(
        &self,
        request: &Request,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let stream = match self.directories.get(handle) {
            Ok(stream) => stream,
            Err(error) => return reply.error(number(error)),
        };
        let (fill, page) = shared(reply);
        let ttl = self.ttl.clone();
        let act = move |volume: &Volume| {
            let (mut failed, mut shown) = (Ok(()), 0);
            let filled = volume.read_directory(&stream, offset, |entry| {
                if shown > 0 && !volume.is_committed(entry.oid) {
                    // What is here need not wait for it; the next page begins with it.
                    return true;
                }
                match volume.listed_attributes(entry.oid) {
                    Ok(Some(found)) => {
                        shown += 1;
                        let (found, generation) = (attributes(&found), Generation(found.generation));
                        let name = OsStr::from_bytes(entry.name);
                        let add = |reply: &mut ReplyDirectoryPlus| {
                            reply.add(found.ino, entry.after, name, &ttl.now(), &found, generation)
                        };
                        fill.lock().as_mut().is_none_or(add)
                    }
                    Ok(None) => false,
                    Err(error) => {
                        failed = Err(error);
                        true
                    }
                }
            });
            if shown > 0 && failed == Err(Errno::MUST_WAIT) {
                // A short page; the next one begins with what has to wait.
                settle();
                failed = Ok(());
            }
            filled.and(failed)
        };
        self.plain(request, act, move |filled| match (filled, page.lock().take()) {
            (Ok(()), Some(reply)) => reply.ok(),
            (Err(error), Some(reply)) => reply.error(number(error)),
            (_, None) => {}
        });
    }

    pub(super) fn rename_entry(
        &self,
        request: &Request,
        (parent, name): (INodeNo, &OsStr),
        (new_parent, new_name): (INodeNo, &OsStr),
        mode: RenameMode,
        reply: ReplyEmpty,
    ) {
        let (who, from, to) = (Caller::of(request), oid(parent), oid(new_parent));
        let (name, new_name) = (name.as_bytes(), new_name.as_bytes());
        let now = || self.volume.rename(&who, (from, name), (to, new_name), mode);
        let later = |_| {
            let (volume, who) = (self.volume.clone(), who.clone());
            let (name, new_name) = (name.to_vec(), new_name.to_vec());
            (0, move || volume.rename(&who, (from, &name), (to, &new_name), mode))
        };
        self.volume.serve(client(request), now, later, move |done| empty(reply, done));
    }
}
