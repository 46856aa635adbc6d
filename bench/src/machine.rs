//! The machine, and how busy it was: without that a table of times says nothing.

use serde::Serialize;
use std::fmt;

/// Where a run took place.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    processor: String,
    processors: usize,
    kernel: String,
    memory_bytes: u64,
    /// Seconds since the Unix epoch.
    begun_unix_s: u64,
    /// Runnable threads, averaged over a minute.
    load_at_begin: String,
    load_at_end: String,
}

impl Machine {
    /// This machine.
    pub fn now() -> Machine {
        let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split(':').nth(1).unwrap_or("unknown").trim().to_owned()
        };
        let memory = field(&file("/proc/meminfo"), "MemTotal");
        let memory_kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or_default();
        let begun = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Machine {
            processor: field(&file("/proc/cpuinfo"), "model name"),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: file("/proc/sys/kernel/osrelease").trim().to_owned(),
            memory_bytes: memory_kib * 1024,
            begun_unix_s: begun.as_secs(),
            load_at_begin: load(),
            load_at_end: String::new(),
        }
    }

    /// Notes the load at the end.
    pub fn note_end(&mut self) {
        self.load_at_end = load();
    }
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} processors ({}), {} GiB of memory, Linux {}, no RDMA; load average {} at the begin, {} at the end",
            self.processors,
            self.processor,
            self.memory_bytes.div_ceil(1 << 30),
            self.kernel,
            self.load_at_begin,
            self.load_at_end,
        )
    }
}
