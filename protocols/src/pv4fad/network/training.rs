//! Training at the network: from join lists to the noised sums that the authority froze.

use std::collections::{BTreeMap, BTreeSet};

use quorate_crypto::merkle::Hash;
use quorate_crypto::threshold::elgamal::choice::{CIPHERTEXT_BYTES, Chosen, Ciphers};
use zeroize::Zeroizing;

use super::layout::account_of;
use super::{NetworkJob, NetworkOutput, NetworkWorld, Payment, Phase, to_bank};
use crate::checks::{Check, holds};
use crate::machine::{Context, Output, Peer};
use crate::pv4fad::messages::{
    Assigned, Evidence, FlagAsk, FlagPart, FreezeAsk, JoinEnd, JoinPart, JoinRow, Joined, Logged,
    Message, NO_CELL, NoiseAsk, NoiseShare, SumAsk, Summed, assignment_hash,
};
use crate::pv4fad::{
    Job, Keep, RowId, Side, bad_ciphertext, blob_hash, ciphers_hash, reply_ciphers, rows_hash, seed,
};
use crate::refusal::{Code, Culprit, Refusal};
use crate::wire::{Name, Signed, Verified, decode, encode};

/// Parts worked on in one step: what a step keeps and sends stays in memory until it is stored.
const STEP_PARTS: usize = if cfg!(test) { 3 } else { 64 };

impl NetworkJob {
    /// Whether a payment of the model version counts in its cells: its ordering side came, and all
    /// parts of its beneficiary bank.
    #[must_use]
    pub fn counts_payment(&self, world: &NetworkWorld<'_>, payment: usize) -> bool {
        let Some(Payment { banks: [_, beneficiary], .. }) = world.payments.get(payment) else {
            return false;
        };
        let row = world.layout.row(payment);
        row.and_then(|row| self.ordering_place(world, payment, &row)).is_some()
            && self.is_complete(world, Side::Beneficiary, beneficiary)
    }

    /// Opens a model version: join lists for every bank.
    ///
    /// # Errors
    /// [`Code::UnknownParty`] when the job names other keys of the network; [`Code::UnknownRound`].
    pub fn start(
        cx: &Context<'_>,
        world: &NetworkWorld<'_>,
        job: Job,
        version: u32,
    ) -> Result<(Self, Vec<NetworkOutput>), Refusal> {
        if job.network.verify != cx.identity.verify_key() {
            return Err(Refusal::new(
                Code::UnknownParty,
                "the job names other keys of the network",
            ));
        }
        if version >= job.versions {
            return Err(Refusal::new(Code::UnknownRound, "the job has no such model version"));
        }
        let mut outputs = Vec::new();
        let mut announced = BTreeMap::new();
        for bank in &job.banks {
            let mut ends = [Vec::new(), Vec::new()];
            for (side, end) in Side::BOTH.into_iter().zip(&mut ends) {
                for part in 0..world.layout.count(&bank.party, side) {
                    let rows = world.layout.part(&bank.party, side, part).iter();
                    let rows = rows.map(|(row, payment)| JoinRow {
                        row: *row,
                        account: account_of(world.payments, side, *payment, row),
                    });
                    let part = JoinPart {
                        job: job.id(),
                        version,
                        bank: bank.party.clone(),
                        side,
                        part,
                        rows: rows.collect(),
                    };
                    let part = Signed::sign(part, cx.identity).signed().clone();
                    end.push(part.hash());
                    outputs.push(to_bank(&bank.party, Message::JoinPart(part)));
                }
            }
            let end = join_end(cx, &job, version, &bank.party, ends);
            announced.insert(bank.party.clone(), end.hash());
            outputs.push(to_bank(&bank.party, Message::JoinEnd(end)));
        }
        let next = Self {
            job,
            version,
            phase: Phase::Setup,
            lost: BTreeSet::new(),
            joined: BTreeSet::new(),
            ends: announced,
            flags: BTreeMap::new(),
            inputs: BTreeMap::new(),
            chained: false,
            assigned: 0,
            evidence: Vec::new(),
            sent: 0,
            asked_sums: false,
            sums: None,
            logged: None,
            summed: None,
            shares: BTreeMap::new(),
            frozen: false,
            opening: None,
            opened: None,
            counts: None,
            closed: None,
            queries: BTreeMap::new(),
            failure: None,
            retries: 0,
        };
        Ok((next, outputs))
    }

