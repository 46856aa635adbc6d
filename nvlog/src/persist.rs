//! The instructions that move bytes from the CPU's caches to persistent memory, chosen at run time.
//!
//! Write-back: `clwb` (keeps the line cached, so the transport still reads it from there), else `clflushopt`,
//! else `clflush`; other processors have no equivalent here and a region that needs it refuses to open.
//! Large payloads are better copied with non-temporal stores, which skip the caches. For a bare copy the
//! break-even lies between 1 and 4 KiB, for an append higher: the payload needs a fence of its own then, before
//! the header is written back (4 KiB: 520 against 540 ns on an EPYC; 16 KiB: 1650 against 1200).
//!
//! Invariant: after [`write_back`] or [`copy_non_temporal`] *and then* [`fence`] in the same thread, the bytes
//! are in the persistence domain (ADR). Without the fence nothing is promised.
//! What can go wrong: nothing at run time; a wrong choice of instruction only costs time.

#![allow(unsafe_code)]

use std::sync::OnceLock;

/// Length of a cache line on every processor that has these instructions.
pub(crate) const CACHE_LINE_BYTES: usize = 64;
/// From this length on a payload is copied with non-temporal stores.
pub(crate) const NON_TEMPORAL_MIN_BYTES: usize = 8192;

/// The instruction that writes cache lines back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WriteBack {
    Clwb,
    ClflushOpt,
    Clflush,
    Unavailable,
}

/// What this processor offers.
pub(crate) fn write_back_kind() -> WriteBack {
    static KIND: OnceLock<WriteBack> = OnceLock::new();
    *KIND.get_or_init(detect)
}

