//! `ddh-mcfe`: labelled multi-client functional encryption in Ristretto255.
//!
//! Chotard, Dufour Sans, Gay, Phan, Pointcheval: *Decentralized Multi-Client Functional Encryption
//! for Inner Product* (ASIACRYPT 2018), section 3, with unit weights and a client key per label:
//!
//! - s_i = sum_a PRF(k_ia; label, nonce) in Z_q^2, k_ia shared by party i and authority a;
//! - c_ij = x_ij G + s_i . H(label, j), H to two points;
//! - functional key: sum_{i in S} of authority a's part of s_i, 64 bytes whatever d;
//! - open: sum_i c_ij - (sum_a key_a) . H(label, j) = (sum_i x_ij) G, then a discrete logarithm.
//!
//! A ring word travels as its balanced digits of 16 bits, each -2^15 <= digit < 2^15, least first,
//! the top one mod 2^16; each digit is one point, 32 bytes. Digit sums recombined mod 2^k equal
//! plain ring arithmetic bit for bit.
//!
//! # Security
//! DDH and a random oracle: ciphertexts and keys of one label reveal the digit sums over the frozen
//! set, and a key is of no use under another label because s_i is drawn anew for each. All
//! authorities are needed. The opener learns each digit's sum, so besides the sum mod 2^k it sees
//! the carries between digits. Digits are balanced because with unsigned ones the top digit's sum
//! would count the negative values; with balanced ones words below 2^15 in magnitude leave nothing
//! in the upper digits. The party's side is constant time; opening is not, and works on what the
//! opener may know anyway. Ciphertexts are malleable and carry no proof of their content.

use core::ops::Range;
use std::sync::OnceLock;

use curve25519_dalek::constants::RISTRETTO_BASEPOINT_POINT as G;
use curve25519_dalek::ristretto::{CompressedRistretto, RistrettoPoint};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::{Identity, MultiscalarMul, VartimeMultiscalarMul};
use sha2::{Digest, Sha512};
use subtle::{ConditionallySelectable, ConstantTimeEq};

use super::{
    KEY, STEPS, SUBMIT, check_absorbed, check_keys, check_len, check_members, check_shape, count,
    derive,
};
use crate::dlog::{self, MAX_STEPS};
use crate::secret::Secret;
use crate::sum::{
    Contributor, EncodedLen, Family, KeyedNonce, Label, Opener, Ring, SchemeError, SchemeInfo,
    StepInput, SumContext, SumScheme, SumShape,
};

/// The scheme `ddh-mcfe`.
#[derive(Clone, Copy, Debug)]
pub struct DdhMcfe;

static INFO: SchemeInfo = SchemeInfo {
    id: 2,
    name: "ddh-mcfe",
    family: Family::FunctionalEncryption,
    steps: STEPS,
    served: true,
    source: "Chotard, Dufour Sans, Gay, Phan, Pointcheval, ASIACRYPT 2018, section 3, with a \
             client key per label",
    leakage: "the sum of each balanced 16-bit digit, that is the sum mod 2^k and the carries \
              between digits",
};

const POINT_BYTES: usize = 32;
const KEY_BYTES: usize = 64;
const DIGIT_BITS: u32 = 16;
/// n parties need at most n + 1 giant steps, since one step is as wide as one digit.
const MAX_PARTIES: u32 = MAX_STEPS - 1;
/// Points a party encodes together.
const BATCH: usize = 64;

/// Points per ring word.
#[must_use]
pub const fn digits_of(ring: Ring) -> usize {
    match ring {
        Ring::Z32 => 2,
        Ring::Z64 => 4,
    }
}

/// The balanced digits of a word, least first: `digits_of` of them are meaningful.
#[must_use]
pub fn digits(word: u64) -> [i16; 4] {
    let mut rest = word;
    [(); 4].map(|()| {
        #[expect(clippy::cast_possible_truncation, reason = "the low digit is wanted")]
        let digit = (rest as u16).cast_signed();
        // Takes a negative digit's borrow into account, without a branch.
        rest = rest.wrapping_sub(i64::from(digit).cast_unsigned()) >> DIGIT_BITS;
        digit
    })
}

