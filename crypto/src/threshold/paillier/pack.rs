//! Values in the digits of a plaintext, and back.

use rug::Integer;
use rug::integer::Order;
use zeroize::Zeroizing;

use super::size::{Layout, Size};
use crate::sum::SchemeError;

/// The plaintexts of `values`, one number in as many words as the modulus per ciphertext.
///
/// # Security
/// No branch or index depends on a value, but for the refusal of one that does not fit.
pub(super) fn pack(
    size: Size,
    layout: &Layout,
    values: &[i64],
) -> Result<Vec<Zeroizing<Vec<u64>>>, SchemeError> {
    let low = i64::MIN >> (64 - layout.bits);
    if let Some(at) = values.iter().position(|value| !(low..=!low).contains(value)) {
        return Err(SchemeError::OutOfRange(at as u64));
    }
    let plaintext = |values: &[i64]| {
        let mut limbs = Zeroizing::new(vec![0u64; size.modulus_bytes() / 8]);
        for (slot, value) in (0..).zip(values) {
            // value - low is value + 2^(bits - 1), not negative and of `bits` bits.
            let digit = u128::from(value.wrapping_sub(low).cast_unsigned());
            let at = slot * layout.width as usize;
            let shifted = (digit << (at % 64)).to_le_bytes();
            for (limb, part) in limbs.iter_mut().skip(at / 64).zip(shifted.as_chunks::<8>().0) {
                *limb |= u64::from_le_bytes(*part);
            }
        }
        limbs
    };
    Ok(values.chunks(layout.slots).map(plaintext).collect())
}

/// Appends the sums in plaintext number `j` of a sum over `members` replies to `out`.
///
/// A sum of more than 63 bits comes as its word of Z / 2^64.
pub(super) fn unpack(
    layout: &Layout,
    members: u32,
    j: usize,
    plaintext: &Integer,
    out: &mut Vec<i64>,
) -> Result<(), SchemeError> {
    let slots = layout.slots.min(layout.dim - j * layout.slots);
    let most = u128::from(members) * (u128::MAX >> (128 - layout.bits));
    let offset = u128::from(members) << (layout.bits - 1);
    let digits: Vec<u64> = plaintext.to_digits(Order::Lsf);
    let used = slots * layout.width as usize;
    if plaintext.significant_bits() as usize > used {
        return Err(SchemeError::OutOfRange(layout.coordinate(j) + slots as u64 - 1));
    }
    for (slot, coordinate) in (0u32..).zip(layout.coordinate(j)..).take(slots) {
        let at = slot * layout.width;
        let first = (at / 64) as usize;
        let limb = |k: usize| u128::from(digits.get(first + k).copied().unwrap_or(0));
        let low = (limb(0) | limb(1) << 64) >> (at % 64);
        // A digit of up to 75 bits may lie in three limbs.
        let high = limb(2).checked_shl(128 - at % 64).unwrap_or(0);
        let digit = (low | high) & (u128::MAX >> (128 - layout.width));
        if digit > most {
            return Err(SchemeError::OutOfRange(coordinate));
        }
        let word = digit.wrapping_sub(offset).to_le_bytes();
        let low = word.first_chunk().copied().unwrap_or_default();
        out.push(i64::from_le_bytes(low));
    }
    Ok(())
}
