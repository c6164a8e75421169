//! FedV as published, on `mife-ref` and `sife-ref`, and the attacks that set vertical training on
//! [`product`](super::product) apart from it.
//!
//! - Collapse (F3): keys of s independent residual vectors are solved for the master secret.
//! - Labels (F4): whoever sees the residuals, aggregator and authority, reads the labels.
//!
//! That the aggregator of ours sees no residual at all is asserted where its messages are, in the
//! tests of the vertical protocol.

use core::num::Wrapping;
use core::ops::{Mul, Sub};

use curve25519_dalek::scalar::Scalar;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::product::{ProductContext, ProductShape};
use super::{mife, sife};
use crate::keys::SharedKey;
use crate::sum::{KeyedNonce, Label, Nonce, PadSuite};

const BOUND: i64 = 1 << 22;
/// The label holder and two passive parties, two features each.
const PARTIES: usize = 3;
const FEATURES: usize = 2;
/// s.
const ROWS: usize = 6;
/// Scores are products of two numbers at scale 8.
const SCORE_ONE: i64 = 64;

/// What the parties hold for one batch.
struct Data {
    /// By party, then feature, then row.
    features: Vec<Vec<Vec<i64>>>,
    /// By party, then feature.
    weights: Vec<Vec<i64>>,
    /// 1 or -1.
    labels: Vec<i64>,
}

impl Data {
    fn new(rng: &mut ChaCha20Rng) -> Self {
        let mut small = |bound: i64| i64::from(rng.next_u32()).rem_euclid(2 * bound + 1) - bound;
        let features = (0..PARTIES)
            .map(|_| (0..FEATURES).map(|_| (0..ROWS).map(|_| small(8)).collect()).collect())
            .collect();
        let weights = (0..PARTIES).map(|_| (0..FEATURES).map(|_| small(2)).collect()).collect();
        let labels = (0..ROWS).map(|_| if small(1000) > 0 { 1 } else { -1 }).collect();
        Self { features, weights, labels }
    }

    fn score(&self, party: usize, row: usize) -> i64 {
        let columns = self.features[party].iter().zip(&self.weights[party]);
        columns.map(|(column, weight)| column[row] * weight).sum()
    }

    /// Joined score minus `times` labels.
    fn residual(&self, row: usize, times: i64) -> i64 {
        let score: i64 = (0..PARTIES).map(|party| self.score(party, row)).sum();
        score - times * SCORE_ONE * self.labels[row]
    }
}

/// The published construction: one authority with one master secret of each scheme.
struct Published {
    rng: ChaCha20Rng,
    feature_dimension: mife::Master,
    slots: Vec<mife::PartyKey>,
    sample_dimension: sife::Master,
    public: sife::PublicKey,
}

/// What one batch puts into the aggregator's hands.
struct Seen {
    /// u, opened on the feature dimension.
    residuals: Vec<i64>,
    /// The key that it asked for on the sample dimension.
    key: sife::FunctionKey,
    /// By party, then feature.
    ciphertexts: Vec<Vec<sife::Ciphertext>>,
    /// By party, then feature: opened.
    gradients: Vec<Vec<Option<i64>>>,
}

impl Published {
    fn new(seed: u64) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let feature_dimension = mife::Master::setup(&mut rng, PARTIES, 2);
        let slots = (0..PARTIES).map(|i| feature_dimension.party_key(i).unwrap()).collect();
        let sample_dimension = sife::Master::setup(&mut rng, ROWS);
        let public = sample_dimension.public_key();
        Self { rng, feature_dimension, slots, sample_dimension, public }
    }

    /// One batch: each party sends one ciphertext per row and one per feature, the label holder's
    /// scores being z - `times` y; the aggregator asks for two keys and opens u, then the gradients.
    ///
    /// `times` is 1 for linear regression, where u = z - y. For logistic regression by Taylor's
    /// series u = z / 4 - y / 2, so that 4 u = z - 2 y.
    fn batch(&mut self, data: &Data, times: i64) -> Seen {
        let rng = &mut self.rng;
        let all = self.feature_dimension.function_key(&[1; PARTIES]).unwrap();
        let residuals: Vec<i64> = (0..ROWS)
            .map(|row| {
                let one = |(party, slot): (usize, &mife::PartyKey)| {
                    let own = if party == 0 { times * SCORE_ONE * data.labels[row] } else { 0 };
                    slot.encrypt(rng, data.score(party, row) - own)
                };
                let sent: Vec<_> = self.slots.iter().enumerate().map(one).collect();
                mife::decrypt_vartime(&all, &sent, BOUND).unwrap()
            })
            .collect();
        let ciphertexts: Vec<Vec<_>> = data
            .features
            .iter()
            .map(|own| own.iter().map(|x| self.public.encrypt(rng, x).unwrap()).collect())
            .collect();
        let key = self.sample_dimension.function_key(&residuals).unwrap();
        let open = |own: &Vec<_>| -> Vec<_> {
            own.iter().map(|one| sife::decrypt_vartime(&key, one, BOUND)).collect()
        };
        let gradients = ciphertexts.iter().map(open).collect();
        Seen { residuals, key, ciphertexts, gradients }
    }
}

