//! The demo's data: finding a table, holding a fold out, and giving each bank a file of its own.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use quorate_client::learn::data::{Dataset, Hints, Table, infer_columns, infer_schema, number};
use quorate_client::learn::split::{Split, hold_out, share_out};
use quorate_client::learn::sweep::party_name;
use quorate_protocols::workload::{ColumnKind, Schema};

/// A table and what is to be learned from it.
#[derive(Debug)]
pub struct Source {
    /// File name without `.csv` and `.gz`.
    pub name: String,
    /// Where it was found.
    pub path: PathBuf,
    /// Column to predict.
    pub target: String,
    /// Columns that hold codes, not amounts.
    pub categorical: Vec<String>,
    /// Columns left out.
    pub ignored: Vec<String>,
    table: Table,
    schema: Schema,
}

/// One bank's part of the training rows.
#[derive(Debug)]
pub struct Bank {
    /// Its name.
    pub name: String,
    /// Its own file.
    pub file: PathBuf,
    /// Its rows, as the schema sees them.
    pub rows: Dataset,
}

/// What the demo trains and scores on.
#[derive(Debug)]
pub struct Prepared {
    /// Columns, levels and classes.
    pub schema: Schema,
    /// The banks, in roster order, the largest first.
    pub banks: Vec<Bank>,
    /// All training rows in one place, for the pooled reference only.
    pub pooled: Dataset,
    /// Held-out rows.
    pub test: Dataset,
}

impl Source {
    /// Reads the data set `data`: a file, or a name in the project's `data` folder.
    ///
    /// # Errors
    /// When there is no such table, the target is unknown, or no schema fits.
    pub fn read(data: &str, target: Option<&str>, categorical: &[String]) -> anyhow::Result<Self> {
        let path = locate(data)?;
        let name = stem(&path);
        let table = Table::read(&path)?;
        let Some(target) = target.or_else(|| known_target(&name)) else {
            bail!(
                "say which column of {} to predict: --target COLUMN, one of {}",
                path.display(),
                table.header().join(", ")
            );
        };
        let hints = hints(&name, &table, categorical);
        let schema = infer_schema(&table, target, &hints)
            .with_context(|| format!("cannot learn from {}", path.display()))?;
        let target = target.to_owned();
        let Hints { categorical, ignored } = hints;
        Ok(Self { name, path, target, categorical, ignored, table, schema })
    }

    /// The same with a target that is a number: the schema has no classes.
    ///
    /// # Errors
    /// As [`Source::read`], and when a row has no number there.
    pub fn read_real(data: &str, target: &str, categorical: &[String]) -> anyhow::Result<Self> {
        let path = locate(data)?;
        let name = stem(&path);
        let table = Table::read(&path)?;
        let hints = hints(&name, &table, categorical);
        let columns = infer_columns(&table, target, &hints)
            .with_context(|| format!("cannot learn from {}", path.display()))?;
        let position = table.position(target)?;
        if let Some(row) =
            (0..table.rows()).find(|row| number(table.text(*row, position)).is_none())
        {
            bail!("row {}: target {target:?} is no number, as --model linear needs it", row + 2);
        }
        let target = target.to_owned();
        let schema = Schema { columns, target: target.clone(), classes: Vec::new() };
        let Hints { categorical, ignored } = hints;
        Ok(Self { name, path, target, categorical, ignored, table, schema })
    }

    /// Takes ranges that are known beforehand in place of those read off the data, which no noise
    /// hides: the pixels of `mnist7` are bytes.
    pub fn declare_ranges(&mut self) {
        if self.name == "mnist7" {
            for column in &mut self.schema.columns {
                column.kind = ColumnKind::Numeric { offset: 0.0, scale_log2: 8 };
            }
        }
    }

    /// Holds `fold` out, shares the other rows out unevenly among `parties` banks and writes each
    /// bank's file under `out/NAME/data.csv`.
    ///
    /// # Errors
    /// When a part would be empty, or files cannot be written.
    pub fn prepare(&self, fold: u32, parties: usize, out: &Path) -> anyhow::Result<Prepared> {
        let names = (1..=parties).map(|number| format!("bank-{number}")).collect();
        self.prepare_for(names, fold, &Split::named(&self.name), out)
    }

    /// The same with an even split, and parties named as a sweep names them.
    ///
    /// # Errors
    /// As [`Source::prepare`].
    pub fn prepare_evenly(
        &self,
        fold: u32,
        parties: usize,
        out: &Path,
    ) -> anyhow::Result<Prepared> {
        let names = (0..parties).map(party_name).collect();
        self.prepare_for(names, fold, &Split::Even, out)
    }

