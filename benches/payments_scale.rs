//! Training on payments at full size: the ciphertexts of 1,000,000 payments, their cell sums in 50 trees
//! and the opening of every count, with the CPU time of each role and the bare curve operations of the
//! same run beside it.
//!
//! `cargo bench -p quorate-benches --bench payments_scale -- --measure [ROWS [TREES [BANKS]]]`, with
//! `--json` for one JSON object. Without `--measure` a small job runs and nothing is measured.
//!
//! Every ciphertext is made, encoded, decoded and summed; every opened count must be the plain one. Proofs
//! are made and checked for one part of 1,024 rows in 64 and reported apart. Not in it: messages, seals,
//! disks (the bench `payments` runs the machines).

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};

use curve25519_dalek::ristretto::{RistrettoBasepointTable, RistrettoPoint};
use curve25519_dalek::scalar::Scalar;
use quorate_crypto::secret::Secret;
use quorate_crypto::threshold::AUTHORITY;
use quorate_crypto::threshold::conformance::KeyFixture;
use quorate_crypto::threshold::elgamal::ElGamal;
use quorate_crypto::threshold::elgamal::choice::{CIPHERTEXT_BYTES, ChoiceKey, Chosen, Ciphers};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use zeroize::Zeroizing;

/// Rows handled together, as in a message of the protocol.
const PART: usize = 1024;
/// Class bits of a row.
const BITS: usize = 2;
/// Leaves of a tree, times labels.
const CELLS: usize = 128;
/// One part in so many is proven and checked, and beside it the bare operations are run.
const PROVEN: usize = 64;

/// CPU time of this thread, in nanoseconds.
fn cpu() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(now.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap()
}

fn timed<T>(spent: &mut u64, work: impl FnOnce() -> T) -> T {
    let start = cpu();
    let done = work();
    *spent += cpu() - start;
    done
}

/// CPU time by what it was spent on, and how often.
#[derive(Clone, Copy, Default)]
struct Costs {
    bits: u64,
    ors: u64,
    decoded: u64,
    cells: u64,
    proven_parts: u64,
    bit_proofs: u64,
    or_proofs: u64,
    bit_checks: u64,
    or_checks: u64,
    bare_bits: u64,
    bare_ors: u64,
    bare_decoded: u64,
    bare_cells: u64,
}

impl Costs {
    fn add(&mut self, other: &Self) {
        let pairs: [(&mut u64, u64); 13] = [
            (&mut self.bits, other.bits),
            (&mut self.ors, other.ors),
            (&mut self.decoded, other.decoded),
            (&mut self.cells, other.cells),
            (&mut self.proven_parts, other.proven_parts),
            (&mut self.bit_proofs, other.bit_proofs),
            (&mut self.or_proofs, other.or_proofs),
            (&mut self.bit_checks, other.bit_checks),
            (&mut self.or_checks, other.or_checks),
            (&mut self.bare_bits, other.bare_bits),
            (&mut self.bare_ors, other.bare_ors),
            (&mut self.bare_decoded, other.bare_decoded),
            (&mut self.bare_cells, other.bare_cells),
        ];
        pairs.into_iter().for_each(|(sum, own)| *sum += own);
    }
}

/// The rows of one part: a function of its number.
struct Part {
    ordering: Zeroizing<Vec<u8>>,
    beneficiary: Zeroizing<Vec<u8>>,
    bindings: Vec<[u8; 32]>,
    /// Tree by tree.
    cells: Vec<Vec<Option<u16>>>,
}

