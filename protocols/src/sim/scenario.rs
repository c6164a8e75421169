//! One scripted attack per named check: each is refused with a stable code, or the scenario fails.
//! They are functions and not tests, so that the mutants can run them with their check switched
//! off and see them fail.

use quorate_crypto::keys::Identity;
use quorate_crypto::merkle::Hash;
use quorate_crypto::threshold::KeyPost;

use super::lab::{Kind, Size, context, entry, is_threshold, name};
use super::stage::{Stage, Submission, indicator};
use super::world::threshold_scheme;
use crate::checks::Check;
use crate::job::{JobPackage, Minima, ThresholdSpec, roster_root};
use crate::machine::{Output, Peer};
use crate::payload::{OpenedSum, PayloadKind};
use crate::policy::Ledger;
use crate::refusal::{Code, Culprit, Refusal};
use crate::round::aggregator::{self, AggregatorJob};
use crate::round::authority::AuthorityJob;
use crate::round::keying::PostWork;
use crate::round::messages::{Freeze, KeyPosted, KeyTranscript, Message, RoundOpen, SubmitHeader};
use crate::round::party::PartyJob;
use crate::wire::{Signed, decode, encode};
use crate::workload::Purpose;

/// A scripted attack: `Err` tells how it succeeded.
pub type Scenario = fn() -> Result<(), String>;

/// Every check with an attack that it stops.
pub const SCENARIOS: [(Check, Scenario); 17] = [
    (Check::Signature, unfrozen_set),
    (Check::Label, roster_outside_the_label),
    (Check::Floor, set_below_the_floor),
    (Check::Indicator, subset_key),
    (Check::OneOpening, second_key),
    (Check::Tombstones, retry_without_tombstones),
    (Check::AllPromises, key_on_one_promise),
    (Check::Enrolled, sybils),
    (Check::ModelHash, another_model_for_one),
    (Check::LabelOnce, two_labels_for_one_attempt),
    (Check::Late, late_submission),
    (Check::CheckSlot, wrong_check_slot),
    (Check::Minima, manifest_below_the_minima),
    (Check::ModelOnce, one_model_twice),
    (Check::Budget, past_the_budget),
    (Check::OneShare, two_shares_of_one_round),
    (Check::KeyPosts, two_transcripts_of_one_key),
];

const ALL: [usize; 5] = [0, 1, 2, 3, 4];
const LESS: [usize; 4] = [0, 1, 2, 3];

/// Five parties, two authorities, a floor of three. With a threshold scheme one authority, and three
/// of five holders.
#[must_use]
pub fn size(kind: Kind, scheme: u16) -> Size {
    let keyed = is_threshold(scheme);
    Size {
        parties: 5,
        authorities: if keyed { 1 } else { 2 },
        quorum: 3,
        colluders: 0,
        rounds: 4,
        scheme,
        kind,
        threshold: keyed.then_some(ThresholdSpec { holders: 5, threshold: 3 }),
        budget: None,
    }
}

fn stage() -> Stage {
    Stage::new(11, &size(Kind::Sum, 1))
}

/// `outcome` must be a refusal with `code`, written to the log, naming exactly `culprits`.
fn refused<T>(
    stage: &Stage,
    outcome: Result<T, Refusal>,
    code: Code,
    culprits: &[Culprit],
) -> Result<(), String> {
    match outcome {
        Ok(_) => Err(format!("not refused, {code} expected")),
        Err(refusal) if refusal.code != code => Err(format!("{refusal}, {code} expected")),
        Err(refusal) if refusal.culprits != culprits => {
            Err(format!("{refusal} names {:?}, not {culprits:?}", refusal.culprits))
        }
        Err(refusal) => {
            let fact = refusal.to_string();
            let logged = stage.facts.iter().any(|f| f.what == "refused" && f.note == fact);
            if logged { Ok(()) } else { Err(format!("{refusal} is not in the log")) }
        }
    }
}

