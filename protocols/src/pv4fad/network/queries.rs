//! Queries at the network: payments are asked about, and their scores are read.

use quorate_crypto::merkle::Hash;
use quorate_crypto::threshold::ThresholdScheme;
use quorate_crypto::threshold::elgamal::ElGamal;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::opening::Opening;
use super::strict::Pooled;
use super::{NetworkJob, NetworkOutput, NetworkWorld, Phase, to_bank};
use crate::machine::{Context, Fact, Output, Peer};
use crate::pv4fad::messages::{
    Account, Message, Picked, QueryAccounts, QueryFields, QueryTable, ReleaseAsk,
};
use crate::pv4fad::{Keep, MAX_QUERY_ROWS, RowId, Side, seed};
use crate::refusal::{Code, Refusal};
use crate::wire::{Name, Signed, Verified, encode};

/// A payment to score.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Asked {
    /// Its accounts, ordering side first.
    pub accounts: [Account; 2],
    /// Scores by class of the ordering side and of the beneficiary side: (L + 1) x (L + 1). Nothing
    /// in a strict job, see [`Reaching`](super::Reaching).
    pub scores: Vec<f64>,
}

/// A query: all of it while it is under way, then what came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Query {
    Open(Box<OpenQuery>),
    Scored(Scored),
    Ended(Ended),
}

/// A query under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct OpenQuery {
    pub(super) table: Verified<QueryTable>,
    asked: Vec<Asked>,
    picked: Vec<Signed<Picked>>,
    /// Where the last picks are kept.
    pub(super) last: Option<Hash>,
    pub(super) opening: Option<Opening>,
    /// Why it is not answered yet.
    pub(super) refused: Option<Refusal>,
    /// In a strict job.
    pub(super) pooled: Option<Pooled>,
}

/// An answered query. Its hashes tell a repeated message from a wrong one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Scored {
    table: Hash,
    pub(super) release: Hash,
    scores: Vec<f64>,
    /// In a strict job: the pooled counts of each payment's class.
    counts: Option<Vec<[i64; 2]>>,
}

/// A query that is not answered, ever.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Ended {
    table: Hash,
    /// What was released of it.
    release: Option<Hash>,
    why: Refusal,
}

impl Query {
    fn open(&self) -> Option<&OpenQuery> {
        match self {
            Self::Open(query) => Some(query),
            Self::Scored(_) | Self::Ended(_) => None,
        }
    }

    pub(super) fn open_mut(&mut self) -> Option<&mut OpenQuery> {
        match self {
            Self::Open(query) => Some(query),
            Self::Scored(_) | Self::Ended(_) => None,
        }
    }

    fn table(&self) -> Hash {
        match self {
            Self::Open(query) => query.table.hash(),
            Self::Scored(scored) => scored.table,
            Self::Ended(ended) => ended.table,
        }
    }

    /// The release that was opened, or that nobody opens any more.
    pub(super) const fn used_up(&self) -> Option<Hash> {
        match self {
            Self::Open(_) => None,
            Self::Scored(scored) => Some(scored.release),
            Self::Ended(ended) => ended.release,
        }
    }
}

impl OpenQuery {
    pub(super) fn new(table: Verified<QueryTable>, asked: Vec<Asked>) -> Self {
        let (picked, last, opening, refused, pooled) = Default::default();
        Self { table, asked, picked, last, opening, refused, pooled }
    }

    /// What the authority is asked when both banks picked.
    fn release_ask(&self, ordering: &Signed<Picked>, beneficiary: &Signed<Picked>) -> Message {
        let table = self.table.signed().clone();
        let (ordering, beneficiary) = (ordering.clone(), beneficiary.clone());
        let ask = ReleaseAsk { table, ordering, beneficiary };
        match &self.pooled {
            None => Message::ReleaseAsk(Box::new(ask)),
            Some(pooled) => pooled.ask(ask),
        }
    }
}

/// The values that a row's table tells apart, ascending.
fn distinct(scores: &[f64]) -> Vec<f64> {
    let mut values = scores.to_vec();
    values.sort_by(f64::total_cmp);
    values.dedup_by(|a, b| a.to_bits() == b.to_bits());
    values
}