/// The little-endian words of `plain` as `u64`.
fn words(plain: &[u8], ring: Ring) -> impl Iterator<Item = u64> {
    plain
        .chunks_exact(ring.word_bytes())
        .map(|word| word.iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte)))
}

/// H(label, index): the two points that mask one digit.
fn masks(label: &Label, ring: Ring, index: u64) -> [RistrettoPoint; 2] {
    [0u8, 1].map(|which| {
        let mut hash = Sha512::new();
        hash.update(b"quorate/ddh-mcfe/point/1");
        hash.update(ring.bits().to_le_bytes());
        hash.update(label.0);
        hash.update(index.to_le_bytes());
        hash.update([which]);
        RistrettoPoint::from_uniform_bytes(&hash.finalize().into())
    })
}

/// The part of s_i that one authority shares.
fn client_key(context: &SumContext, keyed: &KeyedNonce<'_>) -> Secret<[Scalar; 2]> {
    let wide = derive::<128>(b"quorate/ddh-mcfe/1", context, keyed);
    let (a, b) = wide.expose().split_at(64);
    Secret::new(
        [a, b]
            .map(|half| half.first_chunk().map_or(Scalar::ZERO, Scalar::from_bytes_mod_order_wide)),
    )
}

fn add_keys(sum: &mut [Scalar; 2], other: &[Scalar; 2]) {
    sum.iter_mut().zip(other).for_each(|(s, o)| *s += o);
}

/// Multiples of G/2 by 16-bit digits, a nibble at a time.
///
/// Halved because batch encoding yields the encoding of 2P.
struct DigitTable([[RistrettoPoint; 16]; 4]);

impl DigitTable {
    fn shared() -> &'static Self {
        static TABLE: OnceLock<DigitTable> = OnceLock::new();
        TABLE.get_or_init(|| {
            let mut unit = G * Scalar::from(2u8).invert();
            let mut rows = [[RistrettoPoint::identity(); 16]; 4];
            for (position, row) in rows.iter_mut().enumerate() {
                // The top nibble is the signed one.
                let mut multiple =
                    if position == 3 { -(unit * Scalar::from(8u8)) } else { Identity::identity() };
                for entry in row {
                    *entry = multiple;
                    multiple += unit;
                }
                unit *= Scalar::from(16u8);
            }
            Self(rows)
        })
    }

    /// digit * G/2, in constant time: every entry is read.
    fn mul(&self, digit: i16) -> RistrettoPoint {
        // Adding 2^15 mod 2^16 makes the top nibble count from -8.
        let mut rest = digit.cast_unsigned() ^ 0x8000;
        let mut sum = RistrettoPoint::identity();
        for row in &self.0 {
            let mut chosen = RistrettoPoint::identity();
            for (value, entry) in (0u16..).zip(row) {
                chosen.conditional_assign(entry, (rest & 15).ct_eq(&value));
            }
            sum += chosen;
            rest >>= 4;
        }
        sum
    }
}

