//! The model between rounds: every party, authority and auditor computes it from opened sums.
//!
//! All of it is integer arithmetic. The state of an averaged model follows from the workload, the
//! opened moments and the last opened weights alone, so a party that joins late asks for those two
//! sums; other workloads say by [`Workload::needs_every_sum`] that each one is needed, in order.

use quorate_crypto::fixed::{CodecError, FixedPoint, round_half_even_div};
use quorate_crypto::merkle::{Hash, hash_parts};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::job::Manifest;
use crate::payload::{MOMENT_BITS, OpenedSum};
use crate::workload::{Purpose, TrainSpec, Workload};

mod steps;
mod tree;

pub use steps::{Steps, rotation_seed};
pub use tree::{Node, Tree};

/// Fractional bits of means and standard deviations in a [`MomentTable`].
pub const TABLE_BITS: u32 = 38;

/// Mean and standard deviation of one numeric column's u, in units of 2^-[`TABLE_BITS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Mean.
    pub mean: i64,
    /// Standard deviation of the population; 0 for a constant column.
    pub std: i64,
}

/// Shared means and standard deviations, in the order of the numeric columns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MomentTable {
    /// Rows behind it.
    pub rows: u64,
    /// One entry per numeric column.
    pub columns: Vec<Moment>,
}

/// What every participant knows before a round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelState {
    /// Opened in round 0.
    pub moments: Option<MomentTable>,
    /// Parameters in fixed point, laid out as [`ModelSpec`](crate::workload::ModelSpec) says; the
    /// counts of naive Bayes; empty for plain sums and trees.
    pub params: Vec<i64>,
    /// What some workloads know beside.
    pub progress: Progress,
}

/// What a state knows beside its parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Progress {
    /// Nothing.
    #[default]
    None,
    /// Of steps along sums of clipped vectors.
    Steps(Steps),
    /// A tree.
    Tree(Tree),
}

/// Why an opened sum does not lead to a next state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// There is no such round, or it does not follow this state.
    #[error("round {0} does not follow this state")]
    Round(u32),
    /// The sum has another length than the workload's.
    #[error("opened sum has {got} values, expected {expected}")]
    Length {
        /// Values expected.
        expected: u64,
        /// Values given.
        got: u64,
    },
    /// The state follows from all sums, not from the one given.
    #[error("this model follows from every opened sum")]
    EverySum,
    /// No rows stand behind the sum, or it is none of real numbers.
    #[error("opened sum is not that of any rows")]
    NotASum,
    /// The fixed-point code is not valid.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

impl MomentTable {
    /// Means and standard deviations from the opened sums of q and q^2.
    ///
    /// # Errors
    /// [`ModelError::NotASum`] when no rows have such sums.
    pub fn from_sum(sum: &OpenedSum) -> Result<Self, ModelError> {
        let rows = i128::from(sum.rows);
        if rows == 0 || rows >= 1 << 40 || !sum.body.len().is_multiple_of(2) {
            return Err(ModelError::NotASum);
        }
        let (firsts, seconds) = sum.body.split_at(sum.body.len() / 2);
        let columns = firsts
            .iter()
            .zip(seconds)
            .map(|(first, second)| {
                let (first, second) = (i128::from(*first), i128::from(*second));
                let mean = divide(first << (TABLE_BITS - MOMENT_BITS), rows)?;
                // rows^2 times the variance of q, exact; its scale is 2^(2 MOMENT_BITS).
                let spread = rows
                    .checked_mul(second)
                    .zip(first.checked_mul(first))
                    .and_then(|(a, b)| a.checked_sub(b))
                    .filter(|spread| *spread >= 0)
                    .ok_or(ModelError::NotASum)?;
                const { assert!(2 * MOMENT_BITS == TABLE_BITS) };
                let variance = spread
                    .checked_mul(1 << TABLE_BITS)
                    .ok_or(ModelError::NotASum)
                    .and_then(|scaled| divide(scaled, rows * rows))?;
                Ok(Moment { mean: narrow(mean)?, std: narrow(nearest_sqrt(variance))? })
            })
            .collect::<Result<_, ModelError>>()?;
        Ok(Self { rows: sum.rows, columns })
    }
}

