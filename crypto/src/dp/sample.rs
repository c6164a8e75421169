//! Exact samplers of discrete noise: integers only, no floating point.
//!
//! The constructions are algorithms 1 to 3 of Canonne, Kamath, Steinke, "The discrete Gaussian for
//! differential privacy" (arXiv 2004.00010). Every coin is exact: a random word is compared with
//! its bounds, and more words are drawn in the rare case that one word does not decide.
//!
//! # Security
//! The time of one draw depends on the noise drawn: rejection sampling repeats, and larger noise
//! takes longer (Jin, McMurtry, Rubinstein, Ohrimenko, arXiv 2112.05307, attack this in samplers
//! that answer single queries). It is accepted here for two reasons. A party draws the noise of a
//! whole vector at once and sends after the last draw, so the network sees only the sum of all
//! times, with training and encryption on top. And whoever can time single draws runs on the
//! party's own machine, where it could read the data. Do not use these samplers to answer single
//! queries of a caller who can time them.

use chacha20::ChaCha20;
use cipher::{KeyIvInit, StreamCipher};
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::DpError;

/// Bits of numerators and denominators.
///
/// It keeps every product of the samplers below 2^128.
pub const MAX_BITS: u32 = 56;

/// Most bits of the scale of [`PolyaShare`], whose time grows with the scale.
pub const MAX_POLYA_BITS: u32 = 20;

/// Draws beyond this many scales are drawn again.
///
/// A geometric variable has to end somewhere in an `i64`. The mass cut off is e^-128, below 2^-184,
/// for Laplace; for Gauss, where 128 steps are over 90 sigma, it is below 2^-5900.
const MAX_STEPS: u64 = 128;

/// A non-negative rational number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio {
    /// Numerator.
    pub num: u64,
    /// Denominator, above zero.
    pub den: u64,
}

impl Ratio {
    /// The least multiple of 2^-`bits` that is at least `x`, for `bits` up to 63.
    ///
    /// # Errors
    /// [`DpError::OutOfRange`] for a negative, infinite or undefined `x`, and one whose numerator
    /// takes more than 64 bits.
    pub fn above(x: f64, bits: u32) -> Result<Self, DpError> {
        let den = 1u64.checked_shl(bits).ok_or(DpError::OutOfRange)?;
        // A power of two scales without error.
        let scaled = libm::ceil(libm::scalbn(x, i32::try_from(bits).unwrap_or(i32::MAX)));
        // The comparison is false for NaN.
        if !(0.0..18_446_744_073_709_551_616.0).contains(&scaled) {
            return Err(DpError::OutOfRange);
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a whole number within 0..2^64, checked above"
        )]
        let num = scaled as u64;
        Ok(Self { num, den })
    }

    /// In lowest terms, both parts above zero and below 2^[`MAX_BITS`].
    fn reduced(self) -> Result<Self, DpError> {
        if self.num == 0 || self.den == 0 {
            return Err(DpError::NotPositive);
        }
        let (mut a, mut b) = (self.num, self.den);
        while let Some(rest) = a.checked_rem(b) {
            (a, b) = (b, rest);
        }
        let (num, den) = (self.num / a, self.den / a);
        if (num | den) >> MAX_BITS != 0 {
            return Err(DpError::TooPrecise(MAX_BITS));
        }
        Ok(Self { num, den })
    }
}

/// A source of random 64-bit words.
trait Words {
    fn word(&mut self) -> u64;
}

/// Words straight from a generator, for single draws.
struct Direct<'a, R: ?Sized>(&'a mut R);

impl<R: CryptoRng + ?Sized> Words for Direct<'_, R> {
    fn word(&mut self) -> u64 {
        self.0.next_u64()
    }
}

/// Bytes of one refill of [`Buffered`].
const BLOCK_BYTES: usize = 4096;

/// Words of a ChaCha20 keystream under a seed of the caller, for vectors.
///
/// The first 32 bytes of every block are the key of the next, so no draw can be recomputed from a
/// later state, and there is no end of a period.
struct Buffered {
    block: Zeroizing<[u8; BLOCK_BYTES]>,
    at: usize,
}

