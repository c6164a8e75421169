//! Strict jobs: scores of pooled counts to the bit, every fault with its code and culprit, and that no
//! leaf is opened.

use super::super::forest::{Pool, PooledRule};
use super::super::network::Reaching;
use super::super::strict::{Frozen, PooledAsk, Reached};
use super::*;

/// Payments of a strict job.
const ROWS: usize = 30;

/// A strict job with a forest behind it.
struct Strict {
    sim: Sim,
    forest: Forest,
    /// The payments' columns.
    features: Vec<[i32; 2]>,
    totals: Totals,
    clear: ForestCells,
    rule: PooledRule,
    /// The network's own scores.
    own: Vec<u64>,
}

fn strict_with(change: impl FnOnce(&mut Figures)) -> Strict {
    let range = |name: &str| Range { name: name.into(), low: 0, high: 99, weight: 1 };
    let columns = vec![range("amount"), range("hour")];
    let spec = ForestSpec { trees: 3, depth: 2, columns, seed: [6; 32] };
    let forest = Forest::draw(&spec).unwrap();
    let terms = with(with(terms(5, 3), |figures| figures.strict = true), change);
    let (ledgers, made, mut cells) = payments(&terms, ROWS, 6);
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
    let sim = Sim::with(terms, ledgers, made, cells, 0);
    let (mut totals, mut clear) = (Totals::new(&forest), ForestCells::new(&forest));
    for ((payment, row), label) in sim.payments.iter().zip(&features).zip(&sim.cells.labels) {
        let class = Severity::ALL[class_of(&sim, payment)];
        totals.add(&forest, row, *label);
        clear.add(&forest, row, *label, class.bits());
    }
    let sigma = sim.job.pooled_sigma(5);
    let rule = PooledRule::new(3, sigma);
    // What the network finds by itself: scores of leaves without banks.
    let alone = Scores::new(&forest, &totals, &ForestCells::new(&forest), Prior::new(1, None));
    let own = features.iter().map(|row| alone.of(&forest, row)[0]).collect();
    Strict { sim, forest, features, totals, clear, rule, own }
}

fn strict() -> Strict {
    strict_with(|_| ())
}

fn frozen() -> Strict {
    let mut strict = strict();
    strict.sim.run();
    assert_eq!(strict.sim.network.phase(), Phase::Trained);
    strict
}

fn class_of(sim: &Sim, payment: &Payment) -> usize {
    sim.classes(payment).into_iter().max().unwrap().into()
}

fn authority() -> Culprit {
    Culprit::Authority(name("authority"))
}

impl Strict {
    fn reaching(&self, payment: usize) -> Reaching {
        let leaves = self.sim.cells.leaves_of(payment);
        Sim::reaching(&self.sim.payments[payment], leaves, self.own[payment])
    }

    fn pool(&self, payment: usize) -> Pool {
        self.forest.pool(&self.totals, &self.clear, &self.features[payment])
    }

    fn score(&self, payment: usize, counts: [i64; 2], rows: [u64; 2]) -> f64 {
        self.rule.score(self.own[payment], counts, rows) as f64 / ONE as f64
    }

    /// Asks about payments, all of the first one's pair of banks.
    fn ask(&mut self, query: u64, payments: &[usize]) -> Option<Vec<f64>> {
        let asked = payments.iter().map(|payment| self.reaching(*payment)).collect();
        let banks = self.sim.payments[payments[0]].banks.clone();
        self.sim.query_pooled(query, banks.each_ref(), asked, self.rule).unwrap()
    }

    /// What the authority would be asked about a query, which it is not given.
    fn held(&mut self, query: u64, payments: &[usize]) -> PooledAsk {
        self.sim.away.insert(name("authority"));
        assert_eq!(self.ask(query, payments), None);
        self.sim.away.clear();
        let last = self.sim.wire.last().unwrap();
        let Message::PooledAsk(ask) = last.open(&identity(&name("authority"))).unwrap() else {
            panic!("the picks are there")
        };
        *ask
    }

    /// The only refusal of a message that a role is given now.
    fn refused(&mut self, to: &Name, message: Message) -> (Code, Vec<Culprit>, String) {
        self.sim.rejects.clear();
        self.sim.deliver(to, message);
        let [(who, refusal)] = self.sim.rejects.as_slice() else {
            panic!("{:?}", self.sim.rejects)
        };
        assert_eq!(who, to);
        (refusal.code, refusal.culprits.clone(), refusal.detail.clone())
    }

    /// The same, of a strict query at the authority.
    fn refused_ask(&mut self, ask: PooledAsk) -> (Code, Vec<Culprit>, String) {
        self.refused(&name("authority"), Message::PooledAsk(Box::new(ask)))
    }

    fn record(&self) -> Signed<Frozen> {
        let Message::Frozen(record) = sent(&self.sim, &name("network"), "Frozen")[0] else {
            panic!("frozen")
        };
        record.clone()
    }

    /// A release that a role signed.
    fn release(&self, opens: Opens, ciphers: &[u8], by: &Name) -> Signed<Release> {
        let release =
            Release { job: self.sim.job.id(), version: 0, opens, ciphers: ciphers_hash(ciphers) };
        Signed::sign(release, &identity(by)).signed().clone()
    }

