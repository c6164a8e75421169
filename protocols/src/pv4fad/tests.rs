//! A whole job, and every fault: which code, who is blamed, that nothing is opened.

mod strict;

use std::collections::BTreeSet;

use quorate_crypto::threshold::ThresholdScheme;
use quorate_crypto::threshold::elgamal::ElGamal;
use quorate_crypto::threshold::elgamal::choice::Ciphers;

use super::forest::{
    Cells as ForestCells, Forest, ForestSpec, ONE, Prior, Range, Scores, Severity, Totals,
};
use super::messages::*;
use super::network::{Asked, Layout, Payment, Phase};
use super::sim::{Sim, bank, identity, name, noise, payments, terms, with};
use super::*;
use crate::machine::{Context, Output};
use crate::wire::decode;
use rand_core::Rng;

const PAYMENTS: usize = 24;

/// Five banks, three to open, a floor of three.
fn sim() -> Sim {
    Sim::new(terms(5, 3), PAYMENTS, 1)
}

fn trained() -> Sim {
    let mut sim = sim();
    sim.run();
    assert_eq!(sim.network.phase(), Phase::Trained);
    sim
}

fn network() -> Culprit {
    Culprit::Party(name("network"))
}

/// The only refusal: who refused, the code, the culprits.
fn only_reject(sim: &Sim) -> (&str, Code, &[Culprit]) {
    let [(who, refusal)] = sim.rejects.as_slice() else {
        panic!("{:?}", sim.rejects);
    };
    (who.as_str(), refusal.code, &refusal.culprits)
}

fn without(sim: &Sim, lost: &Name) -> Vec<i64> {
    sim.plain_counts(|payment| !payment.banks.contains(lost))
}

/// Signs again what a sender changed.
fn again<T: Body>(signed: &mut Signed<T>, by: &Name, change: impl FnOnce(&mut T)) {
    let mut body = signed.peek().unwrap();
    change(&mut body);
    *signed = Signed::sign(body, &identity(by)).signed().clone();
}

fn asked(sim: &Sim, payment: &Payment, scores: &[f64]) -> Asked {
    let table = (0..9).map(|i| scores[(i / 3).max(i % 3)]).collect();
    assert_eq!(sim.job.classes(), 3);
    Asked { accounts: payment.accounts.clone(), scores: table }
}

#[test]
fn without_noise_every_count_is_the_plain_one() {
    for (bits, banks, threshold, seed) in [(2, 5, 3, 1), (1, 4, 2, 2), (3, 3, 2, 3)] {
        let terms = with(terms(banks, threshold), |figures| figures.class_bits = bits);
        let mut sim = Sim::new(terms, PAYMENTS, seed);
        sim.run();
        let plain = sim.plain_counts(|_| true);
        assert!(plain.iter().sum::<i64>() > 0);
        assert_eq!(sim.network.counts(), Some(plain.as_slice()));
        assert_eq!(sim.rejects, []);
        assert_eq!(sim.charges, []);
    }
}

#[test]
fn an_account_counts_in_k_rows_of_both_sides() {
    let terms = with(terms(3, 2), |figures| figures.rows_per_account = 2);
    let (mut ledgers, mut made, cells) = payments(&terms, 12, 4);
    let flagged = Account { account: "x".into(), name: "n".into() };
    let clean = Account { account: "y".into(), name: "n".into() };
    for ledger in ledgers.values_mut() {
        ledger.0.insert("y".into(), (0, "n".into()));
        ledger.0.insert("x".into(), (0, "n".into()));
    }
    ledgers.get_mut(&bank(1)).unwrap().0.insert("x".into(), (2, "n".into()));
    for (i, payment) in made.iter_mut().enumerate() {
        // Three rows of each side of the flagged account, six without it.
        let sides = match i {
            0..3 => [(1, &flagged), (0, &clean)],
            3..6 => [(0, &clean), (1, &flagged)],
            _ => [(2, &clean), (0, &clean)],
        };
        payment.banks = sides.map(|(number, _)| bank(number));
        payment.accounts = sides.map(|(_, account)| account.clone());
    }
    // The clean account is capped too, which shows nothing.
    let mut sim = Sim::with(terms, ledgers, made, cells, 0);
    sim.run();
    let counts = sim.network.counts().unwrap();
    for tree in counts.chunks(16) {
        for bit in 0..2 {
            assert_eq!(tree.iter().skip(bit).step_by(2).sum::<i64>(), 2);
        }
    }
}

#[test]
fn predictions_are_the_plain_ones_to_the_bit() {
    let mut sim = trained();
    let scores = [0.1, 0.1 + f64::EPSILON, 0.7];
    let pairs: BTreeSet<[Name; 2]> = sim.payments.iter().map(|p| p.banks.clone()).collect();
    let mut classes = BTreeSet::new();
    for (query, pair) in (0u64..).zip(&pairs) {
        let of: Vec<Payment> =
            sim.payments.iter().filter(|p| p.banks == *pair).take(2).cloned().collect();
        let rows = of.iter().map(|payment| asked(&sim, payment, &scores)).collect();
        let [a, b] = pair;
        let got = sim.query(query, [a, b], rows).unwrap();
        if let Some(got) = got {
            for (payment, score) in of.iter().zip(got) {
                let [o, b] = sim.classes(payment);
                classes.insert(o.max(b));
                assert_eq!(score.to_bits(), scores[usize::from(o.max(b))].to_bits());
            }
        } else {
            // Only an account that was asked about too often.
            assert!(sim.rejects.iter().all(|(_, refusal)| refusal.code == Code::BudgetSpent));
        }
    }
    assert_eq!(classes, BTreeSet::from([0, 1, 2]));
    assert_eq!(sim.network.phase(), Phase::Serving);
}

/// The forest of the twin behind the machines: what training opens are the twin's cells, and every score
/// that a query opens is the twin's, bit for bit.
#[test]
fn the_forest_trains_and_scores_as_in_the_clear() {
    let range = |name: &str| Range { name: name.into(), low: 0, high: 99, weight: 1 };
    let spec = ForestSpec {
        trees: 3,
        depth: 2,
        columns: vec![range("amount"), range("hour")],
        seed: [6; 32],
    };
    let forest = Forest::draw(&spec).unwrap();
    let terms = terms(5, 3);
    let (ledgers, made, mut cells) = payments(&terms, 60, 6);
    let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(6);
    let features: Vec<[i32; 2]> = made
        .iter()
        .map(|_| [0; 2].map(|_: i32| i32::try_from(rng.next_u32() % 100).unwrap()))
        .collect();
    for (tree, leaves) in (0u32..).zip(&mut cells.leaves) {
        for (leaf, row) in leaves.iter_mut().zip(&features) {
            *leaf = u16::try_from(forest.leaf(tree, row)).unwrap();
        }
    }
    let labels = cells.labels.clone();
    let mut sim = Sim::with(terms, ledgers, made, cells, 0);
    sim.run();
    assert_eq!(sim.network.phase(), Phase::Trained);

    let severity = |payment: &Payment| {
        let [ordering, beneficiary] = sim.classes(payment);
        Severity::ALL[usize::from(ordering.max(beneficiary))]
    };
    let (mut totals, mut clear) = (Totals::new(&forest), ForestCells::new(&forest));
    for ((payment, row), label) in sim.payments.iter().zip(&features).zip(&labels) {
        totals.add(&forest, row, *label);
        clear.add(&forest, row, *label, severity(payment).bits());
    }
    let opened = ForestCells::opened(&forest, sim.network.counts().unwrap().to_vec()).unwrap();
    assert_eq!(opened, clear);
    let prior = Prior::new(1, None);
    let scores = Scores::new(&forest, &totals, &opened, prior);
    assert_eq!(scores, Scores::new(&forest, &totals, &clear, prior));

    let mut seen = BTreeSet::new();
    for (query, (payment, row)) in (0u64..).zip(sim.payments.clone().iter().zip(&features).take(12))
    {
        let of_class = scores.of(&forest, row).map(|score| score as f64 / ONE as f64);
        let row = asked(&sim, payment, &of_class);
        let class = sim.classes(payment).into_iter().max().unwrap();
        let [a, b] = payment.banks.each_ref();
        if let Some(got) = sim.query(query, [a, b], vec![row]).unwrap() {
            let [score] = got.as_slice() else { panic!("one row") };
            assert_eq!(score.to_bits(), of_class[usize::from(class)].to_bits());
            seen.insert(class);
        }
    }
    assert_eq!(seen, BTreeSet::from([0, 1, 2]));
}

#[test]
fn a_pairs_table_need_not_be_that_of_the_maximum() {
    let mut sim = trained();
    let payment = sim.payments[0].clone();
    let scores: Vec<f64> = (0..9).map(|i| f64::from(i) / 8.0).collect();
    let row = Asked { accounts: payment.accounts.clone(), scores: scores.clone() };
    let got = sim.query(0, [&payment.banks[0], &payment.banks[1]], vec![row]).unwrap();
    let [o, b] = sim.classes(&payment).map(usize::from);
    assert_eq!(got, Some(vec![scores[3 * o + b]]));
}

#[test]
fn noise_is_added_once_and_charged_to_everyone() {
    let terms = with(terms(5, 3), |figures| {
        (figures.noise, figures.trees, figures.cells) = (Some(noise(2.0)), 10, 32);
    });
    let sigma = terms.sigma().unwrap();
    assert_eq!(sigma, 2.0 * 100.0 * 20f64.sqrt());
    let terms = with(terms, |figures| figures.rows_per_account = 1);
    let mut sim = Sim::new(terms, PAYMENTS, 1);
    sim.run();
    assert_eq!(sim.rejects, []);
    let sigma = sim.job.sigma().unwrap();
    assert_eq!(sigma, sim.job.noise.clone().unwrap().multiplier * 20f64.sqrt());
    // With K = 1 the plain counts differ by rows, so the mean is not looked at: each count is
    // small.
    let counts = sim.network.counts().unwrap();
    let variance = counts.iter().map(|x| (x * x) as f64).sum::<f64>() / counts.len() as f64;
    // Five members where h = 1: five times sigma squared. 640 samples: 30 % is over five
    // deviations.
    assert!((variance / (5.0 * sigma * sigma) - 1.0).abs() < 0.3, "{variance}");
    let charged: BTreeSet<_> = sim.charges.iter().map(|(who, _)| who.to_string()).collect();
    assert_eq!((charged.len(), sim.charges.len()), (6, 6));
    assert!(sim.charges.iter().all(|(_, charge)| charge.job == sim.job.id() && charge.round == 0));
}