impl Part {
    fn new(number: usize, rows: usize, trees: usize) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(number as u64);
        // Thermometers: one row in a hundred has a flag, half of the flags are hard.
        let mut side = || {
            let mut bits = Zeroizing::new(Vec::with_capacity(rows * BITS));
            for _ in 0..rows {
                let draw = rng.next_u32() % 200;
                bits.extend([u8::from(draw < 2), u8::from(draw < 1)]);
            }
            bits
        };
        let (ordering, beneficiary) = (side(), side());
        let cell = |rng: &mut ChaCha20Rng| u16::try_from(rng.next_u32() as usize % CELLS).ok();
        let cells = (0..trees).map(|_| (0..rows).map(|_| cell(&mut rng)).collect()).collect();
        let bindings = (0..rows * BITS)
            .map(|at| {
                let mut binding = [0; 32];
                binding[..8].copy_from_slice(&(number as u64).to_le_bytes());
                binding[8..16].copy_from_slice(&(at as u64).to_le_bytes());
                binding
            })
            .collect();
        Self { ordering, beneficiary, bindings, cells }
    }
}

/// What a thread adds up.
struct Sums {
    costs: Costs,
    ciphers: Ciphers,
    plain: Vec<i64>,
    bytes: u64,
}

struct Bench {
    key: ChoiceKey,
    rows: usize,
    trees: usize,
    next: AtomicUsize,
}

impl Bench {
    fn sums(&self) -> Sums {
        let count = self.trees * CELLS * BITS;
        let (costs, ciphers, plain) = (Costs::default(), Ciphers::empty(count), vec![0; count]);
        Sums { costs, ciphers, plain, bytes: 0 }
    }

    /// Parts until none is left.
    fn work(&self) -> Sums {
        let mut sums = self.sums();
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let start = number * PART;
            if start >= self.rows {
                return sums;
            }
            let rows = PART.min(self.rows - start);
            let part = Part::new(number, rows, self.trees);
            self.train(&part, number, &mut sums);
            if number.is_multiple_of(PROVEN) {
                self.prove(&part, number, &mut sums.costs);
                self.bare(&part, &mut sums.costs);
                sums.costs.proven_parts += 1;
            }
            if number.is_multiple_of(16) {
                eprintln!("payments_scale: {} of {} rows", start + rows, self.rows);
            }
        }
    }

    fn seed(number: usize, of: u8) -> Secret<[u8; 32]> {
        let mut seed = [of; 32];
        seed[..8].copy_from_slice(&(number as u64).to_le_bytes());
        Secret::new(seed)
    }

    fn train(&self, part: &Part, number: usize, sums: &mut Sums) {
        let Sums { costs, ciphers, plain, bytes } = sums;
        let key = &self.key;
        let bits = timed(&mut costs.bits, || {
            key.unproven(None, &part.ordering, &Self::seed(number, 1)).unwrap()
        });
        let ors = timed(&mut costs.ors, || {
            key.unproven(Some(&bits), &part.beneficiary, &Self::seed(number, 2)).unwrap()
        });
        *bytes += (bits.len() + ors.len()) as u64;
        let rows = timed(&mut costs.decoded, || Ciphers::decode(&ors).unwrap());
        for (tree, cells) in part.cells.iter().enumerate() {
            let base = tree * CELLS * BITS;
            timed(&mut costs.cells, || ciphers.add_rows(base, cells, &rows, BITS).unwrap());
            for (row, cell) in cells.iter().enumerate() {
                let Some(cell) = cell else { continue };
                for bit in 0..BITS {
                    let own = part.ordering[row * BITS + bit] | part.beneficiary[row * BITS + bit];
                    plain[base + usize::from(*cell) * BITS + bit] += i64::from(own);
                }
            }
        }
    }

    fn prove(&self, part: &Part, number: usize, costs: &mut Costs) {
        let key = &self.key;
        let (one, two) = (Self::seed(number, 3), Self::seed(number, 4));
        let bits: Chosen = timed(&mut costs.bit_proofs, || {
            key.encrypt_bits(&part.bindings, &part.ordering, &one).unwrap()
        });
        let ors: Chosen = timed(&mut costs.or_proofs, || {
            key.or_bits(&part.bindings, &bits.ciphers, &part.beneficiary, &two).unwrap()
        });
        timed(&mut costs.bit_checks, || key.check_bits(&part.bindings, &bits).unwrap());
        timed(&mut costs.or_checks, || key.check_or(&part.bindings, &bits.ciphers, &ors).unwrap());
    }

    /// The curve operations that ciphertexts and sums are made of, and no others.
    fn bare(&self, part: &Part, costs: &mut Costs) {
        let count = part.ordering.len();
        let point = RistrettoPoint::mul_base(&Scalar::from(7u64));
        let table = RistrettoBasepointTable::create(&point);
        let scalar = Scalar::from_bytes_mod_order([77; 32]);
        let encoded = point.compress();
        let decode = |pairs: usize| {
            (0..2 * pairs).for_each(|_| {
                black_box(black_box(&encoded).decompress());
            });
        };
        let product = || black_box(&scalar) * &table;
        // Halves of constants are known, so their ciphertexts are encoded together.
        timed(&mut costs.bare_bits, || {
            let mut left = 2 * count;
            while left > 0 {
                let batch: Vec<_> = (0..left.min(64)).map(|_| product()).collect();
                black_box(RistrettoPoint::double_and_compress_batch(&batch));
                left -= batch.len();
            }
        });
        timed(&mut costs.bare_ors, || {
            decode(count);
            (0..2 * count).for_each(|_| {
                black_box(product().compress());
            });
        });
        timed(&mut costs.bare_decoded, || decode(count));
        let mut cells = vec![[point; 2]; self.trees * CELLS];
        timed(&mut costs.bare_cells, || {
            for (tree, to) in part.cells.iter().enumerate() {
                for cell in to.iter().flatten() {
                    let sums = &mut cells[tree * CELLS + usize::from(*cell)];
                    for _ in 0..BITS {
                        sums.iter_mut().for_each(|sum| *sum += black_box(&point));
                    }
                }
            }
        });
        black_box(cells);
    }
}

