//! A loaded public key at work.

use std::sync::{Arc, OnceLock};

use chacha20::ChaCha20Rng;
use rand_core::SeedableRng;
use rug::Integer;
use zeroize::Zeroizing;

use super::super::{CipherSum, KeySecret, ReplyBinding, ThresholdKey};
use super::number::{
    SecretInteger, product_of_powers_vartime, random_limbs_with_top_bit, times, without_sign,
    write_le,
};
use super::pack::{pack, unpack};
use super::proof::{PartialStatement, ReplyStatement, shape_bytes};
use super::public::PublicKey;
use super::share::Share;
use super::size::{Layout, NUMBER_BYTES};
use super::table::{FixedBase, power};
use crate::merkle::hash_parts;
use crate::secret::Secret;
use crate::sum::{SchemeError, SumShape};

/// Step of the holders' partial decryptions, for errors.
const PARTIAL: usize = 2;

/// A public key with the table of powers of h_s, built when it is first needed.
pub(super) struct PaillierKey {
    public: Arc<PublicKey>,
    table: OnceLock<FixedBase>,
}

const fn sized(expected: usize, got: usize) -> Result<(), SchemeError> {
    if expected == got { Ok(()) } else { Err(SchemeError::Length { expected, got }) }
}

impl PaillierKey {
    pub(super) fn new(public: PublicKey) -> Self {
        Self { public: Arc::new(public), table: OnceLock::new() }
    }

    fn table(&self) -> &FixedBase {
        let key = &self.public;
        self.table.get_or_init(|| FixedBase::new(&key.pairs, &key.h_s, key.size.answer_bits()))
    }

    fn layout(&self, shape: &SumShape) -> Result<Layout, SchemeError> {
        Layout::new(self.public.size, shape)
    }

    /// Encoded elements, or the coordinate of the first that is malformed.
    fn elements(&self, layout: &Layout, bytes: &[u8]) -> Result<Vec<Integer>, SchemeError> {
        self.public.elements(bytes).map_err(|j| SchemeError::Malformed(layout.coordinate(j)))
    }

    fn added<'a>(&self, shape: &SumShape, sum: &'a dyn CipherSum) -> Result<&'a Sum, SchemeError> {
        let sum: Option<&Sum> = sum.as_any().downcast_ref();
        sum.filter(|sum| sum.key.hash == self.public.hash && sum.shape == *shape)
            .ok_or(SchemeError::Key("a sum under another key or of another shape"))
    }
}

impl ThresholdKey for PaillierKey {
    fn encrypt(
        &self,
        shape: &SumShape,
        binding: &ReplyBinding,
        values: &[i64],
        seed: &Secret<[u8; 32]>,
        out: &mut [u8],
    ) -> Result<(), SchemeError> {
        let key = &self.public;
        let layout = self.layout(shape)?;
        sized(layout.dim, values.len())?;
        sized(layout.reply_bytes(key.size), out.len())?;
        let plaintexts = pack(key.size, &layout, values)?;

        // All that is encrypted goes into the stream's seed: a seed used twice for different
        // plaintexts or bindings does no harm.
        let mut bytes = Zeroizing::new(vec![0; 8 * values.len()]);
        for (word, value) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(values) {
            *word = value.to_le_bytes();
        }
        let parts: [&[u8]; 5] = [seed.expose(), &key.hash, &shape_bytes(shape), &binding.0, &bytes];
        let stream = Zeroizing::new(hash_parts("quorate/paillier/encrypt/1", &parts).0);
        let mut rng = ChaCha20Rng::from_seed(*stream);

        let bits = key.size.exponent_bits();
        let exponents: Vec<Zeroizing<Vec<u64>>> =
            plaintexts.iter().map(|_| random_limbs_with_top_bit(&mut rng, bits)).collect();
        let limbs: Vec<&[u64]> = exponents.iter().map(|limbs| limbs.as_slice()).collect();
        let inputs: Vec<(&[u64], &[u64])> =
            plaintexts.iter().zip(&limbs).map(|(m, limbs)| (m.as_slice(), *limbs)).collect();
        let encrypted = self.table().encryptions(&inputs, bits);
        let (ciphers, proof) =
            out.split_at_mut_checked(layout.cipher_bytes(key.size)).ok_or(SchemeError::BadProof)?;
        let encoded = ciphers.chunks_exact_mut(key.size.square_bytes());
        for (out, c) in encoded.zip(encrypted) {
            write_le(&without_sign(c, &key.n_squared), out);
        }
        let secrets = |all: &[&[u64]]| -> Vec<SecretInteger> {
            all.iter().map(|words| SecretInteger::from_limbs(words)).collect()
        };
        let (plaintexts, randomness) = inputs.into_iter().unzip::<_, _, Vec<_>, Vec<_>>();
        let (plaintexts, randomness) = (secrets(&plaintexts), secrets(&randomness));
        let table = self.table();
        let statement = ReplyStatement { key, table, shape, binding, ciphers };
        statement.prove(&plaintexts, &randomness, &mut rng, proof)
    }

