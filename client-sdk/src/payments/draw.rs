//! Seeded random numbers, the same on every machine.

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};
use sha2::{Digest as _, Sha256};

/// Random numbers of one seed and one purpose.
pub(super) struct Draw(ChaCha20Rng);

impl Draw {
    /// Streams of different seeds, purposes or numbers are independent.
    pub(super) fn new(seed: u64, purpose: &str, number: u64) -> Self {
        let mut hash = Sha256::new_with_prefix(b"quorate/payments/1");
        hash.update(seed.to_be_bytes());
        hash.update(number.to_be_bytes());
        hash.update(purpose);
        Self(ChaCha20Rng::from_seed(hash.finalize().into()))
    }

    /// Uniform on [0, 1), a multiple of 2^-53.
    pub(super) fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(super) fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    pub(super) fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// A number below `bound`, uniform but for a bias below `bound` / 2^64; 0 where there is none.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        let product = u128::from(self.0.next_u64()) * bound as u128;
        usize::try_from(product >> 64).unwrap_or(0)
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        from.get(self.below(from.len())).copied()
    }

    /// N(`mean`, `deviation`), by the transform of Box and Muller.
    pub(super) fn normal(&mut self, mean: f64, deviation: f64) -> f64 {
        let radius = libm::sqrt(-2.0 * libm::log(1.0 - self.unit()));
        mean + deviation * radius * libm::cos(core::f64::consts::TAU * self.unit())
    }

    /// An index of `weights`, by weight.
    pub(super) fn weighted(&mut self, weights: &Weights) -> usize {
        let at = self.unit() * weights.total();
        let index = weights.0.partition_point(|sum| *sum <= at);
        index.min(weights.0.len().saturating_sub(1))
    }
}

/// Weights to draw by, as their running sums.
pub(super) struct Weights(Vec<f64>);

impl Weights {
    pub(super) fn new(weights: impl IntoIterator<Item = f64>) -> Self {
        let mut sum = 0.0;
        let running = weights.into_iter().map(|weight| {
            sum += weight;
            sum
        });
        Self(running.collect())
    }

    fn total(&self) -> f64 {
        self.0.last().copied().unwrap_or(0.0)
    }
}
