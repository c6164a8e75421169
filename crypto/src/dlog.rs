//! Discrete logarithms of small integers in Ristretto255, for many points at once.
//!
//! Baby-step giant-step: one table holds the encodings of 2kG for 2^16 small k; a giant step shifts
//! every point still unsolved by one window of that width and encodes all of them together
//! (encodings of 2P share one field inversion). Windows are tried from the centre outwards, since
//! sums of signed values are small more often than not.

use std::sync::OnceLock;

use curve25519_dalek::constants::RISTRETTO_BASEPOINT_POINT as G;
use curve25519_dalek::ristretto::{CompressedRistretto, RistrettoPoint};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::Identity;

/// Integers covered by one giant step: -WIDTH/2 <= k < WIDTH/2 around its centre.
pub const WIDTH: i64 = 1 << 16;
/// Most giant steps a scheme may ask for.
pub const MAX_STEPS: u32 = 1 << 12;

/// Slots of the hash index: half of them are used.
const SLOTS: usize = 1 << 17;
/// Points encoded together while the table is built.
const BATCH: usize = 1024;

/// The baby steps.
///
/// A slot holds the upper 48 bits of an encoding's 64-bit prefix and, below them, its index; the
/// lower prefix bits chose the slot. 0 is an empty slot.
pub struct Table {
    encodings: Vec<CompressedRistretto>,
    slots: Vec<u64>,
}

/// The table of this process, built at its first use (2^16 point additions, 3 MB).
pub fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(Table::build)
}

fn prefix(encoding: &CompressedRistretto) -> u64 {
    encoding.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Slots to look at for a prefix, in order.
fn probe(prefix: u64) -> impl Iterator<Item = usize> {
    #[expect(clippy::cast_possible_truncation, reason = "only the low bits are kept")]
    let start = prefix as usize;
    (0..SLOTS).map(move |i| start.wrapping_add(i) % SLOTS)
}

impl Table {
    fn build() -> Self {
        let mut encodings = Vec::with_capacity(1 << 16);
        let mut point = -(Scalar::from(WIDTH.unsigned_abs() / 2) * G);
        let mut batch = Vec::with_capacity(BATCH);
        while encodings.len() < 1 << 16 {
            batch.clear();
            for _ in 0..BATCH {
                batch.push(point);
                point += G;
            }
            encodings.extend(RistrettoPoint::double_and_compress_batch(&batch));
        }
        let mut slots = vec![0u64; SLOTS];
        for (index, encoding) in (0u64..).zip(&encodings) {
            let entry = prefix(encoding) & !0xffff | index;
            for slot in probe(prefix(encoding)) {
                if let Some(free) = slots.get_mut(slot).filter(|slot| **slot == 0) {
                    *free = entry;
                    break;
                }
            }
        }
        Self { encodings, slots }
    }

    /// k with `encoding` = encoding of 2kG, if it is a baby step.
    fn find(&self, encoding: &CompressedRistretto) -> Option<i64> {
        let prefix = prefix(encoding);
        for slot in probe(prefix) {
            let entry = *self.slots.get(slot)?;
            if entry == 0 {
                return None;
            }
            let index = entry & 0xffff;
            // The prefix only nominates: the whole encoding decides.
            if (entry ^ prefix) >> 16 == 0
                && self.encodings.get(usize::try_from(index).ok()?) == Some(encoding)
            {
                return Some(index.cast_signed() - WIDTH / 2);
            }
        }
        None
    }

    /// Finds x with P = xG and |x| <= `bound` for every P; `None` where there is none. Values
    /// slightly over the bound may be found too: the caller knows its exact range.
    ///
    /// # Security
    /// Variable time: the points must be public to whoever can measure.
    #[must_use]
    pub fn solve_vartime(&self, points: &[RistrettoPoint], bound: i64) -> Vec<Option<i64>> {
        let mut found = vec![None; points.len()];
        let mut unsolved: Vec<usize> = (0..points.len()).collect();
        let giant = Scalar::from(WIDTH.unsigned_abs()) * G;
        let mut shift = RistrettoPoint::identity();
        let mut centre = 0;
        loop {
            for (shift, centre) in [(-shift, centre), (shift, -centre)] {
                let shifted: Vec<_> =
                    unsolved.iter().filter_map(|i| points.get(*i)).map(|p| p + shift).collect();
                let mut encoded = RistrettoPoint::double_and_compress_batch(&shifted).into_iter();
                unsolved.retain(|i| {
                    let k = encoded.next().and_then(|encoding| self.find(&encoding));
                    if let (Some(k), Some(x)) = (k, found.get_mut(*i)) {
                        *x = Some(centre + k);
                    }
                    k.is_none()
                });
                if centre == 0 {
                    break;
                }
            }
            if unsolved.is_empty() || centre + WIDTH / 2 > bound {
                return found;
            }
            centre += WIDTH;
            shift += giant;
        }
    }
}

/// Giant steps after which `x` is found.
#[must_use]
pub const fn steps(x: i64) -> u64 {
    let window = (x + WIDTH / 2).div_euclid(WIDTH);
    match window {
        0 => 1,
        1.. => 2 * window.unsigned_abs(),
        _ => 2 * window.unsigned_abs() + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(x: i64) -> RistrettoPoint {
        let magnitude = Scalar::from(x.unsigned_abs()) * G;
        if x < 0 { -magnitude } else { magnitude }
    }

    #[test]
    fn every_window_edge_is_found() {
        let bound = 5 * WIDTH / 2;
        let mut values = vec![0, 1, -1, bound, -bound];
        for t in -2..=2 {
            let edges = [-1, 0, 1].map(|e| t * WIDTH - WIDTH / 2 + e);
            values.extend(edges.into_iter().filter(|x| x.abs() <= bound));
        }
        let points: Vec<_> = values.iter().map(|x| times(*x)).collect();
        let expected: Vec<_> = values.iter().copied().map(Some).collect();
        assert_eq!(table().solve_vartime(&points, bound), expected);
    }

    #[test]
    fn far_and_random_points_are_not_found() {
        let far = [
            times(9 * WIDTH),
            times(-9 * WIDTH),
            RistrettoPoint::hash_from_bytes::<sha2::Sha512>(b"far"),
        ];
        assert_eq!(table().solve_vartime(&far, 2 * WIDTH), [None; 3]);
        assert_eq!(table().solve_vartime(&[], 2 * WIDTH), []);
    }

    #[test]
    fn all_baby_steps_have_their_slot() {
        let used = table().slots.iter().filter(|slot| **slot != 0).count();
        assert_eq!(used, 1 << 16);
    }

    #[test]
    fn steps_count_windows_from_the_centre() {
        let half = WIDTH / 2;
        let counted = [0, half - 1, half, -half, -half - 1, half + WIDTH].map(steps);
        assert_eq!(counted, [1, 1, 2, 1, 3, 4]);
    }
}