impl SumScheme for DdhMcfe {
    fn info(&self) -> &'static SchemeInfo {
        &INFO
    }

    fn check(&self, shape: &SumShape) -> Result<(), SchemeError> {
        check_shape(shape)?;
        if shape.parties > MAX_PARTIES {
            return Err(SchemeError::Shape("more parties than the discrete logarithm opens"));
        }
        if shape.dim >= 1 << 48 {
            return Err(SchemeError::Shape("more coordinates than byte lengths can count"));
        }
        Ok(())
    }

    fn encoded_len(&self, shape: &SumShape, step: usize) -> Option<EncodedLen> {
        match step {
            SUBMIT => Some(EncodedLen::PerCoordinate(POINT_BYTES * digits_of(shape.ring))),
            KEY => Some(EncodedLen::Fixed(KEY_BYTES)),
            _ => None,
        }
    }

    fn contributor(
        &self,
        step: usize,
        context: &SumContext,
        input: &StepInput<'_>,
    ) -> Result<Box<dyn Contributor + Send>, SchemeError> {
        self.check(&context.shape)?;
        check_keys(step, &context.shape, input.keys)?;
        let mut sum = Secret::new([Scalar::ZERO; 2]);
        for keyed in input.keys {
            add_keys(sum.expose_mut(), client_key(context, keyed).expose());
        }
        if step == KEY {
            return Ok(Box::new(Authority { key: sum }));
        }
        let half = Scalar::from(2u8).invert();
        sum.expose_mut().iter_mut().for_each(|s| *s *= half);
        Ok(Box::new(Party {
            context: context.clone(),
            half_key: sum,
            halves: Vec::with_capacity(BATCH),
        }))
    }

    fn opener(
        &self,
        context: &SumContext,
        members: u32,
    ) -> Result<Box<dyn Opener + Send>, SchemeError> {
        self.check(&context.shape)?;
        check_members(&context.shape, members)?;
        Ok(Box::new(DdhOpener {
            context: context.clone(),
            members,
            range: 0..0,
            sums: Vec::new(),
            key: [Scalar::ZERO; 2],
            absorbed: [0; 2],
        }))
    }
}

/// A party: half of every ciphertext is computed, and doubled while it is encoded.
struct Party {
    context: SumContext,
    half_key: Secret<[Scalar; 2]>,
    halves: Vec<RistrettoPoint>,
}

impl Party {
    fn flush(&mut self, out: &mut impl Iterator<Item = impl AsMut<[u8]>>) {
        for point in RistrettoPoint::double_and_compress_batch(&self.halves) {
            if let Some(mut place) = out.next() {
                place.as_mut().copy_from_slice(point.as_bytes());
            }
        }
        self.halves.clear();
    }
}

impl Contributor for Party {
    fn write(
        &mut self,
        range: Range<u64>,
        plain: &[u8],
        out: &mut [u8],
    ) -> Result<(), SchemeError> {
        let shape = self.context.shape;
        let count = count(&range, &shape)?;
        let points = digits_of(shape.ring);
        check_len(plain, count, shape.ring.word_bytes())?;
        check_len(out, count, POINT_BYTES * points)?;
        let table = DigitTable::shared();
        let mut places = out.chunks_exact_mut(POINT_BYTES);
        let mut index = range.start.saturating_mul(points as u64);
        for word in words(plain, shape.ring) {
            for digit in digits(word).into_iter().take(points) {
                let masks = masks(&self.context.label, shape.ring, index);
                let mask = RistrettoPoint::multiscalar_mul(self.half_key.expose(), masks);
                self.halves.push(mask + table.mul(digit));
                index = index.saturating_add(1);
            }
            if self.halves.len() >= BATCH {
                self.flush(&mut places);
            }
        }
        self.flush(&mut places);
        Ok(())
    }
}

/// An authority: its functional key does not depend on coordinates.
struct Authority {
    key: Secret<[Scalar; 2]>,
}

impl Contributor for Authority {
    fn write(&mut self, _: Range<u64>, plain: &[u8], out: &mut [u8]) -> Result<(), SchemeError> {
        check_len(plain, 0, 1)?;
        check_len(out, 1, KEY_BYTES)?;
        for (scalar, place) in self.key.expose().iter().zip(out.chunks_exact_mut(32)) {
            place.copy_from_slice(scalar.as_bytes());
        }
        Ok(())
    }
}

struct DdhOpener {
    context: SumContext,
    members: u32,
    range: Range<u64>,
    sums: Vec<RistrettoPoint>,
    key: [Scalar; 2],
    absorbed: [u32; 2],
}

