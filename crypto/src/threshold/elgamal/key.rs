//! The public key, encryption, sums, partial decryption and opening.

use core::any::Any;
use core::cell::OnceCell;
use core::ops::RangeInclusive;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use curve25519_dalek::ristretto::{RistrettoBasepointTable, RistrettoPoint};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::{Identity, IsIdentity, VartimeMultiscalarMul};
use subtle::{ConditionallySelectable, ConstantTimeEq};
use zeroize::Zeroizing;

use super::proof::{
    Draw, PROOF_BYTES, Transcript, equal_holds, half_generator, lagrange_vartime, matches, point,
    proper_point, prove_equal, scalar, weighted_sum_vartime, weights,
};
use super::{ElGamal, bound};
use crate::dlog;
use crate::secret::Secret;
use crate::sum::{Ring, SchemeError, SumShape};
use crate::threshold::{
    AUTHORITY, CipherSum, KeySecret, MAX_HOLDERS, ReplyBinding, ThresholdKey, ThresholdScheme,
};

pub(super) const POINT_BYTES: usize = 32;
pub(super) const NUMBER_BYTES: usize = 4;
/// Challenge, response for the randomness, response for the plaintext.
pub(super) const REPLY_PROOF_BYTES: usize = 96;
/// A share: its participant's number and the scalar.
pub(super) const SHARE_BYTES: usize = NUMBER_BYTES + 32;

pub(super) const CIPHER_BYTES: usize = 2 * POINT_BYTES;
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 1 + 4 + 4;
/// Coordinates worked on together; their points stay in the second-level cache.
pub(super) const BATCH: usize = 128;

/// The key's points.
pub(super) struct PublicKey {
    threshold: u32,
    authority: RistrettoPoint,
    together: RistrettoPoint,
    shares: Vec<RistrettoPoint>,
}

impl PublicKey {
    /// A key, unless one of its points is the identity.
    pub(super) fn new(
        threshold: u32,
        authority: RistrettoPoint,
        together: RistrettoPoint,
        shares: Vec<RistrettoPoint>,
    ) -> Option<Self> {
        let key = Self { threshold, authority, together, shares };
        let hollow = key.points().chain([key.encryption()]).any(|point| point.is_identity());
        (!hollow).then_some(key)
    }

    fn points(&self) -> impl Iterator<Item = RistrettoPoint> {
        [self.authority, self.together].into_iter().chain(self.shares.iter().copied())
    }

    fn encryption(&self) -> RistrettoPoint {
        self.authority + self.together
    }

    fn holders(&self) -> u32 {
        u32::try_from(self.shares.len()).unwrap_or(u32::MAX)
    }

    /// The verification key of a participant.
    pub(super) fn of(&self, number: u32) -> Option<&RistrettoPoint> {
        match number.checked_sub(1) {
            None => Some(&self.authority),
            Some(index) => self.shares.get(index as usize),
        }
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend(self.holders().to_le_bytes());
        out.extend(self.threshold.to_le_bytes());
        out.extend(self.points().flat_map(|point| point.compress().to_bytes()));
        out
    }

    fn parse(bytes: &[u8]) -> Result<Self, SchemeError> {
        let wrong = SchemeError::Key("malformed public key");
        let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(wrong.clone())?;
        let [version, n0, n1, n2, n3, t0, t1, t2, t3] = *header;
        let holders = u32::from_le_bytes([n0, n1, n2, n3]);
        let threshold = u32::from_le_bytes([t0, t1, t2, t3]);
        let (encoded, left) = rest.as_chunks::<POINT_BYTES>();
        if version != VERSION
            || holders > MAX_HOLDERS
            || !(1..=holders).contains(&threshold)
            || !left.is_empty()
            || encoded.len() != holders as usize + 2
        {
            return Err(wrong);
        }
        let mut points = Vec::with_capacity(encoded.len());
        for bytes in encoded {
            points.push(proper_point(bytes).ok_or(wrong.clone())?);
        }
        let shares = points.split_off(2);
        let [authority, together] = points.as_slice() else {
            return Err(wrong);
        };
        let key = Self::new(threshold, *authority, *together, shares).ok_or(wrong)?;
        if key.is_on_one_polynomial_vartime() {
            Ok(key)
        } else {
            Err(SchemeError::Key("verification keys that do not fit together"))
        }
    }

