//! Whether the time of share computation depends on the share, and that of encryption on the values.
//!
//! The method is Reparaz, Balasch and Verbauwhede's (*Dude, is my code constant time?*, DATE 2017):
//! one class of calls has a fixed secret, the other random ones, in random order; Welch's t-test
//! compares their times. |t| above 5 says that they differ; less says that this many samples on this
//! machine show no difference. The control is a comparison that stops early, which must be found.
//!
//! `cargo bench -p quorate-benches --bench timing -- --measure [NAME]` takes some minutes. Without
//! `--measure` each function runs a few times and nothing is judged.
//!
//! All that is public differs from call to call in both classes alike: which sum is opened, context,
//! seed, binding.

use std::io;

use dudect_bencher::ctbench::{BenchFn, BenchMetadata, BenchName, BenchOpts, run_benches_console};
use dudect_bencher::rand::{Rng, RngExt, SeedableRng};
use dudect_bencher::{BenchRng, Class, CtRunner};
use quorate_crypto::secret::Secret;
use quorate_crypto::sum::{Ring, SumShape};
use quorate_crypto::threshold::conformance::KeyFixture;
use quorate_crypto::threshold::elgamal::ElGamal;
use quorate_crypto::threshold::elgamal::choice::ChoiceKey;
use quorate_crypto::threshold::paillier::testkit::{INSECURE_TEST_PRIMES, dealer_from_primes};
use quorate_crypto::threshold::paillier::{PAILLIER, PAILLIER_512_INSECURE};
use quorate_crypto::threshold::{CipherSum, ReplyBinding, ThresholdScheme};
use zeroize::Zeroizing;

/// Holders of the key; the first one's share is the fixed one.
const HOLDERS: u32 = 12;
/// Sums to choose from.
const SUMS: usize = 16;
/// Calls of each function when nothing is measured.
const FEW: usize = 4;

/// Few values, so that a call is short and the secret's part in it is large.
const VALUES: usize = 4;
const SHAPE: SumShape =
    SumShape { ring: Ring::Z32, dim: VALUES as u64, parties: 2, authorities: 1, bits: 20 };

fn class(rng: &mut BenchRng) -> Class {
    if rng.random() { Class::Left } else { Class::Right }
}

fn random(rng: &mut BenchRng) -> [u8; 32] {
    let mut bytes = [0; 32];
    rng.fill_bytes(&mut bytes);
    bytes
}

fn random_values(rng: &mut BenchRng) -> [i64; VALUES] {
    let half = 1i64 << (SHAPE.bits - 1);
    [(); VALUES].map(|()| rng.random_range(-half..half))
}

/// Partial decryptions by one participant and by random others.
fn share(
    scheme: &dyn ThresholdScheme,
    fixture: &KeyFixture,
    samples: usize,
    runner: &mut CtRunner,
    rng: &mut BenchRng,
) {
    let key = scheme.load(&fixture.public).unwrap();
    let mut reply = vec![0; scheme.reply_bytes(&SHAPE).unwrap()];
    let mut partial = vec![0; scheme.partial_bytes(&SHAPE).unwrap()];
    let sums: Vec<Box<dyn CipherSum>> = (0..SUMS)
        .map(|_| {
            let mut sum = key.sum(&SHAPE);
            for _ in 0..SHAPE.parties {
                let (binding, seed) = (ReplyBinding(random(rng)), Secret::new(random(rng)));
                key.encrypt(&SHAPE, &binding, &random_values(rng), &seed, &mut reply).unwrap();
                sum.add(&reply).unwrap();
            }
            sum
        })
        .collect();
    // One place in memory for all shares.
    let mut share = Secret::new(fixture.shares[1].expose().clone());
    for sample in 0..samples + SUMS {
        let class = class(rng);
        let others = rng.random_range(2..fixture.shares.len());
        let number = if matches!(class, Class::Left) { 1 } else { others };
        share.expose_mut().copy_from_slice(fixture.shares[number].expose());
        let (context, seed) = (random(rng), Secret::new(random(rng)));
        // What a sum keeps once it was used is there before anything is measured.
        let sum = if sample < SUMS { sample } else { rng.random_range(0..SUMS) };
        let sum = sums[sum].as_ref();
        if sample < SUMS {
            key.partial(&SHAPE, &context, &share, sum, &seed, &mut partial).unwrap();
            continue;
        }
        let partial = std::cell::RefCell::new(&mut partial);
        runner.run_one(class, || {
            key.partial(&SHAPE, &context, &share, sum, &seed, &mut partial.borrow_mut()).unwrap();
        });
    }
}

/// Encryptions of zeros and of random values.
fn encryption(
    scheme: &dyn ThresholdScheme,
    fixture: &KeyFixture,
    samples: usize,
    runner: &mut CtRunner,
    rng: &mut BenchRng,
) {
    let key = scheme.load(&fixture.public).unwrap();
    let mut reply = vec![0; scheme.reply_bytes(&SHAPE).unwrap()];
    for _ in 0..samples {
        let class = class(rng);
        let drawn = random_values(rng);
        let values = if matches!(class, Class::Left) { [0; VALUES] } else { drawn };
        let (binding, seed) = (ReplyBinding(random(rng)), Secret::new(random(rng)));
        let reply = std::cell::RefCell::new(&mut reply);
        runner.run_one(class, || {
            key.encrypt(&SHAPE, &binding, &values, &seed, &mut reply.borrow_mut()).unwrap();
        });
    }
}

