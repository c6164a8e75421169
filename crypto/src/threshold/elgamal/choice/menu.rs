//! One choice: its candidates, the row that is picked from them, and the proof of that.

use std::sync::LazyLock;

use curve25519_dalek::constants::RISTRETTO_BASEPOINT_POINT as G;
use curve25519_dalek::ristretto::RistrettoPoint;
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::Identity;
use subtle::{ConditionallySelectable, ConstantTimeEq};
use zeroize::Zeroizing;

use super::{BRANCH_BYTES, Binding, ChoiceError, Chosen, Ciphers, MAX_TABLE, same_len};
use crate::threshold::elgamal::key::{CIPHER_BYTES, Cipher, ElGamalKey, POINT_BYTES};
use crate::threshold::elgamal::proof::{
    Draw, Transcript, half_generator, scalar, weighted_sum_vartime, weights,
};

/// What is chosen from and how it is said in the transcript.
#[derive(Clone, Copy)]
pub(super) struct Menu<'a> {
    domain: &'static str,
    rows: usize,
    pub(super) width: usize,
    /// Row by row.
    candidates: &'a [Cipher],
    /// The candidates' bytes; none for constants.
    said: &'a [u8],
}

/// The trivial encryptions of 0 and 1.
static CONSTANTS: LazyLock<[Cipher; 2]> = LazyLock::new(|| trivial(G));
/// Half of each.
static HALF_CONSTANTS: LazyLock<[Cipher; 2]> = LazyLock::new(|| trivial(half_generator()));

fn trivial(one: RistrettoPoint) -> [Cipher; 2] {
    let nothing = RistrettoPoint::identity();
    [[nothing; 2], [nothing, one]]
}

/// A row that was chosen and re-randomised, not encoded yet.
pub(super) struct Picked {
    choice: u8,
    /// The randomness of each of its ciphertexts.
    blinds: Zeroizing<Vec<Scalar>>,
    /// The outcome; of constants half of it, since encoding them together doubles.
    out: Vec<Cipher>,
    /// What the proof's branches draw.
    drawn: Drawn,
}

/// Challenge and response of every branch.
type Drawn = Zeroizing<Vec<(u128, Scalar)>>;

/// What one choice leaves until its challenge is known.
struct Pending {
    statement: Transcript,
    choice: u8,
    blind: Zeroizing<Scalar>,
    drawn: Drawn,
}