    /// Whether T verification keys decide all others and Y_B.
    fn is_on_one_polynomial_vartime(&self) -> bool {
        let numbers: Vec<u32> = (1..=self.threshold).collect();
        let (first, others) = self.shares.split_at(numbers.len().min(self.shares.len()));
        let at =
            |to| RistrettoPoint::vartime_multiscalar_mul(lagrange_vartime(&numbers, to), first);
        let beyond = self.threshold.saturating_add(1)..;
        at(0) == self.together && beyond.zip(others).all(|(number, share)| at(number) == *share)
    }
}

/// A public key with its tables.
pub(super) struct ElGamalKey {
    bytes: Vec<u8>,
    id: [u8; 32],
    key: PublicKey,
    table: RistrettoBasepointTable,
    checked: Arc<Checked>,
}

/// The reply that was checked last and its points, for the [`CipherSum::add`] that follows: decoding
/// costs ten times an addition.
type Checked = Mutex<Option<(Vec<u8>, Vec<Cipher>)>>;

/// C1, C2.
pub(super) type Cipher = [RistrettoPoint; 2];

/// Multiples of G/2 by small integers, a nibble at a time.
struct Multiples([[RistrettoPoint; 16]; 8]);

impl Multiples {
    fn shared() -> &'static Self {
        static TABLE: OnceLock<Multiples> = OnceLock::new();
        TABLE.get_or_init(|| {
            let mut unit = half_generator();
            let mut rows = [[RistrettoPoint::identity(); 16]; 8];
            for row in &mut rows {
                let mut multiple = RistrettoPoint::identity();
                for entry in row {
                    *entry = multiple;
                    multiple += unit;
                }
                unit = multiple;
            }
            Self(rows)
        })
    }

    /// `start` + value * G/2 for a value of `bits` bits, in constant time: every entry is read.
    fn add(&self, start: RistrettoPoint, value: u32, bits: u32) -> RistrettoPoint {
        let mut rest = value;
        let mut sum = start;
        for row in self.0.iter().take(bits.div_ceil(4) as usize) {
            let mut chosen = RistrettoPoint::identity();
            for (nibble, entry) in (0u32..).zip(row) {
                chosen.conditional_assign(entry, (rest & 15).ct_eq(&nibble));
            }
            sum += chosen;
            rest >>= 4;
        }
        sum
    }
}

/// A signed integer as a scalar, without a branch on it.
fn signed(value: i64) -> Scalar {
    // value + 2^63 is not negative.
    Scalar::from((value ^ i64::MIN).cast_unsigned()) - Scalar::from(1u64 << 63)
}

fn decode(ciphers: &[u8]) -> Result<Vec<Cipher>, SchemeError> {
    let halves = ciphers.as_chunks::<POINT_BYTES>().0;
    (0u64..)
        .zip(halves.as_chunks::<2>().0)
        .map(|(j, [first, second])| {
            // A first half of nothing would show its plaintext.
            let points = proper_point(first).zip(point(second));
            points.map(|(first, second)| [first, second]).ok_or(SchemeError::Malformed(j))
        })
        .collect()
}

fn check_len(bytes: usize, expected: Option<usize>) -> Result<(), SchemeError> {
    let expected = expected.ok_or(SchemeError::Shape("too many coordinates"))?;
    if bytes == expected { Ok(()) } else { Err(SchemeError::Length { expected, got: bytes }) }
}

/// A reply's ciphertexts and proof.
fn split_reply<'a>(
    shape: &SumShape,
    reply: &'a [u8],
) -> Result<(&'a [u8], &'a [u8; REPLY_PROOF_BYTES]), SchemeError> {
    let expected = ElGamal.reply_bytes(shape);
    check_len(reply.len(), expected)?;
    let length = SchemeError::Length { expected: expected.unwrap_or(0), got: reply.len() };
    reply.split_last_chunk().ok_or(length)
}

/// A partial decryption's number, points and proof.
type Partial<'a> = (u32, &'a [[u8; POINT_BYTES]], &'a [u8; PROOF_BYTES]);

