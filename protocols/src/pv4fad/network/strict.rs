//! Strict mode at the network: sums stay ciphertexts, and a query's table is made of them.

use serde::{Deserialize, Serialize};

use super::queries::{Asked, OpenQuery, Query};
use super::{NetworkJob, NetworkOutput, NetworkWorld, Phase, to_bank};
use crate::machine::{Context, Fact, Output};
use crate::pv4fad::forest::{ONE, PooledRule};
use crate::pv4fad::messages::{Account, Message, Opens, QueryTable, ReleaseAsk};
use crate::pv4fad::strict::{CellRows, Closed, Frozen, Pairs, PooledAsk, Reached, table_of};
use crate::pv4fad::{Keep, Side, ciphers_hash, seed};
use crate::refusal::{Code, Culprit, Refusal};
use crate::wire::{Name, Signed, Verified, encode};

/// A payment to score in a strict job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reaching {
    /// Its accounts, ordering side first.
    pub accounts: [Account; 2],
    /// For each tree the two cells of the leaf that it reaches: that of anomalous rows and that of
    /// normal ones, numbered as by [`CellAssignment`](super::CellAssignment).
    pub leaves: Vec<[u16; 2]>,
    /// The network's own score of it, a probability with
    /// [`SCORE_BITS`](crate::pv4fad::forest::SCORE_BITS) fractional bits.
    pub own: u64,
}

/// What a strict query has besides its accounts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Pooled {
    reached: Verified<Reached>,
    /// For each payment the rows in its cells: anomalous, normal.
    rows: Vec<[u64; 2]>,
    /// The network's own scores.
    own: Vec<u64>,
    rule: PooledRule,
}

impl NetworkJob {
    /// Rows of every cell that count, as the authority counts them in the evidence.
    fn cell_rows(&self, world: &NetworkWorld<'_>) -> CellRows {
        let mut rows = CellRows::new(&self.job);
        for bank in &self.job.banks {
            if !self.is_complete(world, Side::Beneficiary, &bank.party) {
                continue;
            }
            for part in 0..world.layout.count(&bank.party, Side::Beneficiary) {
                let cells = self.cells(world, &bank.party, part);
                for (tree, cells) in cells.chunks(self.job.part_len()).enumerate() {
                    rows.add(&self.job, tree, cells.iter().copied());
                }
            }
        }
        rows
    }

    /// S2 at the network: the authority froze the sums that were computed here; the version is trained,
    /// and every bank is told.
    pub(super) fn frozen(
        &mut self,
        world: &NetworkWorld<'_>,
        signed: &Signed<Frozen>,
    ) -> Result<Vec<NetworkOutput>, Refusal> {
        let record = self.job.by_authority(signed)?;
        self.is_of_version(record.version)?;
        if self.closed.as_ref().is_some_and(|known| known.record.hash() == record.hash()) {
            return Ok(Vec::new());
        }
        let own = self.summed.as_ref().map(Verified::hash);
        let waits = self.job.strict && self.phase == Phase::Summed && self.frozen;
        if !waits || own != Some(record.summed) {
            return Err(Refusal::new(Code::WrongState, "no frozen sums are waited for"));
        }
        let sums = self.total(world)?;
        if ciphers_hash(&sums) != record.sums {
            return Err(Refusal::new(Code::WrongLabel, "the authority froze other sums")
                .blaming(Culprit::Authority(self.job.authority.name.clone())));
        }
        let (sums, rows) = (Keep::of(sums), self.cell_rows(world).keep());
        self.closed = Some(Closed { record, sums: sums.hash, rows: rows.hash });
        self.phase = Phase::Trained;
        let mut outputs = vec![Output::Log(Fact::of("version.trained", self.version, 0, "closed"))];
        outputs.extend([sums, rows].map(Output::Work));
        let tell = |bank: &Name| to_bank(bank, Message::Frozen(signed.clone()));
        outputs.extend(self.present().iter().map(tell));
        Ok(outputs)
    }