#[test]
fn a_bank_lost_at_any_phase_is_left_out() {
    for kind in ["JoinPart", "FlagAsk", "NoiseAsk", "OpenAsk"] {
        let mut sim = sim();
        sim.leaves_at.insert(bank(1), kind);
        sim.run();
        assert_eq!(sim.network.phase(), Phase::Trained, "{kind}");
        assert_eq!(sim.rejects, [], "{kind}");
        let expected = match kind {
            "JoinPart" | "FlagAsk" => without(&sim, &bank(1)),
            _ => sim.plain_counts(|_| true),
        };
        assert_eq!(sim.network.counts(), Some(expected.as_slice()), "{kind}");
    }
    // After it gave its ordering side: its rows of that side still count.
    let mut sim = sim();
    while sim.queue.front().is_some_and(|envelope| {
        let message = envelope.open(&identity(&envelope.to)).unwrap();
        !matches!(&message, Message::FlagAsk(ask) if ask.peek().unwrap().side == Side::Beneficiary)
    }) {
        let envelope = sim.queue.pop_front().unwrap();
        sim.deliver(&envelope.to, envelope.open(&identity(&envelope.to)).unwrap());
    }
    sim.leaves_at.insert(bank(1), "FlagAsk");
    sim.run();
    let expected = sim.plain_counts(|payment| payment.banks[1] != bank(1));
    assert_eq!(sim.network.counts(), Some(expected.as_slice()));
}

#[test]
fn fewer_banks_than_the_floor_open_nothing() {
    for kind in ["JoinPart", "FlagAsk", "NoiseAsk"] {
        let mut sim = sim();
        for i in 0..3 {
            sim.leaves_at.insert(bank(i), kind);
        }
        sim.run();
        let refusal = sim.network.failure().unwrap();
        assert_eq!((refusal.code, &refusal.culprits), (Code::SetTooSmall, &vec![]), "{kind}");
        assert_eq!(refusal.concerns, [bank(0), bank(1), bank(2)], "{kind}");
        assert_eq!((sim.network.phase(), sim.network.counts()), (Phase::Failed, None));
    }
    let mut sim = sim();
    for i in 0..3 {
        sim.leaves_at.insert(bank(i), "OpenAsk");
    }
    sim.run();
    assert_eq!(sim.network.failure().unwrap().code, Code::QuorumLost);
    assert_eq!(sim.network.counts(), None);
    // What was released before, and shares that come late, open nothing any more.
    released_again_opens_nothing(&mut sim, &[bank(0), bank(1), bank(2)]);
}

/// Delivers all releases again, and shares of these banks.
fn released_again_opens_nothing(sim: &mut Sim, late: &[Name]) {
    sim.leaves_at.clear();
    sim.away.clear();
    let releases: Vec<Message> =
        sent(sim, &name("network"), "Released").into_iter().cloned().collect();
    assert!(!releases.is_empty());
    let (state, wire, facts) = (encode(&sim.network), sim.wire.len(), sim.facts.len());
    for release in releases {
        sim.deliver(&name("network"), release);
        sim.run();
    }
    assert_eq!((sim.wire.len(), sim.facts.len(), sim.rejects.len()), (wire, facts, 0));
    for bank in late {
        let to_it = sim.wire.iter().filter(|letter| letter.to == *bank);
        let mut read = to_it.map(|letter| letter.open(&identity(bank)).unwrap());
        let asked = read.rfind(|message| message.name() == "OpenAsk").unwrap();
        sim.deliver(bank, asked);
        sim.run();
    }
    assert_eq!(sim.wire.len(), wire + late.len());
    assert_eq!((sim.facts.len(), sim.rejects.as_slice()), (facts, &[][..]));
    assert_eq!(encode(&sim.network), state);
}

/// Payments between two of five banks: found out before the one assignment is logged.
#[test]
fn too_few_banks_behind_the_payments_waste_no_assignment() {
    let (ledgers, mut made, cells) = payments(&terms(5, 3), PAYMENTS, 1);
    made.iter_mut().for_each(|payment| payment.banks = [bank(0), bank(1)]);
    let mut sim = Sim::with(terms(5, 3), ledgers, made, cells, 0);
    sim.run();
    let refusal = sim.network.failure().unwrap();
    assert_eq!((refusal.code, refusal.culprits.as_slice()), (Code::SetTooSmall, &[][..]));
    assert_eq!((sim.assigned.is_none(), sim.network.counts()), (true, None));
    assert_eq!(sim.rejects, []);
}

#[test]
fn a_bank_that_sends_wrong_ciphertexts_is_named_and_left_out() {
    type Change = fn(&mut FlagPart);
    let changes: [(Change, Code, &str); 5] = [
        (|part| part.ciphers.copy_within(0..64, 64 * 7), Code::BadCiphertext, "7"),
        (|part| part.ciphers[64 * 5..64 * 5 + 32].fill(255), Code::BadCiphertext, "5"),
        (|part| part.proofs[96 * 9] ^= 1, Code::BadCiphertext, "9"),
        (|part| part.ciphers.truncate(64), Code::BadCiphertext, "expected"),
        (|part| part.rows = part.inputs, Code::WrongLabel, "rows"),
    ];
    for side in Side::BOTH {
        for (change, code, word) in &changes {
            let change = *change;
            let mut sim = sim();
            sim.tamper = Some(Box::new(move |from, _, message| {
                if let Message::FlagPart(part) = message
                    && *from == bank(2)
                    && part.peek().unwrap().side == side
                {
                    again(part, from, change);
                }
            }));
            sim.run();
            let refusals: BTreeSet<_> =
                sim.rejects.iter().map(|(who, r)| (who.clone(), r.code)).collect();
            assert_eq!(refusals, BTreeSet::from([(name("network"), *code)]), "{side:?} {word}");
            for (_, refusal) in &sim.rejects {
                assert_eq!(refusal.culprits, [Culprit::Party(bank(2))]);
                assert!(refusal.detail.contains(word), "{} {word}", refusal.detail);
            }
            assert_eq!(sim.network.counts(), None);
        }
    }
    // Given up, the others go on.
    let mut sim = sim();
    sim.tamper = Some(Box::new(|from, _, message| {
        if let Message::FlagPart(part) = message
            && *from == bank(2)
        {
            again(part, from, |part| part.proofs[0] ^= 1);
        }
    }));
    sim.leaves_at.insert(bank(2), "Nothing");
    sim.run();
    sim.leaves_at.insert(bank(2), "FlagAsk");
    sim.away.insert(bank(2));
    sim.run();
    assert_eq!(sim.network.counts(), Some(without(&sim, &bank(2)).as_slice()));
}

#[test]
fn a_ciphertext_of_another_bank_is_not_ones_own() {
    // Bank 2 answers with what bank 1 sent, under its own name and signature.
    let mut sim = sim();
    let mut seen: Option<FlagPart> = None;
    sim.tamper = Some(Box::new(move |from, _, message| {
        if let Message::FlagPart(part) = message {
            if *from == bank(1) && seen.is_none() {
                seen = Some(part.peek().unwrap());
            } else if *from == bank(2) {
                let victim = seen.clone().unwrap();
                again(part, from, |part| {
                    (part.ciphers, part.proofs) = (victim.ciphers, victim.proofs);
                });
            }
        }
    }));
    sim.run();
    assert!(sim.rejects.iter().all(|(_, refusal)| refusal.code == Code::BadCiphertext
        && refusal.culprits == [Culprit::Party(bank(2))]));
    assert!(!sim.rejects.is_empty());
    assert_eq!(sim.network.counts(), None);
}

/// The evidence of a run, as the network gave it to the authority.
fn evidence(sim: &Sim) -> Vec<Evidence> {
    let of = |message: &Message| match message {
        Message::Evidence(evidence) => Some(evidence.as_ref().clone()),
        _ => None,
    };
    sim.seen[&name("authority")].iter().filter_map(of).collect()
}

/// What a fresh authority says to evidence that a colluding network logged in good order.
fn resum(sim: &Sim, evidence: &[Evidence], logged: bool) -> Result<Summed, Refusal> {
    let keys = identity(&name("network"));
    let mut kept = BTreeMap::new();
    let hashes: Vec<Hash> = evidence
        .iter()
        .map(|one| {
            let keep = Keep::of(encode(one));
            kept.insert(keep.hash, keep.bytes.clone());
            keep.hash
        })
        .collect();
    let salt = [4; 32];
    let mut hash = assignment_hash(&sim.job.id(), 0, &salt, &hashes);
    if !logged {
        hash.0[0] ^= 1;
    }
    let record = Logged { job: sim.job.id(), version: 0, hash, index: 0 };
    let logged = Signed::sign(record, &identity(&name("aggregator"))).signed().clone();
    let ask = SumAsk { job: sim.job.id(), version: 0, logged, salt, evidence: hashes };
    let message = Message::SumAsk(Signed::sign(ask, &keys).signed().clone());
    let authority = super::authority::AuthorityJob::new(sim.job.clone());
    let own = identity(&name("authority"));
    let mut rng = rand_chacha::ChaCha20Rng::from_seed([0; 32]);
    let mut cx = Context { now_ms: 0, identity: &own, rng: &mut rng };
    let world = World { key: &sim.key, values: sim.values.as_ref(), blobs: &kept };
    let world = super::authority::AuthorityWorld { world, share: &sim.fixture.shares[0] };
    let (_, outputs) = authority.handle(&mut cx, &world, &message).unwrap();
    for output in outputs {
        match output {
            Output::Reject(refusal) => return Err(refusal),
            Output::Send { message: Message::Summed(summed), .. } => return summed.peek(),
            _ => {}
        }
    }
    panic!("no answer");
}

fn is_beneficiary(evidence: &Evidence) -> bool {
    matches!(evidence, Evidence::Beneficiary { .. })
}