    /// What the authority was given for its next answer is given again.
    pub(super) fn repeat(
        &mut self,
        world: &NetworkWorld<'_>,
    ) -> Result<Vec<NetworkOutput>, Refusal> {
        if self.phase == Phase::Flagged {
            (self.sent, self.asked_sums) = (0, false);
        }
        let mut outputs = Vec::new();
        if self.phase == Phase::Summed && self.frozen {
            let to = Peer::Authority(self.job.authority.name.clone());
            for hash in self.shares.values() {
                let share = decode::<Signed<NoiseShare>>(&world.world.blob(hash)?)?;
                let message = Message::NoiseShare(share);
                outputs.push(Output::Send { to: to.clone(), message });
            }
            self.frozen = false;
        }
        Ok(outputs)
    }

    pub(super) fn join(&mut self, signed: &Signed<Joined>) -> Result<Vec<NetworkOutput>, Refusal> {
        let joined = self.job.by_bank(signed)?;
        self.is_of_version(joined.version)?;
        // W2 at the network: it is this list that the bank fixed.
        if self.ends.get(&joined.bank) != Some(&joined.end) {
            let why = "the bank joined another list than it was given";
            return Err(
                Refusal::new(Code::WrongLabel, why).blaming(Culprit::Party(joined.bank.clone()))
            );
        }
        self.joined.insert(joined.bank.clone());
        Ok(Vec::new())
    }

    /// W4: signed by its bank, for the part that was asked for, every ciphertext proven.
    pub(super) fn flag_part(
        &mut self,
        world: &NetworkWorld<'_>,
        signed: &Signed<FlagPart>,
    ) -> Result<Vec<NetworkOutput>, Refusal> {
        let part = self.job.by_bank(signed)?;
        self.is_of_version(part.version)?;
        let bank = Culprit::Party(part.bank.clone());
        let rows = world.layout.part_rows(&part.bank, part.side, part.part);
        let known = self.flags.get(&(part.side, part.bank.clone(), part.part));
        let bytes = encode(signed);
        let hash = blob_hash(&bytes);
        if let Some(known) = known {
            if *known == hash {
                return Ok(Vec::new());
            }
            return Err(Refusal::new(Code::Duplicate, "a second answer for one part").blaming(bank));
        }
        let open = match part.side {
            Side::Ordering => self.inputs.is_empty(),
            Side::Beneficiary => self.inputs.contains_key(&(part.bank.clone(), part.part)),
        };
        if self.phase != Phase::Joined || !open {
            return Err(Refusal::new(Code::Late, "parts of this side are not collected now"));
        }
        let inputs = match part.side {
            Side::Ordering => Vec::new(),
            Side::Beneficiary => self.kept_inputs(world, &part.bank, part.part)?,
        };
        if rows.len() != self.job.part_len()
            || part.rows != rows_hash(&rows)
            || part.inputs != ciphers_hash(&inputs)
        {
            let why = "an answer for other rows or inputs";
            return Err(Refusal::new(Code::WrongLabel, why).blaming(bank));
        }
        let bindings = self.job.bit_bindings(self.version, part.side, &part.bank, &rows);
        let chosen = Chosen { ciphers: part.ciphers.clone(), proofs: part.proofs.clone() };
        let key = world.world.key;
        match part.side {
            Side::Ordering => key.check_bits(&bindings, &chosen),
            Side::Beneficiary => key.check_or(&bindings, &inputs, &chosen),
        }
        .map_err(|error| bad_ciphertext(&error, bank))?;
        self.flags.insert((part.side, part.bank.clone(), part.part), hash);
        Ok(vec![Output::Work(Keep { hash, bytes })])
    }

