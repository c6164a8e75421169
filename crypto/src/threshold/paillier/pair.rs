//! Arithmetic modulo n^2 on pairs of numbers, in constant time.
//!
//! x modulo n^2 is a + b n for many pairs of a and b below 2 n. In a product of two such numbers
//! b d n^2 vanishes:
//!
//! (a + b n)(c + d n) = a c + (a d + b c) n modulo n^2.
//!
//! Numbers are kept times R, a power of two, and products divided by it (Montgomery, 1985). His
//! reduction of a c finds m below R such that a c + m n = R t. As a c = R t - m n, the product
//! divided by R is
//!
//! t + n (a d + b c - m) / R modulo n^2,
//!
//! where the division in the second part is by one more reduction, as only its class modulo n counts:
//! it finds m' with a d + b c - m + m' n = R u. As that is above -R, u is not negative, although
//! a d + b c - m may be.
//!
//! R is 8 n or more. So t is below (4 n^2 + R n) / R and u below (8 n^2 + R n) / R, hence both below
//! 2 n again: nothing is ever compared or subtracted until a result leaves this form.
//!
//! Of L limbs of n, a product takes 5 L^2 products of limbs and a square 3.5 L^2 (a^2 has all products
//! of different limbs twice, and of a d + b c one is enough); modulo n^2 without this, with 2 L limbs,
//! they take 8 L^2 and 6 L^2. Limbs have 60 bits: all products in one column of a multiplication, and
//! of its reduction, have a sum of less than 128 bits, so nothing is carried but from column to column.
//!
//! # Security
//! No branch, index or length depends on a number: they depend on the size of n and on the number of
//! words given alone. Conversion
//! from [`Integer`] is not constant time and is for public numbers; that back to [`Integer`] is, and
//! the result is to become public.

use rug::Integer;
use rug::integer::Order;
use subtle::{Choice, ConditionallySelectable};
use zeroize::Zeroizing;

/// Limbs that are handled at once, the least significant first unless reversed.
pub(super) type Block = [u64; LIMBS];

/// a and b in turn, each in the blocks of n.
pub(super) type Pair = Zeroizing<Vec<Block>>;

/// Sums of the products in as many columns as a block has limbs.
type Sums = [u128; LIMBS];

const LIMBS: usize = 4;
/// Bits of a limb.
const BITS: usize = 60;
const MASK: u64 = (1 << BITS) - 1;
const ZERO: Block = [0; LIMBS];
/// Most bits of n: of 84 limbs, three products have sums of at most 252 terms in a column.
const MAX_BITS: u32 = 84 * 60 - SPARE_BITS;
/// Bits by which R is longer than n.
const SPARE_BITS: u32 = 3;

/// The modulus n^2 of an odd n.
#[derive(Clone)]
pub(super) struct Pairs {
    /// n, reversed.
    n: Vec<Block>,
    /// -1 / n modulo 2^60.
    inverse: u64,
    integer: Integer,
    /// R^2, not times R: times this is times R.
    shift: Pair,
    one: Pair,
}

/// What products work in, wiped when dropped.
pub(super) struct Scratch {
    reversed: Zeroizing<Vec<Block>>,
    m: Zeroizing<Vec<Block>>,
    first: Zeroizing<Vec<Block>>,
    second: Zeroizing<Vec<Block>>,
}

impl Pairs {
    /// Arithmetic modulo the square of `n`, which is odd.
    ///
    /// # Panics
    /// When `n` has over 5037 bits.
    pub(super) fn new(n: &Integer) -> Self {
        assert!(n.significant_bits() <= MAX_BITS, "columns of longer numbers would overflow");
        let limbs = (n.significant_bits() + SPARE_BITS).div_ceil(60) as usize;
        let mut reversed = vec![ZERO; limbs.div_ceil(LIMBS)];
        split(&n.to_digits(Order::Lsf), &mut reversed);
        reversed.as_flattened_mut().reverse();
        // Each step doubles the correct bits of 1 / n, which are 3 at first.
        let low = n.to_u64_wrapping();
        let inverse =
            (0..5).fold(low, |x, _| x.wrapping_mul(2u64.wrapping_sub(low.wrapping_mul(x))));
        let inverse = inverse.wrapping_neg() & MASK;
        let [shift, one] = [Pair::default(), Pair::default()];
        let mut pairs = Self { n: reversed, inverse, integer: n.clone(), shift, one };
        let r = Integer::from(1) << (BITS * LIMBS * pairs.len());
        pairs.one = pairs.halves(&r);
        pairs.shift = pairs.halves(&r.square());
        pairs
    }

