//! What noise costs a model: the same training under several regimes, in plain arithmetic.
//!
//! The sums of a regime are those of the real protocol, without the cryptography. In a sweep the
//! noise of a sum is one exact draw of the regime's variance; with [`Draws::Shares`] every party
//! draws its own share from its own seed, as in a real run that is given these seeds, and the sums
//! of the two are equal.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use quorate_crypto::dp::account::sigma_for_zcdp;
use quorate_crypto::fixed::FixedPoint;
use quorate_crypto::merkle::{Hash, hash_parts};
use quorate_protocols::model::ModelState;
use quorate_protocols::payload::OpenedSum;
use quorate_protocols::policy::noise::{add_share, fault, replayable_seed, round_scale};
use quorate_protocols::policy::{Mechanism, NoiseSpec, Unit};
use quorate_protocols::wire::Name;
use quorate_protocols::workload::Workload;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use serde::Serialize;

use super::LearnError;
use super::data::{Dataset, Table};
use super::metrics::{Fit, fit, predict};
use super::split::{Split, share_out};
use super::train::contribution;

/// Who adds how much noise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Regime {
    /// Nobody: exact sums.
    NoPrivacy,
    /// A trusted centre: sigma^2 once.
    Central,
    /// Every party a share of sigma^2 / h, of which h suffice: n sigma^2 / h in all.
    Hybrid,
    /// Every party sigma^2, as if each sum were seen alone: n sigma^2 in all.
    Local,
    /// One party trains on its own rows with the noise of a centre.
    Alone,
}

impl Regime {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::NoPrivacy, Self::Central, Self::Hybrid, Self::Local, Self::Alone];
}

/// How the noise of a sum is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draws<'a> {
    /// One draw for the whole sum, from this seed.
    Aggregate(u64),
    /// One draw per party with 1/h of the variance, from [`replayable_seed`] of these bytes: the
    /// hybrid only. A real run's bytes are those of [`noise_seed`](crate::engine::noise_seed).
    Shares(&'a [u8]),
}

/// A model, its data and the privacy it is trained under.
#[derive(Clone, Debug)]
pub struct Setting<'a> {
    /// What is trained.
    pub workload: &'a Workload,
    /// Code of reals.
    pub code: FixedPoint,
    /// Stands for the job in seeds of rotations: a real run's manifest hash.
    pub job: Hash,
    /// Name and training rows of every party.
    pub parties: &'a [(Name, Dataset)],
    /// Held-out rows.
    pub test: &'a Dataset,
    /// epsilon of all rounds together, by zCDP.
    pub epsilon: f64,
    /// delta of that epsilon.
    pub delta: f64,
    /// c, colluders tolerated.
    pub colluders: u32,
    /// Replies without which nothing opens; the number of parties for most.
    pub quorum: u32,
}

/// One cell of a sweep.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cell {
    /// Who adds how much noise.
    pub regime: Regime,
    /// Number of parties.
    pub parties: usize,
    /// epsilon.
    pub epsilon: f64,
    /// Seed of the noise.
    pub seed: u64,
    /// How well the final model fits the held-out rows.
    #[serde(flatten)]
    pub fit: Fit,
    /// Always true: no ciphertext was made.
    pub simulated: bool,
}