/// The construction is the paper's: residuals and gradients are those of plain arithmetic.
#[test]
fn published_batch_opens_residuals_and_gradients() {
    let mut lab = Published::new(1);
    for times in [1, 2] {
        let data = Data::new(&mut lab.rng);
        let seen = lab.batch(&data, times);
        let plain: Vec<i64> = (0..ROWS).map(|row| data.residual(row, times)).collect();
        assert_eq!(seen.residuals, plain);
        for (own, gradients) in data.features.iter().zip(&seen.gradients) {
            for (column, gradient) in own.iter().zip(gradients) {
                let product: i64 = column.iter().zip(&plain).map(|(x, u)| x * u).sum();
                assert_eq!(*gradient, Some(product));
            }
        }
    }
}

/// A ring in which linear equations are solved, as far as coefficients have inverses.
trait Coefficient: Copy + Mul<Output = Self> + Sub<Output = Self> {
    fn inverse(self) -> Option<Self>;
}

impl Coefficient for Scalar {
    fn inverse(self) -> Option<Self> {
        (self != Self::ZERO).then(|| self.invert())
    }
}

impl Coefficient for Wrapping<u64> {
    fn inverse(self) -> Option<Self> {
        // Newton: each step doubles the number of right bits, of which an odd number has three.
        let step = |inverse, _| inverse * (Self(2) - self * inverse);
        (self.0 % 2 == 1).then(|| (0..5).fold(self, step))
    }
}

/// The unknowns of `equations`, each its coefficients and then its right side, from the first ones that
/// suffice; with it the equations that were not needed, reduced by the others: 0 = their last entry.
fn solve<T: Coefficient>(mut equations: Vec<Vec<T>>) -> Option<(Vec<T>, Vec<T>)> {
    let unknowns = equations.first()?.len() - 1;
    for column in 0..unknowns {
        let usable = |(_, row): &(usize, &Vec<T>)| row[column].inverse().is_some();
        let (pivot, _) = equations.iter().enumerate().skip(column).find(usable)?;
        equations.swap(column, pivot);
        let inverse = equations[column][column].inverse()?;
        equations[column].iter_mut().for_each(|entry| *entry = *entry * inverse);
        let pivot = equations[column].clone();
        for (_, row) in equations.iter_mut().enumerate().filter(|(i, _)| *i != column) {
            let factor = row[column];
            row.iter_mut().zip(&pivot).for_each(|(entry, p)| *entry = *entry - factor * *p);
        }
    }
    let mut right = equations.iter().map(|row| row[unknowns]);
    Some((right.by_ref().take(unknowns).collect(), right.collect()))
}

/// F3: an aggregator that follows the protocol through s batches has the master secret, and opens every
/// feature of every party and batch, those of batches to come included.
#[test]
fn collapse_succeeds_on_the_published_scheme() {
    let mut lab = Published::new(2);
    let batches: Vec<(Data, Seen)> = (0..=ROWS)
        .map(|_| {
            let data = Data::new(&mut lab.rng);
            let seen = lab.batch(&data, 1);
            (data, seen)
        })
        .collect();
    let equation = |(_, seen): &(Data, Seen)| -> Vec<Scalar> {
        let of = |u: &i64| sife::signed(*u);
        seen.residuals.iter().map(of).chain([seen.key.sk]).collect()
    };
    // One key less does not suffice: the attack needs what the comment of the scheme says.
    assert!(solve(batches.iter().take(ROWS - 1).map(equation).collect()).is_none());
    let (secret, left) = solve(batches.iter().take(ROWS).map(equation).collect()).unwrap();
    assert_eq!(left, []);
    let mut opened = 0;
    for (data, seen) in &batches {
        for (own, ciphertexts) in data.features.iter().zip(&seen.ciphertexts) {
            for (column, sent) in own.iter().zip(ciphertexts) {
                for ((x, c), m) in column.iter().zip(&sent.c).zip(&secret) {
                    assert_eq!(mife::solve_vartime(c - m * sent.t, BOUND), Some(*x));
                    opened += 1;
                }
            }
        }
    }
    assert_eq!(opened, (ROWS + 1) * PARTIES * FEATURES * ROWS);
}

