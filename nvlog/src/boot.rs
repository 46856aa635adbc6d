//! The identity of this boot of the machine: memory that does not survive power is gone when it changes.

use crate::superblock::BootId;

const BOOT_ID_PATH: &str = "/proc/sys/kernel/random/boot_id";

/// This boot's id; zero where the kernel does not tell it, which counts as "another boot" next time.
pub(crate) fn current() -> BootId {
    let text = std::fs::read_to_string(BOOT_ID_PATH).unwrap_or_default();
    parse(&text).unwrap_or_default()
}

fn parse(text: &str) -> Option<BootId> {
    let digits: Vec<u32> =
        text.trim().chars().filter(|c| *c != '-').map(|c| c.to_digit(16)).collect::<Option<_>>()?;
    let mut id = [0; 16];
    if digits.len() != 2 * id.len() {
        return None;
    }
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = (pair[0] * 16 + pair[1]) as u8;
    }
    Some(BootId(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_form_is_read() {
        let id = parse("0a1b2c3d-0000-4000-8000-0123456789ab\n").unwrap();
        assert_eq!(id.0[..4], [0x0a, 0x1b, 0x2c, 0x3d]);
        assert_eq!(id.0[15], 0xab);
        assert_eq!(parse("nonsense"), None);
        assert_ne!(current(), BootId::default(), "this kernel tells it");
    }
}