/// The first row that counts of the first beneficiary's part: its part's place and its own.
fn first_row(all: &[Evidence]) -> (usize, usize) {
    for (at, one) in all.iter().enumerate() {
        if let Evidence::Beneficiary { cells, rows, .. } = one
            && let Some(place) = (0..rows.len()).find(|place| cells[*place] != NO_CELL)
        {
            return (at, place);
        }
    }
    panic!("no row counts");
}

#[test]
fn the_authority_recomputes_and_names_a_lying_network() {
    let sim = trained();
    let honest = evidence(&sim);
    let summed = resum(&sim, &honest, true).unwrap();
    let sums = &sim.blobs[&name("authority")];
    assert!(sums.values().any(|bytes| ciphers_hash(bytes) == summed.sums));
    let refused = |evidence: &[Evidence]| {
        let refusal = resum(&sim, evidence, true).unwrap_err();
        (refusal.code, refusal.culprits)
    };
    let (at, place) = first_row(&honest);

    // Not what was logged.
    let refusal = resum(&sim, &honest, false).unwrap_err();
    assert_eq!((refusal.code, refusal.culprits), (Code::NotFrozen, vec![network()]));

    // A part twice: all its rows would count twice.
    let mut twice = honest.clone();
    twice.push(honest[at].clone());
    assert_eq!(refused(&twice), (Code::Duplicate, vec![network()]));

    // A cell outside, a cell missing in one tree.
    for cell in [sim.job.cells, NO_CELL] {
        let mut wrong = honest.clone();
        if let Evidence::Beneficiary { cells, .. } = &mut wrong[at] {
            cells[place] = cell;
        }
        assert_eq!(refused(&wrong), (Code::WrongLength, vec![network()]), "{cell}");
    }

    // Another input than the one the bank answered for; row ids of another part.
    let mut wrong = honest.clone();
    if let Evidence::Beneficiary { inputs, .. } = &mut wrong[at] {
        inputs.rotate_left(64);
    }
    assert_eq!(refused(&wrong), (Code::WrongLength, vec![network()]));
    let mut wrong = honest.clone();
    if let Evidence::Beneficiary { rows, .. } = &mut wrong[at] {
        rows.rotate_left(1);
    }
    assert_eq!(refused(&wrong), (Code::WrongLabel, vec![network()]));

    // Without the ordering side, an input has no bank behind it.
    let only: Vec<_> = honest.iter().filter(|one| is_beneficiary(one)).cloned().collect();
    assert_eq!(refused(&only), (Code::BadCiphertext, vec![network()]));

    // A part that its bank did not sign.
    let mut forged = honest.clone();
    if let Evidence::Beneficiary { part, .. } = &mut forged[at] {
        again(part, &name("network"), |part| part.proofs[0] ^= 1);
    }
    assert_eq!(refused(&forged), (Code::BadSignature, vec![network()]));

    // Fewer banks than r_min.
    let few: Vec<_> = honest
        .iter()
        .filter(|one| {
            let (Evidence::Ordering { part, .. } | Evidence::Beneficiary { part, .. }) = one;
            part.peek().unwrap().bank <= bank(1)
        })
        .cloned()
        .collect();
    let few: Vec<_> = few.into_iter().filter(|one| !is_beneficiary(one)).collect();
    assert_eq!(refused(&few), (Code::SetTooSmall, vec![]));
}

#[test]
fn the_authority_names_the_bank_behind_a_wrong_proof() {
    let sim = trained();
    let honest = evidence(&sim);
    let (at, place) = first_row(&honest);
    for target in [0, at] {
        let mut wrong = honest.clone();
        let index = if target == 0 { 3 } else { 2 * place + 1 };
        let signer = match &mut wrong[target] {
            Evidence::Ordering { part, .. } | Evidence::Beneficiary { part, .. } => {
                let signer = part.peek().unwrap().bank;
                again(part, &signer, |part| part.proofs[96 * index + 20] ^= 1);
                signer
            }
        };
        let refusal = resum(&sim, &wrong, true).unwrap_err();
        assert_eq!(refusal.code, Code::BadCiphertext);
        assert_eq!(refusal.culprits, [Culprit::Party(signer)]);
        let named = format!("ciphertext {index} ");
        assert!(refusal.detail.contains(&named), "{} {named}", refusal.detail);
    }
}

#[test]
fn a_row_in_one_tree_twice_is_refused() {
    // The network gives one row to two beneficiary banks, both of which answer in good faith.
    let sim = trained();
    let honest = evidence(&sim);
    let (at, place) = first_row(&honest);
    let Evidence::Beneficiary { rows, inputs, cells, .. } = honest[at].clone() else { panic!() };
    let row_bytes = 2 * 64;
    let other = honest.iter().rposition(is_beneficiary).unwrap();
    assert_ne!(other, at);
    let mut wrong = honest.clone();
    if let Evidence::Beneficiary { rows: theirs, inputs: given, part, cells: assigned } =
        &mut wrong[other]
    {
        let signer = part.peek().unwrap().bank;
        theirs[0] = rows[place];
        given[..row_bytes].copy_from_slice(&inputs[place * row_bytes..][..row_bytes]);
        for tree in 0..3 {
            assigned[tree * 8] = cells[tree * 8 + place];
        }
        let bindings = sim.job.bit_bindings(0, Side::Beneficiary, &signer, theirs);
        let bits = zeroize::Zeroizing::new(vec![1; bindings.len()]);
        let chosen = sim.key.or_bits(&bindings, given, &bits, &Secret::new([1; 32])).unwrap();
        again(part, &signer, |part| {
            part.rows = rows_hash(theirs);
            part.inputs = ciphers_hash(given);
            (part.ciphers, part.proofs) = (chosen.ciphers, chosen.proofs);
        });
    }
    let refusal = resum(&sim, &wrong, true).unwrap_err();
    assert_eq!((refusal.code, refusal.culprits), (Code::Duplicate, vec![network()]));
    assert!(refusal.detail.contains("one tree"), "{}", refusal.detail);
}

#[test]
fn a_bank_refuses_a_repeated_row_and_a_second_list() {
    let mut sim = sim();
    for envelope in std::mem::take(&mut sim.queue) {
        let mut message = envelope.open(&identity(&envelope.to)).unwrap();
        if let Message::JoinPart(part) = &mut message
            && envelope.to == bank(0)
        {
            again(part, &name("network"), |part| part.rows[1].row = part.rows[0].row);
        }
        sim.deliver(&envelope.to, message);
    }
    sim.run();
    // The list that the network signed is not the one that came: it never ends.
    assert_eq!(only_reject(&sim), ("bank-0", Code::OutOfOrder, &[][..]));
    let parts: Vec<_> = sim.seen[&bank(0)]
        .iter()
        .filter_map(|message| match message {
            Message::JoinPart(part) => Some((part.peek().unwrap().side, part.hash())),
            _ => None,
        })
        .collect();
    let of = |side| parts.iter().filter(|(s, _)| *s == side).map(|(_, hash)| *hash).collect();
    let end = JoinEnd {
        job: sim.job.id(),
        version: 0,
        bank: bank(0),
        parts: [of(Side::Ordering), of(Side::Beneficiary)],
    };
    let end = Signed::sign(end, &identity(&name("network"))).signed().clone();
    sim.rejects.clear();
    sim.deliver(&bank(0), Message::JoinEnd(end));
    assert_eq!(only_reject(&sim), ("bank-0", Code::Duplicate, &[network()][..]));
}

/// Everything a bank was sent of one kind.
fn sent<'a>(sim: &'a Sim, to: &Name, kind: &str) -> Vec<&'a Message> {
    sim.seen[to].iter().filter(|message| message.name() == kind).collect()
}

#[test]
fn one_answer_for_each_part_and_one_noise_for_each_version() {
    let mut sim = trained();
    let mut ask = sent(&sim, &bank(0), "FlagAsk").last().copied().unwrap().clone();
    let before = sim.wire.len();
    sim.deliver(&bank(0), ask.clone());
    let repeat = sim.wire[before].open(&identity(&name("network"))).unwrap();
    let first = sim.seen[&name("network")].iter().any(|m| encode(m) == encode(&repeat));
    assert!(first, "a repeated question gets the same bytes");
    if let Message::FlagAsk(ask) = &mut ask {
        again(ask, &name("network"), |ask| ask.inputs.rotate_left(64));
    }
    sim.deliver(&bank(0), ask);
    assert_eq!(only_reject(&sim), ("bank-0", Code::LabelReuse, &[network()][..]));
    sim.rejects.clear();

    let Message::NoiseAsk(ask) = sent(&sim, &bank(0), "NoiseAsk")[0].clone() else { panic!() };
    let mut other = ask.clone();
    again(&mut other.summed, &name("authority"), |summed| summed.sums.0[0] ^= 1);
    sim.deliver(&bank(0), Message::NoiseAsk(other.clone()));
    assert_eq!(only_reject(&sim), ("bank-0", Code::LabelReuse, &[network()][..]));
    sim.rejects.clear();
    again(&mut other.summed, &name("authority"), |summed| summed.assigned.0[0] ^= 1);
    sim.deliver(&bank(0), Message::NoiseAsk(other.clone()));
    assert_eq!(only_reject(&sim), ("bank-0", Code::NotFrozen, &[network()][..]));
    sim.rejects.clear();
    again(&mut other.summed, &name("network"), |_| ());
    sim.deliver(&bank(0), Message::NoiseAsk(other));
    assert_eq!(only_reject(&sim), ("bank-0", Code::BadSignature, &[][..]));
}