impl Buffered {
    fn new<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        let mut block = Zeroizing::new([0u8; BLOCK_BYTES]);
        if let Some(key) = block.first_chunk_mut::<32>() {
            rng.fill_bytes(key);
        }
        Self { block, at: BLOCK_BYTES }
    }

    #[cold]
    fn refill(&mut self) {
        let mut key = Zeroizing::new([0u8; 32]);
        if let Some(next) = self.block.first_chunk::<32>() {
            *key = *next;
        }
        self.block.fill(0);
        ChaCha20::new((&*key).into(), &[0u8; 12].into()).apply_keystream(&mut *self.block);
        self.at = 32;
    }
}

impl Words for Buffered {
    #[inline]
    fn word(&mut self) -> u64 {
        loop {
            if let Some(bytes) = self.block.get(self.at..).and_then(<[u8]>::first_chunk::<8>) {
                self.at += 8;
                return u64::from_le_bytes(*bytes);
            }
            self.refill();
        }
    }
}

/// A coin that shows true with probability `num` / `den`, for `den` > 0.
///
/// With W the first word of a uniform real, it compares W * den with num * 2^64. If the word leaves
/// the comparison open, what is left of `num` is compared with the words that follow.
#[inline]
fn bernoulli<W: Words>(words: &mut W, mut num: u64, den: u64) -> bool {
    loop {
        let product = u128::from(words.word()) * u128::from(den);
        let target = u128::from(num) << 64;
        let Some(rest) = target.checked_sub(product) else { return false };
        match u64::try_from(rest) {
            Ok(rest) if rest < den => num = rest,
            _ => return true,
        }
    }
}

/// As [`bernoulli`], for `den` < 2^120.
#[inline]
fn bernoulli_wide<W: Words>(words: &mut W, mut num: u128, den: u128) -> bool {
    loop {
        let word = u128::from(words.word());
        // word * den = high * 2^64 + low.
        let low = word * (den & u128::from(u64::MAX));
        let high = word * (den >> 64) + (low >> 64);
        let low = low & u128::from(u64::MAX);
        if high >= num {
            // As num may be zero, a product equal to the target is not below it.
            return false;
        }
        let gap = num - high;
        if gap >> 60 != 0 {
            return true;
        }
        let rest = (gap << 64) - low;
        if rest >= den {
            return true;
        }
        num = rest;
    }
}

/// 18!, and the number of permutations of 18 things without a fixed point, the integer nearest 18!/e.
const FACTORIAL_18: u64 = 6_402_373_705_728_000;
const DERANGEMENTS_18: u64 = 2_355_301_661_033_953;

/// A coin that shows true with probability e^-1 (algorithm 1 for gamma = 1).
///
/// The algorithm tosses coins of probability 1/k for k = 1, 2, .. until the first failure and is true
/// if that k is odd. The first 18 coins are read off one number below 18!: of these numbers !18 - 1
/// fail at an odd k, and one leaves it to the coins that follow.
#[inline]
fn exp_minus_one<W: Words>(words: &mut W) -> bool {
    let number = below(words, FACTORIAL_18);
    if number < DERANGEMENTS_18 - 1 {
        return true;
    }
    if number >= DERANGEMENTS_18 {
        return false;
    }
    let mut k = 19u64;
    while bernoulli(words, 1, k) {
        k += 1;
    }
    k % 2 == 1
}

/// A uniform number below `bound` > 0, by widening multiplication with rejection
/// (Lemire, arXiv 1805.10941).
#[inline]
fn below<W: Words>(words: &mut W, bound: u64) -> u64 {
    loop {
        let product = u128::from(words.word()) * u128::from(bound);
        #[expect(clippy::cast_possible_truncation, reason = "the two halves of the product")]
        let (number, fraction) = ((product >> 64) as u64, product as u64);
        // The slow remainder is needed only where a rejection is possible at all.
        if fraction >= bound || fraction >= bound.wrapping_neg() % bound {
            return number;
        }
    }
}

/// A coin that shows true with probability e^-gamma, from coins of probability `gamma` <= 1
/// (algorithm 1): toss coins of probability gamma / k for k = 1, 2, .. until the first failure; true if
/// that k is odd.
#[inline]
fn exp_minus<W: Words>(words: &mut W, mut gamma: impl FnMut(&mut W) -> bool) -> bool {
    let mut k = 1u64;
    while gamma(words) && (k == 1 || bernoulli(words, 1, k)) {
        k += 1;
    }
    k % 2 == 1
}