/// Microseconds of CPU time for each item.
#[derive(Serialize)]
struct Report {
    rows: usize,
    trees: usize,
    banks: usize,
    class_bits: usize,
    cells: usize,
    threads: usize,
    wall_s: f64,
    exact: bool,
    bank_bytes_up_per_side_row_and_bit: f64,
    /// Both sides of a payment, halved.
    bank_us_per_side_row_and_bit: f64,
    bank_ratio: f64,
    bank_bit_us: f64,
    bank_or_us: f64,
    /// The busiest of equal banks: all side-rows over the number of banks.
    bank_total_s: f64,
    network_us_per_ciphertext: f64,
    network_ciphertext_ratio: f64,
    network_us_per_row_tree_and_bit: f64,
    network_cell_ratio: f64,
    network_total_s: f64,
    proof_of_a_bit_us: f64,
    proof_of_an_or_us: f64,
    check_of_a_bit_us: f64,
    check_of_an_or_us: f64,
    opened_counts: usize,
    partial_us_per_count: f64,
    opening_us_per_count: f64,
}

/// Opens every sum with the shares of the authority and of three banks.
fn open(bench: &Bench, fixture: &KeyFixture, sums: &Sums) -> (bool, u64, u64) {
    let context = [9; 32];
    let (mut partial, mut opening) = (0, 0);
    let partials: Vec<Vec<u8>> = [AUTHORITY, 1, 2, 3]
        .iter()
        .map(|number| {
            let share = fixture.copied_share(*number);
            let seed = Bench::seed(*number as usize, 5);
            timed(&mut partial, || {
                bench.key.partial(&context, &sums.ciphers, &share, &seed).unwrap()
            })
        })
        .collect();
    let parts: Vec<&[u8]> = partials.iter().map(Vec::as_slice).collect();
    let most = i64::try_from(bench.rows).unwrap();
    let opened = timed(&mut opening, || bench.key.open(&sums.ciphers, &parts, 0..=most).unwrap());
    (opened.as_slice() == sums.plain.as_slice(), partial / 4, opening)
}

