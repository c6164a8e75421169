//! Arithmetic modulo n^2 on pairs of numbers below n, in constant time.
//!
//! x below n^2 is x = a + b n with a and b below n, and so is x R, R = 2^(64 L) for the L limbs of n
//! (Montgomery 1985). In a product of two such numbers b d n^2 vanishes:
//!
//! (a + b n)(c + d n) = a c + (a d + b c) n modulo n^2.
//!
//! Montgomery's reduction of a c finds m below R with a c + m n = R t. As a c = R t - m n, the
//! product divided by R is
//!
//! t + n (a d + b c - m) / R modulo n^2,
//!
//! the division by R of the second part being one more reduction, of which only the class modulo n
//! counts. R - m in place of -m keeps that part positive and adds exactly 1 to what is divided. When
//! t is n or more, n moves to the second part as 1. So with R - m the second part is one too high
//! exactly when t is below n.
//!
//! A product takes 5 L^2 products of limbs, a square 3.5 L^2 (a^2 has each product of different limbs
//! twice, and 2 a b is a (2 b mod n)); modulo n^2 without this, in 2 L limbs, they take 8 L^2 and
//! 6 L^2.
//!
//! # Security
//! No branch, index or length depends on a number: they depend on L and on the count of limbs of
//! exponents alone. Conversions from [`Integer`] are not constant time and are for public numbers.

use rug::Integer;
use rug::integer::Order;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use zeroize::Zeroizing;

/// Limbs that are handled at once, the least significant first.
pub(super) type Block = [u64; 4];

const ZERO: Block = [0; 4];

/// Limbs of [`Block`].
const LIMBS: usize = 4;

/// a and b of a number in turn, each in the blocks of n.
pub(super) type Pair = Zeroizing<Vec<Block>>;

/// The modulus n^2 of an odd n.
#[derive(Clone)]
pub(super) struct Pairs {
    /// n, in blocks.
    n: Vec<Block>,
    /// -1 / n modulo 2^64.
    inverse: u64,
    integer: Integer,
    /// 1 as a pair.
    one: Pair,
}

/// What products work in, wiped when dropped.
pub(super) struct Scratch {
    /// a c, then m n added, so that its upper half is t.
    first: Zeroizing<Vec<Block>>,
    /// As `first`, for the second part.
    second: Zeroizing<Vec<Block>>,
    m: Zeroizing<Vec<Block>>,
    doubled: Zeroizing<Vec<Block>>,
}

impl Pairs {
    /// Arithmetic modulo the square of `n`, which is odd.
    pub(super) fn new(n: &Integer) -> Self {
        let limbs = n.significant_digits::<u64>().next_multiple_of(LIMBS);
        let n_blocks = blocks(n, limbs / LIMBS);
        // Each step doubles the correct bits of 1 / n, which are 3 at first.
        let low = n.to_u64_wrapping();
        let inverse =
            (0..5).fold(low, |x, _| x.wrapping_mul(2u64.wrapping_sub(low.wrapping_mul(x))));
        let mut pairs = Self {
            n: n_blocks,
            inverse: inverse.wrapping_neg(),
            integer: n.clone(),
            one: Pair::default(),
        };
        pairs.one = pairs.pair(&Integer::from(1));
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
        let double = 2 * self.len();
        Scratch {
            first: zeros(double),
            second: zeros(double),
            m: zeros(self.len()),
            doubled: zeros(self.len()),
        }
    }

    /// A public number as a pair, times R.
    pub(super) fn pair(&self, x: &Integer) -> Pair {
        let bits = u32::try_from(64 * LIMBS * self.len()).unwrap_or(u32::MAX);
        let square = Integer::from(self.integer.square_ref());
        let (b, a) = (Integer::from(x << bits) % square).div_rem(self.integer.clone());
        Zeroizing::new([blocks(&a, self.len()), blocks(&b, self.len())].concat())
    }