/// A key of 3072 bits over known primes.
fn large_key() -> KeyFixture {
    KeyFixture::run_with(&PAILLIER, HOLDERS, 2, 1, &|setup, _, _, _, _, seed| {
        dealer_from_primes(PAILLIER, setup, INSECURE_TEST_PRIMES, seed)
    })
}

fn elgamal_share<const SAMPLES: usize>(runner: &mut CtRunner, rng: &mut BenchRng) {
    share(&ElGamal, &KeyFixture::run(&ElGamal, HOLDERS, 2, 1), SAMPLES, runner, rng);
}

fn elgamal_encrypt<const SAMPLES: usize>(runner: &mut CtRunner, rng: &mut BenchRng) {
    encryption(&ElGamal, &KeyFixture::run(&ElGamal, 1, 1, 1), SAMPLES, runner, rng);
}

/// The code of `paillier` with a short modulus, for many samples.
fn paillier_512_share<const SAMPLES: usize>(runner: &mut CtRunner, rng: &mut BenchRng) {
    let scheme = PAILLIER_512_INSECURE;
    share(&scheme, &KeyFixture::run(&scheme, HOLDERS, 2, 1), SAMPLES, runner, rng);
}

fn paillier_512_encrypt<const SAMPLES: usize>(runner: &mut CtRunner, rng: &mut BenchRng) {
    let scheme = PAILLIER_512_INSECURE;
    encryption(&scheme, &KeyFixture::run(&scheme, 1, 1, 1), SAMPLES, runner, rng);
}

fn paillier_share<const SAMPLES: usize>(runner: &mut CtRunner, rng: &mut BenchRng) {
    share(&PAILLIER, &large_key(), SAMPLES, runner, rng);
}

fn paillier_encrypt<const SAMPLES: usize>(runner: &mut CtRunner, rng: &mut BenchRng) {
    encryption(&PAILLIER, &large_key(), SAMPLES, runner, rng);
}

/// ORs of one input with a bit 0 and with random bits, and picks of row 0 and of random rows.
fn choice(runner: &mut CtRunner, rng: &mut BenchRng, samples: usize, table: bool) {
    let fixture = KeyFixture::run(&ElGamal, 1, 1, 1);
    let key = ChoiceKey::parse(&fixture.public).unwrap();
    let bindings = [[1; 32], [2; 32], [3; 32]];
    let inputs = key
        .encrypt_bits(&bindings, &Zeroizing::new(vec![0, 1, 0]), &Secret::new([1; 32]))
        .unwrap()
        .ciphers;
    let mut bits = Zeroizing::new(vec![0]);
    for _ in 0..samples {
        let class = class(rng);
        let drawn = rng.random_range(0..if table { 3u8 } else { 2 });
        bits[0] = if matches!(class, Class::Left) { 0 } else { drawn };
        let (binding, seed) = (random(rng), Secret::new(random(rng)));
        runner.run_one(class, || {
            if table {
                key.select(&binding, &inputs, 3, u32::from(bits[0]), &seed).unwrap()
            } else {
                key.or_bits(&[binding], &inputs[..64], &bits, &seed).unwrap()
            }
        });
    }
}

fn elgamal_or<const SAMPLES: usize>(runner: &mut CtRunner, rng: &mut BenchRng) {
    choice(runner, rng, SAMPLES, false);
}

fn elgamal_select<const SAMPLES: usize>(runner: &mut CtRunner, rng: &mut BenchRng) {
    choice(runner, rng, SAMPLES, true);
}

/// A comparison that stops at the first difference.
fn control<const SAMPLES: usize>(runner: &mut CtRunner, rng: &mut BenchRng) {
    let secret = [0u8; 4096];
    for _ in 0..SAMPLES {
        let class = class(rng);
        let mut guess = secret;
        if matches!(class, Class::Right) {
            guess[rng.random_range(0..4096)] = 1;
        }
        runner.run_one(class, || {
            guess.iter().zip(&secret).all(|(a, b)| std::hint::black_box(a) == b)
        });
    }
}

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1).skip_while(|argument| argument != "--measure");
    if arguments.next().is_none() {
        let all: [BenchFn; 7] = [
            control::<FEW>,
            elgamal_share::<FEW>,
            elgamal_encrypt::<FEW>,
            elgamal_or::<FEW>,
            elgamal_select::<FEW>,
            paillier_512_share::<FEW>,
            paillier_512_encrypt::<FEW>,
        ];
        all.iter().for_each(|run| run(&mut CtRunner::default(), &mut BenchRng::seed_from_u64(1)));
        println!("timing: {} functions ran; --measure measures them", all.len());
        return Ok(());
    }
    let all: [(&'static str, BenchFn); 9] = [
        ("control", control::<100_000>),
        ("elgamal_share", elgamal_share::<100_000>),
        ("elgamal_encrypt", elgamal_encrypt::<100_000>),
        ("elgamal_or", elgamal_or::<50_000>),
        ("elgamal_select", elgamal_select::<50_000>),
        ("paillier_512_share", paillier_512_share::<20_000>),
        ("paillier_512_encrypt", paillier_512_encrypt::<50_000>),
        ("paillier_share", paillier_share::<200>),
        ("paillier_encrypt", paillier_encrypt::<2_000>),
    ];
    let benches = all
        .into_iter()
        .map(|(name, benchfn)| BenchMetadata { name: BenchName(name), seed: Some(1), benchfn })
        .collect();
    let filter = arguments.find(|argument| !argument.starts_with("--"));
    run_benches_console(BenchOpts { filter, ..BenchOpts::default() }, benches)
}
