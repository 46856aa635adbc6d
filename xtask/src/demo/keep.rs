//! What `--keep` says: how to use the pair that is still running, and how to get rid of it.

use crate::cluster::{Cluster, Side};

/// The hint, for a shell.
pub fn hint(cluster: &Cluster) -> String {
    let pids: Vec<String> = cluster.process_ids().iter().map(u32::to_string).collect();
    let mut text = String::from("\nThe pair is still running.\n");
    for side in Side::BOTH {
        text.push_str(&format!(
            "  node {}: mount {}   local tree {}\n          twinfiler --config {} status\n",
            side.name(),
            cluster.mount_path(side).display(),
            cluster.base_path(side).display(),
            cluster.config_path(side).display(),
        ));
    }
    text.push_str("  Stop it with:\n");
    text.push_str(&format!(
        "    kill {pids}; while kill -0 {pids} 2>/dev/null; do sleep 0.2; done\n",
        pids = pids.join(" ")
    ));
    text.push_str(&format!(
        "    umount -ql {dir}/a/mount {dir}/b/mount {dir}/a/disk {dir}/b/disk; rm -r {dir} {memory}\n",
        dir = cluster.dir().display(),
        memory = cluster.memory_dir().display(),
    ));
    text
}