fn split_partial(count: usize, partial: &[u8]) -> Result<Partial<'_>, SchemeError> {
    let expected = partial_len(count);
    check_len(partial.len(), Some(expected))?;
    let parse = || {
        let (number, rest) = partial.split_first_chunk()?;
        let (points, proof) = rest.split_last_chunk()?;
        Some((u32::from_le_bytes(*number), points.as_chunks().0, proof))
    };
    parse().ok_or(SchemeError::Length { expected, got: partial.len() })
}

/// Bytes of a partial decryption of `count` ciphertexts.
pub(super) const fn partial_len(count: usize) -> usize {
    count.saturating_mul(POINT_BYTES).saturating_add(NUMBER_BYTES + PROOF_BYTES)
}

impl ElGamalKey {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, SchemeError> {
        let key = PublicKey::parse(bytes)?;
        Ok(Self {
            bytes: bytes.to_vec(),
            id: Transcript::new("public key").with(bytes).digest(),
            table: RistrettoBasepointTable::create(&key.encryption()),
            key,
            checked: Arc::default(),
        })
    }

    pub(super) fn is(&self, bytes: &[u8]) -> bool {
        self.bytes == bytes
    }

    fn statement(&self, domain: &str, shape: &SumShape) -> Transcript {
        let ring = match shape.ring {
            Ring::Z32 => 32u8,
            Ring::Z64 => 64,
        };
        Transcript::new(domain)
            .with(&self.id)
            .with(&[ring])
            .with(&shape.dim.to_le_bytes())
            .with(&shape.parties.to_le_bytes())
            .with(&shape.authorities.to_le_bytes())
            .with(&shape.bits.to_le_bytes())
    }

    /// The challenge of a reply, from which its weights come.
    fn reply_challenge(
        &self,
        shape: &SumShape,
        binding: &ReplyBinding,
        ciphers: &[u8],
        commitments: &Cipher,
    ) -> [u8; 32] {
        let [first, second] = commitments.map(|point| point.compress());
        self.statement("reply", shape)
            .with(&binding.0)
            .with(ciphers)
            .with(first.as_bytes())
            .with(second.as_bytes())
            .digest()
    }

    fn downcast<'a>(
        &self,
        shape: &SumShape,
        sum: &'a dyn CipherSum,
    ) -> Result<&'a ElGamalSum, SchemeError> {
        sum.as_any()
            .downcast_ref::<ElGamalSum>()
            .filter(|sum| sum.key == self.id && sum.shape == *shape)
            .ok_or(SchemeError::Key("a sum of another key or shape"))
    }

    fn partial_statement(
        &self,
        shape: &SumShape,
        context: &[u8; 32],
        sum: &ElGamalSum,
        number: u32,
    ) -> Transcript {
        self.statement("partial", shape)
            .with(context)
            .with(&number.to_le_bytes())
            .with(sum.digest())
    }
}

