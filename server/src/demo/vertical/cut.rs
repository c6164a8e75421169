//! Who holds which columns, and each party's own file: rows in another order, spelt in another way,
//! some of them missing and some twice.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use quorate_client::learn::data::Table;
use quorate_client::learn::split::hold_out;
use quorate_client::learn::sweep::party_name;
use quorate_client::vertical::identify::IdentifierRule;
use quorate_client::vertical::replay::join;
use quorate_protocols::wire::Name;
use quorate_protocols::workload::{Block, Column};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};

use crate::demo::data::Source;

/// The column that identifies a row at every party.
pub(super) const IDENTIFIER: &str = "id";

/// Of so many rows a party lacks one.
const LACKS_ONE_OF: u32 = 100;
/// Of so many rows it has one twice.
const TWICE_ONE_OF: u32 = 200;

/// Names of parties with the names of their columns; a `*` stands for any text. The first party holds
/// the target.
type Rule = &'static [(&'static str, &'static [&'static str])];

/// Cuts of the data sets that the demo knows.
fn known_rule(name: &str) -> Option<Rule> {
    Some(match name {
        "credit_default" => &[
            ("lender", &["limit_bal", "sex", "education", "marriage", "age"]),
            ("bureau", &["pay_0", "pay_2", "pay_3", "pay_4", "pay_5", "pay_6"]),
            ("network", &["bill_amt*", "pay_amt*"]),
        ],
        "adult" => &[
            ("treasury", &["capital_gain", "capital_loss"]),
            ("employer", &["workclass", "occupation", "hours_per_week", "education*"]),
            (
                "registry",
                &["age", "sex", "race", "native_country", "marital_status", "relationship"],
            ),
        ],
        "ionosphere" => &[
            ("antenna-a", &["*01", "*02", "*03", "*04", "*05"]),
            ("antenna-b", &["*06", "*07", "*08", "*09", "*10", "*11"]),
            ("antenna-c", &["*12", "*13", "*14", "*15", "*16", "*17"]),
        ],
        "landsat" => &[
            ("band-1", &["*_b1"]),
            ("band-2", &["*_b2"]),
            ("band-3", &["*_b3"]),
            ("band-4", &["*_b4"]),
        ],
        _ => return None,
    })
}

/// Whether `name` is what `pattern` says, in which one `*` stands for any text.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => {
            name.len() >= before.len() + after.len()
                && name.starts_with(before)
                && name.ends_with(after)
        }
    }
}

/// How columns are cut into blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cut {
    /// As the data set's parties would hold them where the demo knows it, else [`Cut::Even`] among
    /// three.
    Known,
    /// Evenly among so many parties, in the order of the file.
    Even(usize),
    /// By name, one list per party: the first holds the target.
    Named(Vec<Vec<String>>),
}

impl Cut {
    /// Reads `a,b;c,d;e,f`.
    pub fn parse(text: &str) -> Self {
        let names = |list: &str| -> Vec<String> {
            list.split(',')
                .map(str::trim)
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect()
        };
        Self::Named(text.split(';').map(names).collect())
    }

