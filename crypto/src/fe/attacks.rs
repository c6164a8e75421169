//! The attacks that set the served schemes apart from the published one: each succeeds on
//! `mife-ref` and fails on every scheme of the registry.
//!
//! - Strip (F1): the first legal key removes the outer layer from every single ciphertext.
//! - Drop-out (F2): keys for S and for S without j are subtracted.
//! - Retry: the key for S is used, a crash is claimed, the same plaintexts come again, and a key
//!   for S without j is asked for.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

use super::mife::{Ciphertext, FunctionKey, Master, PartyKey, decrypt_vartime, solve_vartime};
use crate::conformance::{Fixture, all_messages, context, open, plain_sum, plaintexts};
use crate::schemes;
use crate::sum::{Family, PadSuite, Ring, SumContext, SumScheme, SumShape};

const BOUND: i64 = 1 << 20;
/// Updates of four parties, two coordinates each.
const UPDATES: [[i64; 2]; 4] = [[120, -7], [-3, 45], [88, 88], [-500, 12]];

struct Published {
    rng: ChaCha20Rng,
    master: Master,
    parties: Vec<PartyKey>,
}

impl Published {
    fn new() -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let master = Master::setup(&mut rng, UPDATES.len(), 3);
        let parties = (0..UPDATES.len()).map(|i| master.party_key(i).unwrap()).collect();
        Self { rng, master, parties }
    }

    /// Every party's ciphertext of coordinate `j`, each time with fresh randomness.
    fn round(&mut self, j: usize) -> Vec<Ciphertext> {
        let rng = &mut self.rng;
        self.parties.iter().zip(UPDATES).map(|(key, update)| key.encrypt(rng, update[j])).collect()
    }

    fn key(&self, y: [u8; 4]) -> FunctionKey {
        self.master.function_key(&y).unwrap()
    }
}

#[test]
fn published_scheme_opens_sums_and_filters_as_described() {
    let mut lab = Published::new();
    let ciphertexts = lab.round(0);
    let opened = |y| decrypt_vartime(&lab.key(y), &ciphertexts, BOUND);
    assert_eq!(opened([1, 1, 1, 1]), Some(120 - 3 + 88 - 500));
    assert_eq!(opened([1, 1, 1, 0]), Some(120 - 3 + 88));
    for refused in [&[1u8, 1, 0, 0][..], &[1, 1, 1, 2], &[1, 1, 1], &[0, 0, 0, 0]] {
        assert!(lab.master.function_key(refused).is_err());
    }
}

#[test]
fn strip_succeeds_on_the_published_scheme() {
    let mut lab = Published::new();
    let key = lab.key([1, 1, 1, 1]);
    let (first, second) = (lab.round(0), lab.round(1));
    for (i, update) in UPDATES.iter().enumerate() {
        // y_i = 1: the key's d_i is W_i itself, and what is left is [x + u_i].
        let [w0, w1] = key.d[i];
        let strip = |c: Ciphertext| c.c - w0 * c.t[0] - w1 * c.t[1];
        let difference = solve_vartime(strip(first[i]) - strip(second[i]), BOUND);
        assert_eq!(difference, Some(update[0] - update[1]), "one known coordinate gives all");
    }
}

#[test]
fn drop_out_succeeds_on_the_published_scheme() {
    let mut lab = Published::new();
    let (all, part) = (lab.key([1, 1, 1, 1]), lab.key([1, 1, 1, 0]));
    for j in [0, 1] {
        // Any round will do: neither key knows which one it was made for.
        let ciphertexts = lab.round(j);
        let whole = decrypt_vartime(&all, &ciphertexts, BOUND).unwrap();
        let rest = decrypt_vartime(&part, &ciphertexts, BOUND).unwrap();
        assert_eq!(whole - rest, UPDATES[3][j]);
    }
}

#[test]
fn retry_succeeds_on_the_published_scheme() {
    let mut lab = Published::new();
    let attempt = lab.round(0);
    let whole = decrypt_vartime(&lab.key([1, 1, 1, 1]), &attempt, BOUND).unwrap();
    // The aggregator says that it lost everything: the parties encrypt the same plaintexts again.
    let retry = lab.round(0);
    let rest = decrypt_vartime(&lab.key([1, 1, 1, 0]), &retry, BOUND).unwrap();
    assert_eq!(whole - rest, UPDATES[3][0]);
}

/// A sum of four parties under one label: ciphertexts, the key for all, and what they hide.
struct Served {
    scheme: &'static dyn SumScheme,
    context: SumContext,
    fixture: Fixture,
    plains: Vec<Vec<u8>>,
}