/// A fresh round to which all five submitted.
fn collected(stage: &mut Stage) -> Result<(Signed<RoundOpen>, Vec<Submission>), String> {
    let open = stage.sign(stage.opening(0, 0, &ALL));
    let members = stage.submit_all(&ALL, &open).map_err(|e| e.to_string())?;
    Ok((open, members))
}

fn y(open: &Signed<RoundOpen>, members: &[Submission]) -> Vec<u8> {
    indicator(&open.peek().unwrap().roster, members)
}

/// Without an adversary the sum opens, and equals plain arithmetic.
///
/// # Errors
/// When it does not.
pub fn honest_sum(scheme: u16) -> Result<(), String> {
    let mut stage = Stage::keyed(11, &size(Kind::Sum, scheme));
    let (open, members) = collected(&mut stage)?;
    let sum = stage.open_set(&open, &members).map_err(|e| e.to_string())?;
    let plains: Vec<Vec<u8>> =
        ALL.iter().map(|p| stage.lab.plaintext(*p, 0, stage.model.hash())).collect();
    let ring = stage.lab.manifest.ring;
    if sum == quorate_crypto::conformance::plain_sum(ring, &ALL, &plains) {
        Ok(())
    } else {
        Err("the sum is not exact".into())
    }
}

/// A set that the aggregator never signed.
///
/// # Errors
/// When a promise is given.
pub fn unfrozen_set() -> Result<(), String> {
    let mut stage = stage();
    let (open, members) = collected(&mut stage)?;
    let y = y(&open, &members);
    let stranger = Identity::from_bytes(&[3; 64]);
    let freeze = stage.freeze(&open, &members).peek().unwrap();
    let freeze = Signed::<Freeze>::sign(freeze, &stranger).signed().clone();
    let promise = stage.promise(0, &freeze, &y);
    refused(&stage, promise, Code::NotFrozen, &[])
}

/// One label, but a roster other than the one hashed into it.
///
/// # Errors
/// When a promise is given.
pub fn roster_outside_the_label() -> Result<(), String> {
    let mut stage = stage();
    let (open, members) = collected(&mut stage)?;
    let mut other = open.peek().unwrap();
    other.roster.pop();
    let other = stage.sign(other);
    let members = &members[..LESS.len()];
    let freeze = stage.freeze(&other, members);
    let promise = stage.promise(0, &freeze, &y(&other, members));
    refused(&stage, promise, Code::WrongLabel, &[Culprit::Aggregator])
}

/// A frozen set of fewer members than the floor.
///
/// # Errors
/// When a promise is given.
pub fn set_below_the_floor() -> Result<(), String> {
    let mut stage = stage();
    let (open, members) = collected(&mut stage)?;
    let few = &members[..2];
    let freeze = stage.freeze(&open, few);
    let promise = stage.promise(0, &freeze, &y(&open, few));
    refused(&stage, promise, Code::BelowFloor, &[Culprit::Aggregator])
}

/// A y that leaves a member of the frozen set out.
///
/// # Errors
/// When a promise is given.
pub fn subset_key() -> Result<(), String> {
    let mut stage = stage();
    let (open, members) = collected(&mut stage)?;
    let freeze = stage.freeze(&open, &members);
    let subset = y(&open, &members[..LESS.len()]);
    let promise = stage.promise(0, &freeze, &subset);
    refused(&stage, promise, Code::BadY, &[])
}

/// A second frozen set of a round that is promised, and of one that is opened.
///
/// # Errors
/// When a second promise is given.
pub fn second_key() -> Result<(), String> {
    let mut stage = stage();
    let (open, members) = collected(&mut stage)?;
    let less = &members[..LESS.len()];
    let second = stage.freeze(&open, less);
    let freeze = stage.freeze(&open, &members);
    stage.promise(0, &freeze, &y(&open, &members)).map_err(|e| e.to_string())?;
    let promise = stage.promise(0, &second, &y(&open, less));
    refused(&stage, promise, Code::LabelUsed, &[Culprit::Aggregator])?;
    stage.open_set(&open, &members).map_err(|e| e.to_string())?;
    let promise = stage.promise(0, &second, &y(&open, less));
    refused(&stage, promise, Code::LabelUsed, &[Culprit::Aggregator])?;
    let tombstone = stage.tombstone(0, 0, 0);
    refused(&stage, tombstone, Code::Released, &[])
}