    /// Ciphertexts that a role kept under a hash.
    fn kept(&self, role: &Name, hash: &Hash) -> Vec<u8> {
        let bytes = self.sim.blobs[role].values().find(|bytes| ciphers_hash(bytes) == *hash);
        bytes.unwrap().clone()
    }
}

fn releases(sim: &Sim) -> usize {
    sent(sim, &name("network"), "Released").len()
}

#[test]
fn strict_scores_are_the_plain_ones_to_the_bit() {
    let mut strict = frozen();
    assert_eq!(strict.sim.network.counts(), None);
    assert_eq!((releases(&strict.sim), strict.sim.rejects.len()), (0, 0));
    assert!(strict.sim.seen.values().flatten().all(|message| message.name() != "OpenAsk"));
    let mut seen = BTreeSet::new();
    let pairs: BTreeSet<[Name; 2]> =
        strict.sim.payments.iter().map(|payment| payment.banks.clone()).collect();
    for (query, pair) in (0u64..).zip(pairs.iter().take(12)) {
        let of = |payment: &usize| strict.sim.payments[*payment].banks == *pair;
        let rows: Vec<usize> = (0..ROWS).filter(of).take(3).collect();
        let scores = strict.ask(query, &rows);
        let counts = strict.sim.network.pooled_counts(query).unwrap_or_default().to_vec();
        if scores.is_none() {
            // Only an account that was asked about too often.
            assert!(strict.sim.rejects.iter().all(|(_, r)| r.code == Code::BudgetSpent));
            continue;
        }
        for ((payment, score), counts) in rows.iter().zip(scores.unwrap()).zip(counts) {
            let class = class_of(&strict.sim, &strict.sim.payments[*payment]);
            let pool = strict.pool(*payment);
            assert_eq!(counts, pool.classes[class]);
            let plain = strict.score(*payment, pool.classes[class], pool.rows);
            assert_eq!(score.to_bits(), plain.to_bits());
            seen.insert(class);
        }
    }
    assert_eq!(seen, BTreeSet::from([0, 1, 2]));
    assert_eq!(strict.sim.network.phase(), Phase::Serving);
    // Two numbers for each payment are all that was ever opened.
    let rows = strict.sim.facts.iter().filter(|(_, fact)| fact.what == "query.released").count();
    assert_eq!(releases(&strict.sim), rows);
    for message in sent(&strict.sim, &name("network"), "Released") {
        let Message::Released(release, _) = message else { panic!() };
        assert!(matches!(release.peek().unwrap().opens, Opens::Pooled { .. }));
    }
}

#[test]
fn one_and_three_bits_of_class_are_pooled_alike() {
    for bits in [1, 3] {
        let terms = with(terms(3, 2), |figures| {
            (figures.class_bits, figures.strict) = (bits, true);
        });
        let mut sim = Sim::new(terms, PAYMENTS, 1);
        sim.run();
        for payment in 0..4 {
            let own: Vec<u16> = sim.cells.leaves_of(payment).collect();
            let one = sim.payments[payment].clone();
            let class = sim.classes(&one).map(|class| u16::from(class).min(bits));
            let class = class.into_iter().max().unwrap();
            let mut expected = [0i64; 2];
            for (i, other) in sim.payments.iter().enumerate() {
                let theirs = sim.classes(other).map(|class| u16::from(class).min(bits));
                let same = sim.cells.leaves_of(i).zip(&own).filter(|(a, b)| a == *b).count();
                if theirs.into_iter().max() == Some(class) {
                    let lane = usize::from(!sim.cells.labels[i]);
                    expected[lane] += i64::try_from(same).unwrap();
                }
            }
            let rule = PooledRule { weight: 1 };
            let asked = vec![Sim::reaching(&one, own.into_iter(), 1)];
            let query = payment as u64;
            sim.query_pooled(query, one.banks.each_ref(), asked, rule).unwrap().unwrap();
            assert_eq!(sim.network.pooled_counts(query), Some(&[expected][..]), "{bits}");
        }
    }
}

