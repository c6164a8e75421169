//! Powers read from tables without a secret index.

use rug::Integer;
use subtle::{Choice, ConditionallySelectable};
use zeroize::Zeroizing;

use super::number::{window, words};
use super::pair::{Block, Pair, Pairs};

/// Bits of one digit of an exponent.
const WINDOW: usize = 6;
/// Powers kept per digit.
const ROWS: usize = 1 << WINDOW;

/// What is read at once of each row.
type Line = [Block; 2];

/// The first 64 powers of a unit: the first line of each, then the second line of each, and so on;
/// returned is its 64th power.
fn fill(pairs: &Pairs, rows: &mut [Line], unit: &Pair) -> Pair {
    let mut scratch = pairs.scratch();
    let mut power = pairs.one().clone();
    for row in 0..ROWS {
        for (rows, line) in rows.as_chunks_mut::<ROWS>().0.iter_mut().zip(power.as_chunks().0) {
            if let Some(place) = rows.get_mut(row) {
                *place = *line;
            }
        }
        pairs.multiply(&mut power, unit, &mut scratch);
    }
    power
}

/// Copies row `digit` to `out`, reading all of them; `masks` is for work.
fn select(rows: &[Line], digit: usize, masks: &mut [u64; ROWS], out: &mut Pair) {
    // All ones where the bits of the row's number are the digit's.
    let [first, ..] = masks;
    *first = u64::MAX;
    for bit in 0..WINDOW {
        let one = Choice::from(u8::from((digit >> bit) & 1 == 1));
        let one = u64::conditional_select(&0, &u64::MAX, one);
        let (low, high) = masks.split_at_mut(1 << bit);
        for (low, high) in low.iter_mut().zip(high) {
            *high = *low & one;
            *low &= !one;
        }
    }
    for (rows, out) in rows.as_chunks::<ROWS>().0.iter().zip(out.as_chunks_mut().0) {
        let mut line: Line = [[0; 4]; 2];
        for (row, mask) in rows.iter().zip(masks.iter()) {
            for (limb, candidate) in line.as_flattened_mut().iter_mut().zip(row.as_flattened()) {
                *limb |= candidate & mask;
            }
        }
        *out = line;
    }
}

/// Row d of digit k holds base^(d 64^k): 16 MB at 3072 bits.
pub(super) struct FixedBase {
    pairs: Pairs,
    rows: Vec<Line>,
}

impl FixedBase {
    /// A table for exponents of up to `bits` bits.
    pub(super) fn new(pairs: &Pairs, base: &Integer, bits: u32) -> Self {
        let digits = (bits as usize).div_ceil(WINDOW);
        let mut rows = vec![Line::default(); digits * ROWS * pairs.len()];
        let mut unit = pairs.pair(base, &mut pairs.scratch());
        for rows in rows.chunks_exact_mut(ROWS * pairs.len()) {
            unit = fill(pairs, rows, &unit);
        }
        Self { pairs: pairs.clone(), rows }
    }

    /// The arithmetic that it belongs to.
    #[cfg(any(test, feature = "testkit"))]
    pub(super) const fn pairs(&self) -> &Pairs {
        &self.pairs
    }

    /// (1 + m n) base^a modulo n^2 for each m below n and a of at most `bits` bits, both in words.
    ///
    /// # Security
    /// Constant time in numbers of so many words. Digits are the outer loop, so that their rows stay in cache for
    /// all exponents.
    pub(super) fn encryptions(&self, inputs: &[(&[u64], &[u64])], bits: u32) -> Vec<Integer> {
        let digits = (bits as usize).div_ceil(WINDOW);
        let mut scratch = self.pairs.scratch();
        let mut masks = Zeroizing::new([0; ROWS]);
        let mut factor = self.pairs.one().clone();
        let mut powers = vec![self.pairs.one().clone(); inputs.len()];
        for (k, rows) in self.rows.chunks_exact(ROWS * self.pairs.len()).take(digits).enumerate() {
            for (power, (_, exponent)) in powers.iter_mut().zip(inputs) {
                select(rows, window(exponent, k * WINDOW, WINDOW), &mut masks, &mut factor);
                self.pairs.multiply(power, &factor, &mut scratch);
            }
        }
        let opened = powers.iter_mut().zip(inputs);
        opened.map(|(power, (m, _))| self.pairs.integer(power, m, &mut scratch)).collect()
    }
}

/// `base`, which is public, to the power of an exponent of at most `bits` bits, modulo n^2.
///
/// # Security
/// Constant time in exponents of so many words; the result is to become public.
pub(super) fn power(pairs: &Pairs, base: &Integer, exponent: &Integer, bits: u32) -> Integer {
    let limbs = words(exponent, bits);
    let mut rows = vec![Line::default(); ROWS * pairs.len()];
    let mut scratch = pairs.scratch();
    fill(pairs, &mut rows, &pairs.pair(base, &mut scratch));
    let mut masks = Zeroizing::new([0; ROWS]);
    let mut factor = pairs.one().clone();
    let mut power = pairs.one().clone();
    for k in (0..(bits as usize).div_ceil(WINDOW)).rev() {
        for _ in 0..WINDOW {
            pairs.square(&mut power, &mut scratch);
        }
        select(&rows, window(&limbs, k * WINDOW, WINDOW), &mut masks, &mut factor);
        pairs.multiply(&mut power, &factor, &mut scratch);
    }
    pairs.integer(&mut power, &[], &mut scratch)
}