#[test]
fn what_the_network_can_have_kept_is_bounded() {
    let mut sim = Sim::new(with(terms(5, 3), |figures| figures.max_rows = 30), PAYMENTS, 1);
    sim.run();
    let authority = name("authority");
    // 30 rows in parts of 8, five banks: four times 2 x (5 + 5) + 5.
    let most = 100;
    let Message::Evidence(evidence) = sent(&sim, &authority, "Evidence")[0].clone() else {
        panic!()
    };
    let known = sent(&sim, &authority, "Evidence").len() + 5;
    let other = |i: usize| {
        let mut evidence = evidence.as_ref().clone();
        let (Evidence::Ordering { rows, .. } | Evidence::Beneficiary { rows, .. }) = &mut evidence;
        *rows = vec![RowId([u8::try_from(i).unwrap(); 16])];
        Message::Evidence(Box::new(evidence))
    };
    for i in known..most {
        sim.deliver(&authority, other(i));
    }
    assert_eq!(sim.rejects, []);
    sim.deliver(&authority, other(most));
    assert_eq!(only_reject(&sim), ("authority", Code::TooLarge, &[network()][..]));
    // What is there is taken again.
    sim.rejects.clear();
    sim.deliver(&authority, Message::Evidence(evidence.clone()));
    assert_eq!(sim.rejects, []);

    let mut sim = self::sim();
    let Message::JoinPart(mut part) =
        sim.queue.pop_front().unwrap().open(&identity(&bank(0))).unwrap()
    else {
        panic!()
    };
    again(&mut part, &name("network"), |part| part.part = 126);
    sim.deliver(&bank(0), Message::JoinPart(part));
    assert_eq!(only_reject(&sim), ("bank-0", Code::WrongLength, &[network()][..]));

    let limits = QueryLimits { total: 1, per_window: 9, window_ms: 9, per_account: 9 };
    let mut sim = Sim::new(with(terms(3, 2), |f| f.queries = limits), PAYMENTS, 1);
    sim.run();
    let payment = sim.payments.iter().find(|p| p.banks[0] != p.banks[1]).unwrap().clone();
    let rows = vec![asked(&sim, &payment, &[0.0, 0.5, 1.0]); 3];
    assert_eq!(sim.query(0, payment.banks.each_ref(), rows).unwrap(), None);
    assert_eq!(only_reject(&sim), (payment.banks[0].as_str(), Code::BudgetSpent, &[][..]));
}

#[test]
fn what_an_authority_keeps_is_bounded_in_bytes() {
    let mut sim = Sim::new(with(terms(5, 3), |figures| figures.max_rows = 30), PAYMENTS, 1);
    let authority = name("authority");
    let piece = |fill: u8, bytes: usize| {
        let part = FlagPart {
            job: Hash([0; 32]),
            version: 0,
            bank: bank(0),
            side: Side::Ordering,
            part: 0,
            rows: Hash([fill; 32]),
            inputs: Hash([0; 32]),
            ciphers: vec![0; bytes],
            proofs: Vec::new(),
        };
        let part = Signed::sign(part, &identity(&bank(0))).signed().clone();
        Evidence::Ordering { rows: Vec::new(), part }
    };
    // Eight rows of two bits in three trees: 8 (3 x 3 + 2 (3 x 64 + 96) + 64) and 1,024 bytes.
    let most = 6216;
    let frame = encode(&piece(0, most)).len() - most;
    let longest = most - frame;
    assert_eq!(encode(&piece(0, longest)).len(), most);
    sim.deliver(&authority, Message::Evidence(Box::new(piece(0, longest + 1))));
    assert_eq!(only_reject(&sim), ("authority", Code::TooLarge, &[network()][..]));
    sim.rejects.clear();
    // Twenty parts and five shares of 48 coordinates, four times.
    let share = ElGamal.reply_bytes(&sim.job.noise_shape()).unwrap() + 1024;
    let room = 4 * (20 * most + 5 * share) / most;
    assert!((80..100).contains(&room), "fewer than the pieces that there may be: {room}");
    for fill in 0..=room {
        assert_eq!(sim.rejects, [], "{fill}");
        let fill = u8::try_from(fill).unwrap();
        sim.deliver(&authority, Message::Evidence(Box::new(piece(fill, longest))));
    }
    assert_eq!(only_reject(&sim), ("authority", Code::TooLarge, &[network()][..]));
    assert_eq!(sim.blobs[&authority].len(), room);
}

#[test]
fn accounts_and_reasons_have_a_greatest_length() {
    let account = |number: usize, name: usize| Account {
        account: "x".repeat(number),
        name: "n".repeat(name),
    };
    assert_eq!(decode::<Account>(&encode(&account(128, 512))), Ok(account(128, 512)));
    let sim = sim();
    for long in [account(129, 0), account(0, 513)] {
        assert_eq!(decode::<Account>(&encode(&long)).unwrap_err().code, Code::Malformed);
        // The network says so before a bank could not read its list.
        let mut made = sim.payments.clone();
        made[3].accounts[1] = long;
        let refusal = Layout::new(&sim.job, &identity(&name("network")), 0, &made).err().unwrap();
        assert_eq!(refusal.code, Code::TooLarge);
    }
    // Nobody names more than all roles of a job.
    for (count, expected) in [(8, None), (9, Some(Code::TooLarge))] {
        for concerns in [false, true] {
            let mut sim = self::sim();
            let mut refusal = Refusal::new(Code::Unavailable, "later");
            for _ in 0..count {
                refusal = match concerns {
                    true => refusal.concerning(bank(0)),
                    false => refusal.blaming(network()),
                };
            }
            let (job, bank) = (sim.job.id(), bank(1));
            let refused = Refused { job, version: 0, query: None, bank: bank.clone(), refusal };
            let refused = Signed::sign(refused, &identity(&bank)).signed().clone();
            sim.deliver(&name("network"), Message::Refused(refused));
            assert_eq!(sim.rejects.pop().map(|(_, refusal)| refusal.code), expected, "{count}");
        }
    }
}

#[test]
fn a_bank_that_joined_another_list_is_named() {
    let mut sim = sim();
    sim.tamper = Some(Box::new(|from, _, message| {
        if let Message::Joined(joined) = message
            && *from == bank(2)
        {
            again(joined, from, |joined| joined.end.0[0] ^= 1);
        }
    }));
    sim.run();
    let culprit = [Culprit::Party(bank(2))];
    assert_eq!(only_reject(&sim), ("network", Code::WrongLabel, &culprit[..]));
    assert_eq!(sim.network.phase(), Phase::Setup);
}

/// Banks stand behind sums whose own bits are in them, and no others.
#[test]
fn banks_that_add_to_no_cell_do_not_count() {
    let (ledgers, mut made, cells) = payments(&terms(5, 3), PAYMENTS, 1);
    for (payment, sides) in made.iter_mut().zip([[0, 1], [2, 0], [1, 2]]) {
        payment.banks = sides.map(bank);
    }
    let mut sim = Sim::with(terms(5, 3), ledgers, made, cells, 0);
    sim.run();
    let pairs: Vec<[Name; 2]> = sim.payments.iter().map(|payment| payment.banks.clone()).collect();
    // Rows between the first two banks only, though all five send all their parts; then with a third
    // as the ordering bank, or as the beneficiary's.
    let [a, b, c] = [bank(0), bank(1), bank(2)];
    let inner = |pair: &[Name; 2]| pair.iter().all(|bank| [&a, &b].contains(&bank));
    let first = |pair: &[Name; 2]| inner(pair) || (pair[0] == c && pair[1] == a);
    let second = |pair: &[Name; 2]| inner(pair) || (pair[0] == b && pair[1] == c);
    let counted = |keep: &dyn Fn(&[Name; 2]) -> bool| {
        let rows = pairs.iter().enumerate().filter(|(_, pair)| keep(pair));
        let rows: BTreeSet<RowId> = rows.filter_map(|(i, _)| sim.layout.row(i)).collect();
        let mut all = evidence(&sim);
        for one in &mut all {
            if let Evidence::Beneficiary { rows: own, cells, .. } = one {
                for (cell, row) in cells.iter_mut().zip(own.iter().cycle()) {
                    if !rows.contains(row) {
                        *cell = NO_CELL;
                    }
                }
            }
        }
        let banks: BTreeSet<&Name> = pairs.iter().filter(|pair| keep(pair)).flatten().collect();
        (banks.len(), resum(&sim, &all, true).map(|_| ()).map_err(|refusal| refusal.code))
    };
    assert_eq!(counted(&inner), (2, Err(Code::SetTooSmall)));
    assert_eq!(counted(&first), (3, Ok(())));
    assert_eq!(counted(&second), (3, Ok(())));
}

#[test]
fn an_authority_forgets_a_job_that_the_network_ended() {
    let mut sim = trained();
    let close = |by: &str, job| {
        let close = super::letters::Close { job, failure: None };
        Signed::sign(close, &identity(&name(by))).signed().clone()
    };
    let code = |done: Result<super::authority::AuthorityJob, Refusal>| done.unwrap_err().code;
    let strangers = sim.authority.clone().end(&close("bank-0", sim.job.manifest));
    assert_eq!(code(strangers), Code::BadSignature);
    assert_eq!(code(sim.authority.clone().end(&close("network", Hash([9; 32])))), Code::UnknownJob);
    assert!(!sim.authority.is_over());
    let fresh = encode(&super::authority::AuthorityJob::new(sim.job.clone())).len();
    sim.authority = sim.authority.clone().end(&close("network", sim.job.manifest)).unwrap();
    assert!(sim.authority.is_over());
    assert_eq!(encode(&sim.authority).len(), fresh);
    // What it answered once it answers no more, and least of all anew.
    for kind in ["Evidence", "SumAsk", "FreezeAsk"] {
        let message = sent(&sim, &name("authority"), kind)[0].clone();
        sim.rejects.clear();
        sim.deliver(&name("authority"), message);
        assert_eq!(sim.rejects[0].0, name("authority"), "{kind}");
        assert_eq!(sim.rejects[0].1.code, Code::WrongState, "{kind}");
    }
}

#[test]
fn a_message_for_another_role_is_refused() {
    let mut sim = trained();
    let noise = sent(&sim, &name("authority"), "NoiseShare")[0].clone();
    let ask = sent(&sim, &name("authority"), "FreezeAsk")[0].clone();
    let wrong = [(bank(0), noise), (name("network"), ask.clone()), (bank(1), ask)];
    for (to, message) in wrong {
        sim.rejects.clear();
        sim.deliver(&to, message);
        assert_eq!(only_reject(&sim), (to.as_str(), Code::WrongState, &[][..]));
    }
    let join = sent(&sim, &bank(0), "JoinPart")[0].clone();
    sim.rejects.clear();
    sim.deliver(&name("authority"), join);
    assert_eq!(only_reject(&sim), ("authority", Code::WrongState, &[][..]));
}

