//! Tables: reading CSV files, inferring a schema, and rows as a schema sees them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use quorate_protocols::workload::{Column, ColumnKind, MAX_NAME_BYTES, Schema};

use super::LearnError;

/// Columns that are never features: the entity key and the cross-validation fold.
pub const RESERVED: [&str; 2] = ["id", "fold"];

/// Most levels that inference keeps per category; rarer ones fall under "other".
pub const INFERRED_LEVELS: usize = 128;

/// Most classes that inference accepts.
pub const INFERRED_CLASSES: usize = 64;

/// A table of texts with unique column names.
#[derive(Clone)]
pub struct Table {
    header: Vec<String>,
    records: Vec<csv::StringRecord>,
}

/// What the reader of a file knows beyond its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Columns that hold codes, not amounts.
    pub categorical: Vec<String>,
    /// Columns to leave out.
    pub ignored: Vec<String>,
}

impl Hints {
    /// The hints of the named data sets; none for any other name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        match name {
            "credit_default" => {
                let categorical = list(&["sex", "education", "marriage"]);
                Self { categorical, ignored: Vec::new() }
            }
            "adult" => Self { categorical: Vec::new(), ignored: list(&["fnlwgt"]) },
            _ => Self::default(),
        }
    }
}

impl Table {
    /// Reads a CSV file with a header line, gzipped or not.
    ///
    /// # Errors
    /// [`LearnError::Io`], [`LearnError::Csv`] with the line, or [`LearnError::Data`] when column
    /// names repeat or there are no rows.
    pub fn read(path: &Path) -> Result<Self, LearnError> {
        let io = |source| LearnError::Io { path: path.display().to_string(), source };
        let mut reader = BufReader::new(File::open(path).map_err(io)?);
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map_err(io)?;
        if bytes.starts_with(&[0x1f, 0x8b]) {
            let mut text = Vec::new();
            flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_end(&mut text).map_err(io)?;
            bytes = text;
        }
        Self::parse(&bytes)
    }

    /// Reads CSV text: comma-separated, quotes as in RFC 4180, blanks around a value dropped.
    ///
    /// # Errors
    /// As [`Table::read`].
    pub fn parse(bytes: &[u8]) -> Result<Self, LearnError> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes);
        let header: Vec<String> = reader.headers()?.iter().map(str::to_owned).collect();
        let records = reader.records().collect::<Result<Vec<_>, _>>()?;
        for (index, name) in header.iter().enumerate() {
            if header.iter().take(index).any(|other| other == name) {
                return Err(LearnError::Data(format!("column {name:?} appears twice")));
            }
        }
        if records.is_empty() {
            return Err(LearnError::Data("the table has no rows".to_owned()));
        }
        Ok(Self { header, records })
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.records.len()
    }

    /// Column names.
    #[must_use]
    pub fn header(&self) -> &[String] {
        &self.header
    }

    /// Position of a column.
    ///
    /// # Errors
    /// [`LearnError::Data`] listing the columns there are.
    pub fn position(&self, name: &str) -> Result<usize, LearnError> {
        self.header.iter().position(|column| column == name).ok_or_else(|| {
            LearnError::Data(format!("no column {name:?}; there are {}", self.header.join(", ")))
        })
    }

    /// The text in `row` and column position `column`; empty beyond the table.
    #[must_use]
    pub fn text(&self, row: usize, column: usize) -> &str {
        self.records.get(row).and_then(|record| record.get(column)).unwrap_or("")
    }

    /// An image table with each `window` x `window` square of pixels replaced by its mean.
    ///
    /// The pixels are the `side` x `side` columns in front of which the names start with `p`, row by
    /// row; the other columns stay.
    ///
    /// # Errors
    /// [`LearnError::Data`] when the table has other columns of this kind, or a pixel is no number.
    pub fn pooled(&self, side: usize, window: usize) -> Result<Self, LearnError> {
        let pixels: Vec<usize> = self
            .header
            .iter()
            .enumerate()
            .filter(|(_, name)| {
                name.strip_prefix('p').is_some_and(|rest| rest.parse::<u32>().is_ok())
            })
            .map(|(position, _)| position)
            .collect();
        if window == 0 || !side.is_multiple_of(window) || pixels.len() != side * side {
            return Err(LearnError::Data(format!("the table has no images of {side}x{side}")));
        }
        let others: Vec<usize> =
            (0..self.header.len()).filter(|column| !pixels.contains(column)).collect();
        let (small, area) = (side / window, (window * window) as f64);
        let names = (0..small * small).map(|i| format!("q{}_{}", i / small, i % small));
        let header = names.chain(others.iter().map(|column| self.header[*column].clone()));
        let mut records = Vec::with_capacity(self.records.len());
        for row in 0..self.rows() {
            let mut sums = vec![0.0; small * small];
            for (index, column) in pixels.iter().enumerate() {
                let name = &self.header[*column];
                let x = number(self.text(row, *column)).ok_or_else(|| missing(name, row))?;
                sums[index / side / window * small + index % side / window] += x;
            }
            let means = sums.iter().map(|sum| (sum / area).to_string());
            let rest = others.iter().map(|column| self.text(row, *column).to_owned());
            records.push(means.chain(rest).collect());
        }
        Ok(Self { header: header.collect(), records })
    }

    /// The column named `fold` as numbers, or row number mod 5 where there is none.
    ///
    /// # Errors
    /// [`LearnError::Data`] when a fold is not a small whole number.
    pub fn folds(&self) -> Result<Vec<u32>, LearnError> {
        let Ok(column) = self.position("fold") else {
            return Ok((0..5).cycle().take(self.rows()).collect());
        };
        (0..self.rows())
            .map(|row| {
                self.text(row, column)
                    .parse()
                    .map_err(|_| LearnError::Data(format!("row {}: fold is not a number", row + 2)))
            })
            .collect()
    }
}

