//! A bank's side: bits of its own rows, noise, picks and partial decryptions.
//!
//! All its answers are functions of its keys and of what it is asked, so a repeated question gets
//! the same bytes, and a second question under one label is refused.

mod strict;

use std::collections::{BTreeMap, BTreeSet};

use quorate_crypto::merkle::Hash;
use quorate_crypto::sum::SchemeError;
use quorate_crypto::threshold::elgamal::ElGamal;
use quorate_crypto::threshold::elgamal::choice::{CIPHERTEXT_BYTES, Ciphers};
use quorate_crypto::threshold::{KeySecret, ThresholdScheme};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::messages::{
    Account, FlagAsk, FlagPart, JoinEnd, JoinPart, Joined, Message, NoiseAsk, NoiseShare, OpenAsk,
    Opens, Partial, Picked, QueryAccounts, QueryTable, Release, Summed,
};
use super::{
    Job, Keep, MAX_QUERY_ROWS, RowId, Side, World, bad_ciphertext, blob_hash, ciphers_hash,
    rows_hash, seed,
};
use crate::checks::{Check, holds};
use crate::job::Minima;
use crate::machine::{Bug, Context, Fact, Output, Peer};
use crate::refusal::{Code, Culprit, Refusal};
use crate::wire::{Name, Signed, Verified, decode, encode};

/// An output of this machine.
pub type BankOutput = Output<Message, Keep>;

/// What a bank knows of accounts.
pub trait Accounts {
    /// Severity of an account on a side, 0 to L: of its flags, and on the beneficiary's side of a
    /// name that does not match; L for an account that the bank does not have, or as its own rules
    /// say.
    fn severity(&self, side: Side, account: &Account) -> u8;
}

/// What a bank uses besides its state.
#[derive(Clone, Copy)]
pub struct BankWorld<'a> {
    /// Key and kept bytes.
    pub world: World<'a>,
    /// Its share of the key.
    pub share: &'a KeySecret,
    /// Its accounts.
    pub accounts: &'a dyn Accounts,
}

/// One model version.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Version {
    /// Parts that came: hash of the signed part, under which it is kept.
    parts: BTreeMap<(Side, u16), (Hash, Hash)>,
    /// The list's end, and where the classes of its rows are kept.
    joined: Option<(Hash, Hash)>,
    /// The inputs that each part was answered for.
    answered: BTreeMap<(Side, u16), Hash>,
    /// The sums that noise was given for.
    noised: Option<Hash>,
    /// Hash of the own signed noise share.
    share: Option<Hash>,
    /// The release that was answered; in a strict job what was frozen instead.
    released: Option<Hash>,
}

/// One query.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Query {
    /// Hash of the table.
    table: Hash,
    /// For each side on which this bank picked: hash of the accounts asked about, and where the
    /// signed answer is kept.
    asked: BTreeMap<Side, (Hash, Hash)>,
    released: Option<Hash>,
}

/// One payments job at a bank.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BankJob {
    me: Name,
    job: Job,
    versions: BTreeMap<u32, Version>,
    queries: BTreeMap<u64, Query>,
    /// Times that an account was asked about, under a keyed hash.
    asked: BTreeMap<Hash, u32>,
    /// Rows that were asked about, on either side.
    rows: u64,
}

impl BankJob {
    /// A bank joins a job whose terms it accepts.
    ///
    /// # Errors
    /// [`Code::UnknownParty`] when the job does not name it with these keys; [`Code::BelowMinima`].
    pub fn new(cx: &Context<'_>, me: Name, job: Job, minima: &Minima) -> Result<Self, Refusal> {
        job.check_minima(minima)?;
        let entry = job.bank(&me)?;
        let own = entry.verify == cx.identity.verify_key()
            && entry.exchange == cx.identity.exchange_key();
        if !own {
            return Err(Refusal::new(Code::UnknownParty, "the job names other keys of this bank"));
        }
        let (versions, queries, asked, rows) = Default::default();
        Ok(Self { me, job, versions, queries, asked, rows })
    }