    /// The blocks of `source`, the label holder's first.
    ///
    /// # Errors
    /// When there are fewer than `floor` passive parties, a column is unknown, named twice or no
    /// feature, or a passive party has none.
    pub(super) fn blocks(&self, source: &Source, floor: usize) -> anyhow::Result<Vec<Block>> {
        let columns = &source.schema().columns;
        let fits = |rule: &Rule| {
            let known =
                |pattern: &&str| columns.iter().any(|column| matches(pattern, &column.name));
            source.has_known_target() && rule.iter().all(|(_, own)| own.iter().all(known))
        };
        let known = known_rule(&source.name).filter(fits);
        let named: Vec<(String, Vec<String>)> = match (self, known) {
            (Self::Known, Some(rule)) => {
                let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
                rule.iter().map(|(party, names)| ((*party).to_owned(), owned(names))).collect()
            }
            (Self::Known, None) => even(columns, 3),
            (Self::Even(parties), _) => even(columns, *parties),
            (Self::Named(lists), _) => (0..).map(party_name).zip(lists.iter().cloned()).collect(),
        };
        ensure!(
            named.len() > floor,
            "a vertical job needs at least {} parties, of which {floor} have features beside the \
             label holder, so that no score shows one party's part: name {} blocks, as in --blocks \
             \"a,b;c,d;e,f\"",
            floor + 1,
            floor + 1
        );
        let mut left: Vec<&Column> = columns.iter().collect();
        let mut blocks = Vec::with_capacity(named.len());
        for (party, patterns) in named {
            let mut own = Vec::new();
            for pattern in &patterns {
                let before = own.len();
                left.retain(|column| {
                    let taken = matches(pattern, &column.name);
                    if taken {
                        own.push((*column).clone());
                    }
                    !taken
                });
                if own.len() == before {
                    let names: Vec<&str> = columns.iter().map(|c| c.name.as_str()).collect();
                    bail!(
                        "{pattern:?} names no feature that is left for {party}: a column is held by \
                         one party, and the features are {}",
                        names.join(", ")
                    );
                }
            }
            ensure!(
                !own.is_empty() || blocks.is_empty(),
                "{party} has no column: only the first party, which holds the target, may have none"
            );
            blocks.push(Block { party: Name::new(&party)?, columns: own });
        }
        Ok(blocks)
    }
}

/// The columns in runs of about equal length.
fn even(columns: &[Column], parties: usize) -> Vec<(String, Vec<String>)> {
    let names = |from: usize, to: usize| {
        columns.iter().take(to).skip(from).map(|column| column.name.clone()).collect()
    };
    let place = |party: usize| party * columns.len() / parties.max(1);
    (0..parties).map(|party| (party_name(party), names(place(party), place(party + 1)))).collect()
}

/// One party's file.
#[derive(Debug)]
pub(super) struct Share {
    /// Its name.
    pub(super) name: Name,
    /// Its folder.
    pub(super) folder: PathBuf,
    /// For each row of its file, from 0, the row of the whole table.
    pub(super) rows: Vec<usize>,
}

impl Share {
    /// Its rows.
    pub(super) fn data(&self) -> PathBuf {
        self.folder.join("data.csv")
    }

    /// What it writes down for whoever repeats the job.
    pub(super) fn replay(&self) -> PathBuf {
        self.folder.join("replay.json")
    }

    /// Where the label holder writes its scores.
    pub(super) fn scores(&self) -> PathBuf {
        self.folder.join("scores.csv")
    }
}

/// The files of all parties.
#[derive(Debug)]
pub(super) struct Shares {
    /// The label holder's first, as the blocks are.
    pub(super) parties: Vec<Share>,
    /// Rows of the whole table that every party has once: those with a label.
    pub(super) train: Vec<usize>,
    /// And those without.
    pub(super) test: Vec<usize>,
}