    /// The number of a pair, times 1 + m n and without the factor R.
    pub(super) fn integer(&self, x: &mut Pair, m: &Integer, scratch: &mut Scratch) -> Integer {
        let mut factor = Pair::new(vec![ZERO; 2 * self.len()]);
        if let Some([low, ..]) = factor.first_mut() {
            *low = 1;
        }
        let plaintext = factor.split_at_mut(self.len()).1;
        m.write_digits(plaintext.as_flattened_mut(), Order::Lsf);
        self.multiply(x, &factor, scratch);
        // a + b n.
        let (a, b) = x.split_at(self.len());
        let wide = &mut scratch.first;
        wide.fill(ZERO);
        wide.iter_mut().zip(a).for_each(|(wide, a)| *wide = *a);
        (0..).zip(b).for_each(|(at, b)| add_row(wide, at, b, &self.n));
        Integer::from_digits(wide.as_flattened(), Order::Lsf)
    }

    /// x y / R, in place of x.
    pub(super) fn multiply(&self, x: &mut Pair, y: &Pair, scratch: &mut Scratch) {
        let Scratch { first, second, m, .. } = scratch;
        let (a, b) = x.split_at_mut(self.len());
        let (c, d) = y.split_at(self.len());
        first.fill(ZERO);
        let over = self.reduce(first, [(a, c)], m);
        negative(m, second);
        let second_over = self.reduce(second, [(a, d), (b, c)], m);
        self.finish([(first, over), (second, second_over)], a, b);
    }

    /// x^2 / R, in place of x.
    pub(super) fn square(&self, x: &mut Pair, scratch: &mut Scratch) {
        let Scratch { first, second, m, doubled } = scratch;
        let (a, b) = x.split_at_mut(self.len());
        square(a, first);
        let over = self.reduce(first, [], m);
        let mut carry = 0;
        for (doubled, limb) in doubled.as_flattened_mut().iter_mut().zip(b.as_flattened()) {
            *doubled = limb << 1 | carry;
            carry = limb >> 63;
        }
        self.subtract_once(doubled, carry);
        negative(m, second);
        let second_over = self.reduce(second, [(a, doubled)], m);
        self.finish([(first, over), (second, second_over)], a, b);
    }

    /// Adds the sum of the products of `factors` to `sum`, and m n such that its lower half becomes
    /// zero; returned is what is above all its limbs, at most K + 1.
    fn reduce<const K: usize>(
        &self,
        sum: &mut [Block],
        factors: [(&[Block], &[Block]); K],
        m: &mut [Block],
    ) -> u64 {
        let mut over = 0;
        let ys = factors.map(|(_, y)| y);
        let [n_first, n_last] = [self.n.first(), self.n.last()].map(|n| n.unwrap_or(&ZERO));
        for (at, m) in (0..).zip(m) {
            let Some([first, rest @ ..]) = sum.get_mut(at..) else { break };
            let xs = factors.map(|(x, _)| x.get(at).copied().unwrap_or(ZERO));
            let mut carries = [ZERO; K];
            for ((x, y), carry) in xs.iter().zip(ys).zip(&mut carries) {
                columns(first, carry, x, [&ZERO, y.first().unwrap_or(&ZERO)]);
            }
            let mut carry = ZERO;
            *m = quotient(first, &mut carry, n_first, self.inverse);
            let mut windows = ys.map(<[Block]>::array_windows::<2>);
            let mut rest = rest.iter_mut();
            for ([n, next], sum) in self.n.array_windows().zip(rest.by_ref()) {
                for ((x, y), carry) in xs.iter().zip(&mut windows).zip(&mut carries) {
                    if let Some([y, next]) = y.next() {
                        columns(sum, carry, x, [y, next]);
                    }
                }
                columns(sum, &mut carry, m, [n, next]);
            }
            let Some(sum) = rest.next() else { break };
            for limb in sum.iter_mut() {
                let (total, carried) = limb.overflowing_add(over);
                (*limb, over) = (total, carried.into());
            }
            for ((x, y), carry) in xs.iter().zip(ys).zip(&mut carries) {
                columns(sum, carry, x, [y.last().unwrap_or(&ZERO), &ZERO]);
            }
            columns(sum, &mut carry, m, [n_last, &ZERO]);
            let carried = carries.iter().chain([&carry]).flatten();
            over = carried.fold(over, |over, carry| over.wrapping_add(*carry));
        }
        over
    }