    /// Blocks of n.
    pub(super) const fn len(&self) -> usize {
        self.n.len()
    }

    /// The number 1.
    pub(super) const fn one(&self) -> &Pair {
        &self.one
    }

    pub(super) fn scratch(&self) -> Scratch {
        let zeros = |blocks| Zeroizing::new(vec![ZERO; blocks]);
        let [m, first, second] = [self.len(); 3].map(zeros);
        Scratch { reversed: zeros(2 * self.len()), m, first, second }
    }

    /// A public number.
    pub(super) fn pair(&self, x: &Integer, scratch: &mut Scratch) -> Pair {
        let mut pair = self.halves(x);
        self.multiply(&mut pair, &self.shift, scratch);
        pair
    }

    /// A public number, not times R.
    fn halves(&self, x: &Integer) -> Pair {
        let (b, a) = x.clone().div_rem(self.integer.clone());
        let b = b % &self.integer;
        let mut pair = Pair::new(vec![ZERO; 2 * self.len()]);
        let (low, high) = pair.split_at_mut(self.len());
        split(&a.to_digits(Order::Lsf), low);
        split(&b.to_digits(Order::Lsf), high);
        pair
    }

    /// x times 1 + m n, below n^2, for m below n in words of 64 bits.
    pub(super) fn integer(&self, x: &mut Pair, m: &[u64], scratch: &mut Scratch) -> Integer {
        // Times what is not kept times R, so that R falls out.
        let mut factor = Pair::new(vec![ZERO; 2 * self.len()]);
        let (one, rest) = factor.split_at_mut(self.len());
        one.as_flattened_mut().iter_mut().take(1).for_each(|limb| *limb = 1);
        split(m, rest);
        self.multiply(x, &factor, scratch);

        // The one pair with a and b below n.
        let (a, b) = x.split_at_mut(self.len());
        let mut carry = self.subtract_once(a);
        for limb in b.as_flattened_mut() {
            (*limb, carry) = ((*limb + carry) & MASK, (*limb + carry) >> BITS);
        }
        // At most 2 n.
        self.subtract_once(b);
        self.subtract_once(b);

        let mut carry = 0;
        let mut number = Zeroizing::new(vec![ZERO; 2 * self.len()]);
        for (at, out) in number.iter_mut().enumerate() {
            let mut sums = a.get(at).map_or([0; LIMBS], |a| a.map(u128::from));
            product(&mut sums, b, &self.n, at);
            *out = settle(sums, &mut carry);
        }
        Integer::from_digits(&join(&number), Order::Lsf)
    }

    /// x y, in place of x.
    pub(super) fn multiply(&self, x: &mut Pair, y: &Pair, scratch: &mut Scratch) {
        let Scratch { reversed, m, first, second } = scratch;
        let (a, b) = x.split_at_mut(self.len());
        for (out, block) in reversed.iter_mut().rev().zip(y.iter()) {
            *out = reverse(block);
        }
        let (d, c) = reversed.split_at(self.len());
        self.reduce(false, m, first, |sums, at| product(sums, a, c, at));
        self.reduce(true, m, second, |sums, at| {
            product(sums, a, d, at);
            product(sums, b, c, at);
        });
        a.copy_from_slice(first);
        b.copy_from_slice(second);
    }

    /// x^2, in place of x.
    pub(super) fn square(&self, x: &mut Pair, scratch: &mut Scratch) {
        let Scratch { reversed, m, first, second } = scratch;
        let (a, b) = x.split_at_mut(self.len());
        let (twice, _) = reversed.split_at_mut(self.len());
        for (out, block) in twice.iter_mut().rev().zip(a.iter()) {
            *out = reverse(&block.map(|limb| limb << 1));
        }
        self.reduce(false, m, first, |sums, at| square(sums, a, twice, at));
        self.reduce(true, m, second, |sums, at| product(sums, b, twice, at));
        a.copy_from_slice(first);
        b.copy_from_slice(second);
    }