impl DdhOpener {
    fn absorb_ciphertext(&mut self, bytes: &[u8]) -> Result<(), SchemeError> {
        let points = digits_of(self.context.shape.ring);
        check_len(bytes, count(&self.range, &self.context.shape)?, POINT_BYTES * points)?;
        // All points first, so that a malformed one leaves the sums as they were.
        let decoded: Vec<_> = (0u64..)
            .zip(bytes.as_chunks::<POINT_BYTES>().0)
            .map(|(i, bytes)| {
                let coordinate = self.range.start.saturating_add(i / points as u64);
                CompressedRistretto(*bytes).decompress().ok_or(SchemeError::Malformed(coordinate))
            })
            .collect::<Result<_, _>>()?;
        self.sums.iter_mut().zip(decoded).for_each(|(sum, point)| *sum += point);
        Ok(())
    }

    fn absorb_key(&mut self, bytes: &[u8]) -> Result<(), SchemeError> {
        check_len(bytes, 1, KEY_BYTES)?;
        let mut key = [Scalar::ZERO; 2];
        for (scalar, bytes) in key.iter_mut().zip(bytes.as_chunks::<32>().0) {
            let decoded = Option::from(Scalar::from_canonical_bytes(*bytes));
            *scalar = decoded.ok_or(SchemeError::Malformed(0))?;
        }
        add_keys(&mut self.key, &key);
        Ok(())
    }
}

impl Opener for DdhOpener {
    fn begin(&mut self, range: Range<u64>) {
        // An illegal range is refused by the first `absorb`.
        let words = count(&range, &self.context.shape).unwrap_or(0);
        let points = words.saturating_mul(digits_of(self.context.shape.ring));
        self.sums.clear();
        self.sums.resize(points, RistrettoPoint::identity());
        self.key = [Scalar::ZERO; 2];
        self.absorbed = [0; 2];
        self.range = range;
    }