    fn prepare_for(
        &self,
        names: Vec<String>,
        fold: u32,
        split: &Split,
        out: &Path,
    ) -> anyhow::Result<Prepared> {
        let parties = names.len();
        let (train, test) = hold_out(&self.table, fold)?;
        let shares = share_out(&self.table, &train, parties, split).with_context(|| {
            format!("{} training rows are too few for {parties} parties", train.len())
        })?;
        let rows = |rows: &[usize]| Dataset::new(&self.table, &self.schema, rows);
        let mut banks = Vec::with_capacity(parties);
        for (name, share) in names.into_iter().zip(&shares) {
            let folder = out.join(&name);
            std::fs::create_dir_all(&folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
            let file = folder.join("data.csv");
            self.write(&file, share).with_context(|| format!("cannot write {}", file.display()))?;
            banks.push(Bank { name, file, rows: rows(share)? });
        }
        Ok(Prepared {
            schema: self.schema.clone(),
            banks,
            pooled: rows(&train)?,
            test: rows(&test)?,
        })
    }

    /// The whole table.
    #[must_use]
    pub const fn table(&self) -> &Table {
        &self.table
    }

    /// Whether the target is the one that the set of this name is known for.
    #[must_use]
    pub fn has_known_target(&self) -> bool {
        known_target(&self.name) == Some(self.target.as_str())
    }

    /// Columns, levels and classes.
    #[must_use]
    pub const fn schema(&self) -> &Schema {
        &self.schema
    }

    fn write(&self, file: &Path, rows: &[usize]) -> anyhow::Result<()> {
        let mut writer = csv::Writer::from_path(file)?;
        writer.write_record(self.table.header())?;
        for row in rows {
            let columns = 0..self.table.header().len();
            writer.write_record(columns.map(|column| self.table.text(*row, column)))?;
        }
        Ok(writer.flush()?)
    }
}

/// What is known of the columns of the set `name`.
fn hints(name: &str, table: &Table, categorical: &[String]) -> Hints {
    let mut hints = Hints::named(name);
    // A hint that only the known table of this name deserves must not refuse another one.
    let known = |column: &String| table.header().contains(column);
    if categorical.is_empty() {
        hints.categorical.retain(known);
    } else {
        hints.categorical = categorical.to_vec();
    }
    hints.ignored.retain(known);
    hints
}

/// The file that `data` means.
fn locate(data: &str) -> anyhow::Result<PathBuf> {
    let given = Path::new(data);
    if given.is_file() {
        return given.canonicalize().with_context(|| format!("cannot read {data}"));
    }
    let executable = std::env::current_exe().ok();
    let above = executable.iter().flat_map(|path| path.ancestors().skip(1));
    let here = std::env::current_dir().ok();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let roots = here.iter().flat_map(|path| path.ancestors()).chain(above).chain(source);
    for root in roots {
        for ending in ["csv.gz", "csv"] {
            let path = root.join("data").join(format!("{data}.{ending}"));
            if path.is_file() {
                return path.canonicalize().with_context(|| format!("cannot read {data}"));
            }
        }
    }
    bail!(
        "there is no file {data} and no data/{data}.csv or .csv.gz here, above, or beside the \
         program: give a path, --data FILE.csv"
    )
}

fn stem(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let file = file.strip_suffix(".gz").unwrap_or(&file);
    file.strip_suffix(".csv").unwrap_or(file).to_owned()
}

/// Targets of the data sets that tests and demos use.
fn known_target(name: &str) -> Option<&'static str> {
    Some(match name {
        "credit_default" => "default",
        "ionosphere" => "good",
        "tricky" => "repaid in full?",
        "adult" => "income_gt_50k",
        "digits" | "mnist" | "mnist7" => "digit",
        "landsat" => "soil",
        "nursery" => "rank",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use quorate_client::learn::sweep::shared_evenly;
    use quorate_protocols::workload::{TreeSpec, Workload};

    use super::*;

    #[test]
    fn banks_get_all_training_rows_once_and_no_held_out_row() {
        let folder = tempfile::tempdir().unwrap();
        let source = Source::read("tricky", None, &[]).unwrap();
        let prepared = source.prepare(0, 5, folder.path()).unwrap();
        assert_eq!(prepared.pooled.rows + prepared.test.rows, source.table.rows());
        let mut ids = Vec::new();
        for bank in &prepared.banks {
            let own = Table::read(&bank.file).unwrap();
            assert_eq!(own.header(), source.table.header());
            let rows: Vec<usize> = (0..own.rows()).collect();
            assert_eq!(Dataset::new(&own, &prepared.schema, &rows).unwrap(), bank.rows);
            assert!(own.folds().unwrap().iter().all(|fold| *fold != 0));
            ids.extend(rows.iter().map(|row| own.text(*row, 0).to_owned()));
        }
        assert_eq!(ids.len(), prepared.pooled.rows);
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), prepared.pooled.rows);
        assert!(prepared.banks[0].rows.rows > 5 * prepared.banks[1].rows.rows);
    }

    #[test]
    fn even_parts_differ_by_one_row_and_are_those_of_a_sweep() {
        let folder = tempfile::tempdir().unwrap();
        let source = Source::read("tricky", None, &[]).unwrap();
        let prepared = source.prepare_evenly(1, 3, folder.path()).unwrap();
        let rows: Vec<usize> = prepared.banks.iter().map(|bank| bank.rows.rows).collect();
        assert_eq!(rows, [107, 107, 106]);
        let (train, _) = hold_out(source.table(), 1).unwrap();
        let spec = TreeSpec::default_for(prepared.schema.clone());
        let sweep = shared_evenly(&Workload::Tree(spec), source.table(), &train, 3).unwrap();
        for (bank, (name, rows)) in prepared.banks.iter().zip(&sweep) {
            assert_eq!((bank.name.as_str(), &bank.rows), (name.as_str(), rows));
        }
    }

    #[test]
    fn what_is_missing_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("own.csv.gz.csv");
        std::fs::write(&file, "a,b\n1,x\n2,y\n").unwrap();
        let path = file.to_str().unwrap();
        let error =
            |data: &str, target| format!("{:#}", Source::read(data, target, &[]).unwrap_err());
        assert!(error(path, None).contains("--target COLUMN, one of a, b"));
        assert!(error(path, Some("c")).contains("no column \"c\""));
        assert!(error("no-such-set", None).contains("--data FILE.csv"));
        let source = Source::read(path, Some("b"), &[]).unwrap();
        assert!(source.prepare(0, 5, folder.path()).is_err());
    }
}