    /// `out` = (P - m + m' n) / R with m' in place of m; the m of before is left out unless `minus`.
    /// `add` adds the columns of P from a given block on.
    #[inline(always)]
    fn reduce(
        &self,
        minus: bool,
        m: &mut [Block],
        out: &mut [Block],
        add: impl Fn(&mut Sums, usize),
    ) {
        let Some(last) = self.n.last() else { return };
        let mut carry = 0;
        for at in 0..self.len() {
            let (done, rest) = m.split_at_mut(at);
            let Some(m) = rest.first_mut() else { return };
            let mut sums = [0; LIMBS];
            if minus {
                // R^2 - m, whose upper half has all bits set; what is carried out of R^2 is dropped.
                sums = m.map(|limb| u128::from(limb ^ MASK));
                sums.iter_mut().take(usize::from(at == 0)).for_each(|sum| *sum += 1);
            }
            add(&mut sums, at);
            product_from(&mut sums, done, &self.n, at);
            *m = quotient(sums, &mut carry, last, self.inverse);
        }
        for (at, out) in (self.len()..).zip(out) {
            let mut sums = [if minus { MASK.into() } else { 0 }; LIMBS];
            add(&mut sums, at);
            product_from(&mut sums, m, &self.n, at);
            *out = settle(sums, &mut carry);
        }
    }

    /// Takes n off unless that is more than `x`: 1 if so.
    fn subtract_once(&self, x: &mut [Block]) -> u64 {
        let n = || self.n.as_flattened().iter().rev();
        let mut borrow = 0;
        for (limb, n) in x.as_flattened().iter().zip(n()) {
            borrow = limb.wrapping_sub(*n).wrapping_sub(borrow) >> 63;
        }
        let below = Choice::from(u8::from(borrow == 1));
        let mask = u64::conditional_select(&u64::MAX, &0, below);
        let mut borrow = 0;
        for (limb, n) in x.as_flattened_mut().iter_mut().zip(n()) {
            let difference = limb.wrapping_sub(n & mask).wrapping_sub(borrow);
            (*limb, borrow) = (difference & MASK, difference >> 63);
        }
        mask & 1
    }
}

/// The low half.
#[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
const fn low(x: u128) -> u64 {
    x as u64
}

const fn reverse([x0, x1, x2, x3]: &Block) -> Block {
    [*x3, *x2, *x1, *x0]
}

/// A number in words of 64 bits as limbs; what does not fit is left out.
fn split(words: &[u64], out: &mut [Block]) {
    let word = |at: usize| u128::from(words.get(at).copied().unwrap_or(0));
    for (k, limb) in out.as_flattened_mut().iter_mut().enumerate() {
        let at = k * BITS;
        *limb = low((word(at / 64) | word(at / 64 + 1) << 64) >> (at % 64)) & MASK;
    }
}

/// A number in limbs as words of 64 bits.
fn join(limbs: &[Block]) -> Zeroizing<Vec<u64>> {
    let limbs = limbs.as_flattened();
    let limb = |at: usize| u128::from(limbs.get(at).copied().unwrap_or(0));
    let word = |at: usize| {
        let (first, skipped) = (at * 64 / BITS, at * 64 % BITS);
        // 56 bits are skipped at most, so two limbs hold a word.
        low((limb(first) | limb(first + 1) << BITS) >> skipped)
    };
    Zeroizing::new((0..(limbs.len() * BITS).div_ceil(64)).map(word).collect())
}

/// Limbs of 60 bits out of columns and what is carried into them.
#[inline(always)]
fn settle(sums: Sums, carry: &mut u128) -> Block {
    sums.map(|sum| {
        let sum = sum.wrapping_add(*carry);
        *carry = sum >> BITS;
        low(sum) & MASK
    })
}

/// Four limbs of m, such that their products with the first limbs of n, `n` reversed, make the columns
/// and what is carried into them zero.
#[inline(always)]
fn quotient(sums: Sums, carry: &mut u128, n: &Block, inverse: u64) -> Block {
    let [n3, n2, n1, n0] = *n;
    let mut m = ZERO;
    let [m0, m1, m2, m3] = &mut m;
    let [mut s0, mut s1, mut s2, mut s3] = sums;
    let mut clear = |sum: &mut u128, m: &mut u64| {
        *sum = sum.wrapping_add(*carry);
        *m = low(*sum).wrapping_mul(inverse) & MASK;
        add(sum, *m, n0);
        *carry = *sum >> BITS;
    };
    clear(&mut s0, m0);
    add(&mut s1, *m0, n1);
    clear(&mut s1, m1);
    add(&mut s2, *m0, n2);
    add(&mut s2, *m1, n1);
    clear(&mut s2, m2);
    add(&mut s3, *m0, n3);
    add(&mut s3, *m1, n2);
    add(&mut s3, *m2, n1);
    clear(&mut s3, m3);
    m
}