    /// Asks for the scores of payments of one pair of banks in a strict job.
    ///
    /// # Errors
    /// [`Code::WrongState`] before the version is frozen or in a job that opens its counts;
    /// [`Code::WrongLength`] for leaves that there are not or more than 256 payments;
    /// [`Code::UnknownParty`]; [`Code::TooLarge`] for an account whose number or name is too long.
    pub fn query_pooled(
        self,
        cx: &mut Context<'_>,
        world: &NetworkWorld<'_>,
        query: u64,
        banks: [&Name; 2],
        asked: Vec<Reaching>,
        rule: PooledRule,
    ) -> Result<(Self, Vec<NetworkOutput>), Refusal> {
        let mut next = self;
        let trees = usize::from(next.job.trees);
        let sized = asked.iter().all(|row| row.leaves.len() == trees);
        asked.iter().flat_map(|row| &row.accounts).try_for_each(Account::check)?;
        next.may_ask(query, banks, asked.len(), sized)?;
        let not_closed = || Refusal::new(Code::WrongState, "no tables of this version are closed");
        let closed = next.closed.as_ref().ok_or_else(not_closed)?;
        let fields = next.query_fields(cx, query, banks, asked.len());
        let cells = random_cells(world, &asked)?;
        let Pairs { ciphers, rows } = closed.pairs(&next.job, &world.world, &cells)?;
        // The cells are part of what randomness is for: of two tables under one number, neither tells
        // of the other.
        let (label, said) = (next.job.label("query", next.version), encode(&fields));
        let parts: [&[u8]; 3] = [&label.0, &said, &encode(&cells)];
        let seed = *seed(cx.identity, "quorate/pv-refresh-seed/1", &parts).expose();
        let reply = table_of(&next.job, world.world.key, &fields, &ciphers, &seed);
        let (job, version) = (next.job.id(), next.version);
        let table = Signed::sign(QueryTable { job, version, fields, reply }, cx.identity);
        let reached = Reached { job, version, table: table.hash(), cells, seed };
        let reached = Signed::sign(reached, cx.identity);
        let own = asked.iter().map(|row| row.own).collect();
        let only = |row: Reaching| Asked { accounts: row.accounts, scores: Vec::new() };
        let mut state = OpenQuery::new(table, asked.into_iter().map(only).collect());
        state.pooled = Some(Pooled { reached, rows, own, rule });
        let output = next.ask_pick(cx, &state, Side::Ordering, Vec::new());
        next.queries.insert(query, Query::Open(Box::new(state)));
        Ok((next, vec![output]))
    }

    /// S5 at the network: what is released of a strict query is of the sums that were frozen.
    pub(super) fn is_of_frozen(&self, opens: &Opens) -> Result<(), Refusal> {
        let Opens::Pooled { frozen, .. } = opens else { return Ok(()) };
        let own = self.closed.as_ref().map(|closed| closed.record.hash());
        if own == Some(*frozen) {
            return Ok(());
        }
        Err(Refusal::new(Code::WrongLabel, "pairs of other sums than were frozen")
            .blaming(Culprit::Authority(self.job.authority.name.clone())))
    }

    /// What opened pairs may hold: no more than the rows of their cells, and all noise.
    pub(super) fn pooled_range(&self, query: u64) -> core::ops::RangeInclusive<i64> {
        let pooled = self.open_query(query).and_then(|known| known.pooled.as_ref());
        let rows = pooled.into_iter().flat_map(|pooled| pooled.rows.as_flattened());
        let most = rows.copied().max().unwrap_or(0).saturating_add(self.job.pooled_room());
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        most.saturating_neg()..=most
    }

    /// A query whose pairs lie outside their range is not answered: a bank's noise or bits were none.
    pub(super) fn unreadable(&mut self, query: u64, refusal: Refusal) -> Vec<NetworkOutput> {
        self.give_up(query, "query.unreadable", refusal)
    }
}

impl Pooled {
    /// What the authority is asked when both banks picked.
    pub(super) fn ask(&self, ask: ReleaseAsk) -> Message {
        let reached = self.reached.signed().clone();
        Message::PooledAsk(Box::new(PooledAsk { ask, reached }))
    }

    /// The scores of payments whose pairs are open.
    pub(super) fn scores(&self, counts: &[[i64; 2]]) -> Vec<f64> {
        let pairs = self.own.iter().zip(counts.iter().zip(&self.rows));
        let score = |(own, (pair, rows)): (&u64, (&[i64; 2], &[u64; 2]))| {
            self.rule.score(*own, *pair, *rows) as f64 / ONE as f64
        };
        pairs.map(score).collect()
    }
}

/// Cells under the random numbers of the version, row by row in the order of its random trees.
fn random_cells(world: &NetworkWorld<'_>, asked: &[Reaching]) -> Result<Vec<u16>, Refusal> {
    let mut cells = Vec::new();
    for row in asked {
        for tree in world.layout.trees.iter().map(|tree| usize::from(*tree)) {
            let leaf = row.leaves.get(tree).into_iter().flatten();
            let random = world.layout.cells.get(tree).map_or(&[][..], Vec::as_slice);
            for cell in leaf {
                let random = random.get(usize::from(*cell)).copied();
                cells.push(
                    random.ok_or_else(|| {
                        Refusal::new(Code::WrongLength, "a tree has no such cell")
                    })?,
                );
            }
        }
    }
    Ok(cells)
}