    /// Handles a message of the network.
    ///
    /// # Errors
    /// None: a wrong message is refused.
    pub fn handle(
        self,
        cx: &mut Context<'_>,
        world: &BankWorld<'_>,
        message: &Message,
    ) -> Result<(Self, Vec<BankOutput>), Bug> {
        let mut next = self.clone();
        let outcome = match message {
            Message::JoinPart(part) => next.join_part(part),
            Message::JoinEnd(end) => next.join_end(cx, world, end),
            Message::FlagAsk(ask) => next.flags(cx, world, ask),
            Message::NoiseAsk(ask) => next.noise(cx, world, ask),
            Message::QueryAsk(table, accounts) => next.pick(cx, world, table, accounts),
            Message::OpenAsk(ask) => next.open(cx, world, ask),
            Message::Frozen(record) => next.frozen(record),
            other => Err(Refusal::new(Code::WrongState, format!("a bank takes no {other:?}"))),
        };
        Ok(match outcome {
            Ok(outputs) => (next, outputs),
            Err(refusal) => {
                let fact = Fact::job("refused", refusal.to_string());
                let refused = self.job.refused(cx, &self.me, message, &refusal);
                let answer = self.to_network(refused);
                (self, vec![Output::Log(fact), Output::Reject(refusal), answer])
            }
        })
    }

    /// The answer to a message whose step could not be stored, such as for a spent budget.
    #[must_use]
    pub fn refuse(&self, cx: &Context<'_>, message: &Message, refusal: &Refusal) -> BankOutput {
        self.to_network(self.job.refused(cx, &self.me, message, refusal))
    }

    fn to_network(&self, message: Message) -> BankOutput {
        Output::Send { to: Peer::Party(self.job.network.party.clone()), message }
    }

    fn blame(&self, code: Code, why: &str) -> Refusal {
        Refusal::new(code, why).blaming(self.job.network_culprit())
    }

    fn addressed(&self, bank: &Name) -> Result<(), Refusal> {
        if *bank == self.me {
            Ok(())
        } else {
            Err(Refusal::new(Code::UnknownParty, "addressed to another bank"))
        }
    }

    /// W2: parts of 1,024 rows, before the list ends, one content each.
    fn join_part(&mut self, signed: &Signed<JoinPart>) -> Result<Vec<BankOutput>, Refusal> {
        let part = self.job.by_network(signed)?;
        self.addressed(&part.bank)?;
        if part.rows.len() != self.job.part_len() {
            return Err(self.blame(Code::WrongLength, "a part has 1,024 rows"));
        }
        if u64::from(part.part) >= self.job.most_parts() {
            return Err(self.blame(Code::WrongLength, "more parts than the job has rows"));
        }
        let bytes = encode(signed);
        let hashes = (signed.hash(), blob_hash(&bytes));
        let version = self.versions.entry(part.version).or_default();
        let known = version.parts.get(&(part.side, part.part)).copied();
        let closed = version.joined.is_some();
        if known == Some(hashes) {
            return Ok(Vec::new());
        }
        if known.is_some() || closed {
            return Err(self.blame(Code::Duplicate, "this part of the join list is fixed already"));
        }
        version.parts.insert((part.side, part.part), hashes);
        Ok(vec![Output::Work(Keep::of(bytes))])
    }

    /// W2, W3: the list is complete, no row is in it twice on one side, and its classes are fixed:
    /// an account's rows past K are clean.
    fn join_end(
        &mut self,
        cx: &Context<'_>,
        world: &BankWorld<'_>,
        signed: &Signed<JoinEnd>,
    ) -> Result<Vec<BankOutput>, Refusal> {
        let end = self.job.by_network(signed)?;
        self.addressed(&end.bank)?;
        let version = self.versions.get(&end.version).cloned().unwrap_or_default();
        let mut outputs = Vec::new();
        match version.joined {
            Some((known, _)) if known == signed.hash() => {}
            Some(_) => return Err(self.blame(Code::Duplicate, "the join list ended already")),
            None => {
                let listed = Side::BOTH.iter().zip(&end.parts).flat_map(|(side, parts)| {
                    (0u16..).zip(parts).map(move |(number, hash)| ((*side, number), *hash))
                });
                let here = version.parts.iter().map(|(place, (hash, _))| (*place, *hash));
                if !listed.eq(here) {
                    return Err(Refusal::new(
                        Code::OutOfOrder,
                        "the join list is not complete here",
                    ));
                }
                let classes = self.classify(cx, world, &version)?;
                let keep = Keep::of(classes.to_vec());
                let place = self.versions.entry(end.version).or_default();
                place.joined = Some((signed.hash(), keep.hash));
                outputs.push(Output::Log(Fact::of(
                    "rows.joined",
                    end.version,
                    0,
                    format!("{} parts", version.parts.len()),
                )));
                outputs.push(Output::Work(keep));
            }
        }
        let joined = Joined {
            job: self.job.id(),
            version: end.version,
            bank: self.me.clone(),
            end: signed.hash(),
        };
        let joined = Signed::sign(joined, cx.identity).signed().clone();
        outputs.push(self.to_network(Message::Joined(joined)));
        Ok(outputs)
    }