/// One batch of one passive party of ours, as the label holder sees it: the strongest view there is
/// without an authority. It knows u, rho and hence v, has the ciphertext and every authority's key.
struct Masked {
    vectors: Vec<u64>,
    keys: Vec<u64>,
    /// Of the features: column after column.
    ciphertext: Vec<u64>,
    features: Vec<u64>,
}

const SHAPE: ProductShape = ProductShape { rows: 16, columns: 8, outputs: 1 };

/// Features and residuals of fixed-point magnitude under a label.
fn masked(rng: &mut ChaCha20Rng, label: u64) -> Masked {
    let mut bytes = [7u8; 32];
    bytes[..8].copy_from_slice(&label.to_le_bytes());
    let context = ProductContext { label: Label(bytes), suite: PadSuite::Aes256Ctr };
    let (authority, pair) = (SharedKey::from_bytes([1; 32]), SharedKey::from_bytes([2; 32]));
    // The nonce goes with the label: one ciphertext each.
    let keyed = KeyedNonce { key: &authority, nonce: Nonce([label.to_le_bytes()[0]; 16]) };
    let small = |rng: &mut ChaCha20Rng| -> u64 {
        (i64::from(rng.next_u32() % (1 << 18)) - (1 << 17)).cast_unsigned()
    };
    let features: Vec<u64> = (0..SHAPE.features()).map(|_| small(rng)).collect();
    let mut sealed = vec![0u8; SHAPE.train_bytes()];
    let places = sealed.chunks_mut(8).skip(SHAPE.scores());
    places.zip(&features).for_each(|(place, x)| place.copy_from_slice(&x.to_le_bytes()));
    context.seal(&[keyed], &mut sealed).unwrap();
    let rho = context.vector_masks(&pair, SHAPE.scores());
    let vectors: Vec<u64> = rho.iter().map(|rho| small(rng).wrapping_add(*rho)).collect();
    let keys = context.product_key(&keyed, &SHAPE, &vectors).unwrap().to_vec();
    let words = sealed.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
    let ciphertext = words.skip(SHAPE.scores()).take(SHAPE.features()).collect();
    Masked { vectors, keys, ciphertext, features }
}

/// The attacker of F3 on our scheme: solves for one column's pads as if they were the same in all
/// `batches`. Their number is the rows and one more for the mask.
fn pads(batches: &[Masked], column: usize) -> (Vec<Wrapping<u64>>, Vec<Wrapping<u64>>) {
    let equation = |batch: &Masked| -> Vec<Wrapping<u64>> {
        let words = batch.vectors.iter().chain([&1, &batch.keys[column]]);
        words.map(|word| Wrapping(*word)).collect()
    };
    solve(batches.iter().map(equation).collect()).unwrap()
}

/// `batch` opened with pads that the attacker believes in, one per row, column after column.
fn opened(batch: &Masked, pads: &[Wrapping<u64>]) -> Vec<u64> {
    let pairs = batch.ciphertext.iter().zip(pads);
    pairs.map(|(sealed, pad)| sealed.wrapping_sub(pad.0)).collect()
}

/// The pads of all columns, and what is left of equations that were not needed.
fn all_pads(batches: &[Masked]) -> (Vec<Wrapping<u64>>, Vec<Wrapping<u64>>) {
    let (mut all, mut left) = (Vec::new(), Vec::new());
    for column in 0..SHAPE.columns {
        let (own, unused) = pads(batches, column);
        all.extend(&own[..SHAPE.rows]);
        left.extend(unused);
    }
    (all, left)
}

/// More equations than unknowns: the coefficients are random, and half of them have no inverse.
const KEYS: usize = 2 * SHAPE.rows;