impl ThresholdKey for ElGamalKey {
    fn encrypt(
        &self,
        shape: &SumShape,
        binding: &ReplyBinding,
        values: &[i64],
        seed: &Secret<[u8; 32]>,
        out: &mut [u8],
    ) -> Result<(), SchemeError> {
        ElGamal.check(shape)?;
        check_len(out.len(), ElGamal.reply_bytes(shape))?;
        check_len(values.len(), super::coordinates(shape))?;
        let half = 1i64 << (shape.bits - 1);
        let legal = |value: &i64| (-half..half).contains(value);
        if let Some((j, _)) = (0u64..).zip(values).find(|(_, value)| !legal(value)) {
            return Err(SchemeError::OutOfRange(j));
        }
        let mut plain = Zeroizing::new(Vec::with_capacity(values.len().saturating_mul(8)));
        values.iter().for_each(|value| plain.extend(value.to_le_bytes()));
        let said = self.statement("encrypt", shape).with(&binding.0).digest();
        let mut draw = Draw::new(seed, "encrypt", &[&said, &plain]);

        let table = Multiples::shared();
        let least = -(Scalar::from(half.unsigned_abs()) * half_generator());
        let (ciphers, proof) = out
            .split_last_chunk_mut::<REPLY_PROOF_BYTES>()
            .ok_or(SchemeError::Length { expected: REPLY_PROOF_BYTES, got: 0 })?;
        // The randomness of a ciphertext is twice what is drawn, since encoding doubles.
        let mut halves = Zeroizing::new(Vec::with_capacity(values.len()));
        let mut points = Vec::with_capacity(2 * BATCH);
        let places = ciphers.chunks_mut(BATCH * CIPHER_BYTES);
        for (values, place) in values.chunks(BATCH).zip(places) {
            points.clear();
            for value in values {
                let blind = draw.scalar();
                halves.push(blind);
                #[expect(clippy::cast_possible_truncation, reason = "legal values have 32 bits")]
                let offset = value.wrapping_add(half).cast_unsigned() as u32;
                points.push(RistrettoPoint::mul_base(&blind));
                points.push(table.add(&blind * &self.table + least, offset, shape.bits));
            }
            let encoded = RistrettoPoint::double_and_compress_batch(&points);
            for (place, point) in place.as_chunks_mut().0.iter_mut().zip(encoded) {
                *place = point.to_bytes();
            }
        }

        let nonces = Zeroizing::new([draw.scalar(), draw.scalar()]);
        let [blind, plain] = &*nonces;
        let commitments = [
            RistrettoPoint::mul_base(blind),
            blind * &self.table + RistrettoPoint::mul_base(plain),
        ];
        let challenge = self.reply_challenge(shape, binding, ciphers, &commitments);
        let mut blinds = Zeroizing::new(Scalar::ZERO);
        let mut plains = Zeroizing::new(Scalar::ZERO);
        for ((weight, half), value) in weights(&challenge).zip(halves.iter()).zip(values) {
            *blinds += weight * half;
            *plains += weight * signed(*value);
        }
        let responses = [blind + *blinds + *blinds, plain + *plains];
        let parts = [challenge, responses[0].to_bytes(), responses[1].to_bytes()];
        proof.as_chunks_mut().0.iter_mut().zip(parts).for_each(|(to, part)| *to = part);
        Ok(())
    }

    fn verify_reply(
        &self,
        shape: &SumShape,
        binding: &ReplyBinding,
        reply: &[u8],
    ) -> Result<(), SchemeError> {
        let (ciphers, proof) = split_reply(shape, reply)?;
        let [challenge, blind, plain] = proof.as_chunks::<32>().0 else {
            return Err(SchemeError::BadProof);
        };
        let (blind, plain) = scalar(blind).zip(scalar(plain)).ok_or(SchemeError::BadProof)?;
        let points = decode(ciphers)?;
        let commitments = [
            RistrettoPoint::mul_base(&blind)
                - weighted_sum_vartime(challenge, points.iter().map(|[first, _]| first)),
            &blind * &self.table + RistrettoPoint::mul_base(&plain)
                - weighted_sum_vartime(challenge, points.iter().map(|[_, second]| second)),
        ];
        if self.reply_challenge(shape, binding, ciphers, &commitments) != *challenge {
            return Err(SchemeError::BadProof);
        }
        *self.checked.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((ciphers.to_vec(), points));
        Ok(())
    }

    fn sum(&self, shape: &SumShape) -> Box<dyn CipherSum> {
        let identity = [RistrettoPoint::identity(); 2];
        Box::new(ElGamalSum {
            key: self.id,
            shape: *shape,
            members: 0,
            points: vec![identity; super::coordinates(shape).unwrap_or(0)],
            digest: OnceCell::new(),
            checked: self.checked.clone(),
        })
    }

    fn partial(
        &self,
        shape: &SumShape,
        context: &[u8; 32],
        share: &KeySecret,
        sum: &dyn CipherSum,
        seed: &Secret<[u8; 32]>,
        out: &mut [u8],
    ) -> Result<(), SchemeError> {
        let sum = self.downcast(shape, sum)?;
        let statement = |number| self.partial_statement(shape, context, sum, number);
        self.write_partial(&sum.points, statement, share, seed, out)
    }

    fn verify_partial(
        &self,
        shape: &SumShape,
        context: &[u8; 32],
        sum: &dyn CipherSum,
        partial: &[u8],
    ) -> Result<u32, SchemeError> {
        let sum = self.downcast(shape, sum)?;
        let statement = |number| self.partial_statement(shape, context, sum, number);
        self.check_partial(&sum.points, statement, partial)
    }