const ALL: [usize; 4] = [0, 1, 2, 3];
const PART: [usize; 3] = [0, 1, 2];

impl Served {
    /// `label` and `seed` of keys and nonces are public knowledge of the attack; the plaintexts are
    /// the same in each.
    fn each(label: u8) -> impl Iterator<Item = Self> {
        let functional =
            |scheme: &&&dyn SumScheme| scheme.info().family == Family::FunctionalEncryption;
        schemes::all().iter().filter(functional).map(move |scheme| {
            let shape = SumShape { ring: Ring::Z32, dim: 8, parties: 4, authorities: 1, bits: 32 };
            let mut fixture = Fixture::new(&shape, 9);
            // A new submission has a new nonce; the long-term keys stay.
            fixture.nonces.iter_mut().for_each(|nonce| nonce.0[0] ^= label);
            Self {
                scheme: *scheme,
                context: context(shape, PadSuite::Aes256Ctr, label),
                fixture,
                plains: plaintexts(&shape, 9),
            }
        })
    }

    fn messages(&self, members: &[usize]) -> Vec<Vec<Vec<u8>>> {
        let Self { scheme, context, fixture, plains } = self;
        all_messages(*scheme, context, fixture, members, plains, 8).unwrap()
    }

    /// Opens `ciphertexts` with `key`, the opener believing what the attack needs it to believe,
    /// and says whether any word of the sum over `members` came out.
    fn reveals(&self, ciphertexts: &[Vec<u8>], key: &[u8], members: &[usize]) -> bool {
        let mut ciphertexts = ciphertexts.to_vec();
        // All-zero bytes are the neutral ciphertext of each scheme: they stand in for parties that
        // the attack wants out of the sum.
        while ciphertexts.len() < 2 {
            ciphertexts.push(vec![0; ciphertexts[0].len()]);
        }
        let n = u32::try_from(ciphertexts.len()).unwrap();
        let messages = [ciphertexts, vec![key.to_vec()]];
        let truth = plain_sum(self.context.shape.ring, members, &self.plains);
        open(self.scheme, &self.context, n, &messages, 8).is_ok_and(|words| {
            words.chunks(4).zip(truth.chunks(4)).any(|(word, truth)| word == truth)
        })
    }
}

#[test]
fn the_attack_harness_opens_what_is_legal() {
    for run in Served::each(1) {
        let messages = run.messages(&ALL);
        assert!(run.reveals(&messages[0], &messages[1][0], &ALL));
    }
}

#[test]
fn strip_fails_on_served_schemes() {
    for run in Served::each(1) {
        let messages = run.messages(&ALL);
        for i in ALL {
            let alone = &messages[0][i..=i];
            assert!(!run.reveals(alone, &messages[1][0], &[i]), "{}", run.scheme.info().name);
            assert!(!run.reveals(alone, &vec![0; messages[1][0].len()], &[i]));
        }
    }
}

/// The pad of a coordinate says nothing about that of the next: equal words, unequal ciphertexts
/// whose difference is not zero either.
#[test]
fn coordinates_do_not_share_a_pad() {
    for mut run in Served::each(1) {
        run.plains.iter_mut().for_each(|plain| plain.fill(0));
        let ciphertext = &run.messages(&ALL)[0][0];
        let each: Vec<_> = ciphertext.chunks(ciphertext.len() / 8).collect();
        for (j, one) in each.iter().enumerate() {
            assert!(!each[..j].contains(one), "{}", run.scheme.info().name);
        }
    }
}

#[test]
fn drop_out_and_retry_fail_on_served_schemes() {
    for (first, second) in Served::each(1).zip(Served::each(2)) {
        let name = first.scheme.info().name;
        let (all, retried) = (first.messages(&ALL), second.messages(&ALL));
        let part_key = &second.messages(&PART)[1][0];
        let all_key = &all[1][0];
        // The key for S without j, of another label, opens nothing of the first attempt...
        assert!(!first.reveals(&all[0][..3], part_key, &PART), "{name}");
        assert!(!first.reveals(&all[0], part_key, &ALL), "{name}");
        // ... nor does the key for S open anything of the retry.
        assert!(!second.reveals(&retried[0][..3], all_key, &PART), "{name}");
        assert!(!second.reveals(&retried[0], all_key, &ALL), "{name}");
        // Within its own label that key is exact: the protocol must not release both.
        assert!(second.reveals(&retried[0][..3], part_key, &PART), "{name}");
    }
}