    /// Whether every bank that is left sent all its parts of a side.
    pub(super) fn flags_complete(&self, world: &NetworkWorld<'_>, side: Side) -> bool {
        self.present().iter().all(|bank| self.is_complete(world, side, bank))
    }

    pub(super) fn is_complete(&self, world: &NetworkWorld<'_>, side: Side, bank: &Name) -> bool {
        let mut parts = 0..world.layout.count(bank, side);
        parts.all(|part| self.flags.contains_key(&(side, bank.clone(), part)))
    }

    fn kept_part(
        &self,
        world: &NetworkWorld<'_>,
        hash: &Hash,
    ) -> Result<Signed<FlagPart>, Refusal> {
        decode(&world.world.blob(hash)?)
    }

    pub(super) fn ask_flags(
        &self,
        cx: &Context<'_>,
        bank: &Name,
        side: Side,
        part: u16,
        inputs: Vec<u8>,
    ) -> NetworkOutput {
        let (job, version) = (self.job.id(), self.version);
        let ask = FlagAsk { job, version, bank: bank.clone(), side, part, inputs };
        to_bank(bank, Message::FlagAsk(Signed::sign(ask, cx.identity).signed().clone()))
    }

    /// Asks the next beneficiary banks, all of them in steps.
    pub(super) fn chain(
        &mut self,
        cx: &Context<'_>,
        world: &NetworkWorld<'_>,
    ) -> Result<Vec<NetworkOutput>, Refusal> {
        let mut open = Vec::new();
        for bank in self.present() {
            let parts = 0..world.layout.count(&bank, Side::Beneficiary);
            open.extend(parts.map(|part| (bank.clone(), part)));
        }
        open.retain(|place| !self.inputs.contains_key(place));
        self.chained = open.len() <= STEP_PARTS;
        let mut ordering = BTreeMap::new();
        for ((side, ..), hash) in &self.flags {
            if *side == Side::Ordering {
                ordering.insert(*hash, self.kept_part(world, hash)?.peek()?.ciphers);
            }
        }
        let mut outputs = Vec::new();
        for (bank, part) in open.into_iter().take(STEP_PARTS) {
            let inputs = self.make_inputs(cx, world, &ordering, (&bank, part))?;
            let keep = Keep::of(inputs.clone());
            outputs.push(self.ask_flags(cx, &bank, Side::Beneficiary, part, inputs));
            self.inputs.insert((bank, part), keep.hash);
            outputs.push(Output::Work(keep));
        }
        Ok(outputs)
    }

    fn kept_inputs(
        &self,
        world: &NetworkWorld<'_>,
        bank: &Name,
        part: u16,
    ) -> Result<Vec<u8>, Refusal> {
        let hash = self.inputs.get(&(bank.clone(), part));
        let hash = hash.ok_or_else(|| Refusal::new(Code::WrongState, "a part not asked for"))?;
        world.world.blob(hash)
    }

