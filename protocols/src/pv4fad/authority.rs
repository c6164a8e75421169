//! The authority's side: it recomputes the cell sums from what banks signed, approves noise shares,
//! releases each model version once, and keeps the log of queries.

mod strict;

use std::collections::{BTreeMap, BTreeSet};

use quorate_crypto::merkle::Hash;
use quorate_crypto::sum::SchemeError;
use quorate_crypto::threshold::KeySecret;
use quorate_crypto::threshold::elgamal::choice::{CIPHERTEXT_BYTES, ChoiceError, Chosen, Ciphers};
use serde::{Deserialize, Serialize};

use super::letters::Close;
use super::messages::{
    Evidence, FlagPart, FreezeAsk, Message, NO_CELL, NoiseShare, Opens, Partial, Picked,
    QueryTable, Release, ReleaseAsk, SumAsk, Summed, assignment_hash,
};
use super::strict::{CellRows, Closed, Reached};
use super::{
    Job, Keep, MAX_QUERY_ROWS, RowId, Side, World, bad_ciphertext, blob_hash, ciphers_hash,
    reply_ciphers, rows_hash, seed,
};
use crate::checks::{Check, holds};
use crate::machine::{Bug, Context, Fact, Output, Peer};
use crate::refusal::{Code, Culprit, Refusal};
use crate::wire::{Name, Signed, Verified, decode, encode};

/// An output of this machine.
pub type AuthorityOutput = Output<Message, Keep>;

/// What the authority uses besides its state.
#[derive(Clone, Copy)]
pub struct AuthorityWorld<'a> {
    /// Key and kept bytes.
    pub world: World<'a>,
    /// The mandatory share of the key.
    pub share: &'a KeySecret,
}

/// One model version.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Version {
    summed: Verified<Summed>,
    /// Where the sums' ciphertexts are kept.
    sums: Hash,
    release: Option<Released>,
    /// In a strict job: where the rows of every cell are kept.
    rows: Option<Hash>,
    /// In a strict job, instead of a release: for which request it was frozen, and how.
    closed: Option<(Hash, Closed)>,
}

/// What was released, and for which request.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Released {
    asked: Hash,
    release: Verified<Release>,
    /// Where the opened ciphertexts are kept.
    ciphers: Hash,
}

/// Payments scored so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct QueryLog {
    rows: BTreeSet<RowId>,
    window: u64,
    in_window: u32,
}

/// One payments job at the authority.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuthorityJob {
    job: Job,
    versions: BTreeMap<u32, Version>,
    queries: BTreeMap<u64, Released>,
    log: QueryLog,
    /// Evidence and noise shares that are kept.
    kept: BTreeSet<Hash>,
    /// Their bytes.
    kept_bytes: u64,
    /// Whether the network ended the job: nothing is known of it any more, and nothing is done.
    over: bool,
}

/// Sums that were recomputed, and the banks in them.
struct Recomputed {
    sums: Ciphers,
    members: BTreeSet<Name>,
    rows: u64,
    cells: CellRows,
}

impl AuthorityJob {
    /// A job that nothing was asked of.
    #[must_use]
    pub fn new(job: Job) -> Self {
        let (versions, queries, log, kept, kept_bytes, over) = Default::default();
        Self { job, versions, queries, log, kept, kept_bytes, over }
    }

    /// The network ends the job: all that is known of it goes, and nothing is answered from now on. The
    /// driver erases what is kept and the share of the key in the commit that stores this.
    ///
    /// # Errors
    /// [`Code::BadSignature`], [`Code::UnknownJob`], [`Code::TooLarge`].
    pub fn end(self, close: &Signed<Close>) -> Result<Self, Refusal> {
        self.job.closed(close)?;
        Ok(Self { over: true, ..Self::new(self.job) })
    }

