//! What a request does not carry about its caller: capabilities and groups, read from `/proc` by thread id.
//!
//! Needed only in rare cases, where the kernel leaves set-id bits to the filesystem and the fuser crate does
//! not pass its hint on: truncating or changing the ACL or the owner of a file that has a set-id bit.
//!
//! Capabilities count only in the daemon's own user namespace: everybody has all of them in one that he makes. Which one
//! a caller is in is told by its id maps, for the namespace itself is shown only to those who may trace the caller, and
//! the daemon may not.
//!
//! What can go wrong: the caller is gone or lives in another pid namespace; then it counts as unprivileged, which clears
//! bits that might have stayed and never the reverse. A user namespace that maps every id to itself is taken for the
//! daemon's own; only root can make one.

/// Linux capability number (`linux/capability.h`).
const CAP_FOWNER: u32 = 3;
/// Linux capability number.
const CAP_FSETID: u32 = 4;
/// Linux capability number.
const CAP_SYS_ADMIN: u32 = 21;

/// The caller of a request, as far as `/proc` tells.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Credentials {
    effective_capabilities: u64,
    groups: Vec<u32>,
}

impl Credentials {
    /// Those of thread `tid`; of nobody when it cannot be read.
    pub fn of_thread(tid: u32) -> Credentials {
        let Ok(status) = std::fs::read_to_string(format!("/proc/{tid}/status")) else {
            return Credentials::default();
        };
        let mut credentials = parse(&status);
        if !is_in_our_user_namespace(tid) {
            credentials.effective_capabilities = 0;
        }
        credentials
    }

    /// May it do with others' objects what their owners may?
    pub fn acts_as_owner(&self) -> bool {
        self.has(CAP_FOWNER)
    }

    /// May set-id bits stay where a change would clear them for others?
    pub fn keeps_set_ids(&self) -> bool {
        self.has(CAP_FSETID)
    }

    /// May it see `trusted.` xattrs?
    pub fn sees_trusted(&self) -> bool {
        self.has(CAP_SYS_ADMIN)
    }

    fn has(&self, capability: u32) -> bool {
        self.effective_capabilities & (1 << capability) != 0
    }

    /// Is `gid` its filesystem group or one of its supplementary ones?
    pub fn in_group(&self, gid: u32) -> bool {
        self.groups.contains(&gid)
    }
}

/// As far as its id maps tell; `false` when they cannot be read. A kernel without user namespaces has no maps.
fn is_in_our_user_namespace(tid: u32) -> bool {
    ["uid_map", "gid_map"].into_iter().all(|map| match std::fs::read(format!("/proc/self/{map}")) {
        Ok(ours) => std::fs::read(format!("/proc/{tid}/{map}")).is_ok_and(|theirs| theirs == ours),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    })
}

/// Is a thread about to die of a signal, or gone? The kernel lets a process die only when each of its requests is
/// answered, and the fuser crate takes no `FUSE_INTERRUPT`; so whoever keeps one waiting looks here. A signal that ends
/// a process is pending as SIGKILL in all of its threads, whichever it was. A thread of another pid namespace has
/// number 0, and nothing is known of it.
pub fn is_being_killed(tid: u64) -> bool {
    if tid == 0 {
        return false;
    }
    match std::fs::read_to_string(format!("/proc/{tid}/status")) {
        Ok(status) => has_kill_pending(&status),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

fn has_kill_pending(status: &str) -> bool {
    let pending = status.lines().find_map(|line| line.strip_prefix("SigPnd:"));
    let signals = pending.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    signals & (1 << (libc::SIGKILL - 1)) != 0
}

fn parse(status: &str) -> Credentials {
    let mut credentials = Credentials::default();
    for line in status.lines() {
        match line.split_once(':') {
            Some(("CapEff", mask)) => {
                credentials.effective_capabilities = u64::from_str_radix(mask.trim(), 16).unwrap_or(0);
            }
            // Real, effective, saved, filesystem: the last one counts.
            Some(("Gid", ids)) => {
                credentials
                    .groups
                    .extend(ids.split_whitespace().next_back().and_then(|id| id.parse::<u32>().ok()));
            }
            Some(("Groups", ids)) => {
                credentials.groups.extend(ids.split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
            }
            _ => {}
        }
    }
    credentials
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_read() {
        let c = parse("Name:\tx\nGid:\t1\t2\t3\t4\nGroups:\t24 25 \nCapEff:\t0000000000000010\n");
        assert!(c.keeps_set_ids());
        assert!(c.in_group(4) && c.in_group(25) && !c.in_group(2));
        assert!(has_kill_pending("Name:\tx\nSigPnd:\t0000000000000100\n"));
        assert!(!has_kill_pending("Name:\tx\nSigPnd:\t0000000000004002\nShdPnd:\t0000000000000100\n"));
        assert!(is_being_killed(u64::from(u32::MAX)) && !is_being_killed(0));
        assert!(!parse("CapEff:\tzz\n").keeps_set_ids());
        assert_eq!(Credentials::of_thread(u32::MAX), Credentials::default());
    }

    /// The daemon may not trace other programs (`filer/src/rights.rs`), and root's count all the same.
    #[test]
    fn capabilities_count_in_our_user_namespace_without_the_right_to_trace() {
        let of_child = |program: &str, args: &[&str]| {
            let mut command = std::process::Command::new(program);
            let mut child = command.args(args).stdin(std::process::Stdio::piped()).spawn().unwrap();
            let is_cat = |id: u32| {
                std::fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|comm| comm.trim() == "cat")
            };
            while !is_cat(child.id()) {
                assert_eq!(child.try_wait().unwrap(), None, "{program} does not run");
                std::thread::yield_now();
            }
            // On a thread, for it gives up what it has.
            let seen = std::thread::scope(|scope| {
                let reader = scope.spawn(|| {
                    let all = rustix::thread::capabilities(None).unwrap();
                    let effective = all.effective - rustix::thread::CapabilitySet::SYS_PTRACE;
                    rustix::thread::set_capabilities(
                        None,
                        rustix::thread::CapabilitySets { effective, ..all },
                    )
                    .unwrap();
                    Credentials::of_thread(child.id())
                });
                reader.join().unwrap()
            });
            drop(child.stdin.take());
            child.wait().unwrap();
            seen
        };
        let (root, enclosed) = (of_child("cat", &[]), of_child("unshare", &["-Ur", "cat"]));
        for (who, counts) in [(root, true), (enclosed, false)] {
            let seen = (who.keeps_set_ids(), who.sees_trusted(), who.acts_as_owner());
            assert_eq!(seen, (counts, counts, counts));
        }
    }
}