#[test]
fn strict_scores_are_made_of_the_frozen_noised_counts() {
    let mut strict = strict_with(|figures| {
        (figures.noise, figures.rows_per_account) = (Some(noise(1.0)), 2);
    });
    strict.sim.run();
    let charged: BTreeSet<_> = strict.sim.charges.iter().map(|(who, _)| who.clone()).collect();
    assert_eq!((charged.len(), strict.sim.charges.len()), (6, 6));
    // Three trees of two noised counts each, five banks where h = 1.
    let sigma = strict.sim.job.sigma().unwrap();
    assert_eq!(strict.sim.job.pooled_sigma(5), Some(sigma * 30f64.sqrt()));
    // What nobody opens: all shares of the key are at hand here.
    let record = strict.record().peek().unwrap();
    let sums = Ciphers::decode_sums(&strict.kept(&name("authority"), &record.sums)).unwrap();
    let partials: Vec<Vec<u8>> = [0usize, 1, 2, 3]
        .iter()
        .map(|number| {
            let share = &strict.sim.fixture.shares[*number];
            strict.sim.key.partial(&[0; 32], &sums, share, &Secret::new([1; 32])).unwrap()
        })
        .collect();
    let partials: Vec<&[u8]> = partials.iter().map(Vec::as_slice).collect();
    let noised = strict.sim.key.open(&sums, &partials, -1_000_000..=1_000_000).unwrap();
    let mut moved = 0;
    for payment in 0..5 {
        let query = payment as u64;
        let score = strict.ask(query, &[payment]).unwrap()[0];
        let Message::PooledAsk(ask) = sent(&strict.sim, &name("authority"), "PooledAsk")[payment]
        else {
            panic!()
        };
        let cells = ask.reached.peek().unwrap().cells;
        let mut at_least = [[0i64; 4]; 2];
        for (at, cell) in cells.iter().enumerate() {
            let (tree, lane) = (at / 2, at % 2);
            for bit in 0..2 {
                at_least[lane][1 + bit] += noised[(tree * 8 + usize::from(*cell)) * 2 + bit];
            }
        }
        let pool = strict.pool(payment);
        let class = class_of(&strict.sim, &strict.sim.payments[payment]);
        let counts = [0, 1].map(|lane| {
            at_least[lane][0] = i64::try_from(pool.rows[lane]).unwrap();
            at_least[lane][class] - at_least[lane][class + 1]
        });
        assert_eq!(strict.sim.network.pooled_counts(query), Some(&[counts][..]));
        let plain = strict.score(payment, counts, pool.rows);
        assert_eq!(score.to_bits(), plain.to_bits());
        moved += usize::from(counts != pool.classes[class]);
    }
    assert_eq!((moved, strict.sim.rejects.len()), (5, 0));
}

#[test]
fn banks_see_nothing_of_the_leaves() {
    let mut strict = frozen();
    let tables: Vec<Vec<u8>> = [(0, [0]), (1, [0]), (2, [1])]
        .iter()
        .map(|(query, rows)| {
            // The same accounts each time, in the same leaves or in others.
            let mut asked = strict.reaching(rows[0]);
            asked.accounts = strict.sim.payments[0].accounts.clone();
            let banks = strict.sim.payments[0].banks.clone();
            let rule = strict.rule;
            strict.sim.query_pooled(*query, banks.each_ref(), vec![asked], rule).unwrap().unwrap();
            let asks = sent(&strict.sim, &name("authority"), "PooledAsk");
            let Message::PooledAsk(ask) = asks.last().unwrap() else { panic!() };
            ask.ask.table.peek().unwrap().reply
        })
        .collect();
    let halves: BTreeSet<&[u8]> = tables.iter().flat_map(|table| table.chunks(32)).collect();
    // Three classes of two ciphertexts of two halves, three times.
    assert_eq!(halves.len(), 3 * 3 * 2 * 2);
    let bank = strict.sim.payments[0].banks[0].clone();
    let shapes: BTreeSet<_> = sent(&strict.sim, &bank, "QueryAsk").into_iter().map(shape).collect();
    assert!((1..=2).contains(&shapes.len()), "one for each side: {shapes:?}");
    // The seed is for the authority only.
    let Message::PooledAsk(ask) = sent(&strict.sim, &name("authority"), "PooledAsk")[2] else {
        panic!()
    };
    let seed = ask.reached.peek().unwrap().seed;
    let holds = |bytes: &[u8]| bytes.windows(32).any(|window| window == seed);
    let banks = strict.sim.job.banks.iter().map(|entry| &entry.party);
    let mut read = banks.flat_map(|bank| &strict.sim.seen[bank]);
    assert!(!read.any(|message| holds(&encode(message))));
}

