//! A vertical job repeated in the clear, from the parties' files and the seeds that they wrote down.
//!
//! It joins the tables itself, by plain identifiers, and never reads a score, a product or a weight of
//! the job.

use std::collections::{BTreeMap, HashMap};

use quorate_crypto::merkle::{Hash, hash_parts};
use quorate_crypto::secret::Secret;
use quorate_protocols::wire::Name;
use quorate_protocols::workload::VerticalSpec;
use serde::{Deserialize, Serialize};

use super::block::{features, targets};
use super::identify::IdentifierRule;
use super::twin::{Joined, Seeds};
use crate::api::Hex32;
use crate::learn::LearnError;
use crate::learn::data::Table;

/// What one party of a replayable job writes down.
///
/// # Security
/// Not for production: it undoes the label noise, and shows first weights and which rows shared a batch.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replay {
    /// The party.
    pub party: Name,
    /// For each common row, in the shared order, its row in the party's table, from 0.
    pub rows: Vec<u32>,
    /// Seed of the party's first weights.
    pub weights: Hex32,
    /// Seed of the order of each epoch.
    pub orders: Vec<Hex32>,
    /// Seed of the label noise by epoch and batch: the label holder's, empty from others.
    pub noise: Vec<Vec<Hex32>>,
}

/// A job that was repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repeated {
    /// Common rows.
    pub rows: usize,
    /// Hash of each party's weights, in the order of the spec's blocks.
    pub weights: Vec<Hash>,
}

/// Name of a model that is in parts at its parties: over the hash of each party's weights, in the order
/// of the spec's blocks.
#[must_use]
pub fn model_hash(weights: &[Hash]) -> Hash {
    let parts: Vec<&[u8]> = weights.iter().map(|hash| &hash.0[..]).collect();
    hash_parts("quorate/vertical-model/1", &parts)
}

/// The rows of several tables that have the same identifier, each once in every table: per table their
/// row numbers, in the order of the first.
///
/// # Errors
/// [`LearnError::Data`] when a table lacks a column of the rule.
pub fn join(rule: &IdentifierRule, tables: &[&Table]) -> Result<Vec<Vec<usize>>, LearnError> {
    let mut found: Vec<HashMap<Vec<String>, Option<usize>>> = Vec::with_capacity(tables.len());
    let mut first = Vec::new();
    for table in tables {
        let mut rows = HashMap::with_capacity(table.rows());
        for (row, fields) in rule.fields(table)?.into_iter().enumerate() {
            let fields: Vec<String> = fields.iter().map(|field| (**field).clone()).collect();
            if fields.iter().any(String::is_empty) {
                continue;
            }
            if found.is_empty() {
                first.push(fields.clone());
            }
            // Twice is as good as not at all.
            rows.entry(fields).and_modify(|known| *known = None).or_insert(Some(row));
        }
        found.push(rows);
    }
    let mut joined = vec![Vec::new(); tables.len()];
    for fields in first {
        let rows: Option<Vec<usize>> =
            found.iter().map(|rows| rows.get(&fields).copied().flatten()).collect();
        for (of_table, row) in joined.iter_mut().zip(rows.into_iter().flatten()) {
            of_table.push(row);
        }
    }
    Ok(joined)
}