/// The integer nearest to the square root of `value` >= 0; there are no ties.
const fn nearest_sqrt(value: i128) -> i128 {
    let root = value.unsigned_abs().isqrt();
    let above = value.unsigned_abs() - root * root > root;
    root.cast_signed() + above as i128
}

/// num / den to the nearest integer, half to even; den is a row count.
fn divide(num: i128, den: i128) -> Result<i128, ModelError> {
    round_half_even_div(num, den).ok_or(ModelError::NotASum)
}

fn narrow(value: i128) -> Result<i64, ModelError> {
    i64::try_from(value).map_err(|_| ModelError::NotASum)
}

impl ModelState {
    /// The state before round 0 of job `job`: zeros, and for a hidden layer uniform weights from
    /// the seed.
    #[must_use]
    pub fn initial(workload: &Workload, code: &FixedPoint, job: &Hash) -> Self {
        let (mut params, mut progress) = (Vec::new(), Progress::None);
        match workload {
            Workload::Sum { .. }
            | Workload::Bayes(_)
            | Workload::Vertical(_)
            | Workload::Payments(_) => {}
            Workload::Train(spec) => {
                params = initial_params(spec, code);
                if spec.steps.is_some() {
                    progress = Progress::Steps(Steps::new(*job, code, params.len()));
                }
            }
            Workload::Tree(spec) => progress = Progress::Tree(Tree::new(spec)),
        }
        Self { moments: None, params, progress }
    }

    /// The state before round 0 of the job of `manifest`.
    #[must_use]
    pub fn of_job(manifest: &Manifest) -> Self {
        Self::initial(&manifest.workload, &manifest.code, &manifest.hash())
    }

    /// The seed of the rotation of round `round`, in jobs that have one.
    #[must_use]
    pub fn rotation_seed(&self, round: u32) -> Option<[u8; 32]> {
        match &self.progress {
            Progress::Steps(steps) => Some(rotation_seed(&steps.job, round, &self.hash())),
            _ => None,
        }
    }

    /// The state after round `round`, whose opened sum is `sum`.
    ///
    /// # Errors
    /// [`ModelError`] when the sum is not one of that round.
    pub fn advance(
        &self,
        workload: &Workload,
        round: u32,
        sum: &OpenedSum,
    ) -> Result<Self, ModelError> {
        let purpose = workload.purpose(round).ok_or(ModelError::Round(round))?;
        let expected = workload.payload(round).ok_or(ModelError::Round(round))?.body_len();
        if sum.body.len() as u64 != expected {
            return Err(ModelError::Length { expected, got: sum.body.len() as u64 });
        }
        match purpose {
            Purpose::Sum => Ok(self.clone()),
            Purpose::Moments => {
                let moments = MomentTable::from_sum(sum)?;
                Ok(Self { moments: Some(moments), ..self.clone() })
            }
            Purpose::Train => {
                if self.moments.is_none() {
                    return Err(ModelError::Round(round));
                }
                if sum.rows == 0 {
                    return Err(ModelError::NotASum);
                }
                let params = sum
                    .body
                    .iter()
                    .skip(1)
                    .map(|word| divide(i128::from(*word), i128::from(sum.rows)).and_then(narrow))
                    .collect::<Result<_, _>>()?;
                Ok(Self { params, ..self.clone() })
            }
            Purpose::Steps => {
                let Workload::Train(spec) = workload else { return Err(ModelError::Round(round)) };
                let parts = (&self.progress, &spec.steps, self.rotation_seed(round));
                let (Progress::Steps(before), Some(steps), Some(seed)) = parts else {
                    return Err(ModelError::Round(round));
                };
                let (after, params) = before.step((spec, steps), &self.params, seed, &sum.body)?;
                Ok(Self { params, progress: Progress::Steps(after), moments: None })
            }
            Purpose::Counts => match (workload, &self.progress) {
                (Workload::Tree(spec), Progress::Tree(tree)) if tree.level == round => {
                    let tree = tree.grow(spec, &sum.body)?;
                    Ok(Self { progress: Progress::Tree(tree), ..self.clone() })
                }
                (Workload::Bayes(_), _) => Ok(Self { params: sum.body.clone(), ..self.clone() }),
                _ => Err(ModelError::Round(round)),
            },
        }
    }