#[test]
fn a_table_that_is_not_the_named_cells_is_refused() {
    let mut strict = frozen();
    let held = strict.held(0, &[0]);
    let with = |change: &dyn Fn(&mut Reached)| {
        let mut ask = held.clone();
        again(&mut ask.reached, &name("network"), |reached| change(reached));
        ask
    };
    let code = |(code, culprits, _): (Code, Vec<Culprit>, String)| (code, culprits);
    // Another leaf in one tree, another label, another seed: the table is not made of these.
    let cells = held.reached.peek().unwrap().cells;
    let other = (0..8).find(|cell| !cells[..2].contains(cell)).unwrap();
    let (code_, culprits, why) = strict.refused_ask(with(&|reached| reached.cells[0] = other));
    assert_eq!((code_, culprits), (Code::BadCiphertext, vec![network()]));
    assert_eq!(why, "row 0, class 0: not what the named cells hold");
    for change in
        [(&|reached: &mut Reached| reached.cells.swap(0, 1)) as &dyn Fn(&mut Reached), &|reached| {
            reached.seed[0] ^= 1
        }]
    {
        let refused = code(strict.refused_ask(with(change)));
        assert_eq!(refused, (Code::BadCiphertext, vec![network()]));
    }
    // Cells that there are not, one cell for both labels, of more and of fewer rows.
    for change in [
        (&|reached: &mut Reached| reached.cells[5] = 8) as &dyn Fn(&mut Reached),
        &|reached| reached.cells[1] = reached.cells[0],
        &|reached| reached.cells.truncate(5),
        &|reached| reached.cells.clear(),
        &|reached| reached.cells.extend_from_within(..),
    ] {
        let refused = code(strict.refused_ask(with(change)));
        assert_eq!(refused, (Code::WrongLength, vec![network()]));
    }
    let refused = code(strict.refused_ask(with(&|reached| reached.table.0[0] ^= 1)));
    assert_eq!(refused, (Code::WrongLabel, vec![network()]));
    let mut forged = held.clone();
    again(&mut forged.reached, &bank(0), |_| ());
    assert_eq!(code(strict.refused_ask(forged)), (Code::BadSignature, vec![]));
    // Without cells, as in a job that opens its counts.
    let bare = Message::ReleaseAsk(Box::new(held.ask.clone()));
    let refused = code(strict.refused(&name("authority"), bare));
    assert_eq!(refused, (Code::WrongState, vec![network()]));
    assert_eq!(releases(&strict.sim), 0);
    // None of this changed anything: the honest request is answered. The network, which asked for none
    // of it, hears of no refusal.
    strict.sim.rejects.clear();
    strict.sim.queue.clear();
    strict.sim.deliver(&name("authority"), Message::PooledAsk(Box::new(held)));
    strict.sim.run();
    let (class, pool) = (class_of(&strict.sim, &strict.sim.payments[0]), strict.pool(0));
    assert_eq!(strict.sim.network.pooled_counts(0), Some(&[pool.classes[class]][..]));
    assert_eq!(strict.sim.rejects, []);
}

