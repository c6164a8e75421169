//! Powers of one fixed base, read without a secret index.

use rug::integer::Order;
use rug::{Assign, Integer};
use subtle::{ConditionallySelectable, ConstantTimeEq};
use zeroize::Zeroizing;

use super::number::{SecretInteger, times, window};
use super::size::Size;

/// Bits of one digit of an exponent.
const WINDOW: usize = 6;
/// Powers kept per digit.
const ROWS: usize = 1 << WINDOW;

/// Row d of digit k holds base^((d + 1) 64^k): 15 MB at 3072 bits.
///
/// No row is the number 1, whose products would be faster than those of other rows; the surplus of
/// one per digit is taken out at the end.
pub(super) struct FixedBase {
    limbs: usize,
    modulus: Integer,
    rows: Vec<u64>,
    /// For every number of digits, the inverse of the surplus.
    surplus: Vec<Integer>,
}

impl FixedBase {
    /// A table for exponents of up to `bits` bits; `base` must be coprime to `modulus`.
    pub(super) fn new(size: Size, base: &Integer, modulus: &Integer, bits: u32) -> Self {
        let limbs = size.square_limbs();
        let digits = (bits as usize).div_ceil(WINDOW);
        let mut rows = vec![0u64; digits * ROWS * limbs];
        let mut surplus = Vec::with_capacity(digits);
        let mut total = Integer::from(1);
        let mut unit = base.clone();
        let mut last = Integer::new();
        for rows in rows.chunks_exact_mut(ROWS * limbs) {
            times(&mut total, &unit, modulus);
            // A base that is not coprime to the modulus has no inverse: 0 then makes every proof fail.
            surplus.push(total.invert_ref(modulus).map_or_else(Integer::new, Integer::from));
            let mut power = unit.clone();
            for row in rows.chunks_exact_mut(limbs) {
                power.write_digits(row, Order::Lsf);
                last.assign(&power);
                times(&mut power, &unit, modulus);
            }
            // The last row is the unit's 64th power.
            unit.assign(&last);
        }
        Self { limbs, modulus: modulus.clone(), rows, surplus }
    }

    /// The base to the power of each exponent of at most `bits` bits, given by its limbs.
    ///
    /// # Security
    /// Every row of a digit is read and masked. Digits are the outer loop, so that their rows stay in
    /// cache for all exponents.
    pub(super) fn powers(&self, exponents: &[&[u64]], bits: u32) -> Vec<Integer> {
        let digits = (bits as usize).div_ceil(WINDOW);
        let mut powers = vec![Integer::from(1); exponents.len()];
        let mut row = Zeroizing::new(vec![0u64; self.limbs]);
        let mut factor = SecretInteger(Integer::with_capacity(64 * self.limbs));
        for (k, rows) in self.rows.chunks_exact(ROWS * self.limbs).take(digits).enumerate() {
            for (power, exponent) in powers.iter_mut().zip(exponents) {
                select(rows, window(exponent, k * WINDOW, WINDOW) as u64, &mut row);
                factor.0.assign_digits(&row, Order::Lsf);
                if k == 0 {
                    power.assign(&factor.0);
                } else {
                    times(power, &factor.0, &self.modulus);
                }
            }
        }
        if let Some(surplus) = digits.checked_sub(1).and_then(|last| self.surplus.get(last)) {
            powers.iter_mut().for_each(|power| times(power, surplus, &self.modulus));
        }
        powers
    }
}

/// Copies row `index` to `out`, reading all of them.
fn select(rows: &[u64], index: u64, out: &mut [u64]) {
    out.fill(0);
    for (row, k) in rows.chunks_exact(out.len()).zip(0u64..) {
        let mask = u64::conditional_select(&0, &u64::MAX, k.ct_eq(&index));
        for (limb, candidate) in out.iter_mut().zip(row) {
            *limb |= candidate & mask;
        }
    }
}
