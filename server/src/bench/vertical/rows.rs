//! Rows made up on the fly: every party's features are a keystream of its own, so that any row can be made
//! again without the others.

use quorate_crypto::merkle::hash_parts;
use quorate_protocols::fedv::linear::{Features, Targets};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};

use super::local::Rows;

/// Words of one keystream block: every row begins with a block of its own.
const BLOCK_WORDS: u128 = 16;

/// Standardised numbers, uniform, and a class that depends on the columns of all parties.
pub(super) struct Generated {
    pub(super) columns: Vec<usize>,
    pub(super) classes: usize,
    pub(super) seed: u64,
}

impl Generated {
    fn stream(&self, what: &str, party: usize) -> ChaCha20Rng {
        let parts: [&[u8]; 2] = [&self.seed.to_le_bytes(), &party.to_le_bytes()];
        ChaCha20Rng::from_seed(hash_parts(what, &parts).0)
    }

    fn width(&self, party: usize) -> usize {
        self.columns.get(party).copied().unwrap_or(0)
    }

    /// A number of mean 0 and deviation 1.
    fn unit(rng: &mut ChaCha20Rng) -> f64 {
        (f64::from(rng.next_u32()) / f64::from(u32::MAX) * 2.0 - 1.0) * 3f64.sqrt()
    }

    fn values(&self, party: usize, rows: &[u32], mut take: impl FnMut(f64)) {
        let width = self.width(party);
        let mut rng = self.stream("bench rows", party);
        for row in rows {
            let blocks = (width as u128).div_ceil(BLOCK_WORDS);
            rng.set_word_pos(u128::from(*row) * blocks * BLOCK_WORDS);
            (0..width).for_each(|_| take(Self::unit(&mut rng)));
        }
    }
}

impl Rows for Generated {
    fn features(&self, party: usize, rows: &[u32]) -> Features {
        let mut values = Vec::with_capacity(rows.len() * self.width(party));
        self.values(party, rows, |value| values.push(value));
        Features::new(self.width(party), values.into_iter())
    }

    fn targets(&self, rows: &[u32]) -> Targets {
        let mut scores = vec![0.0; rows.len()];
        for party in 0..self.columns.len() {
            let width = self.width(party);
            let mut rng = self.stream("bench weights", party);
            let weights: Vec<f64> = (0..width).map(|_| Self::unit(&mut rng)).collect();
            let mut at = 0;
            self.values(party, rows, |value| {
                let weight = weights.get(at % width).copied().unwrap_or(0.0);
                if let Some(score) = scores.get_mut(at / width) {
                    *score += weight * value;
                }
                at += 1;
            });
        }
        // A sum of unit products has the deviation sqrt(f).
        let scale = (self.columns.iter().sum::<usize>().max(1) as f64).sqrt();
        let most = self.classes.saturating_sub(1) as f64;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        let class =
            |score: f64| ((score / scale / 3.0 + 0.5) * most).round().clamp(0.0, most) as u32;
        Targets::Classes(scores.into_iter().map(class).collect())
    }

    fn in_memory(&self) -> bool {
        false
    }
}

/// All rows in memory, as a party of the SDK holds its own.
pub(super) struct Resident {
    blocks: Vec<Features>,
    targets: Targets,
}

impl Resident {
    pub(super) fn new(rows: &Generated, count: u32) -> Self {
        let all: Vec<u32> = (0..count).collect();
        let blocks = (0..rows.columns.len()).map(|party| rows.features(party, &all)).collect();
        Self { blocks, targets: rows.targets(&all) }
    }
}

impl Rows for Resident {
    fn features(&self, party: usize, rows: &[u32]) -> Features {
        match self.blocks.get(party) {
            Some(block) => block.select(rows),
            None => Features::new(0, std::iter::empty()),
        }
    }

    fn targets(&self, rows: &[u32]) -> Targets {
        self.targets.select(rows)
    }

    fn in_memory(&self) -> bool {
        true
    }
}