#[test]
fn a_second_assignment_of_a_version_is_not_logged() {
    let mut sim = trained();
    let hash = sim.aggregator.logged(0).unwrap();
    let keys = identity(&name("aggregator"));
    let mut rng = rand_chacha::ChaCha20Rng::from_seed([0; 32]);
    let cx = Context { now_ms: 0, identity: &keys, rng: &mut rng };
    let record = |hash| {
        let assigned = Assigned { job: sim.job.id(), version: 0, hash };
        Signed::sign(assigned, &identity(&name("network"))).signed().clone()
    };
    let (same, other) = (record(hash), record(Hash([1; 32])));
    assert_eq!(sim.aggregator.log(&cx, &same).unwrap().1.peek().unwrap().hash, hash);
    let refusal = sim.aggregator.log(&cx, &other).unwrap_err();
    assert_eq!((refusal.code, refusal.culprits), (Code::LabelUsed, vec![network()]));
}

#[test]
fn a_wrong_noise_share_names_its_bank() {
    let mut sim = sim();
    let mut victim: Option<NoiseShare> = None;
    sim.tamper = Some(Box::new(move |from, to, message| {
        if let Message::NoiseShare(share) = message
            && *to == name("network")
        {
            if *from == bank(0) {
                victim = Some(share.peek().unwrap());
            } else if *from == bank(1) {
                let reply = victim.clone().unwrap().reply;
                again(share, from, |share| share.reply = reply);
            }
        }
    }));
    sim.run();
    let culprit = [Culprit::Party(bank(1))];
    assert_eq!(only_reject(&sim), ("network", Code::BadCiphertext, &culprit[..]));
    assert_eq!((sim.network.phase(), sim.network.counts()), (Phase::Summed, None));
}

/// Sends the authority another request to freeze and returns its refusal.
fn refreeze(sim: &mut Sim, shares: &[Vec<u8>]) -> Refusal {
    let asks = sent(sim, &name("authority"), "FreezeAsk");
    let Message::FreezeAsk(mut ask) = asks[0].clone() else { panic!() };
    let kept = sim.blobs.entry(name("authority")).or_default();
    let mut hashes = Vec::new();
    for bytes in shares {
        kept.insert(blob_hash(bytes), bytes.clone());
        hashes.push(blob_hash(bytes));
    }
    again(&mut ask, &name("network"), |ask| ask.shares = hashes);
    sim.rejects.clear();
    sim.deliver(&name("authority"), Message::FreezeAsk(ask));
    sim.rejects.remove(0).1
}

#[test]
fn replaced_and_missing_noise_shares_are_refused() {
    // Stopped where the authority would freeze.
    let mut sim = sim();
    let authority = name("authority");
    while let Some(envelope) = sim.queue.pop_front() {
        let message = envelope.open(&identity(&envelope.to)).unwrap();
        if let Message::FreezeAsk(_) = &message {
            sim.seen.entry(authority.clone()).or_default().push(message);
            break;
        }
        sim.deliver(&envelope.to, message);
    }
    let shares: Vec<Vec<u8>> = sim.seen[&authority]
        .iter()
        .filter_map(|message| match message {
            Message::NoiseShare(share) => Some(encode(share)),
            _ => None,
        })
        .collect();
    assert_eq!(shares.len(), 5);
    let change = |bytes: &[u8], by: &Name, change: &dyn Fn(&mut NoiseShare)| {
        let mut share: Signed<NoiseShare> = decode(bytes).unwrap();
        again(&mut share, by, change);
        encode(&share)
    };
    // By the network itself; by its bank for other sums; copied; two of one bank; too few.
    let with = |bytes: Vec<u8>| [&shares[..2], &[bytes], &shares[3..]].concat();
    let refusal = refreeze(&mut sim, &with(change(&shares[2], &name("network"), &|_| ())));
    assert_eq!((refusal.code, refusal.culprits), (Code::BadSignature, vec![network()]));
    let other = change(&shares[2], &bank(2), &|share| share.summed.0[0] ^= 1);
    let refusal = refreeze(&mut sim, &with(other));
    assert_eq!((refusal.code, refusal.culprits), (Code::WrongLabel, vec![network()]));
    let victim: Signed<NoiseShare> = decode(&shares[0]).unwrap();
    let victim = victim.peek().unwrap().reply;
    let copied = change(&shares[2], &bank(2), &|share| share.reply.clone_from(&victim));
    let refusal = refreeze(&mut sim, &with(copied));
    assert_eq!(
        (refusal.code, refusal.culprits),
        (Code::BadCiphertext, vec![Culprit::Party(bank(2))])
    );
    let refusal = refreeze(&mut sim, &with(shares[1].clone()));
    assert_eq!((refusal.code, refusal.culprits), (Code::Duplicate, vec![network()]));
    let refusal = refreeze(&mut sim, &shares[..2]);
    assert_eq!((refusal.code, refusal.culprits), (Code::SetTooSmall, vec![]));
    assert_eq!(sim.network.counts(), None);
}

#[test]
fn a_model_version_is_opened_once() {
    let mut sim = trained();
    let authority = name("authority");
    let shares: Vec<Vec<u8>> = sent(&sim, &authority, "NoiseShare")
        .iter()
        .filter_map(|message| match message {
            Message::NoiseShare(share) => Some(encode(share)),
            _ => None,
        })
        .collect();
    let refusal = refreeze(&mut sim, &shares[..4]);
    assert_eq!((refusal.code, refusal.culprits), (Code::Difference, vec![network()]));
    sim.queue.clear();
    // The same request gets the same bytes.
    let ask = sent(&sim, &authority, "FreezeAsk")[0].clone();
    let before = sim.wire.len();
    sim.deliver(&authority, ask);
    let again_sent = sim.wire[before].open(&identity(&name("network"))).unwrap();
    let first = sent(&sim, &name("network"), "Released")[0];
    assert_eq!(encode(&again_sent), encode(first));
    // A bank answers for one release, and for its ciphertexts only.
    let Message::OpenAsk(ask) = sent(&sim, &bank(0), "OpenAsk")[0].clone() else { panic!() };
    let mut other = ask.clone();
    again(&mut other.release, &authority, |release| {
        if let Opens::Model { shares, .. } = &mut release.opens {
            shares.pop();
        }
    });
    sim.rejects.clear();
    sim.deliver(&bank(0), Message::OpenAsk(other));
    let culprit = [Culprit::Authority(authority.clone())];
    assert_eq!(only_reject(&sim), ("bank-0", Code::Difference, &culprit[..]));
    let mut other = ask.clone();
    again(&mut other.release, &authority, |release| {
        if let Opens::Model { shares, .. } = &mut release.opens {
            shares[0].1.0[0] ^= 1;
        }
    });
    sim.rejects.clear();
    sim.deliver(&bank(0), Message::OpenAsk(other));
    assert_eq!(only_reject(&sim), ("bank-0", Code::ReceiptBroken, &culprit[..]));
}

#[test]
fn no_bank_opens_a_single_flag() {
    let mut sim = trained();
    let Message::OpenAsk(ask) = sent(&sim, &bank(0), "OpenAsk")[0].clone() else { panic!() };
    let Message::FlagPart(part) = sent(&sim, &name("network"), "FlagPart")[0].clone() else {
        panic!()
    };
    let single = part.peek().unwrap().ciphers[..64].to_vec();
    sim.rejects.clear();
    let stolen = OpenAsk { ciphers: single.clone(), ..ask.clone() };
    sim.deliver(&bank(0), Message::OpenAsk(stolen));
    assert_eq!(only_reject(&sim), ("bank-0", Code::NotFrozen, &[network()][..]));
    sim.rejects.clear();
    let mut forged = OpenAsk { ciphers: single.clone(), ..ask };
    again(&mut forged.release, &name("network"), |release| release.ciphers = ciphers_hash(&single));
    sim.deliver(&bank(0), Message::OpenAsk(forged));
    assert_eq!(only_reject(&sim), ("bank-0", Code::BadSignature, &[][..]));
    // All that was ever opened to the network are the noised sums: T + 1 shares of one release.
    let releases: BTreeSet<Hash> = sim.seen[&name("network")]
        .iter()
        .filter_map(|message| match message {
            Message::Partial(partial) => Some(partial.peek().unwrap().release),
            _ => None,
        })
        .collect();
    let Message::Released(release, _) = sent(&sim, &name("network"), "Released")[0] else {
        panic!()
    };
    assert_eq!(releases, BTreeSet::from([release.hash()]));
    let opened = release.peek().unwrap();
    assert!(matches!(&opened.opens, Opens::Model { shares, .. } if shares.len() == 5));
    // And of what the network holds, only the sums with all five noise shares have that hash.
    let flags: Vec<_> = sent(&sim, &name("network"), "FlagPart");
    assert!(flags.iter().all(|message| match message {
        Message::FlagPart(part) => ciphers_hash(&part.peek().unwrap().ciphers) != opened.ciphers,
        _ => false,
    }));
}

#[test]
fn a_wrong_share_names_its_holder_and_another_steps_in() {
    let mut sim = sim();
    sim.tamper = Some(Box::new(|from, _, message| {
        if let Message::Partial(partial) = message
            && *from == bank(1)
        {
            again(partial, from, |partial| partial.bytes[40] ^= 1);
        }
    }));
    sim.run();
    assert_eq!(only_reject(&sim), ("network", Code::BadShare, &[Culprit::Party(bank(1))][..]));
    assert_eq!(sim.network.counts(), Some(sim.plain_counts(|_| true).as_slice()));
    assert_eq!(sent(&sim, &bank(3), "OpenAsk").len(), 1);
    // Wrong shares of all but two.
    let mut sim = sim_with_wrong_shares(&[0, 1, 2]);
    sim.run();
    assert_eq!(sim.network.failure().unwrap().code, Code::QuorumLost);
    assert_eq!((sim.rejects.len(), sim.network.counts()), (3, None));
    // The authority's own.
    let mut sim = self::sim();
    sim.tamper = Some(Box::new(|from, _, message| {
        if let Message::Released(_, partial) = message {
            again(partial, from, |partial| partial.bytes[40] ^= 1);
        }
    }));
    sim.run();
    let culprit = [Culprit::Authority(name("authority"))];
    assert_eq!(only_reject(&sim), ("network", Code::BadShare, &culprit[..]));
    assert_eq!(sim.network.counts(), None);
}