    /// The product out of both reduced parts and what is above them: a = t mod n; b = the second, less
    /// 1 if t is below n.
    fn finish(&self, parts: [(&[Block], u64); 2], a: &mut [Block], b: &mut [Block]) {
        let [(first, over), (second, second_over)] = parts;
        for (out, sum) in [(&mut *a, first), (&mut *b, second)] {
            out.iter_mut().zip(sum.iter().skip(self.len())).for_each(|(out, x)| *out = *x);
        }
        let (_, mut borrow) = self.subtract_once(a, over);
        for limb in b.as_flattened_mut() {
            (*limb, borrow) = limb.overflowing_sub(borrow.into());
        }
        // a d + b c + R - m is below 2 n^2 + R, its reduction below 3 n.
        let (over, _) = self.subtract_once(b, second_over.wrapping_sub(borrow.into()));
        self.subtract_once(b, over);
    }

    /// Takes n off `x`, above whose limbs is `over`, unless it is below n; what is above the limbs
    /// then, and whether it was below.
    fn subtract_once(&self, x: &mut [Block], over: u64) -> (u64, bool) {
        let n = self.n.as_flattened();
        let mut borrow = false;
        for (limb, n) in x.as_flattened().iter().zip(n) {
            (_, borrow) = limb.borrowing_sub(*n, borrow);
        }
        let below = over.ct_eq(&0) & Choice::from(u8::from(borrow));
        let mask = u64::conditional_select(&u64::MAX, &0, below);
        let mut borrow = false;
        for (limb, n) in x.as_flattened_mut().iter_mut().zip(n) {
            (*limb, borrow) = limb.borrowing_sub(n & mask, borrow);
        }
        (over.wrapping_sub(borrow.into()), below.into())
    }
}

/// `number` in that many blocks, in which it fits.
fn blocks(number: &Integer, count: usize) -> Vec<Block> {
    let mut out = vec![ZERO; count];
    number.write_digits(out.as_flattened_mut(), Order::Lsf);
    out
}

/// Adds four columns of limbs of x times y to `sum`: those of the products of x with the block `next` of y
/// and the one before it. `carry` holds what each limb of x has carried so far.
#[inline(always)]
fn columns(sum: &mut Block, carry: &mut Block, x: &Block, [y, next]: [&Block; 2]) {
    let ([x0, x1, x2, x3], [_, p1, p2, p3], [y0, y1, y2, y3]) = (*x, *y, *next);
    let [s0, s1, s2, s3] = sum;
    let [c0, c1, c2, c3] = carry;
    for (s, [f0, f1, f2, f3]) in [
        (s0, [y0, p3, p2, p1]),
        (s1, [y1, y0, p3, p2]),
        (s2, [y2, y1, y0, p3]),
        (s3, [y3, y2, y1, y0]),
    ] {
        (*s, *c0) = x0.carrying_mul_add(f0, *s, *c0);
        (*s, *c1) = x1.carrying_mul_add(f1, *s, *c1);
        (*s, *c2) = x2.carrying_mul_add(f2, *s, *c2);
        (*s, *c3) = x3.carrying_mul_add(f3, *s, *c3);
    }
}

/// The four limbs m for which m n makes `sum` zero, with m n added to `sum` and `carry`.
#[inline(always)]
fn quotient(sum: &mut Block, carry: &mut Block, n: &Block, inverse: u64) -> Block {
    let [n0, n1, n2, n3] = *n;
    let [s0, s1, s2, s3] = sum;
    let [c0, c1, c2, c3] = carry;
    let m0 = s0.wrapping_mul(inverse);
    (*s0, *c0) = m0.carrying_mul_add(n0, *s0, *c0);
    (*s1, *c0) = m0.carrying_mul_add(n1, *s1, *c0);
    let m1 = s1.wrapping_mul(inverse);
    (*s1, *c1) = m1.carrying_mul_add(n0, *s1, *c1);
    (*s2, *c0) = m0.carrying_mul_add(n2, *s2, *c0);
    (*s2, *c1) = m1.carrying_mul_add(n1, *s2, *c1);
    let m2 = s2.wrapping_mul(inverse);
    (*s2, *c2) = m2.carrying_mul_add(n0, *s2, *c2);
    (*s3, *c0) = m0.carrying_mul_add(n3, *s3, *c0);
    (*s3, *c1) = m1.carrying_mul_add(n2, *s3, *c1);
    (*s3, *c2) = m2.carrying_mul_add(n1, *s3, *c2);
    let m3 = s3.wrapping_mul(inverse);
    (*s3, *c3) = m3.carrying_mul_add(n0, *s3, *c3);
    [m0, m1, m2, m3]
}