#[inline(always)]
fn add(sum: &mut u128, x: u64, y: u64) {
    *sum = sum.wrapping_add(u128::from(x).wrapping_mul(u128::from(y)));
}

/// Adds what one block times a reversed one has in the first four columns.
#[inline(always)]
fn head(sums: &mut Sums, x: &Block, y: &Block) {
    let ([x0, x1, x2, x3], [y3, y2, y1, y0]) = (*x, *y);
    let [s0, s1, s2, s3] = sums;
    add(s0, x0, y0);
    add(s1, x0, y1);
    add(s1, x1, y0);
    add(s2, x0, y2);
    add(s2, x1, y1);
    add(s2, x2, y0);
    add(s3, x0, y3);
    add(s3, x1, y2);
    add(s3, x2, y1);
    add(s3, x3, y0);
}

/// Adds what one block times a reversed one has in the other three columns.
#[inline(always)]
fn tail(sums: &mut Sums, x: &Block, y: &Block) {
    let ([_, x1, x2, x3], [y3, y2, y1, _]) = (*x, *y);
    let [s0, s1, s2, _] = sums;
    add(s0, x1, y3);
    add(s0, x2, y2);
    add(s0, x3, y1);
    add(s1, x2, y3);
    add(s1, x3, y2);
    add(s2, x3, y3);
}

/// Adds the products of each limb of `x` with four of `y`, reversed: those from the limb's place on.
///
/// Nearly all time is spent here. Out of line, all sums stay in registers.
#[inline(never)]
fn slide(sums: &mut Sums, x: &[Block], y: &[Block]) {
    let [mut s0, mut s1, mut s2, mut s3] = *sums;
    for (x, y) in x.as_flattened().iter().zip(y.as_flattened().windows(LIMBS)) {
        let &[y3, y2, y1, y0] = y else { return };
        add(&mut s0, *x, y0);
        add(&mut s1, *x, y1);
        add(&mut s2, *x, y2);
        add(&mut s3, *x, y3);
    }
    *sums = [s0, s1, s2, s3];
}

/// Adds four columns, from block `at` on, of x times y, reversed, whose blocks are as many.
#[inline(always)]
fn product(sums: &mut Sums, x: &[Block], y: &[Block], at: usize) {
    product_from(sums, x.get(..at).unwrap_or(x), y, at);
    if let (Some(x), Some(y)) = (x.get(at), y.last()) {
        head(sums, x, y);
    }
}

/// As [`product`] for the lower blocks of a number, all below `at`.
#[inline(always)]
fn product_from(sums: &mut Sums, mut x: &[Block], y: &[Block], at: usize) {
    if let Some(passed) = at.checked_sub(y.len()) {
        let (Some([first, rest @ ..]), Some(y)) = (x.get(passed..), y.first()) else { return };
        tail(sums, first, y);
        x = rest;
    }
    let passed = y.len().saturating_sub(at + 1);
    slide(sums, x, y.get(passed..).unwrap_or_default());
}

/// As [`product`] for x times x, given 2 x, reversed.
#[inline(always)]
fn square(sums: &mut Sums, x: &[Block], twice: &[Block], at: usize) {
    // Limbs of blocks below the middle meet those above, in either order; those of the middle one
    // each other.
    let middle = at / 2;
    product_from(sums, x.get(..middle).unwrap_or(x), twice, at);
    let Some(block) = x.get(middle) else { return };
    if at.is_multiple_of(2) {
        head(sums, block, &reverse(block));
    } else {
        tail(sums, block, &reverse(block));
        if let Some(next) = twice.iter().rev().nth(middle + 1) {
            head(sums, block, next);
        }
    }
}

#[cfg(test)]
mod tests {
    use chacha20::ChaCha20Rng;
    use proptest::prelude::*;
    use rand_core::SeedableRng;

    use super::super::number::random_limbs;
    use super::*;