/// Repeats a job whose epochs all parties went through.
///
/// `parties` has each block's table with what its party wrote down.
///
/// # Errors
/// [`LearnError::UnknownParty`] when one is missing; [`LearnError::Data`] when the rows that a party says
/// are common are not those of a plain join, an epoch has no seed, or parties do not agree on one.
pub fn repeat(
    spec: &VerticalSpec,
    parties: &BTreeMap<Name, (Table, Replay)>,
) -> Result<Repeated, LearnError> {
    let own = spec
        .blocks
        .iter()
        .map(|block| {
            let missing = || LearnError::UnknownParty(block.party.to_string());
            parties.get(&block.party).ok_or_else(missing)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let wrong = |why: &str| LearnError::Data(why.to_owned());
    let (holder_table, holder) =
        parties.get(&spec.holder).ok_or_else(|| wrong("the label holder wrote nothing down"))?;
    let epochs = spec.epochs as usize;
    if own.iter().any(|(_, replay)| replay.orders != holder.orders) || holder.orders.len() != epochs
    {
        return Err(wrong("the parties did not go through all epochs together"));
    }
    let tables: Vec<&Table> = own.iter().map(|(table, _)| table).collect();
    let at = spec.blocks.iter().position(|block| block.party == spec.holder).unwrap_or_default();
    let joined = join(&IdentifierRule::of(spec), &tables)?;
    let places: HashMap<usize, usize> = joined
        .get(at)
        .into_iter()
        .flatten()
        .enumerate()
        .map(|(place, row)| (*row, place))
        .collect();
    // The order is the label holder's; which rows of others belong to it, the join says.
    let order: Option<Vec<usize>> =
        holder.rows.iter().map(|row| places.get(&(*row as usize)).copied()).collect();
    let order = order.filter(|order| order.len() == places.len()).ok_or_else(|| {
        wrong("the rows that the parties aligned are not those of a join of their files")
    })?;
    let mut blocks = Vec::with_capacity(own.len());
    for ((block, (table, replay)), joined) in spec.blocks.iter().zip(&own).zip(&joined) {
        let rows: Vec<usize> =
            order.iter().filter_map(|place| joined.get(*place).copied()).collect();
        if !rows.iter().copied().eq(replay.rows.iter().map(|row| *row as usize)) {
            return Err(wrong("a party aligned other rows than the label holder"));
        }
        blocks.push(features(table, block, &rows, &vec![true; rows.len()])?);
    }
    let rows: Vec<usize> = holder.rows.iter().map(|row| *row as usize).collect();
    let (targets, with_label) = targets(holder_table, spec, &rows)?;
    let trained: Vec<u32> =
        (0u32..).zip(&with_label).filter(|(_, has)| **has).map(|(row, _)| row).collect();
    let batches = trained.len().checked_div(spec.batch as usize).unwrap_or(0);
    if holder.noise.len() != epochs || holder.noise.iter().any(|own| own.len() != batches) {
        return Err(wrong("the label holder wrote down the noise of other batches"));
    }
    let weights: Vec<_> = own.iter().map(|(_, replay)| Secret::new(replay.weights.0)).collect();
    let seed = |seed: Option<&Hex32>| Secret::new(seed.map_or([0; 32], |seed| seed.0));
    let seeds = Seeds {
        weights: &weights,
        order: &|epoch| seed(holder.orders.get(epoch as usize)),
        noise: &|epoch, batch| {
            seed(holder.noise.get(epoch as usize).and_then(|own| own.get(batch as usize)))
        },
    };
    let joined = Joined { spec, blocks: &blocks, targets: &targets, trained: &trained };
    let models = joined.train(&seeds).map_err(|error| LearnError::Data(error.to_string()))?;
    Ok(Repeated { rows: rows.len(), weights: models.iter().map(|own| own.hash()).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rows_that_every_table_has_once_are_joined() {
        let table = |text: &str| Table::parse(text.as_bytes()).unwrap();
        let a = table("id,x\nA1,1\nb2,2\nc3,3\nd4,4\n,5\n");
        let b = table("y,id\n1,d4\n2,c3\n3,c3\n4,a1\n5,\n6,e5\n");
        let rule = IdentifierRule::of_columns(&["id".to_owned()]);
        assert_eq!(join(&rule, &[&a, &b]).unwrap(), [[0, 3], [3, 0]]);
        assert_eq!(join(&rule, &[&b, &a, &b]).unwrap(), [[0, 3], [3, 0], [0, 3]]);
    }

    #[test]
    fn a_model_is_named_by_all_its_parts_in_order() {
        let [a, b] = [Hash([1; 32]), Hash([2; 32])];
        let name = model_hash(&[a, b]);
        assert_eq!(name, model_hash(&[a, b]));
        assert_ne!(name, model_hash(&[b, a]));
        assert_ne!(name, model_hash(&[a]));
    }
}