    /// Severities of all rows, part by part: the first K rows of each account count.
    fn classify(
        &self,
        cx: &Context<'_>,
        world: &BankWorld<'_>,
        version: &Version,
    ) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let mut classes = Zeroizing::new(Vec::with_capacity(
            version.parts.len().saturating_mul(self.job.part_len()),
        ));
        let mut rows_of: BTreeMap<Hash, u32> = BTreeMap::new();
        let mut seen = std::collections::BTreeSet::new();
        for ((side, _), (_, blob)) in &version.parts {
            let part = kept_part(&world.world.blob(blob)?)?;
            for row in &part.rows {
                if !seen.insert((*side, row.row)) {
                    return Err(self.blame(Code::Duplicate, "a row is twice in the join list"));
                }
                let rows = rows_of.entry(keyed(cx, &row.account)).or_default();
                *rows = rows.saturating_add(1);
                let most = u8::try_from(self.job.class_bits).unwrap_or(u8::MAX);
                let severity = world.accounts.severity(*side, &row.account).min(most);
                classes.push(if *rows <= self.job.rows_per_account { severity } else { 0 });
            }
        }
        Ok(classes)
    }

    /// Bits of one part: encrypted on the ordering side, ORed with the inputs on the other (W4).
    fn flags(
        &mut self,
        cx: &Context<'_>,
        world: &BankWorld<'_>,
        signed: &Signed<FlagAsk>,
    ) -> Result<Vec<BankOutput>, Refusal> {
        let ask = self.job.by_network(signed)?;
        self.addressed(&ask.bank)?;
        let place = (ask.side, ask.part);
        let known = self.versions.get(&ask.version).and_then(|version| {
            let (_, classes) = version.joined?;
            let (_, blob) = version.parts.get(&place)?;
            let before = version.parts.range(..place).count();
            Some((classes, *blob, before, version.answered.get(&place).copied()))
        });
        let (classes, blob, before, answered) =
            known.ok_or_else(|| Refusal::new(Code::WrongState, "no such part was joined"))?;
        let inputs = ciphers_hash(&ask.inputs);
        if !holds(Check::LabelOnce, answered.is_none_or(|answered| answered == inputs)) {
            return Err(self.blame(Code::LabelReuse, "this part was answered for other inputs"));
        }
        let bits = usize::from(self.job.class_bits);
        let length = self.job.part_len();
        let expected = match ask.side {
            Side::Ordering => 0,
            Side::Beneficiary => length.saturating_mul(bits).saturating_mul(CIPHERTEXT_BYTES),
        };
        if ask.inputs.len() != expected {
            return Err(self.blame(Code::WrongLength, "inputs of another length"));
        }
        let rows: Vec<RowId> =
            kept_part(&world.world.blob(&blob)?)?.rows.iter().map(|row| row.row).collect();
        let classes = Zeroizing::new(world.world.blob(&classes)?);
        let own = classes.iter().skip(before.saturating_mul(length)).take(length);
        let levels = 1..=u8::try_from(bits).unwrap_or(u8::MAX);
        let mut thermometer = Zeroizing::new(Vec::with_capacity(length.saturating_mul(bits)));
        for severity in own {
            thermometer.extend(levels.clone().map(|level| u8::from(*severity >= level)));
        }
        let bindings = self.job.bit_bindings(ask.version, ask.side, &self.me, &rows);
        let label = self.job.label("flags", ask.version);
        let parts: [&[u8]; 4] = [&label.0, &[ask.side.byte()], &ask.part.to_le_bytes(), &inputs.0];
        let seed = seed(cx.identity, "quorate/pv-flag-seed/1", &parts);
        let key = world.world.key;
        let chosen = match ask.side {
            Side::Ordering => key.encrypt_bits(&bindings, &thermometer, &seed),
            Side::Beneficiary => key.or_bits(&bindings, &ask.inputs, &thermometer, &seed),
        }
        .map_err(|error| bad_ciphertext(&error, self.job.network_culprit()))?;
        let part = FlagPart {
            job: self.job.id(),
            version: ask.version,
            bank: self.me.clone(),
            side: ask.side,
            part: ask.part,
            rows: rows_hash(&rows),
            inputs,
            ciphers: chosen.ciphers,
            proofs: chosen.proofs,
        };
        self.versions.entry(ask.version).or_default().answered.insert(place, inputs);
        let part = Signed::sign(part, cx.identity).signed().clone();
        Ok(vec![self.to_network(Message::FlagPart(part))])
    }

    /// W8: noise for sums that the authority signed, of the assignment that was logged before;
    /// once.
    fn noise(
        &mut self,
        cx: &Context<'_>,
        world: &BankWorld<'_>,
        ask: &NoiseAsk,
    ) -> Result<Vec<BankOutput>, Refusal> {
        let logged = self.job.by_aggregator(&ask.logged)?;
        let summed: Verified<Summed> = self.job.by_authority(&ask.summed)?;
        if logged.hash != summed.assigned || logged.version != summed.version {
            return Err(self.blame(Code::NotFrozen, "sums of an assignment that is not logged"));
        }
        let hash = summed.hash();
        let known = self
            .versions
            .get(&summed.version)
            .filter(|version| version.joined.is_some())
            .ok_or_else(|| {
            Refusal::new(Code::WrongState, "this bank joined no such version")
        })?;
        if !holds(Check::LabelOnce, known.noised.is_none_or(|before| before == hash)) {
            return Err(Refusal::new(
                Code::LabelReuse,
                "noise was given for other sums of this version",
            )
            .blaming(self.job.network_culprit()));
        }
        let label = self.job.label("noise", summed.version);
        let mut values = Zeroizing::new(vec![0i64; self.job.coordinates()]);
        let drawn = seed(cx.identity, "quorate/pv-noise-draw/1", &[&label.0, &hash.0]);
        self.job.add_noise(&mut ChaCha20Rng::from_seed(*drawn.expose()), &mut values)?;
        let shape = self.job.noise_shape();
        let mut reply = vec![0; ElGamal.reply_bytes(&shape).unwrap_or(0)];
        let binding = self.job.noise_binding(summed.version, &hash, &self.me);
        let seed = seed(cx.identity, "quorate/pv-noise-seed/1", &[&label.0, &hash.0]);
        world.world.values.encrypt(&shape, &binding, &values, &seed, &mut reply).map_err(scheme)?;
        let share = NoiseShare {
            job: self.job.id(),
            version: summed.version,
            bank: self.me.clone(),
            summed: hash,
            reply,
        };
        let share = Signed::sign(share, cx.identity).signed().clone();
        let mut outputs = Vec::new();
        let version = self.versions.entry(summed.version).or_default();
        if version.noised.is_none() {
            version.noised = Some(hash);
            version.share = Some(blob_hash(&encode(&share)));
            outputs.extend(self.job.charge(summed.version).map(Output::Charge));
            let note = format!("{} coordinates", self.job.coordinates());
            outputs.push(Output::Log(Fact::of("noise.added", summed.version, 0, note)));
        }
        outputs.push(self.to_network(Message::NoiseShare(share)));
        Ok(outputs)
    }

    /// W12, W13: a table that names this bank, once per side; accounts within their limit.
    fn pick(
        &mut self,
        cx: &Context<'_>,
        world: &BankWorld<'_>,
        table: &Signed<QueryTable>,
        accounts: &Signed<QueryAccounts>,
    ) -> Result<Vec<BankOutput>, Refusal> {
        let content = accounts.hash();
        let table = self.job.by_network(table)?;
        let accounts = self.job.by_network(accounts)?;
        let side = accounts.side;
        let fields = &table.fields;
        let named = match side {
            Side::Ordering => &fields.ordering,
            Side::Beneficiary => &fields.beneficiary,
        };
        self.addressed(named)?;
        let rows = fields.rows.len();
        if accounts.table != table.hash()
            || accounts.version != table.version
            || fields.version != table.version
            || accounts.accounts.len() != rows
            || !(1..=MAX_QUERY_ROWS).contains(&rows)
        {
            return Err(self.blame(Code::WrongLength, "a query's parts do not belong together"));
        }
        // What a pick's randomness follows from names its row: the same row twice, with the same candidates,
        // would give equal bytes to accounts of equal class.
        if fields.rows.iter().collect::<BTreeSet<_>>().len() != rows {
            return Err(self.blame(Code::Duplicate, "a query names a row twice"));
        }
        self.is_frozen(table.version)?;
        let (classes, lanes) = (self.job.classes(), self.job.lanes());
        let (width, candidates) = match side {
            Side::Ordering => {
                (classes.saturating_mul(lanes), self.job.candidates(&table.reply, rows))
            }
            Side::Beneficiary => (lanes, accounts.candidates.as_slice().into()),
        };
        let row_bytes = classes.saturating_mul(width).saturating_mul(CIPHERTEXT_BYTES);
        if candidates.len() != rows.saturating_mul(row_bytes) {
            return Err(self.blame(Code::WrongLength, "candidates of another length"));
        }
        let known = self.queries.get(&fields.query);
        let same_table = known.is_none_or(|known| known.table == table.hash());
        let before = known.and_then(|known| known.asked.get(&side).copied());
        let once = same_table && before.is_none_or(|(before, _)| before == content);
        if !holds(Check::LabelOnce, once) {
            return Err(self.blame(Code::LabelReuse, "this query had another content before"));
        }
        if let Some((_, answer)) = before.filter(|(before, _)| *before == content) {
            // What was found then, whatever the accounts have become since.
            let picked = decode::<Signed<Picked>>(&world.world.blob(&answer)?)?;
            return Ok(vec![self.to_network(Message::Picked(picked))]);
        }
        self.count_accounts(cx, &accounts.accounts)?;
        let (mut ciphers, mut proofs) = (Vec::new(), Vec::new());
        let each =
            fields.rows.iter().zip(&accounts.accounts).zip(candidates.chunks(row_bytes.max(1)));
        for ((row, account), candidates) in each {
            let most = u8::try_from(self.job.class_bits).unwrap_or(u8::MAX);
            let class = u32::from(world.accounts.severity(side, account).min(most));
            let binding = self.job.pick_binding(&table.hash(), side, &self.me, row);
            let seed = seed(
                cx.identity,
                "quorate/pv-pick-seed/1",
                &[&binding, &ciphers_hash(candidates).0],
            );
            let chosen = world
                .world
                .key
                .select(&binding, candidates, classes, class, &seed)
                .map_err(|error| bad_ciphertext(&error, self.job.network_culprit()))?;
            ciphers.extend(chosen.ciphers);
            proofs.extend(chosen.proofs);
        }
        let picked = Picked {
            job: self.job.id(),
            version: table.version,
            bank: self.me.clone(),
            table: table.hash(),
            side,
            ciphers,
            proofs,
        };
        let picked = Signed::sign(picked, cx.identity).signed().clone();
        let keep = Keep::of(encode(&picked));
        let query = self.queries.entry(fields.query).or_insert_with(|| Query {
            table: table.hash(),
            asked: BTreeMap::new(),
            released: None,
        });
        query.asked.insert(side, (content, keep.hash));
        let note = format!("query {}: {rows} rows, {side:?}", fields.query);
        let fact = Output::Log(Fact::of("query.answered", table.version, 0, note));
        Ok(vec![fact, Output::Work(keep), self.to_network(Message::Picked(picked))])
    }

    /// W13: no account is asked about more often than the job says, nor more rows on both sides than
    /// all its queries can have.
    fn count_accounts(&mut self, cx: &Context<'_>, accounts: &[Account]) -> Result<(), Refusal> {
        self.rows = self.rows.saturating_add(accounts.len() as u64);
        if self.rows > self.job.queries.total.saturating_mul(2) {
            let why = "more rows were asked about than the job's queries can have";
            return Err(Refusal::new(Code::BudgetSpent, why));
        }
        for account in accounts {
            let times = self.asked.entry(keyed(cx, account)).or_default();
            *times = times.saturating_add(1);
            if *times > self.job.queries.per_account {
                return Err(Refusal::new(
                    Code::BudgetSpent,
                    "an account was asked about as often as the job allows",
                ));
            }
        }
        Ok(())
    }

    /// W11: what the authority signed is of the sums that this bank gave noise for, and with its own
    /// share if with any of its name.
    fn honours(&self, version: u32, summed: &Hash, shares: &[(Name, Hash)]) -> Result<(), Refusal> {
        let version = self.versions.get(&version).cloned().unwrap_or_default();
        let mine = shares.iter().find(|(bank, _)| *bank == self.me).map(|(_, hash)| hash);
        let honoured = mine.is_none_or(|mine| Some(*mine) == version.share)
            && version.noised.is_none_or(|noised| noised == *summed);
        if honoured {
            return Ok(());
        }
        let why = "the release carries another noise share than this bank's";
        Err(Refusal::new(Code::ReceiptBroken, why)
            .blaming(Culprit::Authority(self.job.authority.name.clone())))
    }

    /// W11: a partial decryption of what the authority released, once per model version and query.
    fn open(
        &mut self,
        cx: &Context<'_>,
        world: &BankWorld<'_>,
        ask: &OpenAsk,
    ) -> Result<Vec<BankOutput>, Refusal> {
        let release: Verified<Release> = self.job.by_authority(&ask.release)?;
        if ciphers_hash(&ask.ciphers) != release.ciphers {
            return Err(
                self.blame(Code::NotFrozen, "other ciphertexts than the authority released")
            );
        }
        let hash = release.hash();
        let authority = Culprit::Authority(self.job.authority.name.clone());
        // S6: in a strict job no counts are opened, whoever asks.
        if !self.job.opens(&release.opens) {
            let why = "a release of what this job never opens";
            return Err(Refusal::new(Code::WrongState, why).blaming(authority));
        }
        let before = match &release.opens {
            Opens::Model { summed, shares } => {
                self.honours(release.version, summed, shares)?;
                &mut self.versions.entry(release.version).or_default().released
            }
            Opens::Query { query, table } | Opens::Pooled { query, table, .. } => {
                if let Opens::Pooled { frozen, .. } = &release.opens {
                    self.is_frozen(release.version)?;
                    let known = self.versions.get(&release.version).and_then(|v| v.released);
                    if !holds(Check::OneShare, known == Some(*frozen)) {
                        let why = "pairs of other sums than this version's";
                        return Err(Refusal::new(Code::Difference, why).blaming(authority));
                    }
                }
                let query = self.queries.entry(*query).or_insert_with(|| Query {
                    table: *table,
                    asked: BTreeMap::new(),
                    released: None,
                });
                // The network numbers queries and the authority releases them: which of the two is
                // wrong, these bytes do not say.
                if !holds(Check::OneShare, query.table == *table) {
                    return Err(Refusal::new(
                        Code::WrongLabel,
                        "the release is of another table than this query's",
                    ));
                }
                &mut query.released
            }
        };
        if !holds(Check::OneShare, before.is_none_or(|before| before == hash)) {
            return Err(Refusal::new(Code::Difference, "another opening was answered before")
                .blaming(authority));
        }
        *before = Some(hash);
        let ciphers = Ciphers::decode_sums(&ask.ciphers)
            .map_err(|error| bad_ciphertext(&error, self.job.network_culprit()))?;
        let seed = seed(cx.identity, "quorate/pv-partial-seed/1", &[&hash.0]);
        let bytes =
            world.world.key.partial(&hash.0, &ciphers, world.share, &seed).map_err(scheme)?;
        let partial = Partial {
            job: self.job.id(),
            version: release.version,
            bank: self.me.clone(),
            release: hash,
            bytes,
        };
        let partial = Signed::sign(partial, cx.identity).signed().clone();
        Ok(vec![self.to_network(Message::Partial(partial))])
    }
}

/// An account's number under a key that only this bank has.
fn keyed(cx: &Context<'_>, account: &Account) -> Hash {
    Hash(*seed(cx.identity, "quorate/pv-account/1", &[account.account.as_bytes()]).expose())
}

/// A kept part of the join list.
fn kept_part(bytes: &[u8]) -> Result<JoinPart, Refusal> {
    decode::<Signed<JoinPart>>(bytes)?.peek()
}

fn scheme(error: SchemeError) -> Refusal {
    Refusal::new(Code::BadKey, error.to_string())
}