/// True for the usual spellings of "no value".
#[must_use]
pub fn is_missing(text: &str) -> bool {
    ["", "?", "na", "n/a", "nan", "null", "none"].contains(&text.to_ascii_lowercase().as_str())
}

/// A finite number, or `None`.
#[must_use]
pub fn number(text: &str) -> Option<f64> {
    text.parse().ok().filter(|value: &f64| value.is_finite())
}

/// One spelling for each value: `1`, `1.0` and `+1` are the same level.
pub(crate) fn canonical(text: &str) -> String {
    number(text).map_or_else(|| text.to_owned(), |value| (value + 0.0).to_string())
}

/// Numbers by size, then texts by code point.
pub(crate) fn natural_order(a: &str, b: &str) -> std::cmp::Ordering {
    match (number(a), number(b)) {
        (Some(x), Some(y)) => x.total_cmp(&y).then_with(|| a.cmp(b)),
        (Some(_), None) => std::cmp::Ordering::Less,
        (None, Some(_)) => std::cmp::Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

/// Distinct non-missing values with their counts.
fn counts(table: &Table, column: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for row in 0..table.rows() {
        let text = table.text(row, column);
        if !is_missing(text) {
            *counts.entry(canonical(text)).or_insert(0) += 1;
        }
    }
    counts
}

/// Infers the schema of `table` for predicting `target`, at the creation of a job.
///
/// A column with any value that is not a number is a category, its levels the
/// [`INFERRED_LEVELS`] most frequent; a long text column without repetition is a name and left out,
/// and so are [`RESERVED`] columns. A numeric column's range is centred at its mean and reaches its
/// extremes, but at most 1024 standard deviations. Classes are in natural order, so that of two the
/// larger is the positive one.
///
/// # Errors
/// [`LearnError::Data`] naming the column when the target is missing, has one value or too many, or
/// when a numeric column has missing values.
pub fn infer_schema(table: &Table, target: &str, hints: &Hints) -> Result<Schema, LearnError> {
    let target_column = table.position(target)?;
    if let Some(row) = (0..table.rows()).find(|row| is_missing(table.text(*row, target_column))) {
        return Err(LearnError::Data(format!("target {target:?} is missing in row {}", row + 2)));
    }
    let mut classes: Vec<String> = counts(table, target_column).into_keys().collect();
    if !(2..=INFERRED_CLASSES).contains(&classes.len()) {
        return Err(LearnError::Data(format!(
            "target {target:?} has {} distinct values; 2 to {INFERRED_CLASSES} classes are needed",
            classes.len()
        )));
    }
    classes.sort_by(|a, b| natural_order(a, b));
    let columns = infer_columns(table, target, hints)?;
    Ok(Schema { columns, target: target.to_owned(), classes })
}

/// The feature columns of `table` for predicting `target`, whatever that holds: as [`infer_schema`]
/// finds them.
///
/// # Errors
/// [`LearnError::Data`] when there is none, a hint names no column, or a numeric column has missing
/// values.
pub fn infer_columns(
    table: &Table,
    target: &str,
    hints: &Hints,
) -> Result<Vec<Column>, LearnError> {
    let target_column = table.position(target)?;
    let listed = |list: &[String], name: &String| list.contains(name);
    for name in hints.categorical.iter().chain(&hints.ignored) {
        table.position(name)?;
    }
    let mut columns = Vec::new();
    for (position, name) in table.header.iter().enumerate() {
        let reserved = RESERVED.contains(&name.as_str()) || name.is_empty();
        if position == target_column || reserved || listed(&hints.ignored, name) {
            continue;
        }
        let kind = if listed(&hints.categorical, name) || !all_numbers(table, position) {
            infer_category(table, position)
        } else {
            Some(infer_numeric(table, position, name)?)
        };
        columns.extend(kind.map(|kind| Column { name: name.clone(), kind }));
    }
    if columns.is_empty() {
        return Err(LearnError::Data("no column can serve as a feature".to_owned()));
    }
    Ok(columns)
}

fn all_numbers(table: &Table, column: usize) -> bool {
    let mut texts = (0..table.rows()).map(|row| table.text(row, column)).filter(|t| !is_missing(t));
    let mut any = false;
    texts.all(|text| {
        any = true;
        number(text).is_some()
    }) && any
}

fn infer_category(table: &Table, column: usize) -> Option<ColumnKind> {
    let counts = counts(table, column);
    let unique = counts.len() == table.rows() && counts.len() > INFERRED_LEVELS;
    let mut levels: Vec<(String, usize)> = counts
        .into_iter()
        .filter(|(text, _)| text.len() <= MAX_NAME_BYTES && !text.contains(char::is_control))
        .collect();
    if unique || levels.is_empty() {
        return None;
    }
    levels.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| natural_order(&a.0, &b.0)));
    levels.truncate(INFERRED_LEVELS);
    let mut levels: Vec<String> = levels.into_iter().map(|(text, _)| text).collect();
    levels.sort_by(|a, b| natural_order(a, b));
    Some(ColumnKind::Category { levels })
}