impl Setting<'_> {
    /// h = r_min - c - 1.
    #[must_use]
    pub fn shares(&self) -> u32 {
        self.quorum.max(self.colluders + 2).saturating_sub(self.colluders + 1).max(1)
    }

    /// The noise that keeps all rounds within epsilon, for the unit and clip of the workload.
    #[must_use]
    pub fn noise(&self, data_set: Name) -> NoiseSpec {
        let (unit, clip) = match self.workload {
            Workload::Train(spec) => {
                spec.steps.map_or((Unit::Record, 1.0), |steps| (steps.unit, steps.clip))
            }
            _ => (Unit::Record, 1.0),
        };
        let rounds = u64::from(self.workload.rounds());
        // A little more than the least, so that rounding the ledger's rho up stays within.
        let multiplier = sigma_for_zcdp(self.epsilon, rounds, self.delta) * (1.0 + 1e-6);
        NoiseSpec {
            unit,
            mechanism: Mechanism::Gaussian,
            multiplier,
            clip,
            epsilon: self.epsilon,
            delta: self.delta,
            data_set,
        }
    }

    /// Trains under `regime` and scores the final model.
    ///
    /// # Errors
    /// [`LearnError`] when training fails, [`LearnError::Data`] when the workload carries no noise.
    pub fn cell(&self, regime: Regime, seed: u64) -> Result<Cell, LearnError> {
        let fit = self.fit(&self.train(regime, Draws::Aggregate(seed), |_, _| {})?)?;
        let (parties, epsilon) = (self.parties.len(), self.epsilon);
        Ok(Cell { regime, parties, epsilon, seed, fit, simulated: true })
    }

    /// How well the model of `state` fits the held-out rows.
    ///
    /// # Errors
    /// [`LearnError::State`] when the state does not fit the workload.
    pub fn fit(&self, state: &ModelState) -> Result<Fit, LearnError> {
        let named = predict(self.workload, &self.code, state, self.test)?;
        let classes = self.workload.schema().map_or(0, |schema| schema.classes.len());
        Ok(fit(&named, &self.test.labels, classes))
    }

    /// Trains under `regime`; `each` sees every opened sum.
    ///
    /// # Errors
    /// As [`Setting::cell`], and [`LearnError::Data`] for shares of any regime but the hybrid.
    pub fn train(
        &self,
        regime: Regime,
        draws: Draws<'_>,
        mut each: impl FnMut(u32, &OpenedSum),
    ) -> Result<ModelState, LearnError> {
        let name = Name::new("simulated").map_err(|e| LearnError::Data(e.to_string()))?;
        let noise = self.noise(name);
        if let Some(fault) = fault(self.workload, &noise).filter(|_| regime != Regime::NoPrivacy) {
            return Err(LearnError::Data(fault.to_owned()));
        }
        let parties = if regime == Regime::Alone { self.parties.get(..1) } else { None };
        let parties = parties.unwrap_or(self.parties);
        let mut state = ModelState::initial(self.workload, &self.code, &self.job);
        for round in 0..self.workload.rounds() {
            let mut rows = 0;
            let mut body: Vec<i64> = Vec::new();
            for (name, data) in parties {
                let name = name.as_str();
                let (own_rows, values) =
                    contribution(self.workload, &self.code, &state, data, name, round)?;
                rows += own_rows;
                body.resize(values.len(), 0);
                body.iter_mut().zip(&values).for_each(|(sum, value)| *sum += value);
            }
            if regime != Regime::NoPrivacy {
                rows = 0;
                self.add_noise(&noise, (regime, draws), round, &mut body)?;
            }
            let sum = OpenedSum { rows, body };
            each(round, &sum);
            state = state.advance(self.workload, round, &sum)?;
        }
        Ok(state)
    }

    fn add_noise(
        &self,
        noise: &NoiseSpec,
        (regime, draws): (Regime, Draws<'_>),
        round: u32,
        body: &mut [i64],
    ) -> Result<(), LearnError> {
        let (h, n) = (self.shares(), self.parties.len() as f64);
        let scale = round_scale(self.workload, noise, round, h);
        let failed = |e: quorate_protocols::policy::noise::NoiseError| {
            LearnError::Data(format!("round {round}: {e}"))
        };
        let seed = match draws {
            Draws::Aggregate(seed) => seed,
            Draws::Shares(seed) if regime == Regime::Hybrid => {
                for (name, _) in self.parties {
                    let mut rng = ChaCha20Rng::from_seed(replayable_seed(seed, round, name));
                    add_share(noise.mechanism, scale, h, u64::MAX, &mut rng, body)
                        .map_err(failed)?;
                }
                return Ok(());
            }
            Draws::Shares(_) => {
                return Err(LearnError::Data("only the hybrid draws shares".to_owned()));
            }
        };
        let factor = match regime {
            Regime::NoPrivacy => return Ok(()),
            Regime::Central | Regime::Alone => 1.0,
            Regime::Hybrid => (n / f64::from(h)).sqrt(),
            Regime::Local => n.sqrt(),
        };
        let regime = regime as u8;
        let parts: [&[u8]; 3] = [&seed.to_le_bytes(), &round.to_le_bytes(), &[regime]];
        let mut rng =
            ChaCha20Rng::from_seed(hash_parts("quorate/simulated-aggregate-noise/1", &parts).0);
        add_share(noise.mechanism, scale * factor, 1, u64::MAX, &mut rng, body).map_err(failed)
    }
}