    /// The other side's ciphertexts for a beneficiary's part: the ordering bank's where it
    /// answered, fresh encryptions of 0 for padding and for rows that were lost.
    fn make_inputs(
        &self,
        cx: &Context<'_>,
        world: &NetworkWorld<'_>,
        ordering: &BTreeMap<Hash, Vec<u8>>,
        (bank, part): (&Name, u16),
    ) -> Result<Vec<u8>, Refusal> {
        let row_bytes = usize::from(self.job.class_bits).saturating_mul(CIPHERTEXT_BYTES);
        let slots = world.layout.part(bank, Side::Beneficiary, part);
        let mut inputs = vec![0; slots.len().saturating_mul(row_bytes)];
        let mut holes = Vec::new();
        for ((row, payment), to) in slots.iter().zip(inputs.chunks_mut(row_bytes.max(1))) {
            let from = payment.and_then(|payment| {
                let (hash, at) = self.ordering_place(world, payment, row)?;
                ordering.get(&hash)?.chunks(row_bytes.max(1)).nth(at)
            });
            match from {
                Some(from) => to.copy_from_slice(from),
                None => holes.push((*row, to)),
            }
        }
        let label = self.job.label("padding", self.version);
        let parts: [&[u8]; 3] = [&label.0, bank.as_str().as_bytes(), &part.to_le_bytes()];
        let seed = seed(cx.identity, "quorate/pv-padding/1", &parts);
        let rows: Vec<RowId> = holes.iter().map(|(row, _)| *row).collect();
        let network = &self.job.network.party;
        let bindings = self.job.bit_bindings(self.version, Side::Ordering, network, &rows);
        let zeros = Zeroizing::new(vec![0; bindings.len()]);
        let padding = world
            .world
            .key
            .encrypt_bits(&bindings, &zeros, &seed)
            .map_err(|error| bad_ciphertext(&error, self.job.network_culprit()))?;
        for ((_, to), from) in holes.into_iter().zip(padding.ciphers.chunks(row_bytes.max(1))) {
            to.copy_from_slice(from);
        }
        Ok(inputs)
    }

    /// Where the ordering side of a payment is: the kept part and the place in it.
    fn ordering_place(
        &self,
        world: &NetworkWorld<'_>,
        payment: usize,
        row: &RowId,
    ) -> Option<(Hash, usize)> {
        let [bank, _] = &world.payments.get(payment)?.banks;
        let slots = world.layout.parts(bank, Side::Ordering);
        let at = slots.binary_search_by_key(row, |(row, _)| *row).ok()?;
        let part = u16::try_from(at / world.layout.length).ok()?;
        let hash = self.flags.get(&(Side::Ordering, bank.clone(), part))?;
        Some((*hash, at % world.layout.length))
    }

    /// The payment of a row of a beneficiary's list, if its ordering bank answered for it, too.
    fn counted(
        &self,
        world: &NetworkWorld<'_>,
        (row, payment): &(RowId, Option<usize>),
    ) -> Option<usize> {
        payment.filter(|payment| self.ordering_place(world, *payment, row).is_some())
    }

    /// How many banks, of either side, have payments that count, as the authority counts them.
    fn behind(&self, world: &NetworkWorld<'_>) -> u32 {
        let mut behind = BTreeSet::new();
        for bank in self.job.banks.iter().map(|bank| &bank.party) {
            if self.is_complete(world, Side::Beneficiary, bank) {
                let rows = world.layout.parts(bank, Side::Beneficiary).iter();
                let payments = rows.filter_map(|row| world.payments.get(self.counted(world, row)?));
                behind.extend(payments.flat_map(|payment| &payment.banks));
            }
        }
        u32::try_from(behind.len()).unwrap_or(u32::MAX)
    }