    /// Below n^2, at all edges of a and b, and `drawn` at random.
    fn values(n: &Integer, rng: &mut ChaCha20Rng, drawn: usize) -> Vec<Integer> {
        let square = Integer::from(n.square_ref());
        let mut below = |bound: &Integer| {
            let words = random_limbs(rng, bound.significant_bits() + 64);
            Integer::from_digits(&words, Order::Lsf) % bound
        };
        let mut values = vec![
            Integer::new(),
            Integer::from(1),
            Integer::from(n - 1),
            n.clone(),
            Integer::from(n + 1),
            Integer::from(&square - 1),
            Integer::from(&square - n),
            below(n),
            below(n) * n,
            below(n) + Integer::from(&square - n),
        ];
        values.extend((0..drawn).map(|_| below(&square)));
        values
    }

    fn check(n: &Integer, seed: u8, drawn: usize) {
        let rng = &mut ChaCha20Rng::from_seed([seed; 32]);
        let modulus = Integer::from(n.square_ref());
        let pairs = Pairs::new(n);
        let scratch = &mut pairs.scratch();
        let assert_below = |pair: &Pair| {
            for half in pair.chunks(pairs.len()) {
                let number = Integer::from_digits(&join(half), Order::Lsf);
                assert!(number < Integer::from(n << 1), "{number} {n}");
                assert!(half.as_flattened().iter().all(|limb| *limb <= MASK));
            }
        };
        let numbers = values(n, rng, drawn);
        let as_pairs: Vec<Pair> = numbers.iter().map(|x| pairs.pair(x, scratch)).collect();
        for (x, pair) in numbers.iter().zip(&as_pairs) {
            for m in [Integer::new(), Integer::from(1), Integer::from(n - 1)] {
                let shifted = Integer::from(&m * n) + 1;
                let expected = Integer::from(x * &shifted) % &modulus;
                let words = m.to_digits::<u64>(Order::Lsf);
                let got = pairs.integer(&mut pair.clone(), &words, scratch);
                assert_eq!(got, expected, "{x} {m} {n}");
            }
            let mut square = pair.clone();
            pairs.square(&mut square, scratch);
            assert_below(&square);
            // Again, from a pair that need not be the one below n.
            let mut fourth = square.clone();
            pairs.square(&mut fourth, scratch);
            assert_below(&fourth);
            let expected = Integer::from(x.square_ref()) % &modulus;
            assert_eq!(pairs.integer(&mut square, &[], scratch), expected, "{x}^2 {n}");
            let expected = expected.square() % &modulus;
            assert_eq!(pairs.integer(&mut fourth, &[], scratch), expected, "{x}^4 {n}");
            for (y, other) in numbers.iter().zip(&as_pairs) {
                let mut product = pair.clone();
                pairs.multiply(&mut product, other, scratch);
                assert_below(&product);
                let mut twice = product.clone();
                pairs.multiply(&mut twice, &product, scratch);
                assert_below(&twice);
                let expected = Integer::from(x * y) % &modulus;
                assert_eq!(pairs.integer(&mut product, &[], scratch), expected, "{x} {y} {n}");
                let expected = expected.square() % &modulus;
                assert_eq!(pairs.integer(&mut twice, &[], scratch), expected, "{x} {y} {n}");
            }
        }
        let one = &mut pairs.one().clone();
        assert_eq!(pairs.integer(one, &[], scratch), Integer::from(1) % &modulus);
    }

    /// Moduli whose limbs are all ones, or zeros but for the ends, and short of a block or just over.
    #[test]
    fn extreme_moduli_agree_with_the_library() {
        let power = |bits: u32| Integer::from(1) << bits;
        check(&Integer::from(3), 1, 4);
        for bits in [60, 64, 65, 237, 238, 477, 512, 768, 3072, MAX_BITS] {
            check(&(power(bits) - 1), 2, 4);
            check(&(power(bits - 1) + 1), 3, 4);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn random_moduli_agree_with_the_library(
            bits in prop_oneof![2u32..=600, Just(512), Just(1024), Just(3072)],
            seed in any::<u8>(),
        ) {
            let rng = &mut ChaCha20Rng::from_seed([seed; 32]);
            let mut n = Integer::from_digits(&random_limbs(rng, bits), Order::Lsf);
            n.set_bit(bits - 1, true).set_bit(0, true);
            check(&n, seed, 2);
        }
    }
}