    /// The name of this state: domain, moments, parameters and progress.
    ///
    /// The round is left out on purpose: a training run that stands still repeats this hash, and
    /// the rule that no model hash is opened twice then stops the second sum over equal updates. A
    /// tree counts its levels, since each opens other counts.
    #[must_use]
    pub fn hash(&self) -> Hash {
        let mut moments = Vec::new();
        if let Some(table) = &self.moments {
            moments.extend_from_slice(&table.rows.to_le_bytes());
            for column in &table.columns {
                moments.extend_from_slice(&column.mean.to_le_bytes());
                moments.extend_from_slice(&column.std.to_le_bytes());
            }
        }
        let params: Vec<u8> = self.params.iter().flat_map(|value| value.to_le_bytes()).collect();
        match &self.progress {
            Progress::None => hash_parts("quorate/model/1", &[&moments, &params]),
            more => hash_parts("quorate/model/2", &[&moments, &params, &crate::wire::encode(more)]),
        }
    }
}

/// The state after round `round`, from nothing but the opened moments and the sum of that round.
///
/// # Errors
/// [`ModelError::EverySum`] when the workload [needs every sum](Workload::needs_every_sum), otherwise
/// [`ModelError`] when a sum is not one of its round.
pub fn model_after(
    workload: &Workload,
    code: &FixedPoint,
    job: &Hash,
    round: u32,
    moments: &OpenedSum,
    last: &OpenedSum,
) -> Result<ModelState, ModelError> {
    if workload.needs_every_sum() {
        return Err(ModelError::EverySum);
    }
    let initial = ModelState::initial(workload, code, job);
    match workload.purpose(round).ok_or(ModelError::Round(round))? {
        Purpose::Train => initial.advance(workload, 0, moments)?.advance(workload, round, last),
        _ => initial.advance(workload, round, last),
    }
}

/// The state after the rounds whose opened sums are given, from round 0 on.
///
/// # Errors
/// [`ModelError`] when a sum is not one of its round.
pub fn model_after_all<'a>(
    workload: &Workload,
    code: &FixedPoint,
    job: &Hash,
    sums: impl IntoIterator<Item = &'a OpenedSum>,
) -> Result<ModelState, ModelError> {
    let initial = ModelState::initial(workload, code, job);
    (0..).zip(sums).try_fold(initial, |state, (round, sum)| state.advance(workload, round, sum))
}

/// Mean loss before the local training behind an opened sum of weights.
#[must_use]
pub fn mean_loss(sum: &OpenedSum, code: &FixedPoint) -> Option<f64> {
    let word = sum.body.first()?;
    let scale = 2f64.powi(i32::from(code.frac_bits));
    (sum.rows > 0).then(|| *word as f64 / scale / sum.rows as f64)
}

/// Initial parameters: biases 0, weights of a hidden layer uniform in +-sqrt(6 / (in + out)).
fn initial_params(spec: &TrainSpec, code: &FixedPoint) -> Vec<i64> {
    let total = usize::try_from(spec.params()).unwrap_or(0);
    let layers = spec.layers();
    if layers.len() < 2 {
        return vec![0; total];
    }
    let mut seed = [0; 32];
    let (head, _) = seed.split_at_mut(8);
    head.copy_from_slice(&spec.seed.to_le_bytes());
    let mut rng = ChaCha20Rng::from_seed(seed);
    let mut params = Vec::with_capacity(total);
    for (inputs, outputs) in layers {
        let bound = glorot(inputs.saturating_add(outputs), code);
        for _ in 0..outputs {
            // Multiply and shift: the bias below 2^-20 of an interval does not matter here.
            params.extend((0..inputs).map(|_| {
                let draw = i128::from(rng.next_u64()) * (2 * i128::from(bound) + 1);
                i64::try_from((draw >> 64) - i128::from(bound)).unwrap_or(0)
            }));
            params.push(0);
        }
    }
    params
}

