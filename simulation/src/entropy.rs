//! Makes what the standard library takes for random a function of the seed: the keys of its hash tables, whose order of
//! iteration would differ from run to run otherwise.
//!
//! The C library's `getrandom` is replaced in programs that link this crate: in a thread that has called [`begin`] it
//! gives a sequence that follows from the seed. Keys are drawn once for each thread, so a run that is to be repeated
//! needs a thread of its own.

use scheduler::Random;
use std::cell::RefCell;

thread_local! {
    static SEEDED: RefCell<Option<Random>> = const { RefCell::new(None) };
}

/// From now on this thread's randomness follows from `seed`.
pub fn begin(seed: u64) {
    SEEDED.set(Some(Random::new(seed)));
}

/// See the module. Threads that did not begin get what the kernel gives.
///
/// # Safety
/// As of the C library's: `buffer` is writable for `len_bytes`.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut u8, len_bytes: usize, flags: u32) -> isize {
    let seeded = SEEDED.try_with(|random| {
        let mut random = random.try_borrow_mut().ok()?;
        let random = random.as_mut()?;
        for at in 0..len_bytes {
            // SAFETY: the caller's buffer has this length.
            unsafe { buffer.add(at).write(random.next_bits() as u8) };
        }
        Some(len_bytes as isize)
    });
    match seeded {
        Ok(Some(given)) => given,
        // SAFETY: the same arguments, as the C library would pass them.
        _ => unsafe { libc::syscall(libc::SYS_getrandom, buffer, len_bytes, flags) as isize },
    }
}