/// The epsilons that reports plot.
pub const EPSILONS: [f64; 7] = [0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0];

/// The numbers of parties that reports plot.
pub const PARTIES: [usize; 5] = [2, 5, 10, 15, 20];

/// Every regime with every seed, at each epsilon, on all cores; without privacy the model is trained
/// once.
///
/// # Errors
/// As [`Setting::cell`].
pub fn by_epsilon(
    setting: &Setting<'_>,
    epsilons: &[f64],
    seeds: u64,
) -> Result<Vec<Cell>, LearnError> {
    let mut plan = vec![(setting.epsilon, 0, Regime::NoPrivacy)];
    for epsilon in epsilons {
        for seed in 0..seeds {
            let noised = Regime::ALL.into_iter().filter(|regime| *regime != Regime::NoPrivacy);
            plan.extend(noised.map(|regime| (*epsilon, seed, regime)));
        }
    }
    let trained = on_all_cores(&plan, |(epsilon, seed, regime)| {
        Setting { epsilon: *epsilon, ..setting.clone() }.cell(*regime, *seed)
    });
    let mut trained = trained.into_iter();
    let Some(exact) = trained.next().transpose()? else { return Ok(Vec::new()) };
    let mut cells: Vec<Cell> = Vec::with_capacity(trained.len());
    for cell in trained {
        let cell = cell?;
        let of_another = |before: &Cell| (before.epsilon, before.seed) != (cell.epsilon, cell.seed);
        if cells.last().is_none_or(of_another) {
            cells.push(Cell { epsilon: cell.epsilon, seed: cell.seed, ..exact.clone() });
        }
        cells.push(cell);
    }
    Ok(cells)
}

/// The results of `work` on each of `items`, in their order, computed on all cores.
fn on_all_cores<I: Sync, T: Send>(items: &[I], work: impl Fn(&I) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let run = || {
        let mut own = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { return own };
            own.push((index, work(item)));
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(items.len());
    let mut done = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
        let mut done = run();
        for other in others {
            match other.join() {
                Ok(own) => done.extend(own),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        done
    });
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Every regime with every seed, with `rows` of `table` shared out evenly among each number of
/// parties, all of which are needed.
///
/// c is that of `setting`, but at most the parties less 2: two parties tolerate no colluder.
///
/// # Errors
/// As [`Setting::cell`]; [`LearnError::Data`] when a party would have no rows.
pub fn by_parties(
    setting: &Setting<'_>,
    (table, rows): (&Table, &[usize]),
    counts: &[usize],
    seeds: u64,
) -> Result<Vec<Cell>, LearnError> {
    let mut cells = Vec::new();
    for count in counts {
        let parties = shared_evenly(setting.workload, table, rows, *count)?;
        let quorum = u32::try_from(*count).unwrap_or(u32::MAX);
        let colluders = setting.colluders.min(quorum.saturating_sub(2));
        let setting = Setting { parties: &parties, quorum, colluders, ..setting.clone() };
        cells.extend(by_epsilon(&setting, &[setting.epsilon], seeds)?);
    }
    Ok(cells)
}

/// Name of party number `index`, from 0.
#[must_use]
pub fn party_name(index: usize) -> String {
    format!("party-{index}")
}

/// `rows` of `table` shared out evenly among `party-0`, `party-1` and so on.
///
/// # Errors
/// [`LearnError::Data`] when a party would have no rows or the workload has no columns.
pub fn shared_evenly(
    workload: &Workload,
    table: &Table,
    rows: &[usize],
    count: usize,
) -> Result<Vec<(Name, Dataset)>, LearnError> {
    let bad = |why: String| LearnError::Data(why);
    let schema = workload.schema().ok_or_else(|| bad("the workload has no columns".into()))?;
    let shares = share_out(table, rows, count, &Split::Even)?;
    let own = |(index, rows): (usize, &Vec<usize>)| {
        let name = Name::new(&party_name(index)).map_err(|e| bad(e.to_string()))?;
        Ok((name, Dataset::new(table, schema, rows)?))
    };
    shares.iter().enumerate().map(own).collect()
}

/// Mean and sample standard deviation.
#[must_use]
pub fn spread(values: &[f64]) -> (f64, f64) {
    let count = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean) * (value - mean)).sum();
    (mean, (squares / (count - 1.0).max(1.0)).sqrt())
}