/// Adds x times y, shifted by `at` blocks, to `sum`.
fn add_row(sum: &mut [Block], at: usize, x: &Block, y: &[Block]) {
    let (Some(sum), Some(first)) = (sum.get_mut(at..), y.first()) else { return };
    let mut sum = sum.iter_mut();
    let mut carry = ZERO;
    if let Some(sum) = sum.next() {
        columns(sum, &mut carry, x, [&ZERO, first]);
    }
    for ([y, next], sum) in y.array_windows().zip(sum.by_ref()) {
        columns(sum, &mut carry, x, [y, next]);
    }
    if let (Some(sum), Some(last)) = (sum.next(), y.last()) {
        // Nothing is above this: sums of whole products grow block by block.
        columns(sum, &mut carry, x, [last, &ZERO]);
    }
}

/// The square of `x`, whose blocks `out` has twice.
fn square(x: &[Block], out: &mut [Block]) {
    out.fill(ZERO);
    let mut above = x;
    let mut at = 0;
    while let [block, rest @ ..] = above {
        add_row(out, 2 * at + 1, block, rest);
        above = rest;
        at += 1;
    }
    // So far, each product of different blocks once.
    let mut top = 0;
    let mut carry = ZERO;
    for (x, [low, high]) in x.iter().zip(out.as_chunks_mut().0) {
        for limb in low.iter_mut().chain(high.iter_mut()) {
            (*limb, top) = (*limb << 1 | top, *limb >> 63);
        }
        columns(low, &mut carry, x, [&ZERO, x]);
        columns(high, &mut carry, x, [x, &ZERO]);
    }
}

/// R - m in `out`, which has R's place, too.
fn negative(m: &[Block], out: &mut [Block]) {
    let mut carry = true;
    let limbs = m.as_flattened().iter().map(|limb| !limb).chain(core::iter::repeat(0));
    for (out, limb) in out.as_flattened_mut().iter_mut().zip(limbs) {
        (*out, carry) = limb.overflowing_add(carry.into());
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
            let limbs = random_limbs(rng, bound.significant_bits() + 64);
            Integer::from_digits(&limbs, Order::Lsf) % bound
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
        let numbers = values(n, rng, drawn);
        let as_pairs: Vec<Pair> = numbers.iter().map(|x| pairs.pair(x)).collect();
        for (x, pair) in numbers.iter().zip(&as_pairs) {
            for m in [Integer::new(), Integer::from(1), Integer::from(n - 1)] {
                let shifted = Integer::from(&m * n) + 1;
                let expected = Integer::from(x * &shifted) % &modulus;
                assert_eq!(pairs.integer(&mut pair.clone(), &m, scratch), expected, "{x} {m} {n}");
            }
            let mut square = pair.clone();
            pairs.square(&mut square, scratch);
            let expected = Integer::from(x.square_ref()) % &modulus;
            assert_eq!(square, pairs.pair(&expected), "the square of {x} modulo {n} squared");
            for (y, other) in numbers.iter().zip(&as_pairs) {
                let mut product = pair.clone();
                pairs.multiply(&mut product, other, scratch);
                let expected = Integer::from(x * y) % &modulus;
                assert_eq!(product, pairs.pair(&expected), "{x} times {y} modulo {n} squared");
            }
        }
        assert_eq!(*pairs.one(), pairs.pair(&Integer::from(1)));
    }

    /// Moduli whose limbs are all ones, or zeros but for the ends, and short of a block or just over.
    #[test]
    fn extreme_moduli_agree_with_the_library() {
        let power = |bits: u32| Integer::from(1) << bits;
        check(&Integer::from(3), 1, 4);
        for bits in [64, 65, 255, 256, 257, 512, 768, 3072] {
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