/// A coin that shows true with probability e^-(`num` / `den`), for 0 < `den` < 2^120 (algorithm 1).
#[inline]
fn exp_minus_ratio<W: Words>(words: &mut W, mut num: u128, den: u128) -> bool {
    while num >= den {
        if !exp_minus_one(words) {
            return false;
        }
        num -= den;
    }
    exp_minus(words, |words| bernoulli_wide(words, num, den))
}

/// How often in a row the coin of probability e^-1 shows true; `None` beyond [`MAX_STEPS`].
#[inline]
fn steps<W: Words>(words: &mut W) -> Option<u64> {
    let mut count = 0;
    while exp_minus_one(words) {
        count += 1;
        if count == MAX_STEPS {
            return None;
        }
    }
    Some(count)
}

/// A geometric number: k with probability (1 - q) q^k, for q = e^-(1/scale) (algorithm 2 without its
/// sign).
fn geometric<W: Words>(words: &mut W, scale: Ratio) -> u64 {
    loop {
        let low = below(words, scale.num);
        if !exp_minus(words, |words| bernoulli(words, low, scale.num)) {
            continue;
        }
        if let Some(high) = steps(words) {
            // Below 2^7 * 2^56.
            return (low + high * scale.num) / scale.den;
        }
    }
}

/// `magnitude` with a sign; the magnitudes drawn here are below 2^63.
#[inline]
fn signed(magnitude: u64, negative: bool) -> i64 {
    let value = magnitude.cast_signed();
    if negative { value.wrapping_neg() } else { value }
}

/// The two ways to draw from a distribution, over its `draw`.
macro_rules! draws {
    ($name:ident) => {
        impl $name {
            /// One draw.
            ///
            /// # Security
            /// Its time depends on the noise; see the module.
            pub fn sample<R: CryptoRng + ?Sized>(&self, rng: &mut R) -> i64 {
                self.draw(&mut Direct(rng))
            }

            /// Adds a draw to every value, modulo 2^64 and so exactly in every ring of at most 64 bits.
            ///
            /// It takes 32 bytes from `rng`, so its draws differ from those of single calls.
            ///
            /// # Security
            /// Its time depends on the noise; see the module.
            pub fn add_to<R: CryptoRng + ?Sized>(&self, rng: &mut R, values: &mut [i64]) {
                let mut words = Buffered::new(rng);
                for value in values {
                    *value = value.wrapping_add(self.draw(&mut words));
                }
            }
        }
    };
}

/// The discrete Gaussian: x with probability proportional to e^-(x^2 / (2 variance)).
///
/// Algorithm 3 takes its candidates from a discrete Laplace distribution of any whole scale t; here
/// t is the power of two nearest to sigma, which makes two thirds of its coins plain bits.
///
/// ```
/// use quorate_crypto::dp::{DiscreteGaussian, Ratio};
/// use rand_chacha::rand_core::SeedableRng;
///
/// let noise = DiscreteGaussian::new(Ratio { num: 33, den: 2 })?;
/// let mut rng = rand_chacha::ChaCha20Rng::from_seed([1; 32]);
/// let mut sums = vec![1000i64; 8];
/// noise.add_to(&mut rng, &mut sums);
/// assert!(sums.iter().all(|sum| (900..1100).contains(sum)));
/// # Ok::<(), quorate_crypto::dp::DpError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiscreteGaussian {
    log2_scale: u32,
    /// The variance a / b.
    a: u64,
    /// t b.
    scaled_b: u64,
    /// 2 a b t^2.
    den: u128,
}

impl DiscreteGaussian {
    /// The distribution of parameter `variance`, its real variance from sigma = 1 on (below, it is
    /// smaller).
    ///
    /// # Errors
    /// [`DpError::NotPositive`]; [`DpError::TooPrecise`] where a part of the reduced ratio takes more
    /// than [`MAX_BITS`] bits.
    pub fn new(variance: Ratio) -> Result<Self, DpError> {
        let Ratio { num: a, den: b } = variance.reduced()?;
        let twice_a = 2 * u128::from(a);
        // The largest k with t^2 b <= 2 a, so that sigma / sqrt 2 < t <= sigma sqrt 2, or t = 1.
        let mut log2_scale = 0;
        while (u128::from(b) << (2 * (log2_scale + 1))) <= twice_a {
            log2_scale += 1;
        }
        // t b <= t^2 b <= 2^57, or b itself.
        Ok(Self {
            log2_scale,
            a,
            scaled_b: b << log2_scale,
            // 2 a b t^2 <= 4 a^2 < 2^114, or 2 a b.
            den: (twice_a * u128::from(b)) << (2 * log2_scale),
        })
    }