#[test]
fn an_altered_entry_that_both_banks_answered_for_is_refused() {
    let mut honest = frozen();
    let held = honest.held(0, &[0]);
    let parts = sent(&honest.sim, &name("network"), "FlagPart");
    let Message::FlagPart(part) = parts[0] else { panic!() };
    let stolen = part.peek().unwrap().ciphers[..64].to_vec();
    type Change<'a> = &'a dyn Fn(&mut Vec<u8>);
    let changes: [(Change<'_>, &str); 3] = [
        // A bank's bit; the pair of another class; one entry less.
        (&|reply| reply[2 * 64..3 * 64].copy_from_slice(&stolen), "row 0, class 1"),
        (&|reply| reply.copy_within(0..128, 256), "row 0, class 2"),
        (&|reply| reply.truncate(5 * 64), "length"),
    ];
    for (change, word) in changes {
        let mut strict = frozen();
        let mut ask = held.clone();
        again(&mut ask.ask.table, &name("network"), |table| change(&mut table.reply));
        let table = ask.ask.table.clone();
        again(&mut ask.reached, &name("network"), |reached| reached.table = table.hash());
        let payment = strict.sim.payments[0].clone();
        let mut candidates = Vec::new();
        for side in Side::BOTH {
            let place = usize::from(side.byte());
            let accounts = QueryAccounts {
                job: strict.sim.job.id(),
                version: 0,
                table: table.hash(),
                side,
                accounts: vec![payment.accounts[place].clone()],
                candidates: candidates.clone(),
            };
            let accounts = Signed::sign(accounts, &identity(&name("network"))).signed().clone();
            let question = Message::QueryAsk(table.clone(), accounts);
            strict.sim.deliver(&payment.banks[place], question);
            let answer = strict.sim.wire.last().unwrap().open(&identity(&name("network"))).unwrap();
            match answer {
                Message::Picked(picked) => {
                    candidates = picked.peek().unwrap().ciphers;
                    *(if place == 0 { &mut ask.ask.ordering } else { &mut ask.ask.beneficiary }) =
                        picked;
                }
                // Too short a table is not picked from at all.
                _ => {
                    let culprits = [network()];
                    let refused = (payment.banks[0].as_str(), Code::WrongLength, &culprits[..]);
                    assert_eq!((word, only_reject(&strict.sim)), ("length", refused));
                    break;
                }
            }
        }
        let (code, culprits, why) = strict.refused_ask(ask);
        let expected = if word == "length" { Code::WrongLength } else { Code::BadCiphertext };
        assert_eq!((code, culprits), (expected, vec![network()]));
        assert!(word == "length" || why.starts_with(word), "{why}");
        assert_eq!(releases(&strict.sim), 0);
    }
}

#[test]
fn a_strict_query_is_released_once() {
    let mut strict = frozen();
    strict.ask(0, &[0]).unwrap();
    let ask = sent(&strict.sim, &name("authority"), "PooledAsk")[0].clone();
    let Message::PooledAsk(first) = &ask else { panic!() };
    // The same request gets the same bytes.
    let before = strict.sim.wire.len();
    strict.sim.deliver(&name("authority"), ask.clone());
    let repeated = strict.sim.wire[before].open(&identity(&name("network"))).unwrap();
    assert_eq!(encode(&repeated), encode(sent(&strict.sim, &name("network"), "Released")[0]));
    // Other picks, other cells, and the row under another number.
    let banks = strict.sim.payments[0].banks.clone();
    let mut other = (**first).clone();
    again(&mut other.ask.beneficiary, &banks[1], |picked| picked.proofs[0] ^= 1);
    let (code, culprits, _) = strict.refused_ask(other);
    assert_eq!((code, culprits), (Code::Difference, vec![network()]));
    let mut other = (**first).clone();
    again(&mut other.reached, &name("network"), |reached| reached.cells.swap(0, 1));
    let (code, culprits, _) = strict.refused_ask(other);
    assert_eq!((code, culprits), (Code::Difference, vec![network()]));
    let mut other = (**first).clone();
    again(&mut other.ask.table, &name("network"), |table| table.fields.query = 77);
    let (code, culprits, _) = strict.refused_ask(other);
    assert_eq!((code, culprits), (Code::Duplicate, vec![network()]));
    // A bank opens one release of a query, of what was frozen.
    let Message::OpenAsk(open) = sent(&strict.sim, &bank(0), "OpenAsk")[0].clone() else {
        panic!()
    };
    for (change, code) in [
        ((|release: &mut Release| release.job.0[0] ^= 1) as fn(&mut Release), Code::UnknownJob),
        (
            |release| {
                if let Opens::Pooled { frozen, .. } = &mut release.opens {
                    frozen.0[0] ^= 1;
                }
            },
            Code::Difference,
        ),
    ] {
        let mut other = open.clone();
        again(&mut other.release, &name("authority"), change);
        let (got, culprits, _) = strict.refused(&bank(0), Message::OpenAsk(other));
        let blamed = if code == Code::Difference { vec![authority()] } else { vec![] };
        assert_eq!((got, culprits), (code, blamed));
    }
    // Limits are those of every job.
    strict.sim.rejects.clear();
    assert!(strict.ask(1, &[0]).is_some() && strict.ask(2, &[0]).is_some());
    assert_eq!(strict.ask(3, &[0]), None);
    assert_eq!(only_reject(&strict.sim), (banks[0].as_str(), Code::BudgetSpent, &[][..]));
}

#[test]
fn no_query_before_the_version_is_frozen() {
    let held = frozen().held(0, &[0]);
    let mut early = strict();
    let asked = vec![early.reaching(0)];
    let banks = early.sim.payments[0].banks.clone();
    let rule = early.rule;
    let refusal = early.sim.query_pooled(0, banks.each_ref(), asked, rule).unwrap_err();
    assert_eq!(refusal.code, Code::WrongState);
    // Up to where the authority would freeze.
    while let Some(envelope) = early.sim.queue.pop_front() {
        let message = envelope.open(&identity(&envelope.to)).unwrap();
        if message.name() == "FreezeAsk" {
            break;
        }
        early.sim.deliver(&envelope.to, message);
    }
    assert_eq!(early.sim.network.phase(), Phase::Summed);
    let (code, culprits, _) = early.refused_ask(held.clone());
    assert_eq!((code, culprits), (Code::WrongState, vec![]));
    let accounts = QueryAccounts {
        job: early.sim.job.id(),
        version: 0,
        table: held.ask.table.hash(),
        side: Side::Ordering,
        accounts: vec![early.sim.payments[0].accounts[0].clone()],
        candidates: Vec::new(),
    };
    let accounts = Signed::sign(accounts, &identity(&name("network"))).signed().clone();
    let question = Message::QueryAsk(held.ask.table, accounts);
    let (code, culprits, _) = early.refused(&banks[0], question);
    assert_eq!((code, culprits), (Code::WrongState, vec![]));
    // Nor does a bank open what it does not know to be frozen.
    let (query, table) = (0, Hash([1; 32]));
    let opens = Opens::Pooled { query, table, frozen: Hash([2; 32]) };
    let release = early.release(opens, &[], &name("authority"));
    let open = Message::OpenAsk(OpenAsk { release, ciphers: Vec::new() });
    let (code, culprits, _) = early.refused(&bank(0), open);
    assert_eq!((code, culprits), (Code::WrongState, vec![]));
}

#[test]
fn counts_of_a_strict_version_are_not_opened() {
    let mut strict = frozen();
    let record = strict.record();
    let Frozen { summed, shares, sums, .. } = record.peek().unwrap();
    let sums = strict.kept(&name("network"), &sums);
    let model = Opens::Model { summed, shares };
    let opening = |strict: &Strict, opens: &Opens, by: &str| {
        let release = strict.release(opens.clone(), &sums, &name(by));
        Message::OpenAsk(OpenAsk { release, ciphers: sums.clone() })
    };
    // The network signs for itself; an authority that breaks the job's terms does it.
    let forged = opening(&strict, &model, "network");
    let (code, culprits, _) = strict.refused(&bank(0), forged);
    assert_eq!((code, culprits), (Code::BadSignature, vec![]));
    let index = Opens::Query { query: 5, table: Hash([1; 32]) };
    for opens in [&model, &index] {
        let ask = opening(&strict, opens, "authority");
        let (code, culprits, _) = strict.refused(&bank(0), ask);
        assert_eq!((code, culprits), (Code::WrongState, vec![authority()]));
    }
    let release = strict.release(model, &sums, &name("authority"));
    let partial = Partial {
        job: strict.sim.job.id(),
        version: 0,
        bank: name("authority"),
        release: release.hash(),
        bytes: Vec::new(),
    };
    let partial = Signed::sign(partial, &identity(&name("authority"))).signed().clone();
    let (code, culprits, _) = strict.refused(&name("network"), Message::Released(release, partial));
    assert_eq!((code, culprits), (Code::WrongState, vec![authority()]));
    // Under the release of a query, too, only its own pairs are opened.
    strict.ask(0, &[0]).unwrap();
    let asks = sent(&strict.sim, &bank(0), "OpenAsk");
    let Some(Message::OpenAsk(mut open)) = asks.last().copied().cloned() else { panic!() };
    assert_eq!(open.ciphers.len(), 2 * 64);
    open.ciphers = sums.clone();
    let (code, culprits, _) = strict.refused(&bank(0), Message::OpenAsk(open));
    assert_eq!((code, culprits), (Code::NotFrozen, vec![network()]));
    // A table of known indices is no way around the cells.
    let payment = strict.sim.payments[0].clone();
    let row = asked(&strict.sim, &payment, &[0.0, 0.5, 1.0]);
    let refusal = strict.sim.query(9, payment.banks.each_ref(), vec![row]).unwrap_err();
    assert_eq!(refusal.code, Code::WrongState);
    assert_eq!(strict.sim.network.counts(), None);
}

#[test]
fn a_version_is_frozen_once() {
    let mut strict = frozen();
    let shares: Vec<Vec<u8>> = sent(&strict.sim, &name("authority"), "NoiseShare")
        .iter()
        .filter_map(|message| match message {
            Message::NoiseShare(share) => Some(encode(share)),
            _ => None,
        })
        .collect();
    let refusal = refreeze(&mut strict.sim, &shares[..4]);
    assert_eq!((refusal.code, refusal.culprits), (Code::Difference, vec![network()]));
    strict.sim.queue.clear();
    let ask = sent(&strict.sim, &name("authority"), "FreezeAsk")[0].clone();
    let before = strict.sim.wire.len();
    strict.sim.deliver(&name("authority"), ask);
    let repeated = strict.sim.wire[before].open(&identity(&name("network"))).unwrap();
    let record = strict.record();
    assert_eq!(encode(&repeated), encode(&Message::Frozen(record.clone())));
    // Again at a bank: nothing new. Other sums; another share of its name; not the authority's.
    let facts = strict.sim.facts.len();
    strict.sim.deliver(&bank(0), Message::Frozen(record.clone()));
    assert_eq!((strict.sim.facts.len(), sent(&strict.sim, &bank(0), "Frozen").len()), (facts, 2));
    let changed = |change: fn(&mut Frozen), by: &str| {
        let mut other = record.clone();
        again(&mut other, &name(by), change);
        Message::Frozen(other)
    };
    let other = changed(|record| record.sums.0[0] ^= 1, "authority");
    let (code, culprits, _) = strict.refused(&bank(0), other.clone());
    assert_eq!((code, culprits), (Code::Difference, vec![authority()]));
    let (code, culprits, _) =
        strict.refused(&bank(0), changed(|record| record.shares[0].1.0[0] ^= 1, "authority"));
    assert_eq!((code, culprits), (Code::ReceiptBroken, vec![authority()]));
    let (code, culprits, _) = strict.refused(&bank(0), changed(|_| (), "network"));
    assert_eq!((code, culprits), (Code::BadSignature, vec![]));
    let (code, culprits, _) = strict.refused(&name("network"), other);
    assert_eq!((code, culprits), (Code::WrongState, vec![]));
    // A network that waits for it names an authority that froze other sums.
    let mut waiting = self::strict();
    waiting.sim.tamper = Some(Box::new(|from, _, message| {
        if let Message::Frozen(record) = message
            && *from == name("authority")
        {
            again(record, from, |record| record.sums.0[0] ^= 1);
        }
    }));
    waiting.sim.run();
    assert_eq!(only_reject(&waiting.sim), ("network", Code::WrongLabel, &[authority()][..]));
    assert_eq!(waiting.sim.network.phase(), Phase::Summed);
}

#[test]
fn a_job_that_opens_its_counts_knows_no_strict_messages() {
    let held = frozen();
    let record = Frozen { job: Hash([0; 32]), ..held.record().peek().unwrap() };
    let mut open = Strict { sim: trained(), ..held };
    let record = Frozen { job: open.sim.job.id(), ..record };
    let record = Signed::sign(record, &identity(&name("authority"))).signed().clone();
    let (code, culprits, _) = open.refused(&bank(0), Message::Frozen(record.clone()));
    assert_eq!((code, culprits), (Code::WrongState, vec![authority()]));
    let (code, culprits, _) = open.refused(&name("network"), Message::Frozen(record));
    assert_eq!((code, culprits), (Code::WrongState, vec![]));
    let opens = Opens::Pooled { query: 5, table: Hash([1; 32]), frozen: Hash([2; 32]) };
    let release = open.release(opens, &[], &name("authority"));
    let ask = Message::OpenAsk(OpenAsk { release, ciphers: Vec::new() });
    let (code, culprits, _) = open.refused(&bank(0), ask);
    assert_eq!((code, culprits), (Code::WrongState, vec![authority()]));
    let payment = open.sim.payments[0].clone();
    let row = asked(&open.sim, &payment, &[0.0, 0.5, 1.0]);
    open.sim.query(0, payment.banks.each_ref(), vec![row]).unwrap().unwrap();
    let Message::ReleaseAsk(mut ask) = sent(&open.sim, &name("authority"), "ReleaseAsk")[0].clone()
    else {
        panic!()
    };
    again(&mut ask.table, &name("network"), |table| table.fields.query = 5);
    let reached = Reached {
        job: open.sim.job.id(),
        version: 0,
        table: ask.table.hash(),
        cells: vec![0, 1, 0, 1, 0, 1],
        seed: [0; 32],
    };
    let reached = Signed::sign(reached, &identity(&name("network"))).signed().clone();
    let (code, culprits, _) = open.refused_ask(PooledAsk { ask: *ask, reached });
    assert_eq!((code, culprits), (Code::WrongState, vec![network()]));
    let asked = vec![Sim::reaching(&payment, [0, 0, 0].into_iter(), 1)];
    let rule = PooledRule { weight: 1 };
    let refusal = open.sim.query_pooled(7, payment.banks.each_ref(), asked, rule).unwrap_err();
    assert_eq!(refusal.code, Code::WrongState);
}

#[test]
fn a_wrong_strict_pick_names_its_bank() {
    for side in Side::BOTH {
        let mut strict = frozen();
        let apart = |payment: &Payment| payment.banks[0] != payment.banks[1];
        let payment = strict.sim.payments.iter().position(apart).unwrap();
        let culprit = strict.sim.payments[payment].banks[usize::from(side.byte())].clone();
        strict.sim.tamper = Some(Box::new(move |from, _, message| {
            if let Message::Picked(picked) = message
                && picked.peek().unwrap().side == side
            {
                again(picked, from, |picked| picked.proofs[20] ^= 1);
            }
        }));
        assert_eq!(strict.ask(0, &[payment]), None);
        let culprits = [Culprit::Party(culprit)];
        let expected = ("authority", Code::BadCiphertext, &culprits[..]);
        assert_eq!(only_reject(&strict.sim), expected);
    }
}

#[test]
fn lost_banks_are_left_out_of_pools_and_openings() {
    let mut strict = strict();
    strict.sim.leaves_at.insert(bank(1), "FlagAsk");
    strict.sim.leaves_at.insert(bank(0), "OpenAsk");
    strict.sim.run();
    assert_eq!(strict.sim.network.phase(), Phase::Trained);
    let kept = |payment: &Payment| !payment.banks.contains(&bank(1));
    let payment = strict.sim.payments.iter().position(kept).unwrap();
    let own: Vec<u16> = strict.sim.cells.leaves_of(payment).collect();
    let class = class_of(&strict.sim, &strict.sim.payments[payment]);
    let mut expected = [0i64; 2];
    for (i, other) in strict.sim.payments.iter().enumerate().filter(|(_, p)| kept(p)) {
        let same = strict.sim.cells.leaves_of(i).zip(&own).filter(|(a, b)| a == *b).count();
        if class_of(&strict.sim, other) == class {
            expected[usize::from(!strict.sim.cells.labels[i])] += i64::try_from(same).unwrap();
        }
    }
    // The first bank goes when it is to open: it is not accused, and another steps in.
    let asked = vec![strict.reaching(payment)];
    let banks = strict.sim.payments[payment].banks.clone();
    assert!(!banks.contains(&bank(0)), "else it would not pick");
    let rule = strict.rule;
    let early = strict.sim.query_pooled(0, banks.each_ref(), asked, rule).unwrap();
    assert_eq!((early, strict.sim.away.contains(&bank(0))), (None, true));
    strict.sim.lose(&bank(0));
    assert!(strict.sim.network.scores(0).is_some());
    assert_eq!(strict.sim.network.pooled_counts(0), Some(&[expected][..]));
    assert_eq!(strict.sim.rejects, []);
}

#[test]
fn pairs_that_no_honest_banks_make_are_not_answered_and_accuse_nobody() {
    // All payments share one leaf of every tree, so another leaf holds nothing; and in a job without
    // noise one bank's is 1 everywhere.
    let terms = with(terms(5, 3), |figures| figures.strict = true);
    let (ledgers, made, mut cells) = payments(&terms, PAYMENTS, 1);
    cells.leaves.iter_mut().flatten().for_each(|leaf| *leaf = 0);
    let mut sim = Sim::with(terms, ledgers, made, cells, 0);
    let (job, values) = (sim.job.clone(), sim.values.clone());
    sim.tamper = Some(Box::new(move |from, to, message| {
        if let Message::NoiseShare(share) = message
            && (from, to) == (&bank(4), &name("network"))
        {
            again(share, from, |share| {
                let ones = vec![1; job.coordinates()];
                let binding = job.noise_binding(0, &share.summed, from);
                let (shape, seed) = (job.noise_shape(), Secret::new([1; 32]));
                values.encrypt(&shape, &binding, &ones, &seed, &mut share.reply).unwrap();
            });
        }
    }));
    sim.run();
    // Its own machine, which sent another share, takes no part.
    assert_eq!(only_reject(&sim), ("bank-4", Code::ReceiptBroken, &[authority()][..]));
    let mut classes = BTreeSet::new();
    let rule = PooledRule { weight: 1 };
    for (query, payment) in (0u64..).zip(sim.payments.clone()) {
        if payment.banks.contains(&bank(4)) || !classes.insert(class_of(&sim, &payment)) {
            continue;
        }
        let empty = vec![Sim::reaching(&payment, [3; 3].into_iter(), 1)];
        let scores = sim.query_pooled(query, payment.banks.each_ref(), empty, rule).unwrap();
        let (class, refusal) = (class_of(&sim, &payment), sim.network.query_refusal(query));
        // Between two counts that are one too many in every tree the difference is right.
        match (class, refusal) {
            (1, None) => assert_eq!(sim.network.pooled_counts(query), Some(&[[0, 0]][..])),
            (0 | 2, Some(refusal)) => {
                assert_eq!((refusal.code, refusal.culprits.len()), (Code::Overflow, 0));
                assert_eq!(scores, None);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(classes, BTreeSet::from([0, 1, 2]));
    assert_eq!((sim.network.phase(), sim.rejects.len()), (Phase::Serving, 1));
}

#[test]
fn strict_terms_have_their_own_id_and_bounds() {
    let open = terms(5, 3);
    let closed = with(open.clone(), |figures| figures.strict = true);
    assert_eq!(encode(&open).last(), Some(&0));
    assert_eq!(closed.said(), encode(&closed));
    assert_eq!([open.said().as_slice(), &[1]].concat(), closed.said());
    let ids = [open, closed.clone()].map(|terms| Sim::new(terms, 4, 1).job.id());
    assert_ne!(ids[0], ids[1]);
    // 2^24 rows in 128 trees are 2^31.
    let large = |trees| {
        let change = |figures: &mut Figures| {
            (figures.max_rows, figures.trees, figures.cells) = (1 << 24, trees, 2);
        };
        with(closed.clone(), change).check().map_err(|refusal| refusal.code)
    };
    assert_eq!((large(128), large(129)), (Ok(()), Err(Code::BadManifest)));
    assert_eq!((closed.lanes(), terms(5, 3).lanes()), (2, 1));
}

#[test]
fn broken_strict_messages_are_refused_without_panic() {
    let mut strict = frozen();
    strict.ask(0, &[0]).unwrap();
    let kinds = ["QueryAsk", "Picked", "PooledAsk", "Released", "OpenAsk", "Partial", "Frozen"];
    let all: Vec<(Name, Message)> = strict
        .sim
        .seen
        .iter()
        .flat_map(|(to, messages)| messages.iter().map(|message| (to.clone(), message.clone())))
        .filter(|(_, message)| kinds.contains(&message.name()))
        .collect();
    let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(3);
    let mut refused = 0;
    for (to, message) in &all {
        for _ in 0..6 {
            let mut bytes = encode(message);
            let at = 1 + usize::try_from(rng.next_u64()).unwrap() % (bytes.len() - 1);
            bytes[at] ^= 1 << (at % 8);
            let Ok(message) = decode::<Message>(&bytes) else { continue };
            strict.sim.rejects.clear();
            strict.sim.deliver(to, message);
            refused += strict.sim.rejects.len();
        }
    }
    assert!(refused > 40, "{refused}");
    // Behind the signature: any byte of a body changed, and signed again.
    fn broken<T: Body>(signed: &Signed<T>, by: &str, at: u64) -> Signed<T> {
        let mut body = signed.body().to_vec();
        let at = usize::try_from(at).unwrap() % body.len();
        body[at] ^= 1 << (at % 8);
        let signature = identity(&name(by)).sign(T::DOMAIN, &body);
        Signed::from_parts(body, crate::wire::Signature(signature))
    }
    refused = 0;
    for (to, message) in &all {
        for _ in 0..12 {
            let (mut message, at) = (message.clone(), rng.next_u64());
            match &mut message {
                Message::QueryAsk(table, accounts) if at % 2 == 0 => {
                    *table = broken(table, "network", at / 2);
                    let hash = table.hash();
                    again(accounts, &name("network"), |accounts| accounts.table = hash);
                }
                Message::QueryAsk(_, accounts) => *accounts = broken(accounts, "network", at / 2),
                Message::PooledAsk(ask) => ask.reached = broken(&ask.reached, "network", at),
                Message::Released(release, _) => *release = broken(release, "authority", at),
                Message::OpenAsk(ask) => ask.release = broken(&ask.release, "authority", at),
                Message::Frozen(record) => *record = broken(record, "authority", at),
                _ => continue,
            }
            strict.sim.rejects.clear();
            strict.sim.deliver(to, message);
            refused += strict.sim.rejects.len();
        }
    }
    assert!(refused > 100, "{refused}");
    let (class, pool) = (class_of(&strict.sim, &strict.sim.payments[0]), strict.pool(0));
    assert_eq!(strict.sim.network.pooled_counts(0), Some(&[pool.classes[class]][..]));
}