/// A retry that not every authority made way for.
///
/// # Errors
/// When a party or an authority believes it.
pub fn retry_without_tombstones() -> Result<(), String> {
    let mut stage = stage();
    collected(&mut stage)?;
    let mut retry = stage.opening(0, 1, &LESS);
    // One of two, and that one twice.
    let one = stage.tombstone(0, 0, 0).map_err(|e| e.to_string())?;
    for tombstones in [Vec::new(), vec![one.clone()], vec![one.clone(), one.clone()]] {
        retry.tombstones = tombstones;
        let retry = stage.sign(retry.clone());
        let submission = stage.submit(0, &retry);
        refused(&stage, submission, Code::MissingTombstones, &[Culprit::Aggregator])?;
        let freeze = stage.freeze(&retry, &[]);
        let promise = stage.promise(1, &freeze, &[]);
        refused(&stage, promise, Code::MissingTombstones, &[Culprit::Aggregator])?;
    }
    // With both the same plaintext goes out again under the new label.
    let two = stage.tombstone(1, 0, 0).map_err(|e| e.to_string())?;
    retry.tombstones = vec![one, two];
    let retry = stage.sign(retry);
    stage.submit_all(&LESS, &retry).map(|_| ()).map_err(|e| e.to_string())
}

/// A key against the promise of one authority of two, and against promises of two sets.
///
/// # Errors
/// When a key is released.
pub fn key_on_one_promise() -> Result<(), String> {
    let mut stage = stage();
    let (open, members) = collected(&mut stage)?;
    let less = &members[..LESS.len()];
    let label = open.peek().unwrap().fields.label(&stage.lab.manifest);
    let freeze = stage.freeze(&open, &members);
    let second = stage.freeze(&open, less);
    let whole = stage.promise(0, &freeze, &y(&open, &members)).map_err(|e| e.to_string())?;
    let part = stage.promise(1, &second, &y(&open, less)).map_err(|e| e.to_string())?;
    for promises in [vec![whole.clone()], vec![whole, part]] {
        let key = stage.key(0, label, &promises);
        refused(&stage, key, Code::BadPromises, &[])?;
    }
    Ok(())
}

/// Parties that the adversary invented.
///
/// # Errors
/// When a promise is given.
pub fn sybils() -> Result<(), String> {
    let mut stage = stage();
    let sybil = |i: u8| Identity::from_bytes(&[i; 64]);
    let names = [name("sybil-1"), name("sybil-2")];
    let mut open = stage.opening(0, 0, &[0]);
    for (i, name) in (1..).zip(&names) {
        open.roster.push(entry(name, 1, &sybil(i)));
    }
    open.fields.roster_root = roster_root(&open.roster);
    let open = stage.sign(open);
    // The victim cannot tell; the authority can.
    let victim = stage.submit(0, &open).map_err(|e| e.to_string())?;
    let said = victim.header.peek().unwrap();
    let mut members = vec![victim];
    for (i, name) in (1..).zip(&names) {
        let header = SubmitHeader { party: name.clone(), ..said.clone() };
        let header = Signed::sign(header, &sybil(i)).signed().clone();
        members.push(Submission { header, ciphertext: Vec::new() });
    }
    let freeze = stage.freeze(&open, &members);
    let promise = stage.promise(0, &freeze, &[1, 1, 1]);
    refused(&stage, promise, Code::UnknownParty, &[])
}