    /// Puts evidence together and adds up, part by part; after the last has the assignment logged.
    pub(super) fn assign(
        &mut self,
        cx: &Context<'_>,
        world: &NetworkWorld<'_>,
    ) -> Result<Vec<NetworkOutput>, Refusal> {
        if self.assigned == self.flags.len() {
            return Ok(Vec::new());
        }
        // Before the one assignment of this version is logged: the authority would not sum it.
        let enough = self.assigned > 0 || self.behind(world) >= self.job.floor();
        if !holds(Check::Floor, enough) {
            let why = "fewer banks than r_min have payments that count";
            return Ok(self.fail(Refusal::new(Code::SetTooSmall, why)));
        }
        self.phase = Phase::Flagged;
        let mut outputs = Vec::new();
        let mut sums = match &self.sums {
            None => Ciphers::empty(self.job.coordinates()),
            Some(kept) => Ciphers::decode_sums(&world.world.blob(kept)?)
                .map_err(|error| bad_ciphertext(&error, self.job.network_culprit()))?,
        };
        let next = self.flags.iter().skip(self.assigned).take(STEP_PARTS);
        let next: Vec<_> = next.map(|(place, hash)| (place.clone(), *hash)).collect();
        self.assigned = self.assigned.saturating_add(next.len());
        for ((side, bank, number), hash) in next {
            let rows = world.layout.part_rows(&bank, side, number);
            let part = self.kept_part(world, &hash)?;
            let evidence = match side {
                Side::Ordering => Evidence::Ordering { rows, part },
                // A bank that was lost when it had answered for some of its parts: none of them
                // counts.
                Side::Beneficiary if !self.is_complete(world, side, &bank) => continue,
                Side::Beneficiary => {
                    let inputs = self.kept_inputs(world, &bank, number)?;
                    let cells = self.cells(world, &bank, number);
                    self.add(&mut sums, &part.peek()?, &cells)?;
                    Evidence::Beneficiary { rows, inputs, part, cells }
                }
            };
            let keep = Keep::of(encode(&evidence));
            self.evidence.push(keep.hash);
            outputs.push(Output::Work(keep));
        }
        let keep = Keep::of(sums.to_bytes());
        self.sums = Some(keep.hash);
        outputs.push(Output::Work(keep));
        if self.assigned == self.flags.len() {
            let salt = self.salt(cx);
            let hash = assignment_hash(&self.job.id(), self.version, &salt, &self.evidence);
            let assigned = Assigned { job: self.job.id(), version: self.version, hash };
            let assigned = Signed::sign(assigned, cx.identity).signed().clone();
            let message = Message::Assigned(assigned);
            outputs.push(Output::Send { to: Peer::Aggregator, message });
        }
        Ok(outputs)
    }

    fn salt(&self, cx: &Context<'_>) -> [u8; 32] {
        let label = self.job.label("assignment", self.version);
        *seed(cx.identity, "quorate/pv-salt/1", &[&label.0]).expose()
    }

    /// Random cells of a beneficiary's part, tree by tree; none for rows that do not count.
    pub(super) fn cells(&self, world: &NetworkWorld<'_>, bank: &Name, part: u16) -> Vec<u16> {
        let slots = world.layout.part(bank, Side::Beneficiary, part);
        let mut cells = Vec::with_capacity(slots.len().saturating_mul(usize::from(self.job.trees)));
        let counted: Vec<Option<usize>> =
            slots.iter().map(|row| self.counted(world, row)).collect();
        for tree in &world.layout.trees {
            let random = world.layout.cells.get(usize::from(*tree)).map_or(&[][..], Vec::as_slice);
            cells.extend(counted.iter().map(|payment| {
                let cell = payment.map(|payment| usize::from(world.cells.cell(*tree, payment)));
                cell.and_then(|cell| random.get(cell)).copied().unwrap_or(NO_CELL)
            }));
        }
        cells
    }

    fn add(&self, sums: &mut Ciphers, part: &FlagPart, cells: &[u16]) -> Result<(), Refusal> {
        let bad = |error| bad_ciphertext(&error, Culprit::Party(part.bank.clone()));
        let ciphers = Ciphers::decode(&part.ciphers).map_err(bad)?;
        for (tree, cells) in cells.chunks(self.job.part_len()).enumerate() {
            let cells: Vec<Option<u16>> =
                cells.iter().map(|cell| Some(*cell).filter(|cell| *cell != NO_CELL)).collect();
            let base = tree.saturating_mul(self.job.tree_width());
            sums.add_rows(base, &cells, &ciphers, usize::from(self.job.class_bits)).map_err(bad)?;
        }
        Ok(())
    }

