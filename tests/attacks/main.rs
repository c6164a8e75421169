//! The attacks that set the served schemes apart from the published one. Each is one piece of code,
//! written against what an aggregator can do; it must succeed on `mife-ref` and fail on every
//! served scheme behind real authorities and parties.

mod refusals;
mod systems;
mod threshold;

use quorate_protocols::refusal::Code;
use quorate_protocols::sim::scenario;
use systems::{ALL, Published, Served, System, VICTIM};

/// F1: the first legal key is tried on the ciphertexts of the victim alone, coordinate by
/// coordinate, in the round it was given for and in another. Word 0 of an update is a check slot
/// and so known to be 0: a difference to it is the value.
fn strip(system: &mut dyn System, other_round: bool) -> Option<Vec<i64>> {
    let first = system.submit().ok()?;
    system.sum(first, &ALL).ok()?;
    let target = if other_round { system.submit().ok()? } else { first };
    (0..system.dim()).map(|j| system.residue(first, target, VICTIM, j, 0)).collect()
}

/// F2: sums over everyone and over everyone but the victim.
fn drop_out(system: &mut dyn System) -> Option<Vec<i64>> {
    let round = system.submit().ok()?;
    let all = system.sum(round, &ALL).ok()?;
    let rest = system.sum(round, &ALL[..VICTIM]).ok()?;
    Some(all.iter().zip(&rest).map(|(a, b)| a - b).collect())
}

/// F2's retry: open for everyone, say that it crashed, have the same updates encrypted again, and
/// open for everyone but the victim.
fn retry(system: &mut dyn System) -> Option<Vec<i64>> {
    let round = system.submit().ok()?;
    let all = system.sum(round, &ALL).ok()?;
    let again = system.claim_crash(round).ok()?;
    let rest = system.sum(again, &ALL[..VICTIM]).ok()?;
    Some(all.iter().zip(&rest).map(|(a, b)| a - b).collect())
}

const SERVED: [u16; 2] = [1, 2];

#[test]
fn strip_succeeds_on_the_published_scheme() {
    for other_round in [false, true] {
        let mut system = Published::new();
        let stolen = strip(&mut system, other_round).expect("the attack runs through");
        let round = u32::from(other_round);
        assert_eq!(stolen, system.update(VICTIM, round));
    }
}

#[test]
fn strip_fails_on_served_schemes() {
    for scheme in SERVED {
        for other_round in [false, true] {
            let mut system = Served::new(scheme);
            let stolen = strip(&mut system, other_round).unwrap_or_default();
            let truth = system.update(VICTIM, u32::from(other_round));
            // Word 0 against itself is 0 whatever the attack; no other word may come out.
            let found = stolen.iter().zip(&truth).skip(1).filter(|(a, b)| **b != 0 && a == b);
            assert_eq!(found.count(), 0, "scheme {scheme}: {stolen:?}");
            assert!(truth.iter().filter(|word| **word != 0).count() >= 2, "a victim to rob");
        }
    }
}

#[test]
fn drop_out_succeeds_on_the_published_scheme() {
    let mut system = Published::new();
    assert_eq!(drop_out(&mut system), Some(system.update(VICTIM, 0)));
}

#[test]
fn drop_out_fails_on_served_schemes() {
    for scheme in SERVED {
        let mut system = Served::new(scheme);
        assert_eq!(drop_out(&mut system), None, "scheme {scheme}");
        assert_eq!(system.refused, [Code::LabelUsed]);
        system.assert_logged(Code::LabelUsed);
    }
}

#[test]
fn retry_succeeds_on_the_published_scheme() {
    let mut system = Published::new();
    assert_eq!(retry(&mut system), Some(system.update(VICTIM, 0)));
}

#[test]
fn retry_fails_on_served_schemes() {
    for scheme in SERVED {
        let mut system = Served::new(scheme);
        assert_eq!(retry(&mut system), None, "scheme {scheme}");
        // No tombstone after a release, and no retry at a party without one.
        assert_eq!(system.refused, [Code::Released, Code::MissingTombstones]);
        system.assert_logged(Code::Released);
        system.assert_logged(Code::MissingTombstones);
    }
}

/// What the attacks are refused is not refused for want of a working system.
#[test]
fn honest_sums_open_on_every_system() {
    let keyed =
        quorate_protocols::sim::lab::quick_threshold_schemes().map(|scheme| scheme.info().id);
    for scheme in SERVED.into_iter().chain(keyed) {
        assert_eq!(scenario::honest_sum(scheme), Ok(()), "scheme {scheme}");
    }
    let mut systems: [Box<dyn System>; 3] =
        [Box::new(Published::new()), Box::new(Served::new(1)), Box::new(Served::new(2))];
    for system in &mut systems {
        let round = system.submit().expect("everyone submits");
        let sum = system.sum(round, &ALL).expect("a legal sum");
        let truth: Vec<i64> =
            (0..system.dim()).map(|j| ALL.iter().map(|p| system.update(*p, 0)[j]).sum()).collect();
        assert_eq!(sum, truth);
    }
}

/// A request for a second key, a subset key, an unfrozen set, a set below the floor, a manifest
/// below a party's minima, and the rest: each is refused with its stable code, which the log shows.
#[test]
fn every_scripted_attack_is_refused_with_its_code() {
    for (check, attack) in scenario::SCENARIOS {
        assert_eq!(attack(), Ok(()), "{check:?}");
    }
    assert_eq!(scenario::receipt_not_honoured(), Ok(()));
}