    fn absorb(&mut self, step: usize, bytes: &[u8]) -> Result<(), SchemeError> {
        match step {
            SUBMIT => self.absorb_ciphertext(bytes)?,
            KEY => self.absorb_key(bytes)?,
            _ => return Err(SchemeError::WrongStep),
        }
        if let Some(absorbed) = self.absorbed.get_mut(step) {
            *absorbed = absorbed.saturating_add(1);
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut [u8]) -> Result<(), SchemeError> {
        let SumContext { label, shape, .. } = self.context;
        check_len(out, count(&self.range, &shape)?, shape.ring.word_bytes())?;
        check_absorbed(self.absorbed, self.members, shape.authorities)?;
        let points = digits_of(shape.ring);
        let first = self.range.start.saturating_mul(points as u64);
        let products: Vec<_> = (first..)
            .zip(&self.sums)
            .map(|(index, sum)| {
                let masks = masks(&label, shape.ring, index);
                sum - RistrettoPoint::vartime_multiscalar_mul(self.key, masks)
            })
            .collect();
        let members = i64::from(self.members);
        let (least, most) = (members * i64::from(i16::MIN), members * i64::from(i16::MAX));
        let solved = dlog::table().solve_vartime(&products, -least);
        let mut opened = Vec::with_capacity(solved.len());
        for (coordinate, sums) in (self.range.start..).zip(solved.chunks(points)) {
            let mut word = 0u64;
            for sum in sums.iter().rev() {
                let legal = sum.filter(|sum| (least..=most).contains(sum));
                let sum = legal.ok_or(SchemeError::OutOfRange(coordinate))?;
                word = (word << DIGIT_BITS).wrapping_add(sum.cast_unsigned());
            }
            opened.push(word);
        }
        // Written only now: an error leaves no value behind.
        for (place, word) in out.chunks_exact_mut(shape.ring.word_bytes()).zip(opened) {
            place.iter_mut().zip(word.to_le_bytes()).for_each(|(to, byte)| *to = byte);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{self, Fixture, all_messages, open, plain_sum};
    use crate::fixed::to_ring;
    use crate::sum::PadSuite;

    const SHAPE: SumShape =
        SumShape { ring: Ring::Z32, dim: 2, parties: 3, authorities: 1, bits: 32 };

    fn plains(values: [[i64; 2]; 3]) -> Vec<Vec<u8>> {
        values
            .iter()
            .map(|values| {
                let mut out = Vec::new();
                to_ring(values, SHAPE.ring, &mut out);
                out
            })
            .collect()
    }

    #[test]
    fn digits_are_balanced_and_recombine() {
        for word in [0, 1, 0x7fff, 0x8000, u64::MAX, 1 << 63, 0x8000_8000_8000_8000, 0x1234_5678] {
            let back = digits(word).iter().rev().fold(0u64, |value, digit| {
                (value << DIGIT_BITS).wrapping_add(i64::from(*digit).cast_unsigned())
            });
            assert_eq!(back, word);
        }
        assert_eq!(digits((-5i64).cast_unsigned()), [-5, 0, 0, 0], "a sign must not reach the top");
        assert_eq!(digits(0x8000), [i16::MIN, 1, 0, 0]);
    }

    #[test]
    fn every_digit_has_its_multiple() {
        let table = DigitTable::shared();
        for digit in [i16::MIN, i16::MIN + 1, -4097, -4096, -16, -1, 0, 1, 15, 16, 4096, i16::MAX] {
            let magnitude = Scalar::from(digit.unsigned_abs()) * G;
            let expected = if digit < 0 { -magnitude } else { magnitude };
            let half = table.mul(digit);
            assert_eq!(half + half, expected, "{digit}");
        }
    }

    /// A ciphertext moved by more than the roster can explain is refused, one below it is not.
    #[test]
    fn sums_over_the_bound_are_out_of_range() {
        let context = conformance::context(SHAPE, PadSuite::Aes256Ctr, 1);
        let fixture = Fixture::new(&SHAPE, 7);
        let top = i64::from(i16::MAX);
        let plains = plains([[top; 2]; 3]);
        let members = [0, 1, 2];
        let mut messages =
            all_messages(&DdhMcfe, &context, &fixture, &members, &plains, 2).unwrap();
        assert_eq!(
            open(&DdhMcfe, &context, 3, &messages, 2).unwrap(),
            plain_sum(SHAPE.ring, &members, &plains)
        );
        // The third point is the low digit of coordinate 1.
        let place = &mut messages[0][0][2 * POINT_BYTES..3 * POINT_BYTES];
        let point = CompressedRistretto::from_slice(place).unwrap().decompress().unwrap();
        place.copy_from_slice((point + G).compress().as_bytes());
        let refused = open(&DdhMcfe, &context, 3, &messages, 2);
        assert_eq!(refused, Err(SchemeError::OutOfRange(1)));
    }

    #[test]
    fn non_points_and_non_scalars_are_malformed() {
        let context = conformance::context(SHAPE, PadSuite::Aes256Ctr, 1);
        let mut opener = DdhMcfe.opener(&context, 3).unwrap();
        opener.begin(0..2);
        let mut bytes = [0u8; 4 * POINT_BYTES];
        bytes[2 * POINT_BYTES..].fill(0xff);
        assert_eq!(opener.absorb(SUBMIT, &bytes), Err(SchemeError::Malformed(1)));
        assert_eq!(opener.absorb(KEY, &[0xff; 64]), Err(SchemeError::Malformed(0)));
        bytes.fill(0);
        assert_eq!(opener.absorb(SUBMIT, &bytes), Ok(()), "the identity is a point");
    }

    #[test]
    fn rosters_beyond_the_table_are_refused() {
        let shape = SumShape { parties: MAX_PARTIES, ..SHAPE };
        assert_eq!(DdhMcfe.check(&shape), Ok(()));
        assert!(DdhMcfe.check(&SumShape { parties: MAX_PARTIES + 1, ..SHAPE }).is_err());
    }
}