fn sim_with_wrong_shares(of: &[u32]) -> Sim {
    let mut sim = sim();
    let of: Vec<Name> = of.iter().map(|i| bank(*i)).collect();
    sim.tamper = Some(Box::new(move |from, _, message| {
        if let Message::Partial(partial) = message
            && of.contains(from)
        {
            again(partial, from, |partial| partial.bytes[40] ^= 1);
        }
    }));
    sim
}

/// A message without what is random or ciphertext: what a bank could tell apart.
fn shape(message: &Message) -> (String, Vec<u8>, usize) {
    let stripped = match message {
        Message::JoinPart(part) => part.body().to_vec(),
        Message::JoinEnd(end) => end.body().to_vec(),
        Message::FlagAsk(ask) => ask.body().to_vec(),
        _ => Vec::new(),
    };
    (message.name().to_owned(), stripped, encode(message).len())
}

#[test]
fn a_banks_view_does_not_depend_on_labels() {
    let made = terms(4, 2);
    let (ledgers, payments, cells) = payments(&made, PAYMENTS, 8);
    let mut swapped = cells.clone();
    swapped.labels.iter_mut().for_each(|label| *label = !*label);
    let mut runs = [cells, swapped].map(|cells| {
        let mut sim = Sim::with(made.clone(), ledgers.clone(), payments.clone(), cells, 0);
        sim.run();
        sim
    });
    assert_ne!(runs[0].network.counts(), runs[1].network.counts());
    for i in 0..4 {
        let [a, b] = [&runs[0], &runs[1]]
            .map(|sim| sim.seen[&bank(i)].iter().map(shape).collect::<Vec<_>>());
        assert!(a.iter().any(|(kind, ..)| kind == "NoiseAsk"));
        assert_eq!(a, b);
    }
    // The same at inference, where the table's plaintexts differ.
    let payment = runs[0].payments[0].clone();
    for (run, scores) in runs.iter_mut().zip([[0.0, 0.5, 1.0], [1.0, 0.5, 0.0]]) {
        let row = asked(run, &payment, &scores);
        run.query(0, [&payment.banks[0], &payment.banks[1]], vec![row]).unwrap().unwrap();
    }
    let [a, b] = [&runs[0], &runs[1]]
        .map(|sim| sim.seen[&payment.banks[0]].iter().map(shape).collect::<Vec<_>>());
    assert!(a.iter().any(|(kind, ..)| kind == "QueryAsk"));
    assert_eq!(a, b);
}

#[test]
fn no_account_is_in_either_services_sight() {
    let mut sim = trained();
    let payment = sim.payments[0].clone();
    let row = asked(&sim, &payment, &[0.0, 0.5, 1.0]);
    sim.query(0, [&payment.banks[0], &payment.banks[1]], vec![row]).unwrap().unwrap();
    let holds = |bytes: &[u8]| bytes.windows(6).any(|window| window == b"CANARY");
    assert!(sim.seen[&bank(0)].iter().any(|message| holds(&encode(message))));
    assert!(!sim.wire.iter().any(|envelope| holds(&encode(envelope))));
    assert!(!sim.seen[&name("authority")].iter().any(|message| holds(&encode(message))));
    assert!(!holds(&encode(&sim.authority)) && !holds(&encode(&sim.aggregator)));
    assert!(!sim.blobs[&name("authority")].values().any(|bytes| holds(bytes)));
    assert!(!sim.facts.iter().any(|(_, fact)| holds(&encode(fact))));
    let shown = format!("{:?} {:?}", sim.payments, sim.seen);
    assert!(!holds(shown.as_bytes()));
    assert!(!sim.banks.values().any(|bank| holds(&encode(bank))));
}

#[test]
fn queries_have_limits_and_one_answer() {
    let mut sim = trained();
    let payment = sim.payments[0].clone();
    let banks = payment.banks.clone();
    let pair = [&banks[0], &banks[1]];
    let scores = [0.0, 0.5, 1.0];
    let row = |sim: &Sim| vec![asked(sim, &payment, &scores)];
    let rows = row(&sim);
    for query in 0..3 {
        assert!(sim.query(query, pair, rows.clone()).unwrap().is_some());
    }
    assert_eq!(sim.query(0, pair, rows.clone()).unwrap_err().code, Code::LabelReuse);
    assert_eq!(sim.query(3, pair, rows.clone()).unwrap(), None);
    assert_eq!(only_reject(&sim), (banks[0].as_str(), Code::BudgetSpent, &[][..]));
    let logged = sim.facts.iter().filter(|(_, fact)| fact.what == "query.released").count();
    assert_eq!(logged, 3);
    // A second opening of one query, by other picks of the same bank.
    let asks = sent(&sim, &name("authority"), "ReleaseAsk");
    let Message::ReleaseAsk(ask) = asks[0].clone() else { panic!() };
    let mut other = ask.clone();
    again(&mut other.beneficiary, &banks[1], |picked| picked.proofs[0] ^= 1);
    sim.rejects.clear();
    sim.deliver(&name("authority"), Message::ReleaseAsk(other));
    assert_eq!(only_reject(&sim), ("authority", Code::Difference, &[network()][..]));
    // A row a second time, under another number.
    let mut other = ask.clone();
    again(&mut other.table, &name("network"), |table| table.fields.query = 77);
    sim.rejects.clear();
    sim.deliver(&name("authority"), Message::ReleaseAsk(other));
    assert_eq!(only_reject(&sim), ("authority", Code::Duplicate, &[network()][..]));
    assert_eq!(sim.query(9, pair, Vec::new()).unwrap_err().code, Code::WrongLength);
    let early = self::sim().query(0, pair, rows).unwrap_err();
    assert_eq!(early.code, Code::WrongState);
}

#[test]
fn a_repeated_query_gets_the_first_answer_whatever_accounts_have_become() {
    let mut sim = trained();
    let payment = sim.payments[0].clone();
    let [ordering, beneficiary] = payment.banks.clone();
    let row = asked(&sim, &payment, &[0.0, 0.5, 1.0]);
    sim.query(0, [&ordering, &beneficiary], vec![row]).unwrap().unwrap();
    for (bank, side) in [(&ordering, Side::Ordering), (&beneficiary, Side::Beneficiary)] {
        let of = |message: &&Message| {
            matches!(message, Message::QueryAsk(_, accounts)
                if accounts.peek().unwrap().side == side)
        };
        let ask = sim.seen[bank].iter().find(of).unwrap().clone();
        for (severity, _) in sim.ledgers.get_mut(bank).unwrap().0.values_mut() {
            *severity = 2 - *severity;
        }
        let (before, asked) = (sim.wire.len(), encode(&sim.banks[bank]));
        sim.deliver(bank, ask);
        let repeated = sim.wire[before].open(&identity(&name("network"))).unwrap();
        let same = |message: &&Message| encode(*message) == encode(&repeated);
        assert_eq!(repeated.name(), "Picked");
        assert_eq!(sim.seen[&name("network")].iter().filter(same).count(), 1);
        assert_eq!(asked, encode(&sim.banks[bank]), "nothing is counted again");
    }
    assert_eq!(sim.rejects, []);
}

/// The bytes of a pick follow from its row and candidates, so a query that names one row for several accounts
/// would show which of them are of one class: neither bank answers it.
#[test]
fn a_query_that_names_a_row_twice_is_not_answered() {
    let mut sim = trained();
    let payment = sim.payments[0].clone();
    let banks = payment.banks.clone();
    let row = asked(&sim, &payment, &[0.0, 0.5, 1.0]);
    let rows = vec![row.clone(), row];
    sim.query(0, [&banks[0], &banks[1]], rows).unwrap().unwrap();
    for (bank, of) in [(&banks[0], Side::Ordering), (&banks[1], Side::Beneficiary)] {
        let mut asks =
            sent(&sim, bank, "QueryAsk").into_iter().filter_map(|message| match message {
                Message::QueryAsk(table, accounts) if accounts.peek().unwrap().side == of => {
                    Some((table.clone(), accounts.clone()))
                }
                _ => None,
            });
        let (mut table, mut accounts) = asks.next_back().unwrap();
        again(&mut table, &name("network"), |table| {
            table.fields.query = 77;
            table.fields.rows[1] = table.fields.rows[0];
        });
        let hash = table.hash();
        again(&mut accounts, &name("network"), |accounts| accounts.table = hash);
        sim.rejects.clear();
        let before = sim.wire.len();
        sim.deliver(bank, Message::QueryAsk(table, accounts));
        assert_eq!(only_reject(&sim), (bank.as_str(), Code::Duplicate, &[network()][..]));
        let answers = sim.wire[before..]
            .iter()
            .map(|letter| letter.open(&identity(&letter.to)).unwrap().name());
        assert!(answers.clone().all(|name| name == "Refused"), "{:?}", answers.collect::<Vec<_>>());
    }
}

/// A bank that a query does not wait for does not end it by refusing it; an opener that refuses is replaced.
#[test]
fn a_bank_ends_no_query_of_others() {
    let mut sim = trained();
    let payment = sim.payments[0].clone();
    let banks = payment.banks.clone();
    let row = asked(&sim, &payment, &[0.0, 0.5, 1.0]);
    let (first, second) = (banks[0].clone(), banks[1].clone());
    sim.network_step(|network, cx, world| {
        network.clone().query(cx, world, 0, [&first, &second], vec![row]).unwrap()
    });
    let stranger = (0..3).map(bank).find(|bank| !banks.contains(bank)).unwrap();
    let refusal = Refusal::new(Code::WrongState, "not I");
    let refused =
        Refused { job: sim.job.id(), version: 0, bank: stranger.clone(), query: Some(0), refusal };
    let refused = Signed::sign(refused, &identity(&stranger)).signed().clone();
    sim.deliver(&name("network"), Message::Refused(refused));
    sim.run();
    assert_eq!(sim.network.query_refusal(0), None);
    assert!(sim.network.scores(0).is_some());
}