impl NetworkJob {
    /// A query under way.
    pub(super) fn open_query(&self, query: u64) -> Option<&OpenQuery> {
        self.queries.get(&query)?.open()
    }

    /// The same, to be changed.
    pub(super) fn open_query_mut(&mut self, query: u64) -> Option<&mut OpenQuery> {
        self.queries.get_mut(&query)?.open_mut()
    }

    fn scored(&self, query: u64) -> Option<&Scored> {
        match self.queries.get(&query)? {
            Query::Scored(scored) => Some(scored),
            Query::Open(_) | Query::Ended(_) => None,
        }
    }

    /// The scores of a query, once they are opened.
    #[must_use]
    pub fn scores(&self, query: u64) -> Option<&[f64]> {
        Some(&self.scored(query)?.scores)
    }

    /// The opened pooled counts of a strict query, anomalous and normal, for each payment.
    #[must_use]
    pub fn pooled_counts(&self, query: u64) -> Option<&[[i64; 2]]> {
        self.scored(query)?.counts.as_deref()
    }

    /// Takes what was opened of a query: of all else it had nothing is needed any more.
    pub(super) fn score(
        &mut self,
        query: u64,
        release: Hash,
        opened: &[i64],
    ) -> Result<Vec<NetworkOutput>, Refusal> {
        let known = self
            .open_query(query)
            .ok_or_else(|| Refusal::new(Code::WrongState, "no such query is under way"))?;
        let (scores, counts) = match &known.pooled {
            Some(pooled) => {
                let counts = opened.as_chunks::<2>().0.to_vec();
                (Some(pooled.scores(&counts)), Some(counts))
            }
            None => {
                let indices = known.asked.iter().zip(opened).map(|(asked, index)| {
                    distinct(&asked.scores).get(usize::try_from(*index).ok()?).copied()
                });
                (indices.collect(), None)
            }
        };
        let scores =
            scores.ok_or_else(|| Refusal::new(Code::Overflow, "an entry that no table holds"))?;
        let scored = Scored { table: known.table.hash(), release, scores, counts };
        self.queries.insert(query, Query::Scored(scored));
        self.phase = Phase::Serving;
        let note = format!("query {query}");
        Ok(vec![Output::Log(Fact::of("query.scored", self.version, 0, note))])
    }

    /// A query is not answered, now or later; others are.
    pub(super) fn give_up(
        &mut self,
        query: u64,
        what: &str,
        refusal: Refusal,
    ) -> Vec<NetworkOutput> {
        let fact = Fact::of(what, self.version, 0, format!("query {query}: {refusal}"));
        self.end_query(query, refusal);
        vec![Output::Log(fact)]
    }

    /// Of a query that is not answered nothing but the reason is needed any more.
    fn end_query(&mut self, query: u64, why: Refusal) {
        if let Some(known) = self.open_query(query) {
            let release = known.opening.as_ref().map(|opening| opening.release.hash());
            let ended = Ended { table: known.table.hash(), release, why };
            self.queries.insert(query, Query::Ended(ended));
        }
    }

    /// The bank that is to pick refuses a query, or the authority does: for now, or for good.
    pub(super) fn query_refused(&mut self, query: u64, refusal: &Refusal) {
        if !matches!(refusal.code, Code::Unavailable | Code::RateLimited) {
            self.end_query(query, refusal.clone());
        } else if let Some(known) = self.open_query_mut(query) {
            known.refused = Some(refusal.clone());
        }
    }

    /// Why a query is not answered, or not yet.
    #[must_use]
    pub fn query_refusal(&self, query: u64) -> Option<&Refusal> {
        match self.queries.get(&query)? {
            Query::Open(known) => known.refused.as_ref(),
            Query::Ended(ended) => Some(&ended.why),
            Query::Scored(_) => None,
        }
    }

    /// Whether a query was asked.
    #[must_use]
    pub fn has_asked(&self, query: u64) -> bool {
        self.queries.contains_key(&query)
    }

