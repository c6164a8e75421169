//! What training on payments costs each role: CPU time of one thread, bytes on the wire; and the unit
//! costs behind it, beside the bare curve operations of the same run.
//!
//! `cargo bench -p quorate-benches --bench payments -- --measure [ROWS [BANKS [TREES]]]`. Without
//! `--measure` a small job runs and nothing is printed but its phase.

use std::collections::BTreeMap;
use std::hint::black_box;

use curve25519_dalek::ristretto::{RistrettoBasepointTable, RistrettoPoint};
use curve25519_dalek::scalar::Scalar;
use quorate_crypto::secret::Secret;
use quorate_crypto::threshold::elgamal::choice::Ciphers;
use quorate_protocols::pv4fad::messages::Message;
use quorate_protocols::pv4fad::network::{Asked, Phase};
use quorate_protocols::pv4fad::sim::{Sim, identity, terms, with};
use quorate_protocols::pv4fad::{MAX_QUERIED, PART_ROWS, QueryLimits, Terms};
use quorate_protocols::wire::Name;
use rustix::time::{ClockId, clock_gettime};
use zeroize::Zeroizing;

/// CPU time of this thread, in microseconds.
fn cpu() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 * 1e6 + now.tv_nsec as f64 / 1e3
}

/// Microseconds per item of `count` items: the least of some repetitions.
fn each<T>(count: usize, work: impl Fn() -> T) -> f64 {
    let once = || {
        let start = cpu();
        black_box(work());
        (cpu() - start) / count as f64
    };
    (0..7).map(|_| once()).fold(f64::INFINITY, f64::min)
}

fn units(sim: &Sim) {
    const ROWS: usize = 1024;
    const TREES: usize = 50;
    let key = &sim.key;
    let seed = || Secret::new([3; 32]);
    let bindings: Vec<[u8; 32]> = (0..ROWS)
        .map(|row| {
            let mut binding = [0; 32];
            binding[..8].copy_from_slice(&row.to_le_bytes());
            binding
        })
        .collect();
    let bits = Zeroizing::new((0..ROWS).map(|row| u8::from(row % 16 == 0)).collect::<Vec<u8>>());
    let point = RistrettoPoint::mul_base(&Scalar::from(7u64));
    let table = RistrettoBasepointTable::create(&point);
    let scalar = Scalar::from_bytes_mod_order([77; 32]);
    let encoded = point.compress();
    let print = |what: &str, us: f64| println!("{what:<44}{us:>10.3} us");
    let fixed = each(ROWS, || {
        (0..ROWS).map(|_| black_box(&scalar) * &table).fold(point, |sum, point| sum + point)
    });
    let encode = each(ROWS, || {
        (0..ROWS).for_each(|_| {
            black_box(black_box(&point).compress());
        });
    });
    let batch = vec![point; 64];
    let together = each(ROWS, || {
        (0..ROWS / batch.len()).for_each(|_| {
            black_box(RistrettoPoint::double_and_compress_batch(black_box(&batch)));
        });
    });
    let decode = each(ROWS, || {
        (0..ROWS).for_each(|_| {
            black_box(black_box(&encoded).decompress());
        });
    });
    let many = vec![point; 1 << 10];
    let add = each(1 << 20, || {
        let mut sums = many.clone();
        for _ in 0..1 << 10 {
            sums.iter_mut().zip(&many).for_each(|(sum, point)| *sum += point);
        }
        sums
    });
    print("bare: product of a fixed point", fixed);
    print("bare: encoding / decoding of a point", encode);
    print("", decode);
    print("bare: encoding of a point, 64 together", together);
    print("bare: addition", add);
    let bit = each(ROWS, || key.unproven(None, &bits, &seed()));
    print("bank: ciphertext of a bit", bit);
    println!(
        "{:<44}{:>10.3}",
        "  over two products, two encodings together",
        bit / (2.0 * (fixed + together))
    );
    let proven = each(ROWS, || key.encrypt_bits(&bindings, &bits, &seed()));
    print("bank: proof of a bit", proven - bit);
    let inputs = key.encrypt_bits(&bindings, &bits, &seed()).unwrap();
    let or = each(ROWS, || key.unproven(Some(&inputs.ciphers), &bits, &seed()));
    print("bank: ciphertext of an OR", or);
    let bare = 2.0 * (fixed + encode + decode);
    println!("{:<44}{:>10.3}", "  over these and two decodings", or / bare);
    let proven = each(ROWS, || key.or_bits(&bindings, &inputs.ciphers, &bits, &seed()));
    print("bank: proof of an OR", proven - or);
    let outs = key.or_bits(&bindings, &inputs.ciphers, &bits, &seed()).unwrap();
    print("check of a bit", each(ROWS, || key.check_bits(&bindings, &inputs)));
    print("check of an OR", each(ROWS, || key.check_or(&bindings, &inputs.ciphers, &outs)));
    let decoded = each(ROWS, || Ciphers::decode(&outs.ciphers));
    print("network: decoding of a ciphertext", decoded);
    println!("{:<44}{:>10.3}", "  over two decodings", decoded / (2.0 * decode));
    let rows = Ciphers::decode(&outs.ciphers).unwrap();
    let cells: Vec<Option<u16>> = (0..ROWS).map(|row| u16::try_from(row * 37 % 128).ok()).collect();
    let cell = each(ROWS * TREES, || {
        let mut sums = Ciphers::empty(TREES * 128);
        for tree in 0..TREES {
            sums.add_rows(tree * 128, &cells, &rows, 1).unwrap();
        }
        sums
    });
    print("network: one row, tree and class bit", cell);
    println!("{:<44}{:>10.3}", "  over two additions", cell / (2.0 * add));
}

