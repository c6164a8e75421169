//! The plain-text twin of a vertical job: the same model, trained on the joined rows, without any
//! cryptography. A check that compares the two proves that nothing was lost to it.

use quorate_crypto::dp::DpError;
use quorate_crypto::merkle::hash_parts;
use quorate_crypto::secret::Secret;
use quorate_protocols::fedv::linear::{
    FEATURE_BITS, Features, Targets, Weights, batches, residuals,
};
use quorate_protocols::workload::VerticalSpec;

/// Seeds that a twin repeats a job with.
pub struct Seeds<'a> {
    /// The initial weights of each block's party.
    pub weights: &'a [Secret<[u8; 32]>],
    /// The order of an epoch.
    pub order: &'a dyn Fn(u32) -> Secret<[u8; 32]>,
    /// The label noise of a batch, by epoch and number.
    pub noise: &'a dyn Fn(u32, u32) -> Secret<[u8; 32]>,
}

/// Joined plaintext rows: every block's features, in the order of the spec's blocks.
#[derive(Clone, Copy)]
pub struct Joined<'a> {
    /// The spec.
    pub spec: &'a VerticalSpec,
    /// Every block's features of the same rows.
    pub blocks: &'a [Features],
    /// The targets of those rows.
    pub targets: &'a Targets,
    /// The rows to train on.
    pub trained: &'a [u32],
}

impl Joined<'_> {
    /// Trains, and returns every block's weights.
    ///
    /// Scores and products are computed here in wide integers over all blocks at once, not by the code
    /// that the parties use.
    ///
    /// # Errors
    /// [`DpError`] when no sampler has the job's label noise.
    pub fn train(&self, seeds: &Seeds<'_>) -> Result<Vec<Weights>, DpError> {
        let spec = self.spec;
        let mut models: Vec<Weights> = spec
            .blocks
            .iter()
            .zip(self.blocks)
            .zip(seeds.weights)
            .map(|((block, features), seed)| {
                let holder = block.party == spec.holder;
                Weights::initial(seed, features.columns(), spec.outputs(), holder)
            })
            .collect();
        for epoch in 0..spec.epochs {
            let order = (seeds.order)(epoch);
            let batches = batches(self.trained, spec.batch as usize, &order);
            for (counter, rows) in (0u32..).zip(&batches) {
                self.step(&mut models, rows, &(seeds.noise)(epoch, counter))?;
            }
        }
        Ok(models)
    }

    /// One batch: moves every block's weights.
    ///
    /// # Errors
    /// [`DpError`] when no sampler has the job's label noise.
    pub fn step(
        &self,
        models: &mut [Weights],
        rows: &[u32],
        noise: &Secret<[u8; 32]>,
    ) -> Result<(), DpError> {
        let scores = self.scores(models, rows);
        let residuals = residuals(self.spec, self.targets, rows, &scores, noise)?;
        for (features, model) in self.blocks.iter().zip(models) {
            let products = products(features, rows, &residuals, self.spec.outputs());
            model.step(self.spec, rows.len(), &products, &residuals);
        }
        Ok(())
    }

    /// The same with seeds that are drawn from `seed`: a simulation, not the repetition of a job.
    ///
    /// # Errors
    /// As [`Joined::train`].
    pub fn simulate(&self, seed: u64) -> Result<Vec<Weights>, DpError> {
        let of = |what: &str, parts: [u32; 2]| {
            let [a, b] = parts.map(u32::to_le_bytes);
            let parts: [&[u8]; 4] = [&seed.to_le_bytes(), what.as_bytes(), &a, &b];
            Secret::new(hash_parts("quorate/vertical-simulation/1", &parts).0)
        };
        let weights: Vec<_> =
            (0u32..).zip(&self.spec.blocks).map(|(i, _)| of("weights", [i, 0])).collect();
        self.train(&Seeds {
            weights: &weights,
            order: &|epoch| of("order", [epoch, 0]),
            noise: &|epoch, batch| of("noise", [epoch, batch]),
        })
    }

    /// Scores of `rows` at scale 2^36, one output after the other.
    ///
    /// # Panics
    /// When a score leaves 64 bits, which the bounds of a job's spec exclude.
    #[must_use]
    pub fn scores(&self, models: &[Weights], rows: &[u32]) -> Vec<i64> {
        let outputs = self.spec.outputs();
        let mut scores = Vec::with_capacity(rows.len() * outputs);
        for output in 0..outputs {
            for row in rows {
                let mut sum = 0i128;
                for (features, model) in self.blocks.iter().zip(models) {
                    let weights = model.fixed().iter().skip(output).step_by(outputs);
                    for (x, w) in features.row(*row).iter().zip(weights) {
                        sum += i128::from(*x) * i128::from(*w);
                    }
                    let bias = model.bias().get(output).copied().unwrap_or(0);
                    sum += i128::from(bias) << FEATURE_BITS;
                }
                scores.push(i64::try_from(sum).expect("a score within its job's bounds"));
            }
        }
        scores
    }
}

fn products(features: &Features, rows: &[u32], residuals: &[i64], outputs: usize) -> Vec<i64> {
    let mut sums = vec![0i128; features.columns() * outputs];
    for (output, own) in residuals.chunks(rows.len().max(1)).enumerate() {
        for (row, residual) in rows.iter().zip(own) {
            for (j, x) in features.row(*row).iter().enumerate() {
                sums[j * outputs + output] += i128::from(*x) * i128::from(*residual);
            }
        }
    }
    sums.into_iter()
        .map(|sum| i64::try_from(sum).expect("a product within its job's bounds"))
        .collect()
}