#[test]
fn a_bank_opens_the_query_that_it_answered_for() {
    let mut sim = trained();
    let payment = sim.payments[0].clone();
    let banks = payment.banks.clone();
    let row = asked(&sim, &payment, &[0.0, 0.5, 1.0]);
    sim.query(0, [&banks[0], &banks[1]], vec![row]).unwrap().unwrap();
    let asks = sent(&sim, &bank(0), "OpenAsk");
    let Message::OpenAsk(ask) = asks[1].clone() else { panic!() };
    // The authority released another table under this number.
    let mut other = ask.clone();
    again(&mut other.release, &name("authority"), |release| {
        if let Opens::Query { table, .. } = &mut release.opens {
            table.0[0] ^= 1;
        }
    });
    sim.rejects.clear();
    sim.deliver(&banks[0], Message::OpenAsk(other.clone()));
    assert_eq!(only_reject(&sim), (banks[0].as_str(), Code::WrongLabel, &[][..]));
}

#[test]
fn two_tables_of_one_number_share_no_randomness() {
    let sim = trained();
    let payment = sim.payments[0].clone();
    let tables = [[0.0, 0.5, 1.0], [1.0, 0.5, 0.0]].map(|scores| {
        let mut sim = self::trained();
        let row = asked(&sim, &payment, &scores);
        sim.query(0, [&payment.banks[0], &payment.banks[1]], vec![row]).unwrap().unwrap();
        let Message::QueryAsk(table, _) = sent(&sim, &payment.banks[0], "QueryAsk")[0] else {
            panic!()
        };
        table.peek().unwrap().reply
    });
    // Entries with equal values too: the first halves r G of all ciphertexts differ.
    let halves = |reply: &[u8]| reply[..9 * 64].chunks(64).map(|c| c[..32].to_vec()).collect();
    let [first, second]: [BTreeSet<Vec<u8>>; 2] = [halves(&tables[0]), halves(&tables[1])];
    assert_eq!((first.len(), first.intersection(&second).count()), (9, 0));
}

#[test]
fn an_authority_that_is_not_able_to_answer_is_asked_again() {
    let authority = name("authority");
    for kind in ["SumAsk", "FreezeAsk"] {
        // Bytes that were named did not arrive.
        let mut sim = sim();
        let mut left = 1;
        sim.tamper = Some(Box::new(move |_, _, message| {
            if matches!(message.name(), "Evidence" | "NoiseShare") && left > 0 && kind == "SumAsk" {
                left -= 1;
                if let Message::Evidence(evidence) = message
                    && let Evidence::Ordering { rows, .. } = evidence.as_mut()
                {
                    rows.clear();
                }
            }
        }));
        if kind == "FreezeAsk" {
            while !sim
                .seen
                .get(&authority)
                .is_some_and(|all| all.iter().any(|message| message.name() == "NoiseShare"))
            {
                let envelope = sim.queue.pop_front().unwrap();
                sim.deliver(&envelope.to, envelope.open(&identity(&envelope.to)).unwrap());
            }
            let kept = sim.blobs.get_mut(&authority).unwrap();
            kept.retain(|_, bytes| decode::<Signed<NoiseShare>>(bytes).is_err());
        }
        sim.run();
        assert_eq!(only_reject(&sim), ("authority", Code::Unavailable, &[][..]), "{kind}");
        let counts = sim.plain_counts(|_| true);
        assert_eq!(sim.network.counts(), Some(counts.as_slice()), "{kind}");
    }
}

#[test]
fn the_rate_of_queries_is_limited() {
    let limits = QueryLimits { total: 5, per_window: 2, window_ms: 1000, per_account: 100 };
    let terms = with(terms(3, 2), |figures| figures.queries = limits);
    let mut sim = Sim::new(terms, PAYMENTS, 1);
    sim.run();
    let payment = sim.payments[0].clone();
    let banks = payment.banks.clone();
    let rows = |sim: &Sim, count| vec![asked(sim, &payment, &[0.0, 0.5, 1.0]); count];
    let mut ask = |now_ms, query, count| {
        sim.now_ms = now_ms;
        let rows = rows(&sim, count);
        sim.query(query, [&banks[0], &banks[1]], rows).unwrap();
        let code = sim.rejects.pop().map(|(who, refusal)| (who, refusal.code));
        (sim.network.scores(query).is_some(), code)
    };
    let limited = |code| (false, Some((name("authority"), code)));
    assert_eq!(ask(5000, 0, 2), (true, None));
    assert_eq!(ask(5999, 1, 1), limited(Code::RateLimited));
    assert_eq!(ask(6000, 2, 2), (true, None));
    assert_eq!(ask(7000, 3, 2), limited(Code::BudgetSpent));
    assert_eq!(ask(8000, 4, 1), (true, None));
    // What was refused for its rate is asked again, with the same picks.
    assert_eq!(sim.network.query_refusal(1).unwrap().code, Code::RateLimited);
    assert_eq!(sim.network.query_refusal(4), None);
}

#[test]
fn an_answered_query_leaves_its_scores_and_takes_its_messages_again() {
    let mut sim = trained();
    let [first, second] = [0, 1].map(|at| sim.payments[at].clone());
    let ask = |sim: &mut Sim, query, payment: &Payment| {
        let rows = vec![asked(sim, payment, &[0.0, 0.5, 1.0]); 1];
        sim.query(query, payment.banks.each_ref(), rows).unwrap().unwrap()
    };
    let scores = ask(&mut sim, 0, &first);
    let (training, queries) = sim.network.to_pieces();
    // Two hashes, a score, four lengths and kinds.
    assert_eq!(queries[&0].len(), 64 + 8 + 3);
    let before = sim.network.clone();
    ask(&mut sim, 1, &second);
    // A query changes its own piece, and no other.
    let (then, now) = sim.network.to_pieces();
    assert!(then == training, "training was written again");
    assert_eq!((&now[&0], now.len(), now[&1].len()), (&queries[&0], 2, queries[&0].len()));
    sim.network = before;
    let state = encode(&sim.network);
    let (wire, facts) = (sim.wire.len(), sim.facts.len());
    let query = sent(&sim, &name("network"), "Picked")[0].clone();
    let mut again = vec![query];
    for kind in ["Released", "Partial"] {
        again.extend(sent(&sim, &name("network"), kind).into_iter().cloned());
    }
    // Messages of the first query and of the model; the second query is not known here any more.
    let table = |message: &Message| match message {
        Message::Released(release, _) => match release.peek().unwrap().opens {
            Opens::Query { query, .. } => query == 0,
            _ => true,
        },
        _ => true,
    };
    let known: BTreeSet<Hash> = again
        .iter()
        .filter(|message| table(message))
        .filter_map(|message| match message {
            Message::Released(release, _) => Some(release.hash()),
            _ => None,
        })
        .collect();
    assert_eq!(known.len(), 2);
    again.retain(|message| match message {
        Message::Partial(partial) => known.contains(&partial.peek().unwrap().release),
        message => table(message),
    });
    assert_eq!(again.len(), 1 + 2 + 6);
    for message in again {
        sim.deliver(&name("network"), message);
    }
    assert_eq!((sim.rejects.as_slice(), sim.wire.len(), sim.facts.len()), (&[][..], wire, facts));
    assert_eq!(encode(&sim.network), state);
    assert_eq!(sim.network.scores(0), Some(scores.as_slice()));
}

#[test]
fn a_query_that_too_few_can_open_ends() {
    let mut sim = trained();
    let payment = sim.payments[0].clone();
    let rows = vec![asked(&sim, &payment, &[0.0, 0.5, 1.0])];
    for number in 0..3 {
        sim.leaves_at.insert(bank(number), "OpenAsk");
    }
    assert_eq!(sim.query(0, payment.banks.each_ref(), rows).unwrap(), None);
    assert_eq!(sim.network.query_refusal(0), None);
    // Two step in for the first two; nobody is left for the third.
    for number in 0..3 {
        assert_eq!(sim.network.query_refusal(0), None, "{number}");
        sim.lose(&bank(number));
        sim.run();
    }
    let refusal = sim.network.query_refusal(0).unwrap();
    assert_eq!((refusal.code, refusal.culprits.as_slice()), (Code::QuorumLost, &[][..]));
    assert_eq!(refusal.concerns, [0, 1, 2].map(bank));
    assert_eq!((sim.network.phase(), sim.network.failure()), (Phase::Trained, None));
    assert_eq!(sim.rejects, []);
    let ended = sim.facts.iter().filter(|(_, fact)| fact.what == "query.failed").count();
    assert_eq!(ended, 1);
    released_again_opens_nothing(&mut sim, &[0, 1, 2].map(bank));
    let (_, pieces) = sim.network.to_pieces();
    assert!(pieces[&0].len() < 200, "{} bytes are kept of it", pieces[&0].len());
}

#[test]
fn a_table_of_stolen_ciphertexts_is_refused() {
    let mut sim = trained();
    let Message::FlagPart(part) = sent(&sim, &name("network"), "FlagPart")[0].clone() else {
        panic!()
    };
    let victim = part.peek().unwrap().ciphers[..64].to_vec();
    sim.tamper = Some(Box::new(move |from, _, message| {
        let table = match message {
            Message::QueryAsk(table, _) => table,
            Message::ReleaseAsk(ask) => &mut ask.table,
            _ => return,
        };
        again(table, from, |table| {
            for entry in table.reply[..9 * 64].as_chunks_mut::<64>().0 {
                entry.copy_from_slice(&victim);
            }
        });
        let hash = table.hash();
        if let Message::QueryAsk(_, accounts) = message {
            again(accounts, from, |accounts| accounts.table = hash);
        }
    }));
    let payment = sim.payments[0].clone();
    let row = asked(&sim, &payment, &[0.0, 0.5, 1.0]);
    sim.query(0, [&payment.banks[0], &payment.banks[1]], vec![row]).unwrap();
    // The network's own machine does not know the table that it altered: its picks go by hand.
    let picks: Vec<Signed<Picked>> = sim
        .wire
        .iter()
        .filter(|envelope| envelope.to == name("network"))
        .filter_map(|envelope| match envelope.open(&identity(&envelope.to)).unwrap() {
            Message::Picked(picked) => Some(picked),
            _ => None,
        })
        .collect();
    let Message::QueryAsk(table, _) = sent(&sim, &payment.banks[0], "QueryAsk")[0].clone() else {
        panic!()
    };
    sim.tamper = None;
    sim.rejects.clear();
    let ask = ReleaseAsk { table, ordering: picks[0].clone(), beneficiary: picks[0].clone() };
    sim.deliver(&name("authority"), Message::ReleaseAsk(Box::new(ask)));
    assert_eq!(only_reject(&sim), ("authority", Code::BadCiphertext, &[network()][..]));
    assert_eq!(sim.network.scores(0), None);
}