fn infer_numeric(table: &Table, column: usize, name: &str) -> Result<ColumnKind, LearnError> {
    let values = (0..table.rows())
        .map(|row| number(table.text(row, column)).ok_or_else(|| missing(name, row)))
        .collect::<Result<Vec<f64>, _>>()?;
    let (mut offset, mut reach, _) = spread(&values);
    // One value far off must not flatten all others to the same code: what lies beyond 1024
    // standard deviations of the middle 98 % is clipped.
    let mut middle = values;
    middle.sort_by(f64::total_cmp);
    let cut = (middle.len() / 100).max(usize::from(middle.len() >= 8));
    let (centre, _, deviation) = spread(&middle[cut..middle.len() - cut]);
    if deviation > 0.0 && reach > 1024.0 * deviation {
        (offset, reach) = (centre, 1024.0 * deviation);
    }
    let mut scale_log2 = -900i16;
    while scale_log2 < 900 && 2f64.powi(i32::from(scale_log2)) < reach {
        scale_log2 += 1;
    }
    Ok(ColumnKind::Numeric { offset, scale_log2 })
}

/// Mean, largest distance from it, and standard deviation.
fn spread(values: &[f64]) -> (f64, f64, f64) {
    let rows = values.len() as f64;
    // Divided first, so that the sum of huge values stays finite.
    let mean: f64 = values.iter().map(|x| x / rows).sum();
    let reach = values.iter().map(|x| (x - mean).abs()).fold(0.0, f64::max);
    let relative = |x: &f64| if reach > 0.0 { (x - mean).abs() / reach } else { 0.0 };
    let variance: f64 = values.iter().map(|x| relative(x) * relative(x) / rows).sum();
    (mean, reach, reach * variance.sqrt())
}