/// Runs training and prints what each kind of message cost its receiver and its sender.
fn run(terms: Terms, rows: usize, print: bool) -> Sim {
    let banks = terms.banks.len();
    let mut sim = Sim::new(terms, rows, 1);
    let mut spent: BTreeMap<(&'static str, &'static str), (usize, f64)> = BTreeMap::new();
    while let Some(envelope) = sim.queue.pop_front() {
        let message = envelope.open(&identity(&envelope.to)).unwrap();
        let role = match envelope.to.as_str() {
            "network" => "network",
            "authority" => "authority",
            _ => "bank",
        };
        let kind = message.name();
        let start = cpu();
        sim.deliver(&envelope.to, message);
        let entry = spent.entry((role, kind)).or_default();
        *entry = (entry.0 + 1, entry.1 + cpu() - start);
    }
    let mut sent: BTreeMap<&'static str, (usize, usize)> = BTreeMap::new();
    for envelope in &sim.wire {
        let message: Message = envelope.open(&identity(&envelope.to)).unwrap();
        let entry = sent.entry(message.name()).or_default();
        *entry = (entry.0 + 1, entry.1 + envelope.sealed.len());
    }
    if print {
        println!("{rows} rows, {banks} banks: handling, by receiver and message, CPU of one core");
        for ((role, kind), (count, us)) in &spent {
            println!("{role:<12}{kind:<12}{count:>8} messages{:>12.3} s", us / 1e6);
        }
        println!("on the wire");
        for (kind, (count, bytes)) in &sent {
            println!("{kind:<24}{count:>8} messages{bytes:>14} bytes");
        }
    }
    sim
}

/// Scores up to `most` payments, up to 250 of one pair of banks in a query, and prints what all roles
/// together took.
fn predict(sim: &mut Sim, most: usize) {
    let mut pairs: BTreeMap<[Name; 2], Vec<usize>> = BTreeMap::new();
    for (index, payment) in sim.payments.iter().enumerate() {
        pairs.entry(payment.banks.clone()).or_default().push(index);
    }
    let (start, clock) = (cpu(), std::time::Instant::now());
    let mut done = 0;
    for (query, (banks, rows)) in (0u64..).zip(&pairs) {
        let rows = &rows[..rows.len().min(250).min(most - done)];
        if rows.is_empty() {
            continue;
        }
        // Three scores, by the greater class of the two sides, other ones in each payment.
        let score = |index: usize, class: usize| (index * 3 + class) as f64;
        let asked = |index: &usize| Asked {
            accounts: sim.payments[*index].accounts.clone(),
            scores: (0..9).map(|pair: usize| score(*index, (pair / 3).max(pair % 3))).collect(),
        };
        let asked = rows.iter().map(asked).collect();
        let expected: Vec<f64> = rows
            .iter()
            .map(|index| {
                let class = sim.classes(&sim.payments[*index]).into_iter().max().unwrap();
                score(*index, class.into())
            })
            .collect();
        let scores = sim.query(query, [&banks[0], &banks[1]], asked).unwrap();
        assert_eq!(scores, Some(expected));
        done += rows.len();
    }
    println!(
        "{done} predictions, each the plain one: {:.3} s of CPU, all roles one after the other; {:.3} s \
         elapsed",
        (cpu() - start) / 1e6,
        clock.elapsed().as_secs_f64()
    );
}

fn main() {
    let mut arguments = std::env::args().skip(1).skip_while(|argument| argument != "--measure");
    if arguments.next().is_none() {
        let sim = run(terms(3, 2), 8, false);
        assert_eq!(sim.network.phase(), Phase::Trained);
        println!("payments: a small job ran; --measure measures a larger one");
        return;
    }
    let mut number = |default: usize| -> usize {
        let given = arguments.by_ref().find(|argument| !argument.starts_with("--"));
        given.map_or(default, |text| text.parse().unwrap())
    };
    let (rows, banks, trees) = (number(8_000), number(4), number(50));
    let terms = with(terms(u32::try_from(banks).unwrap(), 2), |figures| {
        figures.part_rows = PART_ROWS;
        figures.trees = u16::try_from(trees).unwrap();
        figures.cells = 128;
        figures.max_rows = rows as u64;
        figures.rows_per_account = u32::MAX;
        figures.queries = QueryLimits {
            total: MAX_QUERIED,
            per_window: u32::MAX,
            window_ms: 1000,
            per_account: u32::MAX,
        };
    });
    let mut sim = run(terms, rows, true);
    assert_eq!(sim.network.phase(), Phase::Trained);
    assert!(sim.network.counts() == Some(sim.plain_counts(|_| true).as_slice()));
    println!("every count is the plain one");
    predict(&mut sim, 1000);
    units(&sim);
}