    fn open(
        &self,
        shape: &SumShape,
        members: u32,
        sum: &dyn CipherSum,
        partials: &[&[u8]],
        out: &mut Zeroizing<Vec<i64>>,
    ) -> Result<(), SchemeError> {
        ElGamal.check(shape)?;
        let sum = self.downcast(shape, sum)?;
        if sum.members != members || members < 2 {
            return Err(SchemeError::Messages { step: 0, expected: members, got: sum.members });
        }
        let products = self.combine(&sum.points, partials)?;
        let least = -bound(shape, members);
        let most = -least - i64::from(members);
        *out = solve(&products, least..=most)?;
        Ok(())
    }
}

/// The integers behind points m G, all of which must lie in `range`.
///
/// # Errors
/// [`SchemeError::OutOfRange`].
pub(super) fn solve(
    products: &[RistrettoPoint],
    range: RangeInclusive<i64>,
) -> Result<Zeroizing<Vec<i64>>, SchemeError> {
    let bound = range.start().saturating_neg().max(*range.end());
    let solved = Zeroizing::new(dlog::table().solve_vartime(products, bound));
    let mut opened = Zeroizing::new(Vec::with_capacity(solved.len()));
    for (j, value) in (0u64..).zip(solved.iter()) {
        let legal = value.filter(|value| range.contains(value));
        opened.push(legal.ok_or(SchemeError::OutOfRange(j))?);
    }
    Ok(opened)
}

/// Partial decryption and opening of any ciphertexts under this key; the statement says of which.
impl ElGamalKey {
    pub(super) const fn id(&self) -> &[u8; 32] {
        &self.id
    }

    /// N and T.
    pub(super) fn participants(&self) -> (u32, u32) {
        (self.key.holders(), self.key.threshold)
    }

    pub(super) const fn table(&self) -> &RistrettoBasepointTable {
        &self.table
    }

    /// This participant's partial decryption of `points`, with its proof over `statement` of its
    /// number, into `out` of [`partial_len`].
    pub(super) fn write_partial(
        &self,
        points: &[Cipher],
        statement: impl FnOnce(u32) -> Transcript,
        share: &KeySecret,
        seed: &Secret<[u8; 32]>,
        out: &mut [u8],
    ) -> Result<(), SchemeError> {
        check_len(out.len(), Some(partial_len(points.len())))?;
        let wrong = SchemeError::Key("not a share of this key");
        let (number, secret) = share.expose().split_first_chunk().ok_or(wrong.clone())?;
        let number = u32::from_le_bytes(*number);
        let secret = secret.try_into().ok().and_then(scalar).map(Zeroizing::new);
        let secret = secret.ok_or(wrong.clone())?;
        if !self.key.of(number).is_some_and(|public| matches(&secret, public)) {
            return Err(wrong);
        }
        // Half of each product, since encoding doubles.
        let half = Zeroizing::new(secret.div_by_2());
        let (first, rest) = out
            .split_first_chunk_mut::<NUMBER_BYTES>()
            .ok_or(SchemeError::Length { expected: NUMBER_BYTES, got: 0 })?;
        *first = number.to_le_bytes();
        let (places, proof) = rest.as_chunks_mut::<POINT_BYTES>().0.split_at_mut(points.len());
        for (points, places) in points.chunks(BATCH).zip(places.chunks_mut(BATCH)) {
            let halves: Vec<_> = points.iter().map(|[first, _]| *half * first).collect();
            let encoded = RistrettoPoint::double_and_compress_batch(&halves);
            places.iter_mut().zip(encoded).for_each(|(to, point)| *to = point.to_bytes());
        }
        let statement = statement(number).with(places.as_flattened());
        let base = weighted_sum_vartime(
            &statement.clone().digest(),
            points.iter().map(|[first, _]| first),
        );
        let mut draw =
            Draw::new(seed, "partial", &[&statement.clone().digest(), secret.as_bytes()]);
        let (_, proven) = prove_equal(statement, &secret, &base, &mut draw);
        proof.iter_mut().zip(proven.as_chunks().0).for_each(|(to, part)| *to = *part);
        Ok(())
    }