fn missing(name: &str, row: usize) -> LearnError {
    LearnError::Data(format!(
        "row {}: numeric column {name:?} has no number; fill it in, drop the row, or declare the \
         column a category",
        row + 2
    ))
}

/// Rows as a schema sees them.
#[derive(Clone, PartialEq)]
pub struct Dataset {
    /// Rows n.
    pub rows: usize,
    /// n x numeric columns, row by row: u in [-1, 1].
    pub numeric: Vec<f64>,
    /// n x categories, row by row: the level, or the number of levels for "other".
    pub levels: Vec<u32>,
    /// n class numbers.
    pub labels: Vec<u32>,
}

impl Dataset {
    /// The given rows of `table`, in that order.
    ///
    /// # Errors
    /// [`LearnError::Data`] naming row and column when a column is absent, a number is missing, or
    /// the target is none of the classes.
    pub fn new(table: &Table, schema: &Schema, rows: &[usize]) -> Result<Self, LearnError> {
        let mut numeric_columns = Vec::new();
        let mut categories = Vec::new();
        for column in &schema.columns {
            let position = table.position(&column.name)?;
            match &column.kind {
                ColumnKind::Numeric { offset, scale_log2 } => {
                    let scale = 2f64.powi(i32::from(*scale_log2));
                    numeric_columns.push((position, &column.name, *offset, scale));
                }
                ColumnKind::Category { levels } => categories.push((position, index_of(levels))),
            }
        }
        let target = table.position(&schema.target)?;
        let classes = index_of(&schema.classes);
        let mut out = Self {
            rows: rows.len(),
            numeric: Vec::with_capacity(rows.len() * numeric_columns.len()),
            levels: Vec::with_capacity(rows.len() * categories.len()),
            labels: Vec::with_capacity(rows.len()),
        };
        for &row in rows {
            for (position, name, offset, scale) in &numeric_columns {
                let x = number(table.text(row, *position)).ok_or_else(|| missing(name, row))?;
                out.numeric.push(((x - offset) / scale).clamp(-1.0, 1.0));
            }
            for (position, levels) in &categories {
                let other = u32::try_from(levels.len()).unwrap_or(u32::MAX);
                let text = table.text(row, *position);
                out.levels.push(levels.get(&canonical(text)).copied().unwrap_or(other));
            }
            let text = table.text(row, target);
            let label = classes.get(&canonical(text)).ok_or_else(|| {
                LearnError::Data(format!("row {}: target {text:?} is not a class", row + 2))
            })?;
            out.labels.push(*label);
        }
        Ok(out)
    }
}

/// Rows are a party's own: logs see their number only.
macro_rules! debug_without_rows {
    ($($type:ident: $rows:expr;)*) => {$(
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let rows: fn(&Self) -> usize = $rows;
                f.debug_struct(stringify!($type)).field("rows", &rows(self)).finish_non_exhaustive()
            }
        }
    )*};
}
debug_without_rows! {
    Table: |table| table.records.len();
    Dataset: |data| data.rows;
}

/// Level numbers by canonical text.
fn index_of(levels: &[String]) -> HashMap<String, u32> {
    (0..).zip(levels).map(|(index, level)| (canonical(level), index)).collect()
}