    fn verify_reply(
        &self,
        shape: &SumShape,
        binding: &ReplyBinding,
        reply: &[u8],
    ) -> Result<(), SchemeError> {
        let key = &self.public;
        let layout = self.layout(shape)?;
        sized(layout.reply_bytes(key.size), reply.len())?;
        let (ciphers, proof) =
            reply.split_at_checked(layout.cipher_bytes(key.size)).ok_or(SchemeError::BadProof)?;
        let elements = self.elements(&layout, ciphers)?;
        let table = self.table();
        ReplyStatement { key, table, shape, binding, ciphers }.verify(&elements, proof)
    }

    fn sum(&self, shape: &SumShape) -> Box<dyn CipherSum> {
        let layout = self.layout(shape);
        let count = layout.as_ref().map_or(0, |layout| layout.count);
        Box::new(Sum {
            key: self.public.clone(),
            shape: *shape,
            layout,
            ciphers: vec![Integer::from(1); count],
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
        let key = &self.public;
        let layout = self.layout(shape)?;
        sized(layout.partial_bytes(key.size), out.len())?;
        let sum = self.added(shape, sum)?;
        let share = Share::parse(key, share)?;
        let (number, rest) =
            out.split_first_chunk_mut::<NUMBER_BYTES>().ok_or(SchemeError::BadProof)?;
        let (raised, proof) = rest
            .split_at_mut_checked(layout.cipher_bytes(key.size))
            .ok_or(SchemeError::BadProof)?;
        *number = share.number.to_le_bytes();

        // 2 Delta is public; only the share needs the exponentiation in constant time.
        let public = Integer::from(&key.delta * 2);
        for (out, c) in raised.chunks_exact_mut(key.size.square_bytes()).zip(&sum.ciphers) {
            let base = key.raise(c, &public);
            let raised = power(&key.pairs, &base, &share.value.0, key.size.share_bits());
            write_le(&without_sign(raised, &key.n_squared), out);
        }
        let sum_bytes = sum.to_bytes();
        let parts: [&[u8]; 4] = [seed.expose(), &key.hash, context, raised];
        let stream = Zeroizing::new(hash_parts("quorate/paillier/partial/1", &parts).0);
        PartialStatement {
            key,
            shape,
            context,
            number: share.number,
            sum: &sum.ciphers,
            sum_bytes: &sum_bytes,
            raised_bytes: raised,
        }
        .prove(&share, &mut ChaCha20Rng::from_seed(*stream), proof)
    }

    fn verify_partial(
        &self,
        shape: &SumShape,
        context: &[u8; 32],
        sum: &dyn CipherSum,
        partial: &[u8],
    ) -> Result<u32, SchemeError> {
        let key = &self.public;
        let layout = self.layout(shape)?;
        sized(layout.partial_bytes(key.size), partial.len())?;
        let sum = self.added(shape, sum)?;
        let (number, raised_bytes, proof) = self.split(&layout, partial)?;
        let raised = self.elements(&layout, raised_bytes)?;
        let sum_bytes = sum.to_bytes();
        PartialStatement {
            key,
            shape,
            context,
            number,
            sum: &sum.ciphers,
            sum_bytes: &sum_bytes,
            raised_bytes,
        }
        .verify(&raised, proof)?;
        Ok(number)
    }

    fn open(
        &self,
        shape: &SumShape,
        members: u32,
        sum: &dyn CipherSum,
        partials: &[&[u8]],
        out: &mut Zeroizing<Vec<i64>>,
    ) -> Result<(), SchemeError> {
        let key = &self.public;
        let layout = self.layout(shape)?;
        let sum = self.added(shape, sum)?;
        if !(1..=layout.parties).contains(&members) {
            return Err(SchemeError::Shape("more members than parties, or none"));
        }
        let mut numbers = Vec::with_capacity(partials.len());
        let mut raised = Vec::with_capacity(partials.len());
        for partial in partials {
            sized(layout.partial_bytes(key.size), partial.len())?;
            let (number, bytes, _) = self.split(&layout, partial)?;
            numbers.push(number);
            raised.push(self.elements(&layout, bytes)?.into_iter());
        }
        let Some((factors, common)) = key.lagrange(&numbers) else {
            let expected = key.threshold.saturating_add(1);
            let got = u32::try_from(partials.len()).unwrap_or(u32::MAX);
            return Err(SchemeError::Messages { step: PARTIAL, expected, got });
        };
        // What is raised to a negative power is inverted at the end, once per ciphertext.
        let exponents: Vec<Integer> =
            factors.iter().map(|x| Integer::from(x.abs_ref()) * 2).collect();
        let divisor = Integer::from(&key.delta * 4) * common;
        let scale = divisor.invert(&key.n).map_err(|_| SchemeError::BadProof)?;
        out.clear();
        out.reserve_exact(layout.dim);
        for j in 0..sum.ciphers.len() {
            let mut above = (Vec::new(), Vec::new());
            let mut below = (Vec::new(), Vec::new());
            for ((raised, factor), exponent) in raised.iter_mut().zip(&factors).zip(&exponents) {
                let side = if *factor < 0 { &mut below } else { &mut above };
                side.0.push(raised.next().ok_or(SchemeError::BadProof)?);
                side.1.push(exponent.clone());
            }
            let power = |(bases, exponents): (Vec<Integer>, Vec<Integer>)| {
                product_of_powers_vartime(&key.pairs, &bases, &exponents)
            };
            let inverse = power(below).invert(&key.n_squared);
            let mut opened = power(above);
            times(&mut opened, &inverse.map_err(|_| SchemeError::BadProof)?, &key.n_squared);
            opened -= 1;
            if !opened.is_divisible(&key.n) {
                return Err(SchemeError::OutOfRange(layout.coordinate(j)));
            }
            opened.div_exact_mut(&key.n);
            times(&mut opened, &scale, &key.n);
            unpack(&layout, members, j, &opened, out)?;
        }
        Ok(())
    }
}

impl PaillierKey {
    /// Number, raised ciphertexts and proof of a partial decryption of the right length.
    fn split<'a>(
        &self,
        layout: &Layout,
        partial: &'a [u8],
    ) -> Result<(u32, &'a [u8], &'a [u8]), SchemeError> {
        let (number, rest) =
            partial.split_first_chunk::<NUMBER_BYTES>().ok_or(SchemeError::BadProof)?;
        let (raised, proof) = rest
            .split_at_checked(layout.cipher_bytes(self.public.size))
            .ok_or(SchemeError::BadProof)?;
        Ok((u32::from_le_bytes(*number), raised, proof))
    }
}

/// The product of replies, ciphertext by ciphertext.
struct Sum {
    key: Arc<PublicKey>,
    shape: SumShape,
    layout: Result<Layout, SchemeError>,
    ciphers: Vec<Integer>,
}

impl CipherSum for Sum {
    fn add(&mut self, reply: &[u8]) -> Result<(), SchemeError> {
        let layout = self.layout.clone()?;
        sized(layout.reply_bytes(self.key.size), reply.len())?;
        let ciphers = reply.get(..layout.cipher_bytes(self.key.size)).unwrap_or_default();
        let elements =
            self.key.elements(ciphers).map_err(|j| SchemeError::Malformed(layout.coordinate(j)))?;
        for (sum, c) in self.ciphers.iter_mut().zip(&elements) {
            times(sum, c, &self.key.n_squared);
            *sum = without_sign(core::mem::take(sum), &self.key.n_squared);
        }
        Ok(())
    }

    fn to_bytes(&self) -> Vec<u8> {
        let each = self.key.size.square_bytes();
        let mut out = vec![0; self.ciphers.len() * each];
        for (out, c) in out.chunks_exact_mut(each).zip(&self.ciphers) {
            write_le(c, out);
        }
        out
    }

    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}