    /// Asks for the scores of payments of one pair of banks.
    ///
    /// # Errors
    /// [`Code::WrongState`] before the version is trained, or in a strict job; [`Code::WrongLength`]
    /// for tables of another size or more than 256 payments; [`Code::UnknownParty`];
    /// [`Code::TooLarge`] for an account whose number or name is too long.
    pub fn query(
        self,
        cx: &mut Context<'_>,
        world: &NetworkWorld<'_>,
        query: u64,
        banks: [&Name; 2],
        asked: Vec<Asked>,
    ) -> Result<(Self, Vec<NetworkOutput>), Refusal> {
        let mut next = self;
        let entries = next.job.classes().saturating_mul(next.job.classes());
        let sized = asked.iter().all(|row| row.scores.len() == entries);
        asked.iter().flat_map(|row| &row.accounts).try_for_each(Account::check)?;
        next.may_ask(query, banks, asked.len(), sized)?;
        if next.job.strict {
            let why = "a strict job's tables are made of cells";
            return Err(Refusal::new(Code::WrongState, why));
        }
        let label = next.job.label("query", next.version);
        let fields = next.query_fields(cx, query, banks, asked.len());
        let values: Zeroizing<Vec<i64>> = Zeroizing::new(
            asked
                .iter()
                .flat_map(|row| {
                    let known = distinct(&row.scores);
                    let index = move |score: &f64| {
                        let same = |value: &f64| value.to_bits() == score.to_bits();
                        i64::try_from(known.iter().position(same).unwrap_or(0)).unwrap_or(0)
                    };
                    row.scores.iter().map(index).collect::<Vec<_>>()
                })
                .collect(),
        );
        let shape = next.job.table_shape(fields.rows.len());
        let mut reply = vec![0; ElGamal.reply_bytes(&shape).unwrap_or(0)];
        // The values are part of what randomness is for: of two tables under one number, neither
        // tells of the other.
        let plain = Zeroizing::new(encode(&*values));
        let parts: [&[u8]; 3] = [&label.0, &encode(&fields), &plain];
        let seed = seed(cx.identity, "quorate/pv-table-seed/2", &parts);
        let binding = next.job.table_binding(&fields);
        world
            .world
            .values
            .encrypt(&shape, &binding, &values, &seed, &mut reply)
            .map_err(|e| Refusal::new(Code::BadManifest, e.to_string()))?;
        let table = QueryTable { job: next.job.id(), version: next.version, fields, reply };
        let table = Signed::sign(table, cx.identity);
        let state = OpenQuery::new(table, asked);
        let output = next.ask_pick(cx, &state, Side::Ordering, Vec::new());
        next.queries.insert(query, Query::Open(Box::new(state)));
        Ok((next, vec![output]))
    }

    /// Whether a query of this number may be asked now.
    pub(super) fn may_ask(
        &self,
        query: u64,
        banks: [&Name; 2],
        rows: usize,
        sized: bool,
    ) -> Result<(), Refusal> {
        banks.iter().try_for_each(|bank| self.job.bank(bank).map(|_| ()))?;
        if !(1..=MAX_QUERY_ROWS).contains(&rows) || !sized {
            return Err(Refusal::new(Code::WrongLength, "1 to 256 payments with whole tables"));
        }
        if self.phase < Phase::Trained || self.phase == Phase::Failed {
            return Err(Refusal::new(Code::WrongState, "the model version is not trained"));
        }
        if self.queries.contains_key(&query) {
            return Err(Refusal::new(Code::LabelReuse, "a query of this number was asked"));
        }
        Ok(())
    }

    /// What identifies a query, with fresh row ids.
    pub(super) fn query_fields(
        &self,
        cx: &Context<'_>,
        query: u64,
        [ordering, beneficiary]: [&Name; 2],
        count: usize,
    ) -> QueryFields {
        let label = self.job.label("query", self.version);
        let drawn = seed(cx.identity, "quorate/pv-query/1", &[&label.0, &query.to_le_bytes()]);
        let mut rng = ChaCha20Rng::from_seed(*drawn.expose());
        let mut rows = vec![RowId([0; 16]); count];
        rows.iter_mut().for_each(|row| rng.fill_bytes(&mut row.0));
        QueryFields {
            version: self.version,
            query,
            ordering: ordering.clone(),
            beneficiary: beneficiary.clone(),
            rows,
        }
    }