/// A model made for one party.
///
/// # Errors
/// When the party trains on it.
pub fn another_model_for_one() -> Result<(), String> {
    let mut stage = Stage::new(11, &size(Kind::Train, 1));
    let mut open = stage.opening(0, 0, &ALL);
    open.fields.model.0[0] ^= 1;
    let open = stage.sign(open);
    let submission = stage.submit(0, &open);
    refused(&stage, submission, Code::ModelMismatch, &[Culprit::Aggregator])
}

/// Two labels for one attempt, so that two sums hold nearly the same members.
///
/// # Errors
/// When a party encrypts under both.
pub fn two_labels_for_one_attempt() -> Result<(), String> {
    let mut stage = stage();
    collected(&mut stage)?;
    let second = stage.sign(stage.opening(0, 0, &LESS));
    let submission = stage.submit(0, &second);
    refused(&stage, submission, Code::LabelUsed, &[Culprit::Aggregator])
}

/// A submission after the set was frozen: it gets no receipt.
///
/// # Errors
/// When the aggregator takes it.
pub fn late_submission() -> Result<(), String> {
    let mut stage = stage();
    let manifest = stage.lab.manifest.clone();
    let mut rng = super::lab::stream(1, "late", &[]);
    let state = stage.model.hash();
    let keys = Identity::from_bytes(stage.lab.aggregator.to_bytes().expose());
    let mut now_ms = 1;
    let (mut job, _) =
        AggregatorJob::create(&context(now_ms, &keys, &mut rng), manifest.clone(), state)
            .map_err(|e| e.to_string())?;
    let mut handle = |job: AggregatorJob, now_ms, event| {
        job.handle(&mut context(now_ms, &keys, &mut rng), event).map_err(|bug| bug.to_string())
    };
    let message =
        |message| aggregator::Event::Message { from: Peer::Aggregator, message: Box::new(message) };
    for authority in &stage.authorities {
        let approval = Message::Approval(authority.approval().signed().clone());
        job = handle(job, now_ms, message(approval))?.0;
    }
    for (keys, party) in stage.lab.parties.iter().zip(&stage.parties) {
        let mut rng = super::lab::stream(2, "late", &[]);
        let cx = context(now_ms, &keys.identity, &mut rng);
        let join = party.join_message(&cx, keys.certificates.clone());
        job = handle(job, now_ms, message(join))?.0;
    }
    let open = job.open_round().ok_or("no round is open")?.signed().clone();
    let mut submissions = stage.submit_all(&ALL, &open).map_err(|e| e.to_string())?;
    let late = submissions.pop().ok_or("nobody submitted")?;
    for one in &submissions {
        job = handle(job, now_ms, message(Message::Submit(one.header.clone())))?.0;
    }
    now_ms += manifest.deadlines.collect_ms;
    job = handle(job, now_ms, aggregator::Event::Wake)?.0;
    if job.state_name() != "Promising" {
        return Err(format!("{} after the deadline", job.state_name()));
    }
    let (_, outputs) = handle(job, now_ms, message(Message::Submit(late.header)))?;
    let refusal = outputs.into_iter().find_map(|output| match output {
        Output::Reject(refusal) => Some(refusal),
        _ => None,
    });
    match refusal {
        Some(refusal) if refusal.code == Code::Late && refusal.culprits.is_empty() => Ok(()),
        other => Err(format!("a late submission: {other:?}")),
    }
}

/// A ciphertext that is off in a check slot only.
///
/// # Errors
/// When the sum is believed.
pub fn wrong_check_slot() -> Result<(), String> {
    let mut stage = stage();
    let (open, mut members) = collected(&mut stage)?;
    // Additive: one more in the first word of a ciphertext is one more in the sum.
    members[0].ciphertext[0] = members[0].ciphertext[0].wrapping_add(1);
    let sum = stage.open_set(&open, &members).map_err(|e| e.to_string())?;
    match stage.lab.read(0, members.len(), &sum) {
        Err(refusal) if refusal.code == Code::CheckSlot => Ok(()),
        other => Err(format!("a wrong check slot: {other:?}")),
    }
}