impl Menu<'_> {
    fn statement(&self, key: &ElGamalKey, binding: &Binding, out: &[u8]) -> Transcript {
        Transcript::new(self.domain)
            .with(key.id())
            .with(binding)
            .with(&(self.rows as u64).to_le_bytes())
            .with(&(self.width as u64).to_le_bytes())
            .with(self.said)
            .with(out)
    }

    /// D_k of every branch, weighted over the row. Variable time: all of it is public.
    fn differences(&self, statement: &Transcript, out: &[Cipher]) -> Vec<Cipher> {
        let rows = self.candidates.chunks_exact(self.width.max(1));
        if let [out] = out {
            let difference =
                |row: &[Cipher]| row.first().map_or(*out, |[c1, c2]| [out[0] - c1, out[1] - c2]);
            return rows.map(difference).collect();
        }
        let seed = statement.clone().with(b"weights").digest();
        rows.map(|row| {
            let side = |of: fn(&Cipher) -> &RistrettoPoint| {
                let points: Vec<_> = out.iter().zip(row).map(|(o, c)| of(o) - of(c)).collect();
                weighted_sum_vartime(&seed, points.iter())
            };
            [side(|[c1, _]| c1), side(|[_, c2]| c2)]
        })
        .collect()
    }

    /// Whether the candidates are constants, of which the halves are known.
    const fn is_constant(&self) -> bool {
        self.said.is_empty()
    }

    /// Row `choice`, re-randomised.
    pub(super) fn pick(&self, key: &ElGamalKey, choice: u8, draw: &mut Draw) -> Picked {
        let halved = self.is_constant();
        let candidates = if halved { HALF_CONSTANTS.as_slice() } else { self.candidates };
        let mut blinds = Zeroizing::new(Vec::with_capacity(self.width));
        let mut out = Vec::with_capacity(self.width);
        for column in 0..self.width {
            let mut chosen = [RistrettoPoint::identity(); 2];
            for (row, candidates) in (0u8..).zip(candidates.chunks_exact(self.width)) {
                let taken = row.ct_eq(&choice);
                let candidate = candidates.get(column).into_iter().flatten();
                for (to, from) in chosen.iter_mut().zip(candidate) {
                    to.conditional_assign(from, taken);
                }
            }
            let blind = draw.scalar();
            blinds.push(blind);
            let factor = Zeroizing::new(if halved { blind.div_by_2() } else { blind });
            out.push([
                chosen[0] + RistrettoPoint::mul_base(&factor),
                chosen[1] + &*factor * key.table(),
            ]);
        }
        Picked { choice, blinds, out, drawn: Zeroizing::new(Vec::new()) }
    }

    /// The bytes of what was picked from menus of this kind.
    pub(super) fn encode(&self, picked: &[Picked]) -> Vec<[u8; POINT_BYTES]> {
        let points = || picked.iter().flat_map(|item| item.out.as_flattened());
        if self.is_constant() {
            return encode_doubled(&points().copied().collect::<Vec<_>>()).collect();
        }
        points().map(|point| point.compress().to_bytes()).collect()
    }

    /// The first half of the proof that `picked` is a row of this menu: its commitments are
    /// appended to `commitments`.
    fn commit(
        &self,
        key: &ElGamalKey,
        statement: Transcript,
        picked: Picked,
        commitments: &mut Vec<RistrettoPoint>,
    ) -> Pending {
        let Picked { choice, blinds, out, drawn } = picked;
        let mut blind = Zeroizing::new(Scalar::ZERO);
        match blinds.as_slice() {
            [one] => *blind = *one,
            many => {
                let seed = statement.clone().with(b"weights").digest();
                for (weight, one) in weights(&seed).zip(many) {
                    *blind += weight * one;
                }
            }
        }
        match (self.candidates, drawn.as_slice()) {
            ([first, second], [a, b]) => {
                commitments.extend(self.commit_pair([first, second], choice, &blind, [a, b], key));
            }
            _ => {
                let differences = self.differences(&statement, &out);
                for ([d1, d2], (challenge, response)) in differences.iter().zip(drawn.iter()) {
                    let minus = Zeroizing::new(-Scalar::from(*challenge));
                    commitments.push(RistrettoPoint::mul_base(response) + *minus * d1);
                    commitments.push(response * key.table() + *minus * d2);
                }
            }
        }
        Pending { statement, choice, blind, drawn }
    }

    /// The commitments of both branches where there are two candidates of one ciphertext, as the
    /// general way gives them, with fewer products of foreign points.
    ///
    /// With k the choice and delta = candidate_1 - candidate_0, D_j = r (G, Y) + (k - j) delta; so
    /// branch j commits to (z_j - c_j r) (G, Y), and the branch that is not chosen to c_1 delta or
    /// -c_0 delta more.
    fn commit_pair(
        &self,
        [first, second]: [&Cipher; 2],
        choice: u8,
        blind: &Scalar,
        drawn: [&(u128, Scalar); 2],
        key: &ElGamalKey,
    ) -> [RistrettoPoint; 4] {
        let one = choice.ct_eq(&1);
        let challenges = drawn.map(|(challenge, _)| Zeroizing::new(Scalar::from(*challenge)));
        let [c0, c1] = &challenges;
        let shift = Zeroizing::new(Scalar::conditional_select(c1, &-**c0, one));
        let more = if self.is_constant() {
            // The constants differ by (O, G).
            [RistrettoPoint::identity(), RistrettoPoint::mul_base(&shift)]
        } else {
            [*shift * (second[0] - first[0]), *shift * (second[1] - first[1])]
        };
        let nothing = RistrettoPoint::identity();
        let branch = |(_, response): &(u128, Scalar), challenge: &Scalar, other| {
            let blinded = Zeroizing::new(response - challenge * blind);
            let extra =
                more.map(|point| RistrettoPoint::conditional_select(&nothing, &point, other));
            [RistrettoPoint::mul_base(&blinded) + extra[0], &*blinded * key.table() + extra[1]]
        };
        let [[a0, b0], [a1, b1]] = [branch(drawn[0], c0, one), branch(drawn[1], c1, !one)];
        [a0, b0, a1, b1]
    }

    /// The commitments of a proof, appended, its statement and the challenge that it claims; `None`
    /// when it is malformed. Variable time.
    pub(super) fn reopen(
        &self,
        key: &ElGamalKey,
        binding: &Binding,
        (bytes, out): (&[u8], &[Cipher]),
        proof: &[u8],
        commitments: &mut Vec<RistrettoPoint>,
    ) -> Option<(Transcript, u128)> {
        let statement = self.statement(key, binding, bytes);
        let (branches, rest) = proof.as_chunks::<BRANCH_BYTES>();
        if branches.len() != self.rows || !rest.is_empty() {
            return None;
        }
        let mut sum = 0u128;
        for (branch, [d1, d2]) in branches.iter().zip(self.differences(&statement, out)) {
            let (challenge, response) = branch.split_first_chunk()?;
            let challenge = u128::from_le_bytes(*challenge);
            let response = scalar(response.try_into().ok()?)?;
            let short = Scalar::from(challenge);
            let product = |d: RistrettoPoint| {
                RistrettoPoint::vartime_double_scalar_mul_basepoint(&short, &-d, &Scalar::ZERO)
            };
            commitments.push(RistrettoPoint::mul_base(&response) + product(d1));
            commitments.push(&response * key.table() + product(d2));
            sum = sum.wrapping_add(challenge);
        }
        Some((statement, sum))
    }
}

