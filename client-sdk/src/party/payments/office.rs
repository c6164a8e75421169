//! What bank and network share: a stored machine, an outbox, and a box of letters at the aggregator.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_crypto::merkle::Hash;
use quorate_protocols::machine::{Output, Peer};
use quorate_protocols::pv4fad::aggregator::AggregatorJob;
use quorate_protocols::pv4fad::bank::BankJob;
use quorate_protocols::pv4fad::letters::{Collect, Mail, PaymentsMessage};
use quorate_protocols::pv4fad::messages::Message;
use quorate_protocols::pv4fad::network::NetworkJob;
use quorate_protocols::pv4fad::{Envelope, Job, Keep, blob_hash};
use quorate_protocols::refusal::{Code, Refusal};
use quorate_protocols::round::messages::Message as Control;
use quorate_protocols::wire::{MAX_MESSAGE_BYTES, Name, Signed};
use serde::{Deserialize, Serialize};

use super::super::run::AGGREGATOR;
use super::super::{Inner, PartyError, PartyEvent};
use crate::api::Hex32;
use crate::engine::log_line;
use crate::ledger::LedgerError;
use crate::payments::kept::Kept;
use crate::store::{Batch, StoreError};
use crate::transport::{Ask, CallError};

/// Kind of the records with what is still to be sent, by job and number.
const OUT: &str = "payments-out";
/// What is not taken now is sent again after so long.
const AGAIN: Duration = Duration::from_millis(300);

/// An output of a bank's or the network's machine.
pub(super) type Said = Output<Message, Keep>;

/// Kind of the records with the pieces of a role's machine, by job and name.
const PIECE: &str = "payments-piece";
/// The piece that every machine has.
const MACHINE: &str = "machine";
/// Before the number of a query, in the name of its piece.
const QUERY: &str = "query-";

/// What is stored of a role with every letter; the pieces of its machine are, where they changed.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Stored {
    /// Number of the last letter that was handled.
    handled: u64,
    /// Number of the next letter that is sent.
    next: u64,
}

/// A machine that is stored in pieces.
pub(super) trait Pieces: Clone {
    /// The pieces, by name.
    fn pieces(&mut self) -> Result<BTreeMap<String, Vec<u8>>, StoreError>;

    /// The machine of these pieces.
    fn whole(pieces: BTreeMap<String, Vec<u8>>) -> Result<Self, StoreError>;
}

impl Pieces for BankJob {
    fn pieces(&mut self) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
        let machine = postcard::to_allocvec(self).map_err(|_| StoreError::BadNumber)?;
        Ok(BTreeMap::from([(MACHINE.to_owned(), machine)]))
    }

    fn whole(pieces: BTreeMap<String, Vec<u8>>) -> Result<Self, StoreError> {
        let machine = pieces.get(MACHINE).ok_or(StoreError::BadNumber)?;
        postcard::from_bytes(machine).map_err(|_| StoreError::BadNumber)
    }
}

impl Pieces for NetworkJob {
    fn pieces(&mut self) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
        let (training, queries) = self.to_pieces();
        let named = |(number, query)| (format!("{QUERY}{number:020}"), query);
        let mut pieces: BTreeMap<String, Vec<u8>> = queries.into_iter().map(named).collect();
        pieces.insert(MACHINE.to_owned(), training);
        Ok(pieces)
    }

    fn whole(mut pieces: BTreeMap<String, Vec<u8>>) -> Result<Self, StoreError> {
        let training = pieces.remove(MACHINE).ok_or(StoreError::BadNumber)?;
        let number = |name: &str| name.strip_prefix(QUERY).and_then(|number| number.parse().ok());
        let query = |(name, query): (String, _)| {
            number(&name).map(|number: u64| (number, query)).ok_or(StoreError::BadNumber)
        };
        let queries = pieces.into_iter().map(query).collect::<Result<Vec<_>, _>>()?;
        Self::from_pieces(&training, queries).map_err(|_| StoreError::BadNumber)
    }
}

/// A role's machine in its store.
pub(super) struct Office<'a, M> {
    pub(super) party: &'a Inner,
    pub(super) kept: Kept,
    kind: &'static str,
    id: String,
    url: String,
    job: Job,
    machine: M,
    stored: Stored,
    version: u64,
    /// Hashes of the pieces as they are stored.
    pieces: BTreeMap<String, Hash>,
}

/// How sending went.
pub(super) enum Sent {
    /// Everything left.
    All,
    /// The aggregator takes no more now.
    Later,
    /// An answer, which is handled in the commit that `also` joins.
    Answer(Box<Message>, Batch),
}

/// How a commit went.
pub(super) enum Committed {
    /// It is stored.
    Done,
    /// A ledger refuses: nothing is stored.
    Spent(Refusal),
}

