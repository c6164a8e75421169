//! What an authority refuses beyond the scripted attacks: orders, deadlines and keys.

use quorate_crypto::keys::ExchangeKey;
use quorate_protocols::enrol::{Enroll, EnrollRequest};
use quorate_protocols::refusal::Code;
use quorate_protocols::round::messages::{RoundOpen, SubmitHeader};
use quorate_protocols::sim::lab::{Kind, Lab};
use quorate_protocols::sim::scenario::size;
use quorate_protocols::sim::stage::{Stage, Submission, indicator};
use quorate_protocols::wire::Signed;

const ALL: [usize; 5] = [0, 1, 2, 3, 4];

fn stage() -> Stage {
    Stage::new(5, &size(Kind::Sum, 1))
}

/// Submissions of everyone under `open`, whatever the parties themselves would say to it.
fn forced(stage: &mut Stage, open: &Signed<RoundOpen>) -> Vec<Submission> {
    let first = stage.sign(stage.opening(0, 0, &ALL));
    let mut members = stage.submit_all(&ALL, &first).unwrap();
    let label = open.peek().unwrap().fields.label(&stage.lab.manifest);
    for (party, member) in stage.lab.parties.iter().zip(&mut members) {
        let header = SubmitHeader { label, ..member.header.peek().unwrap() };
        member.header = Signed::sign(header, &party.identity).signed().clone();
    }
    members
}

/// What authority 0 says to a frozen set of everyone.
fn promise(stage: &mut Stage, open: &Signed<RoundOpen>) -> Option<Code> {
    let members = forced(stage, open);
    let freeze = stage.freeze(open, &members);
    let y = indicator(&open.peek().unwrap().roster, &members);
    stage.promise(0, &freeze, &y).err().map(|refusal| refusal.code)
}

#[test]
fn a_skipped_round_is_refused() {
    let mut stage = stage();
    let skipped = stage.sign(stage.opening(1, 0, &ALL));
    assert_eq!(promise(&mut stage, &skipped), Some(Code::OutOfOrder));
    // The round itself is in order.
    let mut stage = self::stage();
    let first = stage.sign(stage.opening(0, 0, &ALL));
    assert_eq!(promise(&mut stage, &first), None);
}

#[test]
fn a_skipped_tombstone_is_refused() {
    let mut stage = stage();
    for (round, attempt) in [(0, 1), (1, 0)] {
        let refused = stage.tombstone(0, round, attempt).map_err(|refusal| refusal.code);
        assert_eq!(refused.err(), Some(Code::OutOfOrder), "round {round}, attempt {attempt}");
    }
    stage.tombstone(0, 0, 0).unwrap();
    stage.tombstone(0, 0, 1).unwrap();
}

#[test]
fn a_deadline_further_ahead_than_the_manifest_allows_is_refused() {
    for (over_ms, expected) in [(0, None), (1, Some(Code::Expired))] {
        let mut stage = stage();
        let mut open = stage.opening(0, 0, &ALL);
        // A minute is left to the clocks.
        open.deadline_ms =
            stage.now_ms + stage.lab.manifest.deadlines.collect_ms + 60_000 + over_ms;
        let open = stage.sign(open);
        assert_eq!(promise(&mut stage, &open), expected);
    }
}

#[test]
fn an_exchange_key_of_small_order_is_not_enrolled() {
    let lab = Lab::new(5, &size(Kind::Sum, 1));
    let party = &lab.parties[0];
    let tenant = &lab.manifest.tenant;
    let mut one = [0; 32];
    one[0] = 1;
    for point in [[0; 32], one] {
        let mut entry = party.entry.clone();
        entry.exchange = ExchangeKey(point);
        let enroll = Enroll { tenant: tenant.clone(), entry };
        let request = EnrollRequest::new(enroll, &party.identity, None);
        let refused = request.check(tenant, None).map_err(|refusal| refusal.code);
        assert_eq!(refused.err(), Some(Code::Malformed));
    }
    assert!(lab.enrolment(0, None).check(tenant, None).is_ok());
}

#[test]
fn authorities_that_share_a_key_are_one_authority_and_refused() {
    let mut size = size(Kind::Sum, 1);
    size.authorities = 3;
    let manifest = Lab::new(5, &size).manifest;
    manifest.check().unwrap();
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        let mut shared = manifest.clone();
        shared.authorities[other].exchange = shared.authorities[one].exchange;
        assert_eq!(shared.check().unwrap_err().code, Code::BadManifest, "exchange {one} {other}");
        let mut shared = manifest.clone();
        shared.authorities[other].verify = shared.authorities[one].verify;
        assert_eq!(shared.check().unwrap_err().code, Code::BadManifest, "verify {one} {other}");
    }
}