    /// Checks a partial decryption of `points` and returns its participant's number.
    pub(super) fn check_partial(
        &self,
        points: &[Cipher],
        statement: impl FnOnce(u32) -> Transcript,
        partial: &[u8],
    ) -> Result<u32, SchemeError> {
        let (number, encoded, proof) = split_partial(points.len(), partial)?;
        let public = self.key.of(number).ok_or(SchemeError::BadProof)?;
        let images: Vec<_> = (0u64..)
            .zip(encoded)
            .map(|(j, bytes)| point(bytes).ok_or(SchemeError::Malformed(j)))
            .collect::<Result<_, _>>()?;
        let statement = statement(number).with(encoded.as_flattened());
        let seed = statement.clone().digest();
        let base = weighted_sum_vartime(&seed, points.iter().map(|[first, _]| first));
        let image = weighted_sum_vartime(&seed, images.iter());
        if equal_holds(statement, public, &base, &image, proof) {
            Ok(number)
        } else {
            Err(SchemeError::BadProof)
        }
    }

    /// The points m G behind `points`, from checked partial decryptions: the authority's and T of
    /// different holders.
    pub(super) fn combine(
        &self,
        points: &[Cipher],
        partials: &[&[u8]],
    ) -> Result<Zeroizing<Vec<RistrettoPoint>>, SchemeError> {
        let mut authority = None;
        let mut holders = Vec::with_capacity(partials.len());
        for partial in partials {
            let (number, images, _) = split_partial(points.len(), partial)?;
            if number == AUTHORITY {
                authority = Some(images);
            } else if self.key.of(number).is_some()
                && holders.iter().all(|(known, _)| *known != number)
            {
                holders.push((number, images));
            }
        }
        let authority = authority.ok_or(SchemeError::Messages { step: 1, expected: 1, got: 0 })?;
        let got = u32::try_from(holders.len()).unwrap_or(u32::MAX);
        if got != self.key.threshold || partials.len() != holders.len() + 1 {
            return Err(SchemeError::Messages { step: 2, expected: self.key.threshold, got });
        }
        let numbers: Vec<u32> = holders.iter().map(|(number, _)| *number).collect();
        let factors = lagrange_vartime(&numbers, 0);
        let mut products = Zeroizing::new(Vec::with_capacity(points.len()));
        for ((j, [_, second]), bytes) in (0usize..).zip(points).zip(authority) {
            let malformed = || SchemeError::Malformed(j as u64);
            let theirs = holders.iter().map(|(_, images)| images.get(j).and_then(point));
            let theirs = RistrettoPoint::optional_multiscalar_mul(&factors, theirs);
            let first = point(bytes).zip(theirs).ok_or_else(malformed)?;
            products.push(second - first.0 - first.1);
        }
        Ok(products)
    }
}

/// Ciphertexts added up.
struct ElGamalSum {
    key: [u8; 32],
    shape: SumShape,
    members: u32,
    points: Vec<Cipher>,
    digest: OnceCell<[u8; 32]>,
    checked: Arc<Checked>,
}

impl ElGamalSum {
    /// Hash of the sum, over the encodings of its doubled points: they encode in batches, and say
    /// the same since doubling is one-to-one.
    fn digest(&self) -> &[u8; 32] {
        self.digest.get_or_init(|| {
            let mut said = Transcript::new("sum");
            for points in self.points.chunks(BATCH) {
                for point in RistrettoPoint::double_and_compress_batch(points.as_flattened()) {
                    said.add(point.as_bytes());
                }
            }
            said.digest()
        })
    }
}

impl CipherSum for ElGamalSum {
    fn add(&mut self, reply: &[u8]) -> Result<(), SchemeError> {
        let (ciphers, _) = split_reply(&self.shape, reply)?;
        let checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner).take();
        let points = match checked.filter(|(known, _)| known == ciphers) {
            Some((_, points)) => points,
            None => decode(ciphers)?,
        };
        for (sum, points) in self.points.iter_mut().zip(&points) {
            sum.iter_mut().zip(points).for_each(|(sum, point)| *sum += point);
        }
        self.members = self.members.saturating_add(1);
        self.digest = OnceCell::new();
        Ok(())
    }

    fn to_bytes(&self) -> Vec<u8> {
        self.points.as_flattened().iter().flat_map(|point| point.compress().to_bytes()).collect()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
