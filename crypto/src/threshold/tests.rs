//! The conformance checks, on every registered threshold scheme.

use std::sync::OnceLock;

use super::conformance::{self as checks, KeyFixture};
use super::paillier::PAILLIER;
use super::paillier::testkit::{INSECURE_TEST_PRIMES, dealer_from_primes};
use proptest::prelude::*;

use super::{KeyPost, KeySecret, KeySetup, ThresholdScheme};
use crate::keys::Identity;
use crate::schemes;
use crate::secret::Secret;
use crate::sum::{Ring, SumShape};

/// Bits of values that every scheme opens, 50 parties' sums included.
const BITS: u32 = 12;

fn is_full_size(scheme: &dyn ThresholdScheme) -> bool {
    scheme.info().id == PAILLIER.info().id
}

/// The schemes whose checks take seconds: all but Paillier of full size, whose subsets and extremes are
/// in its own tests.
fn quick() -> impl Iterator<Item = &'static dyn ThresholdScheme> {
    schemes::threshold().iter().copied().filter(|scheme| !is_full_size(*scheme))
}

/// A key of any scheme. Primes of full size take long to find: they are a test vector's.
fn key(scheme: &dyn ThresholdScheme, holders: u32, threshold: u32, drawn: u8) -> KeyFixture {
    if !is_full_size(scheme) {
        return KeyFixture::run(scheme, holders, threshold, drawn);
    }
    let post = |setup: &KeySetup<'_>,
                _: usize,
                _: (u32, &Identity),
                _: &KeySecret,
                _: &[KeyPost],
                seed: &Secret<[u8; 32]>| {
        dealer_from_primes(PAILLIER, setup, INSECURE_TEST_PRIMES, seed)
    };
    KeyFixture::run_with(scheme, holders, threshold, drawn, &post)
}

fn shape(ring: Ring, dim: u64, parties: u32) -> SumShape {
    SumShape { ring, dim, parties, authorities: 1, bits: BITS }
}

#[test]
fn every_scheme_is_checked() {
    let names: Vec<&str> = schemes::threshold().iter().map(|scheme| scheme.info().name).collect();
    assert_eq!(names, ["elgamal", "paillier", "paillier-512-insecure"]);
    assert_eq!(quick().count(), 2);
    for scheme in schemes::threshold() {
        let sum = schemes::by_id(scheme.info().id).unwrap();
        assert_eq!((sum.info(), sum.info().name), (scheme.info(), scheme.info().name));
    }
}

#[test]
fn every_t_of_five_holders_open_with_the_authority_and_no_other_set() {
    for scheme in quick() {
        checks::check_opens(scheme, &key(scheme, 5, 3, 1), shape(Ring::Z64, 7, 3));
    }
    for scheme in quick() {
        for (holders, threshold) in [(1, 1), (4, 4), (5, 1)] {
            let fixture = key(scheme, holders, threshold, 2);
            checks::check_opens(scheme, &fixture, shape(Ring::Z32, 6, 2));
        }
    }
}

#[test]
fn extremes_of_fifty_parties_and_sums_of_a_part_are_exact() {
    for scheme in quick() {
        let fixture = key(scheme, 3, 2, 1);
        checks::check_extremes(scheme, &fixture, BITS);
        checks::check_part(scheme, &fixture, shape(Ring::Z64, 9, 5));
    }
}

#[test]
fn sums_are_those_of_pad_bit_for_bit() {
    for scheme in schemes::threshold().iter().copied() {
        let fixture = key(scheme, 2, 1, 1);
        for ring in [Ring::Z32, Ring::Z64] {
            checks::check_equals_pad(scheme, &fixture, shape(ring, 17, 4));
        }
    }
}

#[test]
fn attacks_are_refused() {
    for scheme in quick() {
        let (fixture, other) = (key(scheme, 4, 2, 1), key(scheme, 4, 2, 2));
        let shape = shape(Ring::Z64, 13, 3);
        checks::check_reply_attacks(scheme, &fixture, &other, shape);
        checks::check_encrypt_refusals(scheme, &fixture, shape);
        checks::check_partial_attacks(scheme, &fixture, &other, shape);
        checks::check_key_attacks(scheme, &fixture);
    }
}

#[test]
fn shapes_and_the_sum_scheme_conform() {
    for scheme in schemes::threshold().iter().copied() {
        checks::check_shapes(scheme, shape(Ring::Z64, 13, 3));
    }
    for scheme in quick() {
        let fixture = key(scheme, 3, 2, 1);
        let sum = schemes::by_id(scheme.info().id).unwrap();
        for ring in [Ring::Z32, Ring::Z64] {
            checks::check_sum_scheme(sum, &fixture, shape(ring, 13, 3));
        }
    }
}

/// A scheme, a key of it, and bytes to alter.
type Hostile = (&'static dyn ThresholdScheme, KeyFixture, Vec<Vec<u8>>);

/// One of each quick scheme.
fn hostile() -> &'static [Hostile] {
    static KEYS: OnceLock<Vec<Hostile>> = OnceLock::new();
    KEYS.get_or_init(|| {
        let keyed = |scheme| {
            let fixture = key(scheme, 3, 2, 9);
            let samples = checks::hostile_samples(scheme, &fixture, HOSTILE);
            (scheme, fixture, samples)
        };
        quick().map(keyed).collect()
    })
}

const HOSTILE: SumShape = SumShape { ring: Ring::Z32, dim: 2, parties: 2, authorities: 1, bits: 8 };

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn altered_and_arbitrary_bytes_never_panic(
        which in any::<usize>(),
        choice in any::<u8>(),
        edits in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..4),
        cut in 0usize..1000,
        any in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        for (scheme, fixture, samples) in hostile() {
            let mut altered = samples[which % samples.len()].clone();
            for (at, value) in &edits {
                if !altered.is_empty() {
                    let at = at % altered.len();
                    altered[at] = *value;
                }
            }
            altered.truncate(cut);
            for bytes in [&altered, &any] {
                let bytes = [&[choice][..], bytes].concat();
                checks::check_hostile_bytes(*scheme, fixture, HOSTILE, &bytes);
                let sum = schemes::by_id(scheme.info().id).unwrap();
                checks::check_hostile_state(sum, &fixture.public, HOSTILE, &bytes);
            }
        }
    }
}