    #[inline]
    fn draw<W: Words>(&self, words: &mut W) -> i64 {
        let mask = (1u64 << self.log2_scale) - 1;
        loop {
            let word = words.word();
            // The sign and the low part are bits of one word.
            let (negative, low) = (word >> 63 == 1, word & mask);
            if !exp_minus(words, |words| words.word() & mask < low) {
                continue;
            }
            let Some(high) = steps(words) else { continue };
            let magnitude = low | (high << self.log2_scale);
            if negative && magnitude == 0 {
                continue;
            }
            // |magnitude - variance / t|^2 / (2 variance), as a ratio of integers. The distance is
            // below 2^64: 2^7 t^2 b <= 2^8 a.
            let distance =
                (u128::from(magnitude) * u128::from(self.scaled_b)).abs_diff(u128::from(self.a));
            if exp_minus_ratio(words, distance * distance, self.den) {
                return signed(magnitude, negative);
            }
        }
    }
}

draws!(DiscreteGaussian);

/// The discrete Laplace distribution: x with probability proportional to e^-(|x| / scale).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiscreteLaplace {
    scale: Ratio,
}

impl DiscreteLaplace {
    /// The distribution of this scale.
    ///
    /// # Errors
    /// As [`DiscreteGaussian::new`].
    pub fn new(scale: Ratio) -> Result<Self, DpError> {
        Ok(Self { scale: scale.reduced()? })
    }

    fn draw<W: Words>(&self, words: &mut W) -> i64 {
        loop {
            let magnitude = geometric(words, self.scale);
            let negative = words.word() >> 63 == 1;
            if magnitude != 0 || !negative {
                return signed(magnitude, negative);
            }
        }
    }
}

draws!(DiscreteLaplace);

/// One of h shares of discrete Laplace noise: the sum of h independent draws is exactly
/// [`DiscreteLaplace`] of the same scale.
///
/// A share is the difference of two Polya numbers (negative binomial, shape 1/h, q = e^-(1/scale)). A
/// geometric number is the sum of Polya numbers of shapes 1/h and 1 - 1/h; given the sum g, their
/// split is that of g draws from a Polya urn with initial weights 1/h and 1 - 1/h, whose coins are
/// rational. So a share takes two geometric draws and about 2 * scale coins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolyaShare {
    scale: Ratio,
    shares: u32,
}

impl PolyaShare {
    /// A share of one of `shares` parties in noise of this scale.
    ///
    /// # Errors
    /// As [`DiscreteGaussian::new`]; [`DpError::NoShares`]; [`DpError::TooWide`] for a scale over
    /// 2^[`MAX_POLYA_BITS`], as the time of a draw grows with the scale.
    pub fn new(scale: Ratio, shares: u32) -> Result<Self, DpError> {
        let scale = scale.reduced()?;
        if shares == 0 {
            return Err(DpError::NoShares);
        }
        if u128::from(scale.num) > u128::from(scale.den) << MAX_POLYA_BITS {
            return Err(DpError::TooWide(MAX_POLYA_BITS));
        }
        Ok(Self { scale, shares })
    }

    fn draw<W: Words>(&self, words: &mut W) -> i64 {
        let plus = self.polya(words);
        let minus = self.polya(words);
        plus.cast_signed().wrapping_sub(minus.cast_signed())
    }

    fn polya<W: Words>(&self, words: &mut W) -> u64 {
        let total = geometric(words, self.scale);
        let shares = u64::from(self.shares);
        let mut ours = 0;
        // At most 2^28 balls and 2^32 shares: the products stay below 2^61.
        for ball in 1..=total {
            // Our weight 1/h + ours of a total 1 + (ball - 1).
            if bernoulli(words, shares * ours + 1, shares * ball) {
                ours += 1;
            }
        }
        ours
    }
}

draws!(PolyaShare);
