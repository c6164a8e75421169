//! The other process of a check: it trains in the clear from the banks' files and the recorded
//! sets, and never sees an update or an opened sum.
//!
//! Of a vertical job it gets the parties' files and seeds, and never sees a score, a product or a
//! weight; of a payments job files, seeds and row ids, and never a count or a score.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use quorate_client::learn::data::{Dataset, Table};
use quorate_client::learn::twin::{FrozenSet, replay};
use quorate_client::payments::bank::AccountBook;
use quorate_client::payments::record::{read_accounts, read_payments};
use quorate_client::payments::replay as payments;
use quorate_client::vertical::replay::{Replay, model_hash, repeat};
use quorate_crypto::fixed::FixedPoint;
use quorate_crypto::merkle::Hash;
use quorate_protocols::wire::Name;
use quorate_protocols::workload::{PvSpec, VerticalSpec, Workload};
use serde::{Deserialize, Serialize};

/// What stands in front of the model hash in the output of `quorate plain`.
const MODEL_HASH: &str = "model hash ";

/// All that the plain process gets. Paths are relative to the file that holds this.
#[derive(Debug, Serialize, Deserialize)]
pub struct PlainConfig {
    /// The manifest's hash.
    pub job: Hash,
    /// The manifest's workload: schema, model, local training, seed.
    pub workload: Workload,
    /// The manifest's code of reals.
    pub code: FixedPoint,
    /// File with the recorded [`Frozen`] sets, in the order of rounds; of a vertical job absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<PathBuf>,
    /// Every party that is in a set.
    pub parties: Vec<PlainParty>,
}

/// One party and its file.
#[derive(Debug, Serialize, Deserialize)]
pub struct PlainParty {
    /// Its name.
    pub name: String,
    /// Its rows.
    pub data: PathBuf,
    /// Of a vertical job, and of the network of a payments job, what it wrote down to repeat it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<PathBuf>,
}

/// Who stands behind the opened sum of one round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Frozen {
    /// Round.
    pub round: u32,
    /// The attempt that was opened.
    pub attempt: u32,
    /// Names of the members.
    pub members: Vec<String>,
}

/// Trains as the parties did and returns the hash of the final model.
///
/// # Errors
/// When a file cannot be read or does not fit, or a set names a party without data.
pub fn retrain(config: &Path) -> anyhow::Result<Hash> {
    let folder = config.parent().unwrap_or_else(|| Path::new(""));
    let config: PlainConfig = read_json(config)?;
    if let Workload::Vertical(spec) = &config.workload {
        return repeat_vertical(spec, folder, &config.parties);
    }
    if let Workload::Payments(spec) = &config.workload {
        return repeat_payments(spec, folder, &config.parties);
    }
    let Some(schema) = config.workload.schema() else {
        bail!("the workload trains no model");
    };
    let sets = config.frozen.as_ref().context("the configuration names no recorded sets")?;
    let frozen: Vec<Frozen> = read_json(&folder.join(sets))?;
    let mut datasets = BTreeMap::new();
    for party in &config.parties {
        let table = Table::read(&folder.join(&party.data))?;
        let rows: Vec<usize> = (0..table.rows()).collect();
        datasets.insert(party.name.clone(), Dataset::new(&table, schema, &rows)?);
    }
    let sets: Vec<FrozenSet> = frozen
        .into_iter()
        .map(|set| FrozenSet { round: set.round, attempt: set.attempt, members: set.members })
        .collect();
    Ok(replay(&config.workload, &config.code, &config.job, &sets, &datasets)?.hash())
}

/// Joins the parties' files and trains over all their columns at once.
fn repeat_vertical(
    spec: &VerticalSpec,
    folder: &Path,
    parties: &[PlainParty],
) -> anyhow::Result<Hash> {
    let mut own = BTreeMap::new();
    for party in parties {
        let replay = party.replay.as_ref();
        let replay = replay.with_context(|| format!("{} wrote no seeds down", party.name))?;
        let replay: Replay = read_json(&folder.join(replay))?;
        own.insert(Name::new(&party.name)?, (Table::read(&folder.join(&party.data))?, replay));
    }
    Ok(model_hash(&repeat(spec, &own)?.weights))
}

/// Trains and scores in the clear what the network and its banks did under encryption; the hash is that
/// of counts and scores.
fn repeat_payments(spec: &PvSpec, folder: &Path, parties: &[PlainParty]) -> anyhow::Result<Hash> {
    let mut books = BTreeMap::new();
    let mut network = None;
    for party in parties {
        let name = Name::new(&party.name)?;
        let data = folder.join(&party.data);
        if name == spec.network {
            let replay = party.replay.as_ref().context("the network wrote no seeds down")?;
            network = Some((read_payments(&data)?, read_json(&folder.join(replay))?));
        } else {
            books.insert(name, AccountBook::new(&read_accounts(&data)?));
        }
    }
    let (payments, replay) = network.context("the configuration names no network")?;
    let repeated = payments::repeat(spec, &payments, books, &replay)?;
    Ok(payments::result_hash(&repeated.counts, &repeated.scores))
}

/// The line that `quorate plain` prints.
#[must_use]
pub fn line(hash: &Hash) -> String {
    format!("{MODEL_HASH}{}", hex::encode(hash.0))
}

/// Runs `program plain --config CONFIG` and returns the hash it prints, in hexadecimal.
///
/// # Errors
/// When the process fails or prints no hash.
pub fn in_own_process(program: &Path, config: &Path) -> anyhow::Result<String> {
    let done = Command::new(program)
        .arg("plain")
        .arg("--config")
        .arg(config)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !done.status.success() {
        let why = String::from_utf8_lossy(&done.stderr);
        bail!("the plain process ended with {}: {}", done.status, why.trim());
    }
    let printed = String::from_utf8_lossy(&done.stdout);
    let hash = printed.lines().find_map(|line| line.strip_prefix(MODEL_HASH));
    Ok(hash.context("the plain process printed no model hash")?.trim().to_owned())
}

pub(super) fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> anyhow::Result<T> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is not what was expected", path.display()))
}
