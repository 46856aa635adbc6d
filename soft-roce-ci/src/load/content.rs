//! File content that proves where it belongs and when it was written.
//!
//! Files are made of lines of [`LINE_BYTES`]; each carries the run, the writer, the file, the place in the file, the
//! number of the operation that wrote it, and a checksum over these. A line that is found can therefore be judged by
//! itself: it is the one that belongs there, an older one, or it was never written there at all.

/// The unit of content.
pub const LINE_BYTES: usize = 64;

/// The unit in which files grow: a page, which the kernel never splits a write within.
pub const BLOCK_BYTES: usize = 4096;

/// Lines of a block.
pub const LINES_PER_BLOCK: u64 = (BLOCK_BYTES / LINE_BYTES) as u64;

/// Begins every line.
const MAGIC: u64 = 0x7477_696e_2d6c_6f61;

/// Who wrote, in which run of the load.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Writer {
    /// The run; also the seed of its operations.
    pub run: u32,
    /// The thread.
    pub thread: u32,
}

/// What a line says about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Who wrote it.
    pub writer: Writer,
    /// The file: the number of the operation that created it.
    pub file: u64,
    /// Its place in the file, counted in lines.
    pub line: u64,
    /// The operation that wrote it.
    pub operation: u64,
}

impl Stamp {
    fn words(self) -> [u64; 5] {
        let writer = u64::from(self.writer.run) << 32 | u64::from(self.writer.thread);
        [MAGIC, writer, self.file, self.line, self.operation]
    }

    /// The line.
    pub fn line(self) -> [u8; LINE_BYTES] {
        let words = self.words();
        let mut bytes = [0; LINE_BYTES];
        let mut mixer = Random::new(words.iter().fold(0, |sum, word| mix(sum ^ word)));
        let filler = std::iter::repeat_with(|| mixer.next_bits());
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(words.into_iter().chain(filler)) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The stamp of a line, if it is one as [`Stamp::line`] makes it, every byte of it.
    pub fn parse(bytes: &[u8]) -> Option<Stamp> {
        let word = |index: usize| {
            let bytes = bytes.get(index * 8..index * 8 + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let writer = word(1)?;
        let stamp = Stamp {
            writer: Writer { run: (writer >> 32) as u32, thread: writer as u32 },
            file: word(2)?,
            line: word(3)?,
            operation: word(4)?,
        };
        (stamp.line() == *bytes).then_some(stamp)
    }
}

/// The bytes of `count` lines that one operation writes into a file from line `first` on.
pub fn lines(writer: Writer, file: u64, operation: u64, first: u64, count: u64) -> Vec<u8> {
    (first..first + count).flat_map(|line| Stamp { writer, file, line, operation }.line()).collect()
}

/// A small seeded generator (SplitMix64, Steele, Lea & Flood 2014). Both ends must choose the same operations from
/// the same seed.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator that is fully determined by `seed`.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next 64 bits.
    pub fn next_bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number in `0..bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next_bits() % bound }
    }
}

fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_proves_itself_and_any_changed_byte_shows() {
        let stamp = Stamp { writer: Writer { run: 7, thread: 3 }, file: 12, line: 99, operation: 1 << 40 };
        let line = stamp.line();
        assert_eq!(Stamp::parse(&line), Some(stamp));
        for index in 0..LINE_BYTES {
            let mut damaged = line;
            damaged[index] ^= 1;
            assert_ne!(Stamp::parse(&damaged), Some(stamp), "byte {index}");
        }
        assert_eq!(Stamp::parse(&[0; LINE_BYTES]), None);
        assert_eq!(Stamp::parse(&line[..63]), None);
    }
}
