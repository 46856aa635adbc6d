//! How much of everything is done: enough to mean something, or just enough to show that it runs.

use crate::turns::Turns;
use std::time::Duration;

/// The sizes of a run.
#[derive(Clone, Debug)]
pub struct Scale {
    /// How often every page of a ring is written before anything is measured.
    pub touch_times: u64,
    /// Turns of appends; a turn is [`Scale::append_turn_bytes`] long.
    pub append_turns: usize,
    /// Payload bytes of one turn.
    pub append_turn_bytes: usize,
    /// Turns of commits.
    pub commits: Turns,
    /// How long a stretch of commits lasts.
    pub stretch_time: Duration,
    /// The pause, or the busy time, before all stretches but the first.
    pub stretch_pause: Duration,
    /// Turns of commits between two machines.
    #[cfg_attr(not(feature = "verbs"), expect(dead_code))]
    pub guest_commits: Turns,
    /// How long streams of commits between two machines last.
    #[cfg_attr(not(feature = "verbs"), expect(dead_code))]
    pub guest_stream_time: Duration,
    /// Turns of writes through the mount.
    pub writes: Turns,
    /// Bytes of one file that is applied.
    pub apply_bytes: u64,
    /// How often it is applied.
    pub apply_rounds: usize,
    /// Before each turn, for disks that make who writes much wait.
    pub apply_pause: Duration,
    /// Bytes in large files that a partner misses, and in small ones.
    pub resync_bytes: [u64; 2],
    /// What it misses while a client writes: enough for much longer than that.
    pub resync_backlog_bytes: u64,
    /// How often a partner comes back, for each row about it.
    pub resync_rounds: usize,
    /// More about its volume in the configuration.
    pub resync_config: &'static str,
    /// How long a client writes beside a resync.
    pub resync_time: Duration,
    /// How long the mail load runs.
    pub mail_time: Duration,
    /// Mails that exist at a time.
    pub mail_files: usize,
    /// How often the primary is killed.
    pub takeovers: usize,
    /// Length of the log that is full at a start.
    pub restart_log_bytes: u64,
    /// How often a pair starts with it.
    pub restarts: usize,
    /// Size of an image, where one is needed.
    pub image_bytes: u64,
}

impl Scale {
    /// For numbers.
    pub fn full() -> Scale {
        Scale {
            touch_times: 2,
            append_turns: 101,
            append_turn_bytes: 4 << 20,
            commits: Turns { turns: 40, count: 250, time: Duration::from_millis(500) },
            stretch_time: Duration::from_secs(1),
            stretch_pause: Duration::from_secs(1),
            guest_commits: Turns { turns: 20, count: 150, time: Duration::from_secs(1) },
            guest_stream_time: Duration::from_secs(8),
            writes: Turns { turns: 8, count: usize::MAX, time: Duration::from_millis(1500) },
            apply_bytes: 256 << 20,
            apply_rounds: 8,
            apply_pause: Duration::from_secs(2),
            resync_bytes: [1 << 30, 256 << 20],
            resync_backlog_bytes: 256 << 20,
            resync_rounds: 4,
            resync_config: "",
            resync_time: Duration::from_secs(4),
            mail_time: Duration::from_secs(15),
            mail_files: 1000,
            takeovers: 100,
            restart_log_bytes: 1 << 30,
            restarts: 3,
            image_bytes: 6 << 30,
        }
    }

    /// For showing that it works.
    pub fn tiny() -> Scale {
        Scale {
            touch_times: 0,
            append_turns: 3,
            append_turn_bytes: 64 << 10,
            commits: Turns { turns: 2, count: 20, time: Duration::from_millis(100) },
            stretch_time: Duration::from_millis(20),
            stretch_pause: Duration::from_millis(20),
            guest_commits: Turns { turns: 2, count: 20, time: Duration::from_millis(100) },
            guest_stream_time: Duration::from_millis(500),
            writes: Turns { turns: 2, count: 50, time: Duration::from_millis(200) },
            apply_bytes: 8 << 20,
            apply_rounds: 1,
            apply_pause: Duration::ZERO,
            resync_bytes: [8 << 20; 2],
            resync_backlog_bytes: 24 << 20,
            resync_rounds: 1,
            // So that a session outlasts what is measured beside it.
            resync_config: "resync = { max_rate = \"10MiB\" }\n",
            resync_time: Duration::from_millis(300),
            mail_time: Duration::from_millis(1500),
            mail_files: 50,
            takeovers: 1,
            restart_log_bytes: 32 << 20,
            restarts: 1,
            image_bytes: 1 << 30,
        }
    }
}