impl<'a, M: Pieces> Office<'a, M> {
    /// Takes up what is stored, or stores the state that `fresh` makes with what it says.
    pub(super) async fn open(
        party: &'a Inner,
        (kind, id): (&'static str, &str),
        job: Job,
        fresh: impl FnOnce() -> Result<(M, Vec<Said>), PartyError>,
    ) -> Result<Self, PartyError> {
        let url = format!("{}/payments", party.job_url(&Hex32::from(job.manifest)));
        let kept = Kept::new(&party.store, id);
        let id = id.to_owned();
        if let Some((version, state)) = party.store.load_machine(kind, &id).await? {
            let stored = postcard::from_bytes(&state).map_err(|_| StoreError::BadNumber)?;
            let prefix = format!("{id}/");
            let known = party.store.list_records(PIECE, &prefix).await?.into_iter();
            let known = known.filter_map(|(key, bytes)| {
                key.strip_prefix(&prefix).map(|name| (name.to_owned(), bytes))
            });
            let known: BTreeMap<String, Vec<u8>> = known.collect();
            let hashes = known.iter().map(|(name, bytes)| (name.clone(), blob_hash(bytes)));
            let pieces = hashes.collect();
            let machine = M::whole(known)?;
            return Ok(Self { party, kept, kind, id, url, job, machine, stored, version, pieces });
        }
        let (machine, said) = fresh()?;
        let (stored, pieces, first) = (Stored::default(), BTreeMap::new(), machine.clone());
        let mut office =
            Self { party, kept, kind, id, url, job, machine: first, stored, version: 0, pieces };
        office.commit(machine, said, None, Batch::new()).await?;
        Ok(office)
    }

    pub(super) const fn machine(&self) -> &M {
        &self.machine
    }

    /// Stores a step: the new state, what it keeps and says, and the letter it handled.
    pub(super) async fn commit(
        &mut self,
        mut machine: M,
        said: Vec<Said>,
        letter: Option<u64>,
        also: Batch,
    ) -> Result<Committed, PartyError> {
        let store = &self.party.store;
        let (mut batch, turn) = match self.party.ledgers.settle(store, &said, also).await {
            Ok(settled) => settled,
            Err(LedgerError::Refused(refusal)) => return Ok(Committed::Spent(refusal)),
            Err(LedgerError::Store(error)) => return Err(error.into()),
        };
        let mut next = self.stored.next;
        for output in said {
            match output {
                Output::Send { to, message } => {
                    let out = self.address(&to, message)?.to_wire();
                    batch = batch.put_record(OUT, &self.out_key(next), out);
                    next += 1;
                }
                Output::Work(keep) => batch = self.kept.put(batch, &keep),
                Output::Log(fact) => {
                    batch = batch.fact(log_line(&self.id, self.party.name.as_str(), &fact));
                }
                Output::Reject(refusal) => {
                    let (code, detail) = (refusal.code.as_str().to_owned(), refusal.detail);
                    self.party.report(&PartyEvent::Refused { code, detail });
                }
                Output::Charge(_) | Output::Refund(_) => {}
            }
        }
        let mut pieces = BTreeMap::new();
        for (name, bytes) in machine.pieces()? {
            let hash = blob_hash(&bytes);
            if self.pieces.get(&name) != Some(&hash) {
                batch = batch.put_record(PIECE, &format!("{}/{name}", self.id), bytes);
            }
            pieces.insert(name, hash);
        }
        for gone in self.pieces.keys().filter(|name| !pieces.contains_key(*name)) {
            batch = batch.del_record(PIECE, &format!("{}/{gone}", self.id));
        }
        let stored = Stored { handled: letter.unwrap_or(self.stored.handled), next };
        let state = postcard::to_allocvec(&stored).map_err(|_| StoreError::BadNumber)?;
        batch = batch.put_machine(self.kind, &self.id, self.version, state);
        store.commit(batch).await?;
        drop(turn);
        self.version += 1;
        (self.machine, self.stored, self.pieces) = (machine, stored, pieces);
        Ok(Committed::Done)
    }

    fn out_key(&self, number: u64) -> String {
        format!("{}/{number:012}", self.id)
    }

    /// A message as it travels.
    fn address(&self, to: &Peer, message: Message) -> Result<Control, Refusal> {
        match (to, message) {
            (Peer::Aggregator, Message::Assigned(assigned)) => {
                Ok(Control::Payments(PaymentsMessage::Assigned(assigned)))
            }
            (Peer::Aggregator, _) => {
                Err(Refusal::new(Code::WrongState, "nothing for the aggregator"))
            }
            (Peer::Authority(name), message) => {
                self.seal((&self.job.authority.exchange, name), &message)
            }
            (Peer::Party(name), message) => {
                let network = &self.job.network;
                let entry = if *name == network.party { network } else { self.job.bank(name)? };
                self.seal((&entry.exchange, name), &message)
            }
        }
    }

    fn seal(
        &self,
        to: (&quorate_crypto::keys::ExchangeKey, &Name),
        message: &Message,
    ) -> Result<Control, Refusal> {
        let me = (self.party.keys.identity.as_ref(), &self.party.name);
        let letter = Envelope::seal(self.job.manifest, me, to, message)?;
        Ok(Control::Payments(PaymentsMessage::Letter(letter.signed().clone())))
    }

    /// Sends what the outbox holds, in order.
    pub(super) async fn send(&self) -> Result<Sent, PartyError> {
        let store = &self.party.store;
        let mut gone = Batch::new();
        let mut sent = Sent::All;
        for key in store.list_keys(OUT, &format!("{}/", self.id)).await? {
            let Some(out) = store.get_record(OUT, &key).await? else { continue };
            let ask = Ask::post(self.url.clone(), out);
            match self.party.http.once(AGGREGATOR, &ask, MAX_MESSAGE_BYTES).await {
                Ok(answer) if answer.is_empty() => gone = gone.del_record(OUT, &key),
                Ok(answer) => {
                    let Control::Payments(PaymentsMessage::Logged(logged)) =
                        Control::from_wire(&answer)?
                    else {
                        let why = "no answer to this message".to_owned();
                        return Err(CallError::BadAnswer { peer: AGGREGATOR.into(), why }.into());
                    };
                    let also = Batch::new().del_record(OUT, &key);
                    sent = Sent::Answer(Box::new(Message::Logged(logged)), also);
                    break;
                }
                Err(CallError::Refused { problem, .. }) => {
                    // Taken never: the job is over, as the next look at the box says.
                    let (code, detail) = (problem.code, problem.detail);
                    self.party.report(&PartyEvent::Refused { code, detail });
                    gone = gone.del_record(OUT, &key);
                }
                Err(error) if error.is_transient() => {
                    tracing::debug!(%error, "to be sent again");
                    sent = Sent::Later;
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        if !gone.is_empty() {
            store.commit(gone).await?;
        }
        Ok(sent)
    }

    /// Looks into the box, waiting for a letter for a while; what was handled is erased there.
    pub(super) async fn collect(&self, wait: Duration, sent: &Sent) -> Result<Mail, PartyError> {
        let wait = if matches!(sent, Sent::Later) { wait.min(AGAIN) } else { wait };
        let collect = Collect {
            job: self.job.manifest,
            party: self.party.name.clone(),
            after: self.stored.handled,
            wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        };
        let collect = Signed::sign(collect, &self.party.keys.identity).signed().clone();
        let body = Control::Payments(PaymentsMessage::Collect(collect)).to_wire();
        let ask = Ask::post(self.url.clone(), body);
        let most = MAX_MESSAGE_BYTES + 64;
        let answer = self.party.http.insist(AGGREGATOR, &ask, most).await?;
        let Control::Payments(PaymentsMessage::Mail(mut mail)) = Control::from_wire(&answer)?
        else {
            let why = "no mail".to_owned();
            return Err(CallError::BadAnswer { peer: AGGREGATOR.into(), why }.into());
        };
        mail.letters.retain(|(number, _)| *number > self.stored.handled);
        Ok(mail)
    }

    /// The message in a letter; a letter that is none is stored as handled, so that it is erased.
    pub(super) async fn read(
        &mut self,
        number: u64,
        letter: &Signed<Envelope>,
    ) -> Result<Option<Message>, PartyError> {
        let opened = AggregatorJob::new(self.job.clone()).route(letter).and_then(|(_, letter)| {
            match letter.to == self.party.name {
                true => letter.open(&self.party.keys.identity),
                false => Err(Refusal::new(Code::UnknownParty, "a letter to somebody else")),
            }
        });
        match opened {
            Ok(message) => Ok(Some(message)),
            Err(refusal) => {
                let machine = self.machine.clone();
                self.commit(machine, vec![Output::Reject(refusal)], Some(number), Batch::new())
                    .await?;
                Ok(None)
            }
        }
    }

    /// Sends a message of this role to the aggregator itself, until it is answered.
    pub(super) async fn tell(&self, message: PaymentsMessage) -> Result<(), PartyError> {
        let ask = Ask::post(self.url.clone(), Control::Payments(message).to_wire());
        match self.party.http.insist(AGGREGATOR, &ask, MAX_MESSAGE_BYTES).await {
            Err(error) if error.is(Code::WrongState) => Ok(()),
            done => Ok(done.map(drop)?),
        }
    }

    /// The write that erases what the job leaves here but its machine.
    pub(super) fn erase(&self, batch: Batch) -> Batch {
        self.kept.erase(batch).del_records(OUT, &format!("{}/", self.id))
    }

    /// The job's id.
    pub(super) fn manifest(&self) -> Hash {
        self.job.manifest
    }
}
