//! The conformance checks, attacks of this scheme's own and vectors.

use super::*;
use crate::sum::Ring;
use crate::threshold::conformance::{self as checks, KeyFixture};

fn small(holders: u32, threshold: u32, drawn: u8) -> KeyFixture {
    KeyFixture::run(&PAILLIER_512_INSECURE, holders, threshold, drawn)
}

fn shape(dim: u64, parties: u32, bits: u32) -> SumShape {
    SumShape { ring: Ring::Z64, dim, parties, authorities: 1, bits }
}

#[test]
fn every_quorum_opens_and_no_other_set() {
    for (holders, threshold) in [(5, 3), (1, 1), (4, 4)] {
        let fixture = small(holders, threshold, 1);
        checks::check_opens(&PAILLIER_512_INSECURE, &fixture, shape(30, 3, 40));
    }
    checks::check_part(&PAILLIER_512_INSECURE, &small(5, 2, 1), shape(20, 5, 64));
}