/// The challenge over a statement and its encoded commitments.
fn challenge(
    mut statement: Transcript,
    encoded: &mut impl Iterator<Item = [u8; 32]>,
    count: usize,
) -> u128 {
    encoded.take(count).for_each(|bytes| statement.add(&bytes));
    statement.short_challenge()
}

pub(super) fn encode_doubled(
    commitments: &[RistrettoPoint],
) -> impl Iterator<Item = [u8; 32]> + use<> {
    RistrettoPoint::double_and_compress_batch(commitments)
        .into_iter()
        .map(|encoding| encoding.to_bytes())
}

/// The proof whose challenge is now known, appended.
fn finish(item: &Pending, challenge: u128, proofs: &mut Vec<u8>) {
    let mut own = challenge;
    for (drawn, _) in item.drawn.iter() {
        own = own.wrapping_sub(*drawn);
    }
    for (row, (drawn, response)) in (0u8..).zip(item.drawn.iter()) {
        // The chosen branch takes what the others leave of the challenge; all others keep what
        // was drawn.
        let taken = row.ct_eq(&item.choice);
        let extra = Zeroizing::new(u128::conditional_select(&0, &own, taken));
        let more = Zeroizing::new(Scalar::from(drawn.wrapping_add(*extra)) - Scalar::from(*drawn));
        let response = response + *more * *item.blind;
        proofs.extend(drawn.wrapping_add(*extra).to_le_bytes());
        proofs.extend(response.to_bytes());
    }
}

/// Chooses from each menu and proves it; ciphertexts and proofs are appended to `chosen`. All
/// menus are of one kind.
pub(super) fn make(
    key: &ElGamalKey,
    items: &[(Menu<'_>, &Binding)],
    choices: &[u8],
    draw: &mut Draw,
    chosen: &mut Chosen,
) {
    let Some((first, _)) = items.first() else { return };
    let mut picked = Vec::with_capacity(items.len());
    for ((menu, _), choice) in items.iter().zip(choices) {
        let mut item = menu.pick(key, *choice, draw);
        item.drawn.reserve_exact(menu.rows);
        item.drawn.extend((0..menu.rows).map(|_| (draw.word(), draw.scalar())));
        picked.push(item);
    }
    let encoded = first.encode(&picked);
    let mut commitments = Vec::with_capacity(items.len().saturating_mul(2 * first.rows));
    let mut pending = Vec::with_capacity(items.len());
    for (((menu, binding), item), out) in
        items.iter().zip(picked).zip(encoded.chunks_exact(2 * first.width))
    {
        let statement = menu.statement(key, binding, out.as_flattened());
        pending.push(menu.commit(key, statement, item, &mut commitments));
    }
    chosen.ciphers.extend_from_slice(encoded.as_flattened());
    let mut encoded = encode_doubled(&commitments);
    for item in pending {
        let count = item.drawn.len().saturating_mul(2);
        let challenge = challenge(item.statement.clone(), &mut encoded, count);
        finish(&item, challenge, &mut chosen.proofs);
    }
}

/// Checks the challenges of proofs in order; each has `each` commitments.
pub(super) fn settle(
    open: Vec<(usize, (Transcript, u128))>,
    commitments: &[RistrettoPoint],
    each: usize,
) -> Result<(), ChoiceError> {
    let mut encoded = encode_doubled(commitments);
    for (index, (statement, sum)) in open {
        if challenge(statement, &mut encoded, each) != sum {
            return Err(ChoiceError::BadProof(index));
        }
    }
    Ok(())
}

pub(super) fn bit_menu() -> Menu<'static> {
    Menu { domain: "bit", rows: 2, width: 1, candidates: CONSTANTS.as_slice(), said: &[] }
}

/// For every input itself and the trivial encryption of 1.
pub(super) fn or_candidates(decoded: &Ciphers) -> Vec<[Cipher; 2]> {
    let [_, one] = *CONSTANTS;
    decoded.0.iter().map(|input| [*input, one]).collect()
}

pub(super) fn or_menus<'a>(
    inputs: &'a [u8],
    candidates: &'a [[Cipher; 2]],
) -> impl Iterator<Item = Menu<'a>> {
    let bytes = inputs.as_chunks::<CIPHER_BYTES>().0;
    candidates.iter().zip(bytes).map(|(candidates, said)| Menu {
        domain: "or",
        rows: 2,
        width: 1,
        candidates,
        said,
    })
}

pub(super) fn table_menu<'a>(
    said: &'a [u8],
    decoded: &'a Ciphers,
    rows: usize,
) -> Result<Menu<'a>, ChoiceError> {
    let width = decoded.len().checked_div(rows).unwrap_or(0);
    let legal = (2..=MAX_TABLE).contains(&rows) && (1..=MAX_TABLE).contains(&width);
    same_len(rows.saturating_mul(width), decoded.len())?;
    if !legal {
        return Err(ChoiceError::Length { expected: 2, got: rows });
    }
    Ok(Menu { domain: "select", rows, width, candidates: &decoded.0, said })
}