    /// Whether the network ended the job.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.over
    }

    /// Handles a message of the network.
    ///
    /// # Errors
    /// None: a wrong message is refused.
    pub fn handle(
        self,
        cx: &mut Context<'_>,
        world: &AuthorityWorld<'_>,
        message: &Message,
    ) -> Result<(Self, Vec<AuthorityOutput>), Bug> {
        let mut next = self.clone();
        let outcome = match message {
            _ if self.over => Err(Refusal::new(Code::WrongState, "the job is over")),
            // Kept unread: what it says is checked when it is named.
            Message::Evidence(evidence) => {
                next.keep(encode(evidence.as_ref()), self.job.evidence_bytes())
            }
            Message::NoiseShare(share) => next.keep(encode(share), self.job.share_bytes()),
            Message::SumAsk(ask) => next.sum(cx, world, ask),
            Message::FreezeAsk(ask) => next.freeze(cx, world, ask),
            Message::ReleaseAsk(ask) => next.query(cx, world, ask, None),
            Message::PooledAsk(ask) => next.query(cx, world, &ask.ask, Some(&ask.reached)),
            other => {
                Err(Refusal::new(Code::WrongState, format!("an authority takes no {other:?}")))
            }
        };
        Ok(match outcome {
            Ok(outputs) => (next, outputs),
            Err(refusal) => {
                let fact = Fact::job("refused", refusal.to_string());
                let refused = self.job.refused(cx, &self.job.authority.name, message, &refusal);
                let answer = self.to_network(refused);
                (self, vec![Output::Log(fact), Output::Reject(refusal), answer])
            }
        })
    }

    /// The answer to a message whose step could not be stored, such as for a spent budget.
    #[must_use]
    pub fn refuse(
        &self,
        cx: &Context<'_>,
        message: &Message,
        refusal: &Refusal,
    ) -> AuthorityOutput {
        self.to_network(self.job.refused(cx, &self.job.authority.name, message, refusal))
    }

    fn to_network(&self, message: Message) -> AuthorityOutput {
        Output::Send { to: Peer::Party(self.job.network.party.clone()), message }
    }

    /// Keeps what will be named, as much as the job's rows can need: a piece of at most `most` bytes.
    fn keep(&mut self, bytes: Vec<u8>, most: u64) -> Result<Vec<AuthorityOutput>, Refusal> {
        let length = bytes.len() as u64;
        let keep = Keep::of(bytes);
        if !self.kept.contains(&keep.hash) {
            let all = self.kept_bytes.saturating_add(length);
            let pieces = self.kept.len() as u64;
            if length > most || pieces >= self.job.most_kept() || all > self.job.most_kept_bytes() {
                let why = "more evidence than the job's rows can need";
                return Err(self.blame(Code::TooLarge, why));
            }
            self.kept.insert(keep.hash);
            self.kept_bytes = all;
        }
        Ok(vec![Output::Work(keep)])
    }

    fn blame(&self, code: Code, why: impl Into<String>) -> Refusal {
        Refusal::new(code, why).blaming(self.job.network_culprit())
    }

    fn sum(
        &mut self,
        cx: &Context<'_>,
        world: &AuthorityWorld<'_>,
        signed: &Signed<SumAsk>,
    ) -> Result<Vec<AuthorityOutput>, Refusal> {
        let ask = self.job.by_network(signed)?;
        // W5: what is added up was logged before, and is the only assignment of its version.
        let logged = self.job.by_aggregator(&ask.logged)?;
        let hash = assignment_hash(&self.job.id(), ask.version, &ask.salt, &ask.evidence);
        if logged.version != ask.version || logged.hash != hash {
            return Err(self.blame(Code::NotFrozen, "this is not the logged assignment"));
        }
        if let Some(known) = self.versions.get(&ask.version) {
            if known.summed.assigned != hash {
                return Err(self.blame(Code::LabelUsed, "this version has other sums already"));
            }
            return Ok(vec![self.to_network(Message::Summed(known.summed.signed().clone()))]);
        }
        let Recomputed { sums, members, rows, cells } = self.recompute(&world.world, &ask)?;
        let count = u32::try_from(members.len()).unwrap_or(u32::MAX);
        if !holds(Check::Floor, count >= self.job.floor()) {
            return Err(Refusal::new(Code::SetTooSmall, "fewer banks behind the sums than r_min"));
        }
        let keep = Keep::of(sums.to_bytes());
        let summed = Summed {
            job: self.job.id(),
            version: ask.version,
            assigned: hash,
            sums: ciphers_hash(&keep.bytes),
        };
        let summed = Signed::sign(summed, cx.identity);
        let answer = self.to_network(Message::Summed(summed.signed().clone()));
        let note = format!("{rows} rows of {count} banks");
        let fact = Output::Log(Fact::of("cells.summed", ask.version, 0, note));
        let sizes = self.job.strict.then(|| cells.keep());
        let version = Version {
            summed,
            sums: keep.hash,
            release: None,
            rows: sizes.as_ref().map(|keep| keep.hash),
            closed: None,
        };
        self.versions.insert(ask.version, version);
        let mut outputs = vec![fact, Output::Work(keep)];
        outputs.extend(sizes.map(Output::Work));
        outputs.push(answer);
        Ok(outputs)
    }

    /// W6, W7: every part that counts is signed by its bank and proven; every input is the ordering
    /// bank's ciphertext of the same row; every row is once in each tree; then the sums. Behind them
    /// stand the banks, of either side, of rows that are in a cell: a bank none of whose bits is added
    /// hides nobody.
    fn recompute(&self, world: &World<'_>, ask: &SumAsk) -> Result<Recomputed, Refusal> {
        let bits = usize::from(self.job.class_bits);
        let mut recomputed = Recomputed {
            sums: Ciphers::empty(self.job.coordinates()),
            members: BTreeSet::new(),
            rows: 0,
            cells: CellRows::new(&self.job),
        };
        let mut ordering = BTreeMap::new();
        let mut counted: BTreeSet<RowId> = BTreeSet::new();
        let mut parts: BTreeSet<(Name, Side, u16)> = BTreeSet::new();
        for hash in &ask.evidence {
            let bytes = world.blob(hash)?;
            let evidence = decode::<Evidence>(&bytes)
                .map_err(|refusal| refusal.blaming(self.job.network_culprit()))?;
            let (side, signed, rows) = match &evidence {
                Evidence::Ordering { rows, part } => (Side::Ordering, part, rows),
                Evidence::Beneficiary { rows, part, .. } => (Side::Beneficiary, part, rows),
            };
            let part = self.flag_part(ask.version, side, signed, rows)?;
            if !parts.insert((part.bank.clone(), part.side, part.part)) {
                return Err(self.blame(Code::Duplicate, "a part is twice in the assignment"));
            }
            match &evidence {
                Evidence::Ordering { rows, .. } => {
                    let bindings = self.job.bit_bindings(ask.version, side, &part.bank, rows);
                    let chosen =
                        Chosen { ciphers: part.ciphers.clone(), proofs: part.proofs.clone() };
                    world.key.check_bits(&bindings, &chosen).map_err(|error| {
                        bad_ciphertext(&error, Culprit::Party(part.bank.clone()))
                    })?;
                    let row_bytes = bits.saturating_mul(CIPHERTEXT_BYTES);
                    for (row, ciphers) in rows.iter().zip(part.ciphers.chunks(row_bytes)) {
                        let bank = self.job.holder(&part.bank).unwrap_or(0);
                        if ordering.insert(*row, (ciphers_hash(ciphers), bank)).is_some() {
                            return Err(self.blame(
                                Code::Duplicate,
                                format!("row {row:?} has two ordering sides"),
                            ));
                        }
                    }
                }
                Evidence::Beneficiary { rows, inputs, cells, .. } => {
                    let used = Used { rows, inputs, cells };
                    self.add_part(
                        world,
                        ask.version,
                        &part,
                        &used,
                        &ordering,
                        &mut counted,
                        &mut recomputed,
                    )?;
                }
            }
        }
        // Numbers of ordering banks of rows that count.
        let behind = counted.iter().filter_map(|row| ordering.get(row)).map(|(_, bank)| *bank);
        let behind: BTreeSet<u32> = behind.collect();
        let named = |bank: &u32| self.job.banks.get(usize::try_from(*bank).ok()?.checked_sub(1)?);
        let named = behind.iter().filter_map(named).map(|bank| bank.party.clone());
        recomputed.members.extend(named);
        recomputed.rows = counted.len() as u64;
        if recomputed.rows > self.job.max_rows {
            return Err(self.blame(Code::WrongLength, "more rows than the job allows"));
        }
        Ok(recomputed)
    }

    /// W6: a part as its bank signed it, of this version, side and rows.
    fn flag_part(
        &self,
        version: u32,
        side: Side,
        signed: &Signed<FlagPart>,
        rows: &[RowId],
    ) -> Result<Verified<FlagPart>, Refusal> {
        // The network signed the request that names it: a part that no bank signed is its own.
        let part = self
            .job
            .by_bank(signed)
            .map_err(|refusal| refusal.blaming(self.job.network_culprit()))?;
        let right = part.version == version && part.side == side && part.rows == rows_hash(rows);
        if !right || rows.len() != self.job.part_len() {
            return Err(self.blame(Code::WrongLabel, "a part of another version, side or rows"));
        }
        Ok(part)
    }

    /// Checks the rows of a beneficiary's part that count, and adds them to their cells.
    #[expect(clippy::too_many_arguments, reason = "the running state of one pass")]
    fn add_part(
        &self,
        world: &World<'_>,
        version: u32,
        part: &FlagPart,
        used: &Used<'_>,
        ordering: &BTreeMap<RowId, (Hash, u32)>,
        counted: &mut BTreeSet<RowId>,
        recomputed: &mut Recomputed,
    ) -> Result<(), Refusal> {
        let bits = usize::from(self.job.class_bits);
        let row_bytes = bits.saturating_mul(CIPHERTEXT_BYTES);
        let bank = Culprit::Party(part.bank.clone());
        let length = self.job.part_len();
        let proof_bytes = part.proofs.len().checked_div(length).unwrap_or(0).max(1);
        if used.cells.len() != length.saturating_mul(usize::from(self.job.trees))
            || used.inputs.len() != length.saturating_mul(row_bytes)
            || part.inputs != ciphers_hash(used.inputs)
        {
            return Err(self.blame(Code::WrongLength, "inputs or cells of another part"));
        }
        if part.ciphers.len() != used.inputs.len() || !part.proofs.len().is_multiple_of(length) {
            let why = "a part of another length";
            return Err(Refusal::new(Code::WrongLength, why).blaming(bank));
        }
        let trees = used.cells.chunks_exact(length);
        let counts =
            |row: usize| trees.clone().map(move |tree| tree.get(row).copied().unwrap_or(NO_CELL));
        let mut places = Vec::new();
        for (place, row) in used.rows.iter().enumerate() {
            let cells = counts(place).filter(|cell| *cell != NO_CELL).count();
            if cells == 0 {
                continue;
            }
            if cells != usize::from(self.job.trees)
                || counts(place).any(|cell| cell >= self.job.cells)
            {
                return Err(self.blame(Code::WrongLength, "a row has a cell of no tree"));
            }
            // W7
            if !counted.insert(*row) {
                return Err(
                    self.blame(Code::Duplicate, format!("row {row:?} is twice in one tree"))
                );
            }
            places.push(place);
        }
        let pick = |bytes: &[u8], size: usize| -> Vec<u8> {
            let rows = bytes.chunks_exact(size).collect::<Vec<_>>();
            places.iter().filter_map(|place| rows.get(*place)).copied().flatten().copied().collect()
        };
        let inputs = pick(used.inputs, row_bytes);
        for (row, input) in
            places.iter().filter_map(|place| used.rows.get(*place)).zip(inputs.chunks(row_bytes))
        {
            if ordering.get(row).map(|(hash, _)| *hash) != Some(ciphers_hash(input)) {
                let why =
                    format!("row {row:?} was given another ciphertext than its ordering bank's");
                return Err(self.blame(Code::BadCiphertext, why));
            }
        }
        if !places.is_empty() {
            recomputed.members.insert(part.bank.clone());
        }
        let rows: Vec<RowId> =
            places.iter().filter_map(|place| used.rows.get(*place)).copied().collect();
        let bindings = self.job.bit_bindings(version, Side::Beneficiary, &part.bank, &rows);
        let chosen = Chosen {
            ciphers: pick(&part.ciphers, row_bytes),
            proofs: pick(&part.proofs, proof_bytes),
        };
        let ciphers = world
            .key
            .check_or(&bindings, &inputs, &chosen)
            .map_err(|error| bad_ciphertext(&original_index(error, &places, bits), bank))?;
        for (tree, cells) in trees.enumerate() {
            let cells: Vec<Option<u16>> =
                places.iter().map(|place| cells.get(*place).copied()).collect();
            let base = tree.saturating_mul(self.job.tree_width());
            recomputed.cells.add(&self.job, tree, cells.iter().copied().flatten());
            recomputed
                .sums
                .add_rows(base, &cells, &ciphers, bits)
                .map_err(|error| bad_ciphertext(&error, self.job.network_culprit()))?;
        }
        Ok(())
    }

    /// W9, W10: at least r_min noise shares, each signed and proven by its bank for these sums; one
    /// release per version.
    fn freeze(
        &mut self,
        cx: &Context<'_>,
        world: &AuthorityWorld<'_>,
        signed: &Signed<FreezeAsk>,
    ) -> Result<Vec<AuthorityOutput>, Refusal> {
        let ask = self.job.by_network(signed)?;
        let content = crate::wire::encode(&(&ask.summed, &ask.shares));
        let asked = blob_hash(&content);
        let version = self
            .versions
            .get(&ask.version)
            .filter(|version| version.summed.hash() == ask.summed)
            .ok_or_else(|| Refusal::new(Code::NotFrozen, "no such sums were signed here"))?;
        if let Some(released) = &version.release {
            // W10
            if !holds(Check::OneOpening, released.asked == asked) {
                return Err(self.blame(Code::Difference, "this model version was opened already"));
            }
            return self.answer(cx, world, released, Vec::new());
        }
        if let Some((known, closed)) = &version.closed {
            // S1
            if !holds(Check::OneOpening, *known == asked) {
                return Err(self.blame(Code::Difference, "this model version was frozen already"));
            }
            let record = closed.record.signed().clone();
            return Ok(vec![self.to_network(Message::Frozen(record))]);
        }
        let count = u32::try_from(ask.shares.len()).unwrap_or(u32::MAX);
        if !holds(Check::Floor, count >= self.job.floor()) {
            return Err(Refusal::new(Code::SetTooSmall, "fewer noise shares than r_min"));
        }
        let sums = world.world.blob(&version.sums)?;
        let mut total = Ciphers::decode_sums(&sums).map_err(|error| self.own(&error))?;
        let mut shares: Vec<(Name, Hash)> = Vec::with_capacity(ask.shares.len());
        for hash in &ask.shares {
            let share = decode::<Signed<NoiseShare>>(&world.world.blob(hash)?)?;
            // W9: the network signed the request that names it, so a share that no bank signed is
            // its own.
            let share = self
                .job
                .by_bank(&share)
                .map_err(|refusal| refusal.blaming(self.job.network_culprit()))?;
            if share.summed != ask.summed || share.version != ask.version {
                return Err(self.blame(Code::WrongLabel, "a noise share for other sums"));
            }
            if shares.last().is_some_and(|(last, _)| *last >= share.bank) {
                return Err(self.blame(Code::Duplicate, "noise shares are not sorted and distinct"));
            }
            let bank = || Culprit::Party(share.bank.clone());
            let binding = self.job.noise_binding(ask.version, &ask.summed, &share.bank);
            world
                .world
                .values
                .verify_reply(&self.job.noise_shape(), &binding, &share.reply)
                .map_err(|e| Refusal::new(Code::BadCiphertext, e.to_string()).blaming(bank()))?;
            let noise = reply_ciphers(&share.reply, self.job.coordinates());
            let noise = Ciphers::decode(noise).map_err(|error| bad_ciphertext(&error, bank()))?;
            total.add(&noise).map_err(|error| bad_ciphertext(&error, bank()))?;
            shares.push((share.bank.clone(), *hash));
        }
        let keep = Keep::of(total.to_bytes());
        if self.job.strict {
            return self.close(cx, ask.version, ask.summed, shares, keep, asked);
        }
        let opens = Opens::Model { summed: ask.summed, shares };
        let released = self.release(cx, ask.version, opens, &keep, asked);
        let mut outputs: Vec<_> =
            self.job.charge(ask.version).map(Output::Charge).into_iter().collect();
        let note = format!("{count} noise shares");
        outputs.push(Output::Log(Fact::of("cells.released", ask.version, 0, note)));
        outputs.push(Output::Work(keep));
        let number = ask.version;
        let outputs = self.answer_with(cx, world, &released, &total, outputs)?;
        if let Some(version) = self.versions.get_mut(&number) {
            version.release = Some(released);
        }
        Ok(outputs)
    }

    fn own(&self, error: &ChoiceError) -> Refusal {
        Refusal::new(Code::Unavailable, error.to_string())
    }

    fn release(
        &self,
        cx: &Context<'_>,
        version: u32,
        opens: Opens,
        keep: &Keep,
        asked: Hash,
    ) -> Released {
        let ciphers = ciphers_hash(&keep.bytes);
        let release = Release { job: self.job.id(), version, opens, ciphers };
        Released { asked, release: Signed::sign(release, cx.identity), ciphers: keep.hash }
    }

    /// The answer of before, to the byte.
    fn answer(
        &self,
        cx: &Context<'_>,
        world: &AuthorityWorld<'_>,
        released: &Released,
        outputs: Vec<AuthorityOutput>,
    ) -> Result<Vec<AuthorityOutput>, Refusal> {
        let bytes = world.world.blob(&released.ciphers)?;
        let ciphers = Ciphers::decode_sums(&bytes).map_err(|error| self.own(&error))?;
        self.answer_with(cx, world, released, &ciphers, outputs)
    }

    /// The release and the authority's partial decryption, which the driver seals to the network.
    fn answer_with(
        &self,
        cx: &Context<'_>,
        world: &AuthorityWorld<'_>,
        released: &Released,
        ciphers: &Ciphers,
        mut outputs: Vec<AuthorityOutput>,
    ) -> Result<Vec<AuthorityOutput>, Refusal> {
        let hash = released.release.hash();
        let seed = seed(cx.identity, "quorate/pv-partial-seed/1", &[&hash.0]);
        let bytes = world
            .world
            .key
            .partial(&hash.0, ciphers, world.share, &seed)
            .map_err(|error: SchemeError| Refusal::new(Code::BadKey, error.to_string()))?;
        let partial = Partial {
            job: self.job.id(),
            version: released.release.version,
            bank: self.job.authority.name.clone(),
            release: hash,
            bytes,
        };
        let partial = Signed::sign(partial, cx.identity).signed().clone();
        outputs
            .push(self.to_network(Message::Released(released.release.signed().clone(), partial)));
        Ok(outputs)
    }

    /// W14, W15: a table whose plaintexts the network knows, picked from by both banks, of rows
    /// that were not asked about, within the limits. In a strict job (S4, S5) one that the cells
    /// `reached` make.
    fn query(
        &mut self,
        cx: &Context<'_>,
        world: &AuthorityWorld<'_>,
        ask: &ReleaseAsk,
        reached: Option<&Signed<Reached>>,
    ) -> Result<Vec<AuthorityOutput>, Refusal> {
        let table = self.job.by_network(&ask.table)?;
        let fields = &table.fields;
        let version = self.versions.get(&table.version);
        let closed = version.and_then(|v| v.closed.as_ref()).map(|(_, v)| v.record.hash());
        let trained = version.is_some_and(|v| v.release.is_some() || v.closed.is_some());
        if !trained || fields.version != table.version {
            return Err(Refusal::new(Code::WrongState, "no such model version is trained"));
        }
        if self.job.strict != reached.is_some() {
            let why = "in a strict job, and in no other, a query names cells";
            return Err(self.blame(Code::WrongState, why));
        }
        let picks = (ask.table.hash(), ask.ordering.hash(), ask.beneficiary.hash());
        let mut content = encode(&picks);
        content.extend(reached.iter().flat_map(|reached| reached.hash().0));
        let asked = blob_hash(&content);
        if let Some(known) = self.queries.get(&fields.query) {
            if !holds(Check::OneOpening, known.asked == asked) {
                return Err(self.blame(Code::Difference, "this query was opened already"));
            }
            return self.answer(cx, world, known, Vec::new());
        }
        let rows = fields.rows.len();
        if !(1..=MAX_QUERY_ROWS).contains(&rows) {
            return Err(self.blame(Code::WrongLength, "a query has 1 to 256 rows"));
        }
        self.log_query(cx.now_ms, &fields.rows)?;
        if let Some(reached) = reached {
            self.check_table(world, &table, reached)?;
        } else {
            let shape = self.job.table_shape(rows);
            let binding = self.job.table_binding(fields);
            let checked = world.world.values.verify_reply(&shape, &binding, &table.reply);
            let why = |e| self.blame(Code::BadCiphertext, format!("the network's table: {e}"));
            checked.map_err(why)?;
        }
        let lanes = self.job.lanes();
        let width = self.job.classes().saturating_mul(lanes);
        let candidates = self.job.candidates(&table.reply, rows);
        let first =
            self.picked(world, &table, Side::Ordering, &ask.ordering, &candidates, width)?;
        let last =
            self.picked(world, &table, Side::Beneficiary, &ask.beneficiary, &first, lanes)?;
        let ciphers = Ciphers::decode(&last).map_err(|error| self.own(&error))?;
        let keep = Keep::of(last);
        let (query, hash) = (fields.query, ask.table.hash());
        let opens = match closed {
            Some(frozen) => Opens::Pooled { query, table: hash, frozen },
            None => Opens::Query { query, table: hash },
        };
        let released = self.release(cx, table.version, opens, &keep, asked);
        let note = format!("query {}: {rows} rows", fields.query);
        let outputs = vec![
            Output::Log(Fact::of("query.released", table.version, 0, note)),
            Output::Work(keep),
        ];
        let outputs = self.answer_with(cx, world, &released, &ciphers, outputs)?;
        self.queries.insert(fields.query, released);
        Ok(outputs)
    }

    /// W15: no row twice, no more than the job allows in all and in this window.
    fn log_query(&mut self, now_ms: u64, rows: &[RowId]) -> Result<(), Refusal> {
        let limits = self.job.queries;
        let window = now_ms.checked_div(limits.window_ms).unwrap_or(0);
        // A clock that goes back opens no new window.
        if window > self.log.window {
            (self.log.window, self.log.in_window) = (window, 0);
        }
        for row in rows {
            if !self.log.rows.insert(*row) {
                return Err(
                    self.blame(Code::Duplicate, format!("row {row:?} was asked about before"))
                );
            }
        }
        let more = u32::try_from(rows.len()).unwrap_or(u32::MAX);
        self.log.in_window = self.log.in_window.saturating_add(more);
        if self.log.rows.len() as u64 > limits.total {
            return Err(Refusal::new(
                Code::BudgetSpent,
                "all payments of the job were asked about",
            ));
        }
        if self.log.in_window > limits.per_window {
            return Err(Refusal::new(Code::RateLimited, "ask again in the next window"));
        }
        Ok(())
    }

    /// What one bank picked, row by row.
    fn picked(
        &self,
        world: &AuthorityWorld<'_>,
        table: &Verified<QueryTable>,
        side: Side,
        signed: &Signed<Picked>,
        candidates: &[u8],
        width: usize,
    ) -> Result<Vec<u8>, Refusal> {
        let picked = self
            .job
            .by_bank(signed)
            .map_err(|refusal| refusal.blaming(self.job.network_culprit()))?;
        let fields = &table.fields;
        let named = match side {
            Side::Ordering => &fields.ordering,
            Side::Beneficiary => &fields.beneficiary,
        };
        if picked.table != table.hash() || picked.side != side || picked.bank != *named {
            return Err(self.blame(Code::WrongLabel, "a pick of another query, side or bank"));
        }
        let classes = self.job.classes();
        let wrong = || {
            Refusal::new(Code::WrongLength, "picks of another length")
                .blaming(Culprit::Party(picked.bank.clone()))
        };
        let rows = fields.rows.len().max(1);
        let (out, row) =
            (width.saturating_mul(CIPHERTEXT_BYTES), CIPHERTEXT_BYTES * width * classes);
        let proof = picked.proofs.len().checked_div(rows).unwrap_or(0).max(1);
        let fits = picked.ciphers.len() == rows.saturating_mul(out)
            && picked.proofs.len() == rows.saturating_mul(proof)
            && candidates.len() == rows.saturating_mul(row);
        if !fits {
            return Err(wrong());
        }
        let each = picked.ciphers.chunks(out).zip(picked.proofs.chunks(proof));
        for ((id, candidates), (ciphers, proofs)) in
            fields.rows.iter().zip(candidates.chunks(row)).zip(each)
        {
            let binding = self.job.pick_binding(&table.hash(), side, &picked.bank, id);
            let chosen = Chosen { ciphers: ciphers.to_vec(), proofs: proofs.to_vec() };
            world.world.key.check_select(&binding, candidates, classes, &chosen).map_err(
                |error| {
                    let why = format!("row {id:?}: {error}");
                    Refusal::new(Code::BadCiphertext, why)
                        .blaming(Culprit::Party(picked.bank.clone()))
                },
            )?;
        }
        Ok(picked.ciphers.clone())
    }
}

/// What the network says of a beneficiary's part.
struct Used<'a> {
    rows: &'a [RowId],
    inputs: &'a [u8],
    cells: &'a [u16],
}

/// A fault at the index of the whole part.
fn original_index(error: ChoiceError, places: &[usize], bits: usize) -> ChoiceError {
    let whole = |index: usize| {
        let (row, bit) =
            (index.checked_div(bits).unwrap_or(0), index.checked_rem(bits).unwrap_or(0));
        places.get(row).copied().unwrap_or(0).saturating_mul(bits).saturating_add(bit)
    };
    match error {
        ChoiceError::Malformed(index) => ChoiceError::Malformed(whole(index)),
        ChoiceError::BadProof(index) => ChoiceError::BadProof(whole(index)),
        other => other,
    }
}