/// F3 on ours, under one label for every key: what the authorities' rule of one product key per label
/// keeps from happening. It shows that the attacker below is the right one.
#[test]
fn collapse_would_succeed_with_many_keys_of_one_label() {
    let mut rng = ChaCha20Rng::seed_from_u64(3);
    let batches: Vec<Masked> = (0..=KEYS).map(|_| masked(&mut rng, 0)).collect();
    let (pads, left) = all_pads(&batches[..KEYS]);
    assert!(left.iter().all(|rest| rest.0 == 0), "the equations agree");
    for batch in &batches {
        assert_eq!(opened(batch, &pads), batch.features);
    }
}

/// F3 fails on ours: with a label per batch the equations have no common unknowns. No candidate that
/// some keys give satisfies the others, and what it opens of any batch is uniform.
#[test]
fn collapse_fails_on_fresh_labels() {
    let mut rng = ChaCha20Rng::seed_from_u64(3);
    let batches: Vec<Masked> = (0..).take(KEYS + 1).map(|label| masked(&mut rng, label)).collect();
    let (pads, left) = all_pads(&batches[..KEYS]);
    assert_eq!(left.len(), (KEYS - SHAPE.rows - 1) * SHAPE.columns);
    assert!(left.iter().all(|rest| rest.0 != 0), "no equation agrees with the others");
    let mut ones = 0u32;
    for batch in &batches {
        let opened = opened(batch, &pads);
        assert_eq!(opened.len(), batch.features.len());
        assert!(opened.iter().zip(&batch.features).all(|(guess, x)| guess != x));
        ones += opened.iter().map(|word| word.count_ones()).sum::<u32>();
    }
    // 33 batches of 128 words: five standard deviations of the share of ones are 0.0048.
    let bits = batches.len() * SHAPE.features() * 64;
    let share = f64::from(ones) / bits as f64;
    assert!((share - 0.5).abs() < 2.5 / (bits as f64).sqrt(), "{share}");
}

/// F4: the residuals that aggregator and authority see are the labels, at weights of zero to the number,
/// and by their sign for logistic regression as long as |z| < 2 (for its exact form always, and there
/// the aggregator is given the labels in clear).
#[test]
fn labels_are_read_off_the_published_residuals() {
    let mut lab = Published::new(4);
    for round in 0..8 {
        let mut data = Data::new(&mut lab.rng);
        if round == 0 {
            data.weights.iter_mut().flatten().for_each(|weight| *weight = 0);
            let linear = lab.batch(&data, 1);
            let guess: Vec<i64> = linear.residuals.iter().map(|u| -u / SCORE_ONE).collect();
            assert_eq!(guess, data.labels);
        }
        let seen = lab.batch(&data, 2);
        // The authority makes the key from the very same vector.
        assert_eq!(seen.key.u, seen.residuals);
        for (row, u) in seen.residuals.iter().enumerate() {
            assert!(data.residual(row, 0).abs() < 2 * SCORE_ONE);
            assert_eq!(-u.signum(), data.labels[row]);
        }
    }
}

/// F4 fails on ours: an authority sees v = u + rho, and the sign of v is that of the label for half of
/// the rows, at weights of zero, where u alone says all.
#[test]
fn labels_are_not_read_off_what_our_authority_sees() {
    const ROWS: usize = 20_000;
    let mut rng = ChaCha20Rng::seed_from_u64(5);
    let context = ProductContext { label: Label([1; 32]), suite: PadSuite::ChaCha20 };
    let rho = context.vector_masks(&SharedKey::from_bytes([2; 32]), ROWS);
    let labels: Vec<i64> = (0..ROWS).map(|_| i64::from(rng.next_u32() % 2) * 2 - 1).collect();
    // Logistic residuals of scores of zero, at scale 2^16.
    let residuals = labels.iter().map(|y| -y << 15);
    let hits = |seen: &mut dyn Iterator<Item = i64>| {
        seen.zip(&labels).filter(|(seen, y)| -seen.signum() == **y).count()
    };
    assert_eq!(hits(&mut residuals.clone()), ROWS);
    let mut masked = residuals
        .zip(rho.iter())
        .map(|(u, rho)| u.cast_unsigned().wrapping_add(*rho).cast_signed());
    // Five standard deviations of 20,000 fair coins are 354.
    let hits = hits(&mut masked);
    assert!(hits.abs_diff(ROWS / 2) < 354, "{hits}");
}