    /// The assignment is logged.
    pub(super) fn log(
        &mut self,
        cx: &Context<'_>,
        signed: &Signed<Logged>,
    ) -> Result<Vec<NetworkOutput>, Refusal> {
        let logged = self.job.by_aggregator(signed)?;
        self.is_of_version(logged.version)?;
        let salt = self.salt(cx);
        let own = assignment_hash(&self.job.id(), self.version, &salt, &self.evidence);
        if self.phase != Phase::Flagged || logged.hash != own {
            return Err(Refusal::new(Code::WrongState, "not the assignment that was to be logged"));
        }
        self.logged = Some(logged);
        Ok(Vec::new())
    }

    /// Once the assignment is logged the authority gets the evidence, in steps, then the request.
    pub(super) fn send_evidence(
        &mut self,
        cx: &Context<'_>,
        world: &NetworkWorld<'_>,
    ) -> Result<Vec<NetworkOutput>, Refusal> {
        let Some(logged) = self.logged.as_ref().filter(|_| !self.asked_sums) else {
            return Ok(Vec::new());
        };
        let to = Peer::Authority(self.job.authority.name.clone());
        let mut outputs = Vec::new();
        for hash in self.evidence.iter().skip(self.sent).take(STEP_PARTS) {
            let evidence = Box::new(decode::<Evidence>(&world.world.blob(hash)?)?);
            outputs.push(Output::Send { to: to.clone(), message: Message::Evidence(evidence) });
        }
        self.sent = self.sent.saturating_add(outputs.len());
        if self.sent == self.evidence.len() {
            self.asked_sums = true;
            let ask = SumAsk {
                job: self.job.id(),
                version: self.version,
                logged: logged.signed().clone(),
                salt: self.salt(cx),
                evidence: self.evidence.clone(),
            };
            let ask = Signed::sign(ask, cx.identity).signed().clone();
            outputs.push(Output::Send { to, message: Message::SumAsk(ask) });
        }
        Ok(outputs)
    }

    /// The authority signed the sums: banks are asked for noise.
    pub(super) fn summed(
        &mut self,
        world: &NetworkWorld<'_>,
        signed: &Signed<Summed>,
    ) -> Result<Vec<NetworkOutput>, Refusal> {
        let summed = self.job.by_authority(signed)?;
        self.is_of_version(summed.version)?;
        let logged = self
            .logged
            .as_ref()
            .filter(|logged| self.phase == Phase::Flagged && logged.hash == summed.assigned)
            .ok_or_else(|| Refusal::new(Code::WrongState, "no sums are waited for"))?;
        let own = self.sums.map(|sums| world.world.blob(&sums)).transpose()?.unwrap_or_default();
        if ciphers_hash(&own) != summed.sums {
            return Err(Refusal::new(Code::WrongLabel, "the authority signed other sums")
                .blaming(Culprit::Authority(self.job.authority.name.clone())));
        }
        let ask = NoiseAsk { summed: signed.clone(), logged: logged.signed().clone() };
        let ask = |bank: &Name| to_bank(bank, Message::NoiseAsk(ask.clone()));
        let outputs = self.present().iter().map(ask).collect();
        self.phase = Phase::Summed;
        self.summed = Some(summed);
        Ok(outputs)
    }