impl Shares {
    /// Writes each party's file under `out/NAME`; the rows of `fold` have no label there.
    ///
    /// # Errors
    /// When the table has no identifiers, too few rows are common, or files cannot be written.
    pub(super) fn write(
        source: &Source,
        blocks: &[Block],
        fold: u32,
        seed: u64,
        out: &Path,
    ) -> anyhow::Result<Self> {
        let table = source.table();
        let key = table.position(IDENTIFIER).map_err(|_| {
            anyhow::anyhow!(
                "{} has no column {IDENTIFIER:?}, by which parties find their common rows: add one \
                 with a value of its own in every row",
                source.path.display()
            )
        })?;
        ensure!(
            source.target != IDENTIFIER,
            "the column {IDENTIFIER:?} identifies rows and cannot be the target"
        );
        let (train, test) = hold_out(table, fold)?;
        let hidden: BTreeSet<usize> = test.iter().copied().collect();
        let target = table.position(&source.target)?;
        let mut parties = Vec::with_capacity(blocks.len());
        let mut tables = Vec::with_capacity(blocks.len());
        for (number, block) in (0u64..).zip(blocks) {
            let folder = out.join(block.party.as_str());
            std::fs::create_dir_all(&folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
            let mut rng =
                ChaCha20Rng::seed_from_u64(seed.wrapping_mul(1 << 16).wrapping_add(number));
            let rows = own_rows(table.rows(), &mut rng);
            let share = Share { name: block.party.clone(), folder, rows };
            let mut columns = Vec::with_capacity(block.columns.len() + 1);
            for column in &block.columns {
                columns.push(table.position(&column.name)?);
            }
            if number == 0 {
                columns.push(target);
            }
            let path = share.data();
            let mut writer = csv::Writer::from_path(&path)
                .with_context(|| format!("cannot write {}", path.display()))?;
            let names = columns.iter().filter_map(|column| table.header().get(*column));
            writer.write_record([IDENTIFIER].into_iter().chain(names.map(String::as_str)))?;
            for row in &share.rows {
                // Every other party writes identifiers in its own way.
                let id = match number % 2 {
                    0 => table.text(*row, key).to_owned(),
                    _ => format!(" {} ", table.text(*row, key).to_uppercase()),
                };
                let text = |column: &usize| {
                    let shown = *column != target || !hidden.contains(row);
                    if shown { table.text(*row, *column) } else { "" }
                };
                writer.write_record([id.as_str()].into_iter().chain(columns.iter().map(text)))?;
            }
            writer.flush()?;
            tables.push(Table::read(&path)?);
            parties.push(share);
        }
        // What a plain join of the files gives; the services have to find the same.
        let rule = IdentifierRule::of_columns(&[IDENTIFIER.to_owned()]);
        let joined = join(&rule, &tables.iter().collect::<Vec<_>>())?;
        let first = parties.first().map(|share| &share.rows);
        let common: BTreeSet<usize> = joined
            .first()
            .into_iter()
            .flatten()
            .filter_map(|row| first.and_then(|rows| rows.get(*row)).copied())
            .collect();
        let kept = |rows: Vec<usize>| -> Vec<usize> {
            rows.into_iter().filter(|row| common.contains(row)).collect()
        };
        let (train, test) = (kept(train), kept(test));
        ensure!(
            !train.is_empty() && !test.is_empty(),
            "no rows are common to all parties: the values of column {IDENTIFIER:?} must differ from \
             row to row"
        );
        Ok(Self { parties, train, test })
    }
}

/// The rows of one party in its own order: a few are missing, a few are there twice.
fn own_rows(all: usize, rng: &mut ChaCha20Rng) -> Vec<usize> {
    let mut rows = Vec::with_capacity(all + all / 100);
    for row in 0..all {
        if rng.next_u32().is_multiple_of(LACKS_ONE_OF) {
            continue;
        }
        rows.push(row);
        if rng.next_u32().is_multiple_of(TWICE_ONE_OF) {
            rows.push(row);
        }
    }
    for last in (1..rows.len()).rev() {
        let other = rng.next_u64() % (last as u64 + 1);
        rows.swap(last, usize::try_from(other).unwrap_or(last));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn widths(data: &str, cut: &Cut) -> Vec<(String, usize)> {
        let source = Source::read(data, None, &[]).unwrap();
        let blocks = cut.blocks(&source, 2).unwrap();
        blocks.iter().map(|block| (block.party.to_string(), block.columns.len())).collect()
    }

    #[test]
    fn every_column_goes_to_one_party() {
        let of = |list: &[(&str, usize)]| -> Vec<(String, usize)> {
            list.iter().map(|(name, width)| ((*name).to_owned(), *width)).collect()
        };
        let credit = of(&[("lender", 5), ("bureau", 6), ("network", 12)]);
        assert_eq!(widths("credit_default", &Cut::Known), credit);
        let adult = of(&[("treasury", 2), ("employer", 5), ("registry", 6)]);
        assert_eq!(widths("adult", &Cut::Known), adult);
        let antennas = of(&[("antenna-a", 10), ("antenna-b", 12), ("antenna-c", 12)]);
        assert_eq!(widths("ionosphere", &Cut::Known), antennas);
        let bands = of(&[("band-1", 9), ("band-2", 9), ("band-3", 9), ("band-4", 9)]);
        assert_eq!(widths("landsat", &Cut::Known), bands);
        let even = of(&[("party-0", 8), ("party-1", 9), ("party-2", 8), ("party-3", 9)]);
        assert_eq!(widths("ionosphere", &Cut::Even(4)), even);
        let named = Cut::parse(" ; re01, im02;re03 ;*_17,re04");
        assert!(named.blocks(&Source::read("ionosphere", None, &[]).unwrap(), 2).is_err());
        let named = Cut::parse(" ; re01, im02;re03 ;*17,re04");
        let of_named = of(&[("party-0", 0), ("party-1", 2), ("party-2", 1), ("party-3", 3)]);
        assert_eq!(widths("ionosphere", &named), of_named);
    }

    #[test]
    fn a_known_cut_is_for_the_known_target() {
        let source = Source::read_real("credit_default", "age", &[]).unwrap();
        let blocks = Cut::Known.blocks(&source, 2).unwrap();
        let names: Vec<&str> = blocks.iter().map(|block| block.party.as_str()).collect();
        assert_eq!(names, ["party-0", "party-1", "party-2"]);
        assert!(
            Source::read_real("adult", "sex", &[]).unwrap_err().to_string().contains("no number")
        );
    }

    #[test]
    fn wrong_cuts_say_what_to_do() {
        let source = Source::read("ionosphere", None, &[]).unwrap();
        let error = |cut: &str| Cut::parse(cut).blocks(&source, 2).unwrap_err().to_string();
        assert!(error("re01;im02").contains("at least 3 parties"));
        assert!(error("re01;im02;re01").contains("held by one party"));
        assert!(error("re01;im02;nothing").contains("the features are re01, im01"));
        assert!(error("re01;im02;").contains("party-2 has no column"));
        assert!(error("re01;im02;good").contains("names no feature"));
    }

    #[test]
    fn files_hold_the_cut_and_hide_the_labels_of_the_fold() {
        let folder = tempfile::tempdir().unwrap();
        let source = Source::read("ionosphere", None, &[]).unwrap();
        let blocks = Cut::Known.blocks(&source, 2).unwrap();
        let shares = Shares::write(&source, &blocks, 1, 5, folder.path()).unwrap();
        let rows = source.table().rows();
        assert!(shares.train.len() + shares.test.len() < rows);
        assert!(shares.train.len() + shares.test.len() > rows * 9 / 10);
        let folds = source.table().folds().unwrap();
        assert!(shares.test.iter().all(|row| folds[*row] == 1));
        let good = source.table().position("good").unwrap();
        for (number, (share, block)) in shares.parties.iter().zip(&blocks).enumerate() {
            let own = Table::read(&share.data()).unwrap();
            let mut header: Vec<&str> = vec![IDENTIFIER];
            header.extend(block.columns.iter().map(|column| column.name.as_str()));
            header.extend((number == 0).then_some("good"));
            assert_eq!(own.header(), header);
            assert_eq!(own.rows(), share.rows.len());
            for (at, row) in share.rows.iter().enumerate() {
                let id = own.text(at, 0);
                assert_eq!(id.to_lowercase(), source.table().text(*row, 0).to_lowercase());
                if number == 0 {
                    let label = own.text(at, own.header().len() - 1);
                    let hidden = folds[*row] == 1;
                    assert_eq!(label, if hidden { "" } else { source.table().text(*row, good) });
                }
            }
        }
    }
}
