//! A party's own columns as the fixed-point features of a vertical model, and the label holder's
//! targets.

use quorate_protocols::fedv::linear::{Features, Targets};
use quorate_protocols::workload::{Block, Column, ColumnKind, TargetKind, VerticalSpec};

use crate::learn::LearnError;
use crate::learn::data::{Table, canonical, is_missing, number};

/// The features of `rows` of `table`, in that order; `trained` says which of them have a label.
///
/// A number is standardised by the mean and standard deviation of the rows with a label, which every
/// party knows of its own columns: no sum over parties is needed. A column that is constant there is 0.
///
/// # Errors
/// [`LearnError::Data`] naming row and column when a column is absent or a number is missing.
pub fn features(
    table: &Table,
    block: &Block,
    rows: &[usize],
    trained: &[bool],
) -> Result<Features, LearnError> {
    let columns = block
        .columns
        .iter()
        .map(|column| one_column(table, column, rows, trained))
        .collect::<Result<Vec<_>, _>>()?;
    let count = usize::try_from(block.features()).unwrap_or(usize::MAX);
    let values = (0..rows.len()).flat_map(|row| {
        columns.iter().flat_map(move |column| {
            let (first, one) = column.at(row);
            (0..column.width).map(move |feature| if feature == first { one } else { 0.0 })
        })
    });
    Ok(Features::new(count, values))
}

/// A column's features: one number, or a one among several zeros.
struct OneColumn {
    width: usize,
    /// Per row: the position of the only feature that is not 0, and its value.
    values: Vec<(usize, f64)>,
}

impl OneColumn {
    fn at(&self, row: usize) -> (usize, f64) {
        self.values.get(row).copied().unwrap_or((0, 0.0))
    }
}

fn one_column(
    table: &Table,
    column: &Column,
    rows: &[usize],
    trained: &[bool],
) -> Result<OneColumn, LearnError> {
    let position = table.position(&column.name)?;
    match &column.kind {
        ColumnKind::Numeric { offset, scale_log2 } => {
            let scale = 2f64.powi(i32::from(*scale_log2));
            let values = rows
                .iter()
                .map(|row| {
                    let x = number(table.text(*row, position)).ok_or_else(|| {
                        LearnError::Data(format!(
                            "row {}: column {:?} has no number",
                            row + 2,
                            column.name
                        ))
                    })?;
                    Ok(((x - offset) / scale).clamp(-1.0, 1.0))
                })
                .collect::<Result<Vec<f64>, LearnError>>()?;
            let (mean, deviation) = moments(&values, trained);
            let standard = |x: f64| if deviation > 0.0 { (x - mean) / deviation } else { 0.0 };
            let values = values.into_iter().map(|x| (0, standard(x))).collect();
            Ok(OneColumn { width: 1, values })
        }
        ColumnKind::Category { levels } => {
            let levels: Vec<String> = levels.iter().map(|level| canonical(level)).collect();
            let values = rows
                .iter()
                .map(|row| {
                    let text = canonical(table.text(*row, position));
                    let level = levels.iter().position(|level| *level == text);
                    (level.unwrap_or(levels.len()), 1.0)
                })
                .collect();
            Ok(OneColumn { width: levels.len() + 1, values })
        }
    }
}

/// Mean and population standard deviation of the chosen values.
fn moments(values: &[f64], chosen: &[bool]) -> (f64, f64) {
    let own = || values.iter().zip(chosen).filter(|(_, chosen)| **chosen).map(|(x, _)| *x);
    let count = own().count().max(1) as f64;
    let mean = own().sum::<f64>() / count;
    let variance = own().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count;
    (mean, variance.sqrt())
}

/// The label holder's targets of `rows`, and which of them have one: a row whose target is empty is
/// scored, not trained on.
///
/// Numbers are scaled as the spec says.
///
/// # Errors
/// [`LearnError::Data`] naming the row when a target is no number, or none of the classes.
pub fn targets(
    table: &Table,
    spec: &VerticalSpec,
    rows: &[usize],
) -> Result<(Targets, Vec<bool>), LearnError> {
    let position = table.position(&spec.target)?;
    let trained: Vec<bool> =
        rows.iter().map(|row| !is_missing(table.text(*row, position))).collect();
    let wrong = |row: usize, what: &str| {
        let text = table.text(row, position);
        LearnError::Data(format!("row {}: target {text:?} is {what}", row + 2))
    };
    let targets = match &spec.target_kind {
        TargetKind::Real { offset, scale } => {
            let values = rows
                .iter()
                .zip(&trained)
                .map(|(row, trained)| match number(table.text(*row, position)) {
                    Some(y) => Ok(y),
                    None if !trained => Ok(0.0),
                    None => Err(wrong(*row, "no number")),
                })
                .collect::<Result<Vec<f64>, _>>()?;
            Targets::real(values.iter().map(|y| (y - offset) / scale))
        }
        TargetKind::Classes(classes) => {
            let classes: Vec<String> = classes.iter().map(|class| canonical(class)).collect();
            let values = rows
                .iter()
                .zip(&trained)
                .map(|(row, trained)| {
                    let text = canonical(table.text(*row, position));
                    match (0u32..).zip(&classes).find(|(_, class)| **class == text) {
                        Some((class, _)) => Ok(class),
                        None if !trained => Ok(0),
                        None => Err(wrong(*row, "none of the classes")),
                    }
                })
                .collect::<Result<Vec<u32>, _>>()?;
            Targets::Classes(values)
        }
    };
    Ok((targets, trained))
}