    pub(super) fn ask_pick(
        &self,
        cx: &Context<'_>,
        query: &OpenQuery,
        side: Side,
        candidates: Vec<u8>,
    ) -> NetworkOutput {
        let fields = &query.table.fields;
        let of = |asked: &Asked| {
            let [ordering, beneficiary] = &asked.accounts;
            if side == Side::Ordering { ordering.clone() } else { beneficiary.clone() }
        };
        let accounts = QueryAccounts {
            job: self.job.id(),
            version: self.version,
            table: query.table.hash(),
            side,
            accounts: query.asked.iter().map(of).collect(),
            candidates,
        };
        let accounts = Signed::sign(accounts, cx.identity).signed().clone();
        let bank = if side == Side::Ordering { &fields.ordering } else { &fields.beneficiary };
        to_bank(bank, Message::QueryAsk(query.table.signed().clone(), accounts))
    }

    /// A bank picked: the other one is next, then the authority checks all of it and releases.
    pub(super) fn picked(
        &mut self,
        cx: &Context<'_>,
        signed: &Signed<Picked>,
    ) -> Result<Vec<NetworkOutput>, Refusal> {
        let picked = self.job.by_bank(signed)?;
        let found = self.queries.values_mut().find(|known| known.table() == picked.table);
        let found = found.ok_or_else(|| Refusal::new(Code::WrongState, "no such query is open"))?;
        let Some(known) = found.open_mut() else { return Ok(Vec::new()) };
        let fields = &known.table.fields;
        let (named, done) = match picked.side {
            Side::Ordering => (&fields.ordering, 0),
            Side::Beneficiary => (&fields.beneficiary, 1),
        };
        if *named != picked.bank {
            return Err(Refusal::new(Code::UnknownParty, "a pick of another bank"));
        }
        if known.picked.len() != done {
            return Ok(Vec::new());
        }
        known.picked.push(signed.clone());
        if picked.side == Side::Ordering {
            let known = known.clone();
            return Ok(vec![self.ask_pick(cx, &known, Side::Beneficiary, picked.ciphers.clone())]);
        }
        let keep = Keep::of(picked.ciphers.clone());
        known.last = Some(keep.hash);
        let [ordering, beneficiary] = known.picked.as_slice() else {
            return Err(Refusal::new(Code::WrongState, "picks out of order"));
        };
        let message = known.release_ask(ordering, beneficiary);
        let to = Peer::Authority(self.job.authority.name.clone());
        Ok(vec![Output::Work(keep), Output::Send { to, message }])
    }

    /// The bank that a query waits for, while one is to pick.
    #[must_use]
    pub fn query_waits_for(&self, query: u64) -> Option<Name> {
        let known = self.open_query(query)?;
        match known.picked.len() {
            0 => Some(known.table.fields.ordering.clone()),
            1 => Some(known.table.fields.beneficiary.clone()),
            _ => None,
        }
    }

    /// Asks again what a query waits for, after a refusal that may pass.
    #[must_use]
    pub fn query_again(mut self, cx: &Context<'_>, query: u64) -> (Self, Vec<NetworkOutput>) {
        let Some(known) = self.open_query_mut(query) else { return (self, Vec::new()) };
        known.refused = None;
        let known = known.clone();
        let output = match known.picked.as_slice() {
            [] => self.ask_pick(cx, &known, Side::Ordering, Vec::new()),
            [ordering, beneficiary] => Output::Send {
                to: Peer::Authority(self.job.authority.name.clone()),
                message: known.release_ask(ordering, beneficiary),
            },
            [first, ..] => {
                // It was read when it came.
                let candidates = first.peek().map(|picked| picked.ciphers).unwrap_or_default();
                self.ask_pick(cx, &known, Side::Beneficiary, candidates)
            }
        };
        (self, vec![output])
    }
}