#[cfg(target_arch = "x86_64")]
fn detect() -> WriteBack {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    // CPUID leaf 7, EBX: bit 23 CLFLUSHOPT, bit 24 CLWB; leaf 1, EDX: bit 19 CLFSH (Intel SDM, vol. 2A).
    let features = if __cpuid(0).eax >= 7 { __cpuid_count(7, 0).ebx } else { 0 };
    if features & (1 << 24) != 0 {
        WriteBack::Clwb
    } else if features & (1 << 23) != 0 {
        WriteBack::ClflushOpt
    } else if __cpuid(1).edx & (1 << 19) != 0 {
        WriteBack::Clflush
    } else {
        WriteBack::Unavailable
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> WriteBack {
    WriteBack::Unavailable
}

/// Orders all earlier write-backs and non-temporal stores of this thread before everything later.
#[inline]
pub(crate) fn fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: sfence touches no memory and no register; SSE is part of x86-64.
    unsafe {
        std::arch::asm!("sfence", options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
}

/// Starts writing back the cache lines that hold `len_bytes` from `start` on.
///
/// # Safety
/// The range must be mapped.
#[inline]
pub(crate) unsafe fn write_back(start: *const u8, len_bytes: usize) {
    // SAFETY: passed on from the caller; the kind says that the processor has the instruction.
    unsafe { write_back_with(write_back_kind(), start, len_bytes) }
}

/// As [`write_back`], with a given instruction.
///
/// # Safety
/// The range must be mapped and the processor must have the instruction.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) unsafe fn write_back_with(kind: WriteBack, start: *const u8, len_bytes: usize) {
    use std::arch::asm;
    let end = start as usize + len_bytes;
    let mut line = start as usize & !(CACHE_LINE_BYTES - 1);
    while line < end {
        // SAFETY: the line holds at least one byte of the mapped range, and pages are multiples of lines;
        // writing back a line changes no byte. The processor has the instruction, says the caller.
        unsafe {
            match kind {
                WriteBack::Clwb => asm!("clwb [{}]", in(reg) line, options(nostack, preserves_flags)),
                WriteBack::ClflushOpt => {
                    asm!("clflushopt [{}]", in(reg) line, options(nostack, preserves_flags))
                }
                WriteBack::Clflush => asm!("clflush [{}]", in(reg) line, options(nostack, preserves_flags)),
                WriteBack::Unavailable => return,
            }
        }
        line += CACHE_LINE_BYTES;
    }
}

/// No other processor has an equivalent that this program knows.
///
/// # Safety
/// None needed; the signature is that of the x86-64 version.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) unsafe fn write_back_with(_kind: WriteBack, _start: *const u8, _len_bytes: usize) {}

/// Copies `source` to `target` past the caches: whole lines with non-temporal stores, the ragged ends with
/// ordinary ones that are written back. A [`fence`] must follow.
///
/// # Safety
/// `target..target + source.len()` must be mapped writable, must not overlap `source`, and nobody else may
/// write there meanwhile.
pub(crate) unsafe fn copy_non_temporal(target: *mut u8, source: &[u8]) {
    let head = target.align_offset(CACHE_LINE_BYTES).min(source.len());
    let lines = (source.len() - head) / CACHE_LINE_BYTES;
    let body = lines * CACHE_LINE_BYTES;
    let tail = source.len() - head - body;
    // SAFETY: head + body + tail is the source's length, so all pointers stay inside the two ranges, which the
    // caller vouches for; the body's target is aligned to a line.
    unsafe {
        if head > 0 {
            std::ptr::copy_nonoverlapping(source.as_ptr(), target, head);
            write_back(target, head);
        }
        stream_lines(target.add(head), source.as_ptr().add(head), lines);
        if tail > 0 {
            let from = head + body;
            std::ptr::copy_nonoverlapping(source.as_ptr().add(from), target.add(from), tail);
            write_back(target.add(from), tail);
        }
    }
}

/// # Safety
/// As [`copy_non_temporal`]; `target` is aligned to 64.
#[cfg(target_arch = "x86_64")]
unsafe fn stream_lines(target: *mut u8, source: *const u8, lines: usize) {
    for line in 0..lines {
        let offset = line * CACHE_LINE_BYTES;
        // SAFETY: the line lies inside both ranges; the target is aligned to 16, the source need not be; SSE2
        // is part of x86-64, and the clobbered registers are declared.
        unsafe {
            std::arch::asm!(
                "movdqu {a}, [{s}]",
                "movdqu {b}, [{s} + 16]",
                "movdqu {c}, [{s} + 32]",
                "movdqu {d}, [{s} + 48]",
                "movntdq [{t}], {a}",
                "movntdq [{t} + 16], {b}",
                "movntdq [{t} + 32], {c}",
                "movntdq [{t} + 48], {d}",
                s = in(reg) source.add(offset),
                t = in(reg) target.add(offset),
                a = out(xmm_reg) _,
                b = out(xmm_reg) _,
                c = out(xmm_reg) _,
                d = out(xmm_reg) _,
                options(nostack, preserves_flags)
            );
        }
    }
}

/// # Safety
/// As [`copy_non_temporal`].
#[cfg(not(target_arch = "x86_64"))]
unsafe fn stream_lines(target: *mut u8, source: *const u8, lines: usize) {
    // SAFETY: passed on from the caller.
    unsafe { std::ptr::copy_nonoverlapping(source, target, lines * CACHE_LINE_BYTES) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn non_temporal_copies_are_exact_at_every_alignment() {
        let source: Vec<u8> = (0..1024u32).map(|i| (i * 7 + 1) as u8).collect();
        for offset in [0, 1, 8, 63, 64, 65] {
            for len in [0, 1, 15, 63, 64, 65, 127, 128, 400, 900] {
                let mut target = vec![0xEE_u8; 1200];
                // SAFETY: offset + len ≤ 965 lies inside the vector, which nobody else uses.
                unsafe { copy_non_temporal(target.as_mut_ptr().add(offset), &source[..len]) };
                fence();
                assert_eq!(target[offset..offset + len], source[..len]);
                assert!(target[..offset].iter().chain(&target[offset + len..]).all(|b| *b == 0xEE));
            }
        }
    }

    #[test]
    fn every_instruction_that_the_processor_has_leaves_the_bytes_alone() {
        let best = write_back_kind();
        let older = match best {
            WriteBack::Clwb => vec![WriteBack::Clwb, WriteBack::ClflushOpt, WriteBack::Clflush],
            WriteBack::ClflushOpt => vec![WriteBack::ClflushOpt, WriteBack::Clflush],
            other => vec![other],
        };
        let bytes = vec![0x5A_u8; 300];
        for kind in older {
            // SAFETY: the vector is mapped; processors with clwb have clflushopt, those have clflush.
            unsafe { write_back_with(kind, bytes.as_ptr().add(3), 290) };
            fence();
            assert!(bytes.iter().all(|b| *b == 0x5A));
        }
    }
}