#[test]
fn a_pick_from_elsewhere_names_its_bank() {
    for side in Side::BOTH {
        let mut sim = trained();
        let payment = sim.payments.iter().find(|p| p.banks[0] != p.banks[1]).unwrap().clone();
        let culprit = payment.banks[usize::from(side.byte())].clone();
        sim.tamper = Some(Box::new(move |from, _, message| {
            if let Message::Picked(picked) = message
                && picked.peek().unwrap().side == side
            {
                again(picked, from, |picked| picked.proofs[20] ^= 1);
            }
        }));
        let row = asked(&sim, &payment, &[0.0, 0.5, 1.0]);
        let scores = sim.query(0, [&payment.banks[0], &payment.banks[1]], vec![row]).unwrap();
        assert_eq!(scores, None);
        let expected = [Culprit::Party(culprit)];
        assert_eq!(only_reject(&sim), ("authority", Code::BadCiphertext, &expected[..]));
    }
}

#[test]
fn terms_that_hide_nothing_or_cannot_be_opened_are_refused() {
    let good = terms(5, 3);
    assert_eq!(good.check(), Ok(()));
    type Change = fn(&mut Figures);
    let cases: [(Change, &str); 11] = [
        (|f| f.threshold = 1, "T must be"),
        (|f| f.threshold = 6, "T must be"),
        (|f| f.k_min = 1, "k_min"),
        (|f| f.quorum = 6, "floor"),
        (|f| (f.quorum, f.colluders, f.threshold) = (0, 4, 5), "floor"),
        (|f| f.class_bits = 0, "class bits"),
        (|f| f.trees = 10_000, "60,000"),
        (|f| f.part_rows = 1025, "1,024"),
        (|f| f.versions = 2, "one model version"),
        (|f| f.queries.total = (1 << 20) + 1, "2^20"),
        (|f| f.noise = Some(NoiseSpec { epsilon: 1e-3, ..noise(1.0) }), "budget"),
    ];
    for (change, word) in cases {
        let refusal = with(good.clone(), change).check().unwrap_err();
        assert_eq!(refusal.code, Code::BadManifest);
        assert!(refusal.detail.contains(word), "{} {word}", refusal.detail);
    }
    let strict = [
        Minima { k_min: 3, ..Minima::default() },
        Minima { colluders: 2, ..Minima::default() },
        Minima { accepted: vec![VerifyKey([1; 32])], ..Minima::default() },
        Minima { require_noise: true, ..Minima::default() },
    ];
    for minima in strict {
        assert_eq!(good.check_minima(&minima).unwrap_err().code, Code::BelowMinima);
    }
    let mut doubled = good.clone();
    doubled.banks[1] = doubled.banks[0].clone();
    assert!(doubled.check().is_err());
    assert!(ElGamal.check(&good.noise_shape()).is_ok());
    assert!(Ciphers::empty(0).is_empty());
}

#[test]
fn envelopes_open_for_their_receiver_and_have_steps_in_length() {
    let sim = sim();
    let envelope = sim.wire[0].clone();
    assert!(envelope.open(&identity(&envelope.to)).is_ok());
    assert_eq!(envelope.open(&identity(&bank(4))).unwrap_err().code, Code::Malformed);
    let renamed = Envelope { from: bank(3), ..envelope.clone() };
    assert!(renamed.open(&identity(&renamed.to)).is_err());
    let lengths: BTreeSet<_> = sim.wire.iter().map(|e| (e.sealed.len() - 48) % 4096).collect();
    assert_eq!(lengths, BTreeSet::from([0]));
    // Letters are their sender's, of this job, and from the network or to it.
    let letter = |change: &dyn Fn(&mut Envelope), by: &str| {
        let mut letter = envelope.clone();
        change(&mut letter);
        let letter = Signed::sign(letter, &identity(&name(by)));
        sim.aggregator.route(letter.signed()).map(|(to, _)| to).map_err(|refusal| refusal.code)
    };
    let to = Ok(crate::machine::Peer::Party(envelope.to.clone()));
    assert_eq!(letter(&|_| (), "network"), to);
    assert_eq!(letter(&|_| (), "bank-1"), Err(Code::BadSignature));
    assert_eq!(letter(&|one| one.to = name("stranger"), "network"), Err(Code::UnknownParty));
    assert_eq!(letter(&|one| one.to = name("network"), "network"), Err(Code::UnknownParty));
    assert_eq!(letter(&|one| one.from = bank(4), "bank-4"), Err(Code::UnknownParty));
    assert_eq!(letter(&|one| one.job = sim.job.id(), "network"), Err(Code::UnknownJob));
    // The same message is the same letter.
    let message = envelope.open(&identity(&envelope.to)).unwrap();
    let keys = identity(&name("network"));
    let key = identity(&envelope.to).exchange_key();
    let sealed = |message: &Message, to: &Name| {
        let sender = (&keys, &name("network"));
        Envelope::seal(sim.job.manifest, sender, (&key, to), message).unwrap()
    };
    assert_eq!(*sealed(&message, &envelope.to), envelope);
    assert_ne!(sealed(&message, &bank(4)).sealed, envelope.sealed);
}

#[test]
fn lists_are_whole_parts_sorted_by_random_ids() {
    let sim = sim();
    let mut padding = 0;
    let mut ids = BTreeSet::new();
    for entry in &sim.job.banks {
        let mut sides = BTreeSet::new();
        for envelope in sim.wire.iter().filter(|envelope| envelope.to == entry.party) {
            let Message::JoinPart(part) = envelope.open(&identity(&entry.party)).unwrap() else {
                continue;
            };
            let part = part.peek().unwrap();
            assert_eq!(part.rows.len(), 8);
            assert!(part.rows.is_sorted_by(|a, b| a.row < b.row));
            sides.insert(part.side);
            padding += part.rows.iter().filter(|r| !r.account.account.contains("CANARY")).count();
            ids.extend(part.rows.iter().map(|row| (part.side, row.row)));
        }
        assert_eq!(sides.len(), 2);
    }
    // Every payment is on two lists; all ids are distinct on each side.
    assert_eq!(ids.len(), padding + 2 * PAYMENTS);
}

#[test]
fn versions_share_no_row_id_and_no_ciphertext() {
    let terms = with(terms(3, 2), |figures| {
        (figures.versions, figures.noise) = (2, Some(noise(1.0)));
    });
    let (ledgers, payments, cells) = payments(&terms, 8, 5);
    let [first, second] = [0, 1].map(|version| {
        let (ledgers, payments) = (ledgers.clone(), payments.clone());
        let mut sim = Sim::with(terms.clone(), ledgers, payments, cells.clone(), version);
        sim.run();
        assert_eq!((sim.network.phase(), sim.rejects.len()), (Phase::Trained, 0));
        sim
    });
    assert_eq!(first.job.id(), second.job.id());
    assert!((0..8).all(|payment| first.layout.row(payment) != second.layout.row(payment)));
    assert_ne!(first.network.counts(), second.network.counts());
    // What banks signed for one version is nothing in another.
    let refusal = resum(&second, &evidence(&second), true).unwrap_err();
    assert_eq!((refusal.code, refusal.culprits), (Code::WrongLabel, vec![network()]));
}

#[test]
fn emptied_and_broken_messages_are_refused_without_panic() {
    let mut sim = trained();
    let payment = sim.payments[0].clone();
    let row = asked(&sim, &payment, &[0.0, 0.5, 1.0]);
    sim.query(0, [&payment.banks[0], &payment.banks[1]], vec![row]).unwrap().unwrap();
    let all: Vec<(Name, Message)> = sim
        .seen
        .iter()
        .flat_map(|(to, messages)| messages.iter().map(|message| (to.clone(), message.clone())))
        .collect();
    // Signed again with every bulk field empty.
    let mut refused = 0;
    for (to, message) in &all {
        let mut message = message.clone();
        match &mut message {
            Message::FlagAsk(ask) => again(ask, &name("network"), |ask| ask.inputs.truncate(1)),
            Message::JoinPart(part) => again(part, &name("network"), |part| part.rows.clear()),
            Message::QueryAsk(table, accounts) => {
                again(table, &name("network"), |table| table.reply.clear());
                let hash = table.hash();
                again(accounts, &name("network"), |accounts| {
                    (accounts.table, accounts.candidates) = (hash, Vec::new());
                });
            }
            Message::OpenAsk(ask) => ask.ciphers.truncate(63),
            Message::ReleaseAsk(ask) => {
                again(&mut ask.table, &name("network"), |table| {
                    (table.fields.query, table.fields.rows) = (5, Vec::new());
                });
            }
            Message::FreezeAsk(ask) => again(ask, &name("network"), |ask| ask.shares.clear()),
            Message::SumAsk(ask) => again(ask, &name("network"), |ask| ask.evidence.clear()),
            _ => continue,
        }
        let ordering =
            matches!(&message, Message::FlagAsk(ask) if ask.peek().unwrap().inputs.is_empty());
        if ordering {
            continue;
        }
        sim.rejects.clear();
        sim.deliver(to, message);
        assert_eq!(sim.rejects.len(), 1);
        refused += 1;
    }
    assert!(refused > 20);
    // Any byte changed: no message, or one that is refused for its signature or says nothing new.
    let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(3);
    for (to, message) in &all {
        let mut bytes = encode(message);
        let at = usize::try_from(rand_core::Rng::next_u64(&mut rng)).unwrap() % bytes.len();
        bytes[at] ^= 1 << (at % 8);
        if at > 0
            && let Ok(message) = decode::<Message>(&bytes)
            && !matches!(
                message,
                Message::Evidence(_) | Message::NoiseShare(_) | Message::Released(..)
            )
        {
            sim.rejects.clear();
            sim.deliver(to, message);
            assert_eq!(sim.rejects.len(), 1);
        }
    }
    assert_eq!(sim.network.counts(), Some(sim.plain_counts(|_| true).as_slice()));
}