/// A manifest below what a party, and an authority, pinned.
///
/// # Errors
/// When it is accepted.
pub fn manifest_below_the_minima() -> Result<(), String> {
    let stage = stage();
    let accepted = vec![stage.lab.authorities[0].identity.verify_key()];
    let minima = [
        Minima { k_min: 3, ..Minima::default() },
        Minima { colluders: 1, ..Minima::default() },
        Minima { authorities: 3, ..Minima::default() },
        Minima { accepted, ..Minima::default() },
        Minima { require_noise: true, ..Minima::default() },
    ];
    refuses(&stage, &minima)?;
    // A job with noise, under a name for its data that is on no list.
    let noised = Stage::new(11, &Size { rounds: 2, budget: Some(3), ..size(Kind::Sum, 1) });
    let listed = |names: &[&str]| Minima {
        require_noise: true,
        data_sets: names.iter().map(|text| name(text)).collect(),
        ..Minima::default()
    };
    refuses(&noised, &[listed(&["clients", "claims"])])?;
    accepts(&noised, &listed(&["claims", "customers"]))?;
    accepts(&stage, &Minima { require_noise: false, ..listed(&["claims"]) })
}

/// A party and an authority refuse a stage's job by each of `minima`.
fn refuses(stage: &Stage, minima: &[Minima]) -> Result<(), String> {
    let below = |outcome: Result<(), Refusal>, minima: &Minima| match outcome {
        Err(refusal) if refusal.code == Code::BelowMinima => Ok(()),
        other => Err(format!("{minima:?}: {other:?}")),
    };
    for minima in minima {
        let (party, authority) = pinned(stage, minima);
        below(party, minima)?;
        below(authority, minima)?;
    }
    accepts(stage, &Minima::default())
}

/// Both accept it.
fn accepts(stage: &Stage, minima: &Minima) -> Result<(), String> {
    let (party, authority) = pinned(stage, minima);
    party.and(authority).map_err(|refusal| refusal.to_string())
}

/// What a party and an authority with these minima say of a stage's job.
fn pinned(stage: &Stage, minima: &Minima) -> (Result<(), Refusal>, Result<(), Refusal>) {
    let manifest = &stage.lab.manifest;
    let package = JobPackage {
        manifest: manifest.clone(),
        approvals: stage.authorities.iter().map(|a| a.approval().signed().clone()).collect(),
    };
    let (me, state) = (&stage.lab.parties[0].entry, stage.model.hash());
    let keys = &stage.lab.authorities[0];
    let mut rng = super::lab::stream(3, "minima", &[]);
    let party = PartyJob::join(me.clone(), minima, &package, state).map(|_| ());
    let cx = context(1, &keys.identity, &mut rng);
    let authority = AuthorityJob::register(&cx, &keys.name, 1, minima, manifest.clone());
    (party, authority.map(|_| ()))
}

/// F2 over rounds: the adversary says that training stood still, so that the parties train on the
/// same model again, and asks for the sum without one of them.
///
/// # Errors
/// When a second sum over one model is promised.
pub fn one_model_twice() -> Result<(), String> {
    let mut stage = Stage::new(11, &size(Kind::Train, 1));
    let text = |refusal: Refusal| refusal.to_string();
    let (open, members) = collected(&mut stage)?;
    let sum = stage.open_set(&open, &members).map_err(text)?;
    let read = stage.lab.read(0, members.len(), &sum).map_err(text)?;
    let workload = stage.lab.manifest.workload.clone();
    let model = stage.model.advance(&workload, 0, &read).map_err(|e| e.to_string())?;
    let record = stage.record(&open, &members);
    stage.advance(&record, model).map_err(text)?;

    let open = stage.sign(stage.opening(1, 0, &ALL));
    let members = stage.submit_all(&ALL, &open).map_err(text)?;
    stage.open_set(&open, &members).map_err(text)?;
    // Invented: a sum after which the model is what it was.
    let PayloadKind::Weights { .. } = stage.lab.manifest.payload(1).map_err(text)?.kind else {
        return Err("round 1 does not open weights".into());
    };
    let body = core::iter::once(0).chain(stage.model.params.iter().copied()).collect();
    let invented = OpenedSum { rows: 1, body };
    let model = stage.model.advance(&workload, 1, &invented).map_err(|e| e.to_string())?;
    if model != stage.model {
        return Err("the invented sum changes the model".into());
    }
    let record = stage.record(&open, &members);
    stage.advance(&record, model).map_err(text)?;

    let open = stage.sign(stage.opening(2, 0, &LESS));
    if open.peek().unwrap().fields.purpose != Purpose::Train {
        return Err("round 2 does not train".into());
    }
    let members = stage.submit_all(&LESS, &open).map_err(text)?;
    let freeze = stage.freeze(&open, &members);
    let promise = stage.promise(0, &freeze, &y(&open, &members));
    refused(&stage, promise, Code::LabelUsed, &[Culprit::Aggregator])
}