    /// W9 at the network.
    pub(super) fn noise(
        &mut self,
        world: &NetworkWorld<'_>,
        signed: &Signed<NoiseShare>,
    ) -> Result<Vec<NetworkOutput>, Refusal> {
        let share = self.job.by_bank(signed)?;
        self.is_of_version(share.version)?;
        let summed = self.summed.as_ref().filter(|_| self.phase == Phase::Summed && !self.frozen);
        let summed =
            summed.ok_or_else(|| Refusal::new(Code::Late, "noise is not collected now"))?;
        let bank = || Culprit::Party(share.bank.clone());
        if share.summed != summed.hash() {
            return Err(Refusal::new(Code::WrongLabel, "noise for other sums").blaming(bank()));
        }
        let bytes = encode(signed);
        let hash = blob_hash(&bytes);
        match self.shares.get(&share.bank) {
            Some(known) if *known == hash => return Ok(Vec::new()),
            Some(_) => {
                let why = "a second noise share for one version";
                return Err(Refusal::new(Code::Duplicate, why).blaming(bank()));
            }
            None => {}
        }
        let binding = self.job.noise_binding(self.version, &share.summed, &share.bank);
        world
            .world
            .values
            .verify_reply(&self.job.noise_shape(), &binding, &share.reply)
            .map_err(|e| Refusal::new(Code::BadCiphertext, e.to_string()).blaming(bank()))?;
        self.shares.insert(share.bank.clone(), hash);
        let to = Peer::Authority(self.job.authority.name.clone());
        Ok(vec![
            Output::Work(Keep { hash, bytes }),
            Output::Send { to, message: Message::NoiseShare(signed.clone()) },
        ])
    }

    pub(super) fn freeze(&mut self, cx: &Context<'_>) -> Result<Vec<NetworkOutput>, Refusal> {
        let summed = self.summed.as_ref().map(Verified::hash);
        let ask = FreezeAsk {
            job: self.job.id(),
            version: self.version,
            summed: summed.ok_or_else(|| Refusal::new(Code::WrongState, "no sums"))?,
            shares: self.shares.values().copied().collect(),
        };
        self.frozen = true;
        let to = Peer::Authority(self.job.authority.name.clone());
        let ask = Signed::sign(ask, cx.identity).signed().clone();
        Ok(vec![Output::Send { to, message: Message::FreezeAsk(ask) }])
    }

    /// The sums with all frozen noise.
    pub(super) fn total(&self, world: &NetworkWorld<'_>) -> Result<Vec<u8>, Refusal> {
        let missing = || Refusal::new(Code::Unavailable, "no sums are kept");
        let sums = world.world.blob(&self.sums.ok_or_else(missing)?)?;
        let mut total = Ciphers::decode_sums(&sums)
            .map_err(|error| bad_ciphertext(&error, self.job.network_culprit()))?;
        for hash in self.shares.values() {
            let share = decode::<Signed<NoiseShare>>(&world.world.blob(hash)?)?.peek()?;
            let bad = |error| bad_ciphertext(&error, Culprit::Party(share.bank.clone()));
            let noise = reply_ciphers(&share.reply, self.job.coordinates());
            total.add(&Ciphers::decode(noise).map_err(bad)?).map_err(bad)?;
        }
        Ok(total.to_bytes())
    }

    /// Opened coordinates in the order of the real trees and cells.
    pub(super) fn unshuffled(&self, world: &NetworkWorld<'_>, opened: &[i64]) -> Vec<i64> {
        let bits = usize::from(self.job.class_bits);
        let cells = usize::from(self.job.cells);
        let mut counts = vec![0; opened.len()];
        for (place, tree) in world.layout.trees.iter().enumerate() {
            let random = world.layout.cells.get(usize::from(*tree)).map_or(&[][..], Vec::as_slice);
            for (cell, random) in random.iter().enumerate() {
                let from = (place * cells + usize::from(*random)) * bits;
                let to = (usize::from(*tree) * cells + cell) * bits;
                let pair = counts.get_mut(to..to + bits).zip(opened.get(from..from + bits));
                if let Some((to, from)) = pair {
                    to.copy_from_slice(from);
                }
            }
        }
        counts
    }
}

fn join_end(
    cx: &Context<'_>,
    job: &Job,
    version: u32,
    bank: &Name,
    parts: [Vec<Hash>; 2],
) -> Signed<JoinEnd> {
    let end = JoinEnd { job: job.id(), version, bank: bank.clone(), parts };
    Signed::sign(end, cx.identity).signed().clone()
}
