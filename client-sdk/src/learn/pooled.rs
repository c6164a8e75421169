//! The pooled reference: logistic regression on all rows in one place, and the model as a file.

use quorate_crypto::fixed::FixedPoint;
use quorate_protocols::model::{ModelState, MomentTable, TABLE_BITS};
use quorate_protocols::payload::OpenedSum;
use quorate_protocols::workload::{ColumnKind, Schema, TrainSpec};
use serde_json::{Map, Value, json};

use super::LearnError;
use super::data::Dataset;
use super::features::{Design, feature_names, local_moments};
use super::metrics::{Metrics, score};
use super::model::{Loss, Net, decode};
use super::train::{Proximal, minimise};

/// Penalty of the reference.
pub const POOLED_L2: f64 = 1e-3;

/// No component of the gradient is larger at the end.
const TOLERANCE: f64 = 1e-6;

/// Steps after which the reference stops anyway, in units of rows x parameters.
const MAX_WORK: usize = 5_000_000_000;

/// Trains logistic regression (softmax for more than two classes) on `train` to convergence and
/// scores it on `test`: mean log-loss + 1e-3 / 2 |w|^2, biases free.
///
/// # Errors
/// [`LearnError`] when the data do not fit the schema.
pub fn pooled_logistic(
    schema: &Schema,
    train: &Dataset,
    test: &Dataset,
) -> Result<Metrics, LearnError> {
    let sum = OpenedSum { rows: train.rows as u64, body: local_moments(schema, train) };
    let moments = MomentTable::from_sum(&sum)?;
    let design = Design::with_moments(schema, &moments, train)?;
    let outputs = if schema.classes.len() == 2 { 1 } else { schema.classes.len() };
    let net = Net { features: design.features, outputs, hidden: 0, l2: POOLED_L2, loss: Loss::Log };
    let start = vec![0.0; net.params()];
    let pull = Proximal { anchor: &start, mu: 0.0 };
    let steps = (MAX_WORK / (design.rows * net.params()).max(1)).clamp(100, 20_000);
    let steps = u32::try_from(steps).unwrap_or(u32::MAX);
    let w = minimise(&net, &design, &pull, steps, 1.0, TOLERANCE);
    Ok(score(&net, &Design::with_moments(schema, &moments, test)?, &w))
}

/// The model of `state` for use outside: `scripts/pooled_logistic.py --model` reads it.
///
/// - `target`, `classes`: as in the schema.
/// - `columns`: the features in order, `column` or `column=level`, the last level `(other)`.
/// - `numeric`: column to [mean, standard deviation] in the column's own unit; 0 for a constant.
/// - `range`: numeric column to [lowest, highest], to which values are clipped first.
/// - `levels`: category to its levels.
/// - `weights`, `bias`: one row per output over `columns`, or over the hidden units; one output for
///   two classes, the score of the second.
/// - `hidden`: null, or weights and bias of a layer of rectified units over `columns`.
///
/// # Errors
/// [`LearnError::State`] when the state does not fit the workload.
pub fn export_model_json(
    state: &ModelState,
    spec: &TrainSpec,
    code: &FixedPoint,
) -> Result<Value, LearnError> {
    let net = Net::new(spec);
    let w = decode(&net, code, state)?;
    let moments = state.moments.as_ref().ok_or(LearnError::State)?;
    let (mut numeric, mut range, mut levels) = (Map::new(), Map::new(), Map::new());
    let mut entries = moments.columns.iter();
    for column in &spec.schema.columns {
        match &column.kind {
            ColumnKind::Numeric { offset, scale_log2 } => {
                let moment = entries.next().ok_or(LearnError::State)?;
                let scale = 2f64.powi(i32::from(*scale_log2));
                let unit = scale / (1u64 << TABLE_BITS) as f64;
                let mean = offset + moment.mean as f64 * unit;
                numeric.insert(column.name.clone(), json!([mean, moment.std as f64 * unit]));
                range.insert(column.name.clone(), json!([offset - scale, offset + scale]));
            }
            ColumnKind::Category { levels: names } => {
                levels.insert(column.name.clone(), json!(names));
            }
        }
    }
    let layer = |w: &[f64], inputs: usize| {
        let rows = w.chunks_exact(inputs + 1);
        let weights: Vec<&[f64]> = rows.clone().filter_map(|row| row.get(..inputs)).collect();
        let bias: Vec<f64> = rows.filter_map(|row| row.last().copied()).collect();
        json!({ "weights": weights, "bias": bias })
    };
    let first = if net.hidden == 0 { 0 } else { net.hidden * (net.features + 1) };
    let (below, above) = w.split_at(first);
    let inputs = if net.hidden == 0 { net.features } else { net.hidden };
    let mut model = layer(above, inputs);
    model["hidden"] = if net.hidden == 0 { Value::Null } else { layer(below, net.features) };
    model["target"] = json!(spec.schema.target);
    model["classes"] = json!(spec.schema.classes);
    model["columns"] = json!(feature_names(&spec.schema));
    model["numeric"] = Value::Object(numeric);
    model["range"] = Value::Object(range);
    model["levels"] = Value::Object(levels);
    Ok(model)
}