fn run(rows: usize, trees: usize, banks: usize, threads: usize) -> Report {
    let fixture = KeyFixture::run(&ElGamal, u32::try_from(banks).unwrap(), 3, 1);
    let key = ChoiceKey::parse(&fixture.public).unwrap();
    let bench = Bench { key, rows, trees, next: AtomicUsize::new(0) };
    let start = std::time::Instant::now();
    let mut all = bench.sums();
    let done: Vec<Sums> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| bench.work())).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    for own in done {
        all.costs.add(&own.costs);
        all.ciphers.add(&own.ciphers).unwrap();
        all.plain.iter_mut().zip(own.plain).for_each(|(sum, own)| *sum += own);
        all.bytes += own.bytes;
    }
    let (exact, partial, opening) = open(&bench, &fixture, &all);
    let costs = all.costs;
    let us = |ns: u64, count: usize| ns as f64 / 1000.0 / count as f64;
    let ciphertexts = rows * BITS;
    // Of the parts that were proven; only the last part of all may be shorter than the others.
    let sample = rows.min(PART) * BITS * usize::try_from(costs.proven_parts).unwrap();
    let counts = trees * CELLS * BITS;
    let (bit, or) = (us(costs.bits, ciphertexts), us(costs.ors, ciphertexts));
    let (bare_bit, bare_or) = (us(costs.bare_bits, sample), us(costs.bare_ors, sample));
    let decoded = us(costs.decoded, ciphertexts);
    let cell = us(costs.cells, ciphertexts * trees);
    Report {
        rows,
        trees,
        banks,
        class_bits: BITS,
        cells: CELLS,
        threads,
        wall_s: start.elapsed().as_secs_f64(),
        exact,
        bank_bytes_up_per_side_row_and_bit: all.bytes as f64 / (2 * ciphertexts) as f64,
        bank_us_per_side_row_and_bit: f64::midpoint(bit, or),
        bank_ratio: (bit + or) / (bare_bit + bare_or),
        bank_bit_us: bit,
        bank_or_us: or,
        bank_total_s: (costs.bits + costs.ors) as f64 / 1e9 / banks as f64,
        network_us_per_ciphertext: decoded,
        network_ciphertext_ratio: decoded / us(costs.bare_decoded, sample),
        network_us_per_row_tree_and_bit: cell,
        network_cell_ratio: cell / us(costs.bare_cells, sample * trees),
        network_total_s: (costs.decoded + costs.cells) as f64 / 1e9,
        proof_of_a_bit_us: us(costs.bit_proofs, sample) - bit,
        proof_of_an_or_us: us(costs.or_proofs, sample) - or,
        check_of_a_bit_us: us(costs.bit_checks, sample),
        check_of_an_or_us: us(costs.or_checks, sample),
        opened_counts: counts,
        partial_us_per_count: us(partial, counts),
        opening_us_per_count: us(opening, counts),
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if !arguments.iter().any(|argument| argument == "--measure") {
        let report = run(40, 2, 4, 2);
        assert!(report.exact);
        assert_eq!(report.bank_bytes_up_per_side_row_and_bit, CIPHERTEXT_BYTES as f64);
        println!("payments_scale: a small job ran; --measure measures 1,000,000 rows");
        return;
    }
    let mut numbers = arguments.iter().filter_map(|argument| argument.parse::<usize>().ok());
    let mut number = |default| numbers.next().unwrap_or(default);
    let (rows, trees, banks) = (number(1_000_000), number(50), number(10));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let report = run(rows, trees, banks, threads);
    assert!(report.exact, "an opened count is not the plain one");
    let json = serde_json::to_string(&report).unwrap();
    if arguments.iter().any(|argument| argument == "--json") {
        println!("{json}");
    } else {
        println!("{}", json.trim_matches(['{', '}']).replace(",\"", "\n\"").replace('"', ""));
    }
}