/// Opens the next round of a stage and tells everyone its result.
fn open_round(stage: &mut Stage, round: u32) -> Result<(), Refusal> {
    let open = stage.sign(stage.opening(round, 0, &ALL));
    let members = stage.submit_all(&ALL, &open)?;
    stage.open_set(&open, &members)?;
    let record = stage.record(&open, &members);
    let model = stage.model.clone();
    stage.advance(&record, model)
}

/// A second job on a data set whose budget the first has spent but for one round: a party's own ledger
/// stops it, and an authority's stops whoever's parties do not keep account.
///
/// # Errors
/// When a grant past the budget is made, or one within it is not.
pub fn past_the_budget() -> Result<(), String> {
    let text = |refusal: Refusal| refusal.to_string();
    let size = Size { rounds: 2, budget: Some(3), ..size(Kind::Sum, 1) };
    let mut first = Stage::new(11, &size);
    open_round(&mut first, 0).map_err(text)?;
    open_round(&mut first, 1).map_err(text)?;
    // What a restart brings back.
    let stored = encode(&(&first.authority_ledgers, &first.party_ledgers));
    for parties_keep_account in [true, false] {
        let mut second = Stage::new(12, &size);
        let (authorities, parties) = decode(&stored).map_err(text)?;
        second.authority_ledgers = authorities;
        if parties_keep_account {
            second.party_ledgers = parties;
        }
        let rounds = |stage: &Stage| -> Vec<u64> {
            let spent = |ledger: &Ledger| ledger.spent(name("customers"), 1e-6).rounds;
            stage.authority_ledgers.iter().map(spent).collect()
        };
        // The one round that is left is charged at the promise and given back at the tombstone.
        let open = second.sign(second.opening(0, 0, &ALL));
        let members = second.submit_all(&ALL, &open).map_err(text)?;
        let freeze = second.freeze(&open, &members);
        second.promise(0, &freeze, &y(&open, &members)).map_err(text)?;
        if rounds(&second) != [3, 2] {
            return Err(format!("{:?} rounds charged at a promise", rounds(&second)));
        }
        let mut retry = second.opening(0, 1, &ALL);
        retry.tombstones = vec![
            second.tombstone(0, 0, 0).map_err(text)?,
            second.tombstone(1, 0, 0).map_err(text)?,
        ];
        if rounds(&second) != [2, 2] {
            return Err(format!("{:?} rounds charged after a tombstone", rounds(&second)));
        }
        let retry = second.sign(retry);
        let members = second.submit_all(&ALL, &retry).map_err(text)?;
        second.open_set(&retry, &members).map_err(text)?;
        let record = second.record(&retry, &members);
        let model = second.model.clone();
        second.advance(&record, model).map_err(text)?;
        let spent = second.authority_ledgers.clone();
        let open = second.sign(second.opening(1, 0, &ALL));
        if parties_keep_account {
            let submission = second.submit(0, &open);
            refused(&second, submission, Code::BudgetSpent, &[])?;
        } else {
            let members = second.submit_all(&ALL, &open).map_err(text)?;
            let freeze = second.freeze(&open, &members);
            let promise = second.promise(0, &freeze, &y(&open, &members));
            refused(&second, promise, Code::BudgetSpent, &[])?;
        }
        if second.authority_ledgers != spent {
            return Err("a refusal changed a ledger".into());
        }
    }
    Ok(())
}