/// round(sqrt(6 / fans) x 2^f), in integers.
fn glorot(fans: u64, code: &FixedPoint) -> i64 {
    let scaled = (6i128 << (2 * u32::from(code.frac_bits.min(40)))) / i128::from(fans.max(1));
    i64::try_from(nearest_sqrt(scaled)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::PayloadKind;
    use crate::workload::{
        Column, ColumnKind, LocalSpec, ModelSpec, Schema, TreeSpec, WorkloadError,
    };

    const CODE: FixedPoint = FixedPoint { frac_bits: 24, clip: 64.0 };
    const JOB: Hash = Hash([7; 32]);

    fn workload(model: ModelSpec) -> Workload {
        let numeric = ColumnKind::Numeric { offset: 0.0, scale_log2: 0 };
        let category = ColumnKind::Category { levels: vec!["a".into(), "<b>, \"c\"".into()] };
        Workload::Train(TrainSpec {
            schema: Schema {
                columns: vec![
                    Column { name: "x".into(), kind: numeric },
                    Column { name: "y".into(), kind: category },
                ],
                target: "t".into(),
                classes: vec!["0".into(), "1".into()],
            },
            model,
            rounds: 3,
            local: LocalSpec { epochs: 1, batch: 0, learning_rate: 1.0, prox_mu: 0.0 },
            steps: None,
            max_rows: 1000,
            seed: 9,
        })
    }

    fn logistic() -> Workload {
        workload(ModelSpec::Logistic { l2: 1e-3 })
    }

    fn moments() -> OpenedSum {
        // q = -3, 1, 1, 5 in units of 2^-19.
        OpenedSum { rows: 4, body: vec![4, 36] }
    }

    #[test]
    fn rounds_purposes_and_payloads_follow_the_workload() {
        let job = logistic();
        assert_eq!(job.check(), Ok(()));
        assert_eq!(job.rounds(), 4);
        assert_eq!(job.purpose(0), Some(Purpose::Moments));
        assert_eq!(job.purpose(3), Some(Purpose::Train));
        assert_eq!(job.purpose(4), None);
        assert_eq!(job.payload(4), None);
        assert_eq!(job.payload(0).unwrap().kind, PayloadKind::Moments { columns: 1 });
        // 1 numeric + 2 levels + other + bias.
        assert_eq!(job.payload(1).unwrap().kind, PayloadKind::Weights { params: 5 });
        assert_eq!(job.payload(1).unwrap().dim(), 11);
        let sum = Workload::Sum { dim: 7, rounds: 2, max_abs: 5 };
        assert_eq!(sum.purpose(1), Some(Purpose::Sum));
        assert_eq!(sum.payload(2), None);
    }

    #[test]
    fn the_manifest_form_round_trips() {
        for job in [logistic(), Workload::Sum { dim: 7, rounds: 2, max_abs: 5 }] {
            let bytes = postcard::to_allocvec(&job).unwrap();
            assert_eq!(postcard::from_bytes::<Workload>(&bytes).unwrap(), job);
        }
    }

    #[test]
    fn bad_settings_are_refused_by_name() {
        type Spoil = fn(&mut TrainSpec);
        let cases: [(Spoil, &str); 9] = [
            (|s| s.rounds = 0, "rounds"),
            (|s| s.local.learning_rate = f64::NAN, "learning_rate"),
            (|s| s.local.prox_mu = -1.0, "prox_mu"),
            (|s| s.schema.classes.truncate(1), "classes"),
            (|s| s.schema.target = "x".into(), "column \"x\""),
            (|s| s.schema.columns[0].name = "a\nb".into(), "column"),
            (|s| s.model = ModelSpec::Mlp { hidden: 0, l2: 0.0 }, "hidden"),
            (|s| s.model = ModelSpec::Logistic { l2: f64::INFINITY }, "l2"),
            (|s| s.max_rows = 0, "max_rows"),
        ];
        for (spoil, name) in cases {
            let Workload::Train(mut spec) = logistic() else { unreachable!() };
            spoil(&mut spec);
            let error = Workload::Train(spec).check().unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        assert!(matches!(
            Workload::Sum { dim: 1 << 40, rounds: 1, max_abs: 1 }.check(),
            Err(WorkloadError::Bounds { what: "dim", .. })
        ));
    }

    #[test]
    fn moments_are_the_nearest_fixed_point_numbers() {
        let table = MomentTable::from_sum(&moments()).unwrap();
        // Mean 1, variance 36 / 4 - 1 = 8.
        let std = (8f64.sqrt() * f64::from(1 << 19)).round();
        assert_eq!(table.columns, [Moment { mean: 1 << 19, std: 1_482_910 }]);
        assert!((std - 1_482_910.0).abs() < 0.5);
        let constant = OpenedSum { rows: 4, body: vec![8, 16] };
        assert_eq!(MomentTable::from_sum(&constant).unwrap().columns[0].std, 0);
        for bad in [
            OpenedSum { rows: 0, body: vec![0, 0] },
            OpenedSum { rows: 4, body: vec![8, 15] },
            OpenedSum { rows: u64::MAX, body: vec![i64::MAX, i64::MAX] },
        ] {
            assert_eq!(MomentTable::from_sum(&bad), Err(ModelError::NotASum));
        }
        // The largest sums a 64-bit ring admits.
        let full = OpenedSum { rows: 1 << 24, body: vec![1 << 43, 1 << 62] };
        assert_eq!(MomentTable::from_sum(&full).unwrap().columns[0].mean, 1 << TABLE_BITS);
    }

    #[test]
    fn a_late_joiner_needs_two_sums_only() {
        let job = logistic();
        let sums = [
            moments(),
            OpenedSum { rows: 2, body: vec![9, 1, 3, 5, -1, -3] },
            OpenedSum { rows: 4, body: vec![9, 6, 2, 10, -6, -2] },
        ];
        let mut state = ModelState::initial(&job, &CODE, &JOB);
        let mut hashes = vec![state.hash()];
        for (round, sum) in (0..).zip(&sums) {
            state = state.advance(&job, round, sum).unwrap();
            hashes.push(state.hash());
            assert_eq!(model_after(&job, &CODE, &JOB, round, &sums[0], sum).unwrap(), state);
        }
        // 6/4, 2/4, 10/4, -6/4, -2/4 with ties to even.
        assert_eq!(state.params, [2, 0, 2, -2, 0]);
        hashes.sort();
        hashes.dedup();
        assert_eq!(hashes.len(), 4);
    }

    #[test]
    fn sums_of_another_round_are_refused() {
        let job = logistic();
        let initial = ModelState::initial(&job, &CODE, &JOB);
        let weights = OpenedSum { rows: 2, body: vec![0; 6] };
        assert_eq!(initial.advance(&job, 1, &weights), Err(ModelError::Round(1)));
        assert_eq!(initial.advance(&job, 4, &weights), Err(ModelError::Round(4)));
        let expected = ModelError::Length { expected: 2, got: 6 };
        assert_eq!(initial.advance(&job, 0, &weights), Err(expected));
        let none = OpenedSum { rows: 0, body: vec![0; 6] };
        let state = initial.advance(&job, 0, &moments()).unwrap();
        assert_eq!(state.advance(&job, 1, &none), Err(ModelError::NotASum));
    }

    #[test]
    fn hidden_layers_start_seeded_and_bounded() {
        let job = workload(ModelSpec::Mlp { hidden: 3, l2: 0.0 });
        let state = ModelState::initial(&job, &CODE, &JOB);
        assert_eq!(state.params.len(), 3 * 5 + 4);
        let bound = glorot(4 + 3, &CODE);
        assert!(state.params.iter().all(|value| value.abs() <= glorot(4, &CODE)));
        assert!(state.params[..15].iter().all(|value| value.abs() <= bound));
        assert_eq!((state.params[4], state.params[18]), (0, 0));
        assert!(state.params.iter().filter(|value| **value != 0).count() == 15);
        assert_eq!(state, ModelState::initial(&job, &CODE, &JOB));
    }

    fn grown(depth: u32) -> Workload {
        let Workload::Train(spec) = logistic() else { unreachable!() };
        let mut tree = TreeSpec::default_for(spec.schema);
        (tree.depth, tree.min_rows, tree.table.bins) = (depth, 3, 2);
        Workload::Tree(tree)
    }

    /// Columns x (2 bins) and y (2 levels, other), classes 0 and 1: y tells more, then x decides.
    #[test]
    fn a_tree_grows_from_its_counts_alone() {
        let job = grown(2);
        let sums = [
            vec![4, 3, 2, 3, /* y */ 6, 0, 0, 5, 0, 1],
            // Of y = a and y = b; x only, since y is used; the third node is too small.
            vec![4, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 5, 3, 0, 0, 0, 0, 0, 0, 0],
        ]
        .map(|body| OpenedSum { rows: 12, body });
        let initial = ModelState::initial(&job, &CODE, &JOB);
        assert_eq!(job.payload(0).unwrap().body_len(), 10);
        assert_eq!(job.payload(1).unwrap().body_len(), 30);
        let first = initial.advance(&job, 0, &sums[0]).unwrap();
        let Progress::Tree(tree) = &first.progress else { unreachable!() };
        assert_eq!((tree.nodes[0].split, &tree.frontier), (Some((1, 1)), &vec![1, 2]));
        assert_eq!(tree.nodes[0].counts, [6, 6]);
        assert_eq!([0, 1, 2].map(|y| tree.class(&[0, y])), [0, 1, 1]);
        assert_eq!(first.advance(&job, 0, &sums[0]), Err(ModelError::Round(0)));
        let mut body = sums[1].body.clone();
        body.extend([0; 10]);
        let second = OpenedSum { rows: 12, body };
        let last = first.advance(&job, 1, &second).unwrap();
        let Progress::Tree(tree) = &last.progress else { unreachable!() };
        // y = a is pure and stays a leaf; y = b is split by x.
        assert_eq!((tree.nodes[1].split, tree.nodes[2].split), (None, Some((0, 4))));
        assert_eq!([[0, 1], [1, 1], [0, 0], [1, 2]].map(|row| tree.class(&row)), [1, 0, 0, 1]);
        assert!(tree.frontier.is_empty());
        let hashes = [initial.hash(), first.hash(), last.hash()];
        assert!(hashes[0] != hashes[1] && hashes[1] != hashes[2]);
        let all = [sums[0].clone(), second];
        assert_eq!(model_after_all(&job, &CODE, &JOB, &all), Ok(last));
        let one = model_after(&job, &CODE, &JOB, 1, &all[0], &all[1]);
        assert_eq!(one, Err(ModelError::EverySum));
    }

    #[test]
    fn trees_stop_at_their_bounds() {
        let Workload::Tree(mut spec) = grown(2) else { unreachable!() };
        spec.max_frontier = 1;
        let job = Workload::Tree(spec);
        let initial = ModelState::initial(&job, &CODE, &JOB);
        // Noise made some counts negative; the largest child alone goes on.
        let body = vec![1, -4, 9, 2, /* y */ 5, 0, 0, 6, -3, 2];
        let next = initial.advance(&job, 0, &OpenedSum { rows: 0, body }).unwrap();
        let Progress::Tree(tree) = &next.progress else { unreachable!() };
        assert_eq!(tree.nodes[0].split, Some((1, 1)));
        assert_eq!(tree.frontier, [2]);
        let none = OpenedSum { rows: 0, body: vec![-1; 10] };
        let next = initial.advance(&job, 0, &none).unwrap();
        let Progress::Tree(tree) = &next.progress else { unreachable!() };
        assert_eq!((tree.nodes.len(), tree.class(&[0, 0])), (1, 0));
        let short = OpenedSum { rows: 0, body: vec![0; 9] };
        assert!(matches!(initial.advance(&job, 0, &short), Err(ModelError::Length { .. })));
    }

    #[test]
    fn a_step_needs_its_own_rotation_and_survives_an_empty_sum() {
        let Workload::Train(spec) = logistic() else { unreachable!() };
        let job = Workload::Train(TrainSpec::steps_for(spec.schema, ModelSpec::Svm { l2: 0.0 }));
        assert!(job.needs_every_sum());
        let initial = ModelState::initial(&job, &CODE, &JOB);
        let seeds = [
            initial.rotation_seed(0),
            initial.rotation_seed(1),
            ModelState::initial(&job, &CODE, &Hash([8; 32])).rotation_seed(0),
        ];
        assert!(seeds[0] != seeds[1] && seeds[0] != seeds[2]);
        assert_eq!(ModelState::initial(&logistic(), &CODE, &JOB).rotation_seed(0), None);
        // 5 parameters and the count: 8 coordinates.
        let empty = OpenedSum { rows: 0, body: vec![0; 8] };
        let next = initial.advance(&job, 0, &empty).unwrap();
        assert_eq!(next.params, [0; 5]);
        // Whatever is opened, no parameter leaves the code's range.
        let wild = OpenedSum { rows: 0, body: vec![i64::MAX, 0, 0, 0, 0, 0, 0, 0] };
        let next = initial.advance(&job, 0, &wild);
        assert!(next.is_err() || next.unwrap().params.iter().all(|w| w.abs() <= CODE.max_int()));
    }
}
