//! Bulk work of a node beside what keeps the pair alive.

use crate::harness::{Cluster, Side, Spec, twinfiler};
use filer::control::{Answer, Request};
use filer::status::Mode;
use std::fs::File;

/// The timers of the product, not those that are patient with a busy test machine.
const SHIPPED: &str = "";

/// What changes whenever a pair leaves `mirrored`: epochs, links made, links broken.
fn ties(pair: &Cluster) -> Vec<(u64, u64, u64)> {
    let tie = |side| {
        let volume = pair.volume(side).expect("it answers");
        assert_eq!(volume.mode, Mode::Mirrored, "{}", pair.diagnosis());
        (volume.epoch.0, volume.transport.connects, volume.transport.breaks)
    };
    Side::BOTH.into_iter().map(tie).collect()
}

#[test]
fn verify_of_sparse_files_costs_no_pair_its_mirror() {
    const FILES: usize = 6;
    const LEN_BYTES: u64 = 2 << 30;
    let pair = Cluster::start(Spec { timers: SHIPPED, ..Spec::default() });
    for number in 0..FILES {
        File::create(pair.mount(Side::A).join(format!("sparse-{number}")))
            .unwrap()
            .set_len(LEN_BYTES)
            .unwrap();
    }
    for side in Side::BOTH {
        let answer = pair.ask(side, &Request::ConsistencyPoint { volume: "v".to_owned() });
        assert!(matches!(answer, Ok(Answer::ConsistencyPoint(_))), "{answer:?}");
    }
    let before = ties(&pair);
    let output = twinfiler(&["--config", &pair.config(Side::A).display().to_string(), "verify", "v"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}\n{}", pair.diagnosis());
    assert_eq!(ties(&pair), before, "{}", pair.diagnosis());
    let result = pair.volume(Side::A).unwrap().verify.unwrap().last.unwrap();
    assert_eq!((result.differing, result.bytes, result.error), (0, 0, None), "a hole was read");
}