/// A job whose key is made by holders, where there is such a scheme.
fn keyed_stage() -> Result<Stage, String> {
    let scheme = threshold_scheme().ok_or("no threshold scheme")?;
    Ok(Stage::keyed(11, &size(Kind::Sum, scheme)))
}

/// A second set of one round, promised by an authority that colludes.
///
/// # Errors
/// When a holder answers for it.
pub fn two_shares_of_one_round() -> Result<(), String> {
    let mut stage = keyed_stage()?;
    let (open, members) = collected(&mut stage)?;
    let freeze = stage.freeze(&open, &members);
    let promise = stage.promise(0, &freeze, &y(&open, &members)).map_err(|e| e.to_string())?;
    let ask = stage.ask(&freeze, &[promise]);
    let once = stage.share(0, &ask).map_err(|e| e.to_string())?;
    let second = stage.freeze(&open, &members[..LESS.len()]);
    let stolen = stage.stolen_promise(&second);
    let second = stage.ask(&second, &[stolen]);
    let share = stage.share(0, &second);
    refused(&stage, share, Code::Difference, &[Culprit::Aggregator])?;
    // The first set gets the same bytes again.
    let again = stage.share(0, &ask).map_err(|e| e.to_string())?;
    if once == again { Ok(()) } else { Err("a second share of one sum".into()) }
}

/// Two transcripts of one key: a holder in league with the aggregator posts twice, and others are
/// shown the post that the authority did not see.
///
/// # Errors
/// When a party takes the key that was never made so.
pub fn two_transcripts_of_one_key() -> Result<(), String> {
    let scheme = threshold_scheme().ok_or("no threshold scheme")?;
    let mut stage = Stage::new(11, &size(Kind::Sum, scheme));
    let honest = stage.make_key(0, &ALL).map_err(|e| e.to_string())?;
    let mut other = honest.clone();
    let liar = &stage.lab.parties[0];
    let swapped = other
        .posts
        .iter_mut()
        .find(|post| post.peek().is_ok_and(|said| said.from == liar.entry.party));
    let swapped = swapped.ok_or("no holder posts to this scheme's keys")?;
    // Another post to the same call that is right by itself: the same step, done again.
    let said = swapped.peek().map_err(|e| e.to_string())?;
    let work = PostWork {
        transcript: KeyTranscript { call: honest.call.clone(), posts: Vec::new() },
        number: said.post.from,
        step: said.post.step,
    };
    let made = stage.lab.key_post(&liar.identity, &[], &work, [5; 32]);
    let (bytes, _) = made.map_err(|e| e.to_string())?;
    let post = KeyPost { bytes, ..said.post.clone() };
    let twice = KeyPosted { post, ..said };
    *swapped = Signed::sign(twice, &liar.identity).signed().clone();
    let shown = stage.show_key(4, &other);
    refused(&stage, shown, Code::BadKey, &[])?;
    stage.accept_key(&honest).map_err(|e| e.to_string())
}

/// A party that holds a receipt refuses a sum without it, and whoever claims the sum is named.
///
/// # Errors
/// When the result is believed.
pub fn receipt_not_honoured() -> Result<(), String> {
    let mut stage = stage();
    let (open, members) = collected(&mut stage)?;
    stage.receipt(4, &members[4]).map_err(|e| e.to_string())?;
    let record = stage.record(&open, &members[..LESS.len()]);
    let told = stage.tell(4, &record, Hash([1; 32]));
    refused(&stage, told, Code::ReceiptBroken, &[Culprit::Aggregator])
}
