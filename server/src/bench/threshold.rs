//! The bench of threshold schemes: a key, then whole sums, every one opened and compared with plain
//! integer arithmetic.

use std::time::Instant;

use anyhow::{Context, ensure};
use quorate_crypto::baseline::{self, ThresholdBaseline};
use quorate_crypto::keys::{ExchangeKey, Identity};
use quorate_crypto::merkle::hash_parts;
use quorate_crypto::secret::Secret;
use quorate_crypto::sum::{Ring, Role, SumShape};
use quorate_crypto::threshold::paillier::{PAILLIER, testkit};
use quorate_crypto::threshold::{
    AUTHORITY, KeyPost, KeySecret, KeySetup, MAX_HOLDERS, ReplyBinding, ThresholdKey,
    ThresholdScheme,
};
use rustix::time::ClockId;
use serde::Serialize;

use super::{BenchSum, clock_ns, mix, peak_rss_bytes, progress, round, sum_bits, timed};

/// Of the ciphertexts of a sum, bare partial decryptions are measured on one in so many.
const BARE_PART: usize = 8;

/// The result. Names are stable and those of the other schemes; a figure a scheme does not have is
/// null.
///
/// Figures named `_ns_per_coord` are medians: over the replies for what parties do and what is done
/// with their replies, over the participants for partial decryptions.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    scheme: &'static str,
    parties: u32,
    dim: u64,
    bits: u32,
    authorities: u32,
    holders: u32,
    threshold: u32,
    ring_bits: u32,
    seed: u64,
    repeats: usize,
    clock: &'static str,
    statistic: &'static str,
    /// Where the key comes from.
    key_source: &'static str,
    /// One party's reply: encryption and proof.
    party_ns_per_coord: f64,
    /// Of that, what goes beyond the bare operations: the proof, packing, drawing and encoding.
    party_beyond_bare_ns_per_coord: f64,
    /// Checking one reply.
    verify_reply_ns_per_coord: f64,
    /// Adding one reply that was checked just before.
    add_ns_per_coord: f64,
    /// Checking and adding all n replies.
    aggregator_ns_per_coord: f64,
    /// The authority's partial decryption of a sum at hand, with its proof.
    authority_ns_per_coord: f64,
    /// One participant's.
    decryptor_ns_per_coord: f64,
    /// Checking one partial decryption.
    verify_partial_ns_per_coord: f64,
    /// Combining checked partial decryptions: logarithms, unpacking.
    combine_ns_per_coord: f64,
    /// Checking all partial decryptions and combining them.
    opening_ns_per_coord: f64,
    /// Verified sums only.
    commit_ns_per_coord: Option<f64>,
    /// One party's reply.
    bytes_up_per_coord: f64,
    /// One partial decryption.
    bytes_partial_per_coord: f64,
    /// The opened sum that one party reads.
    bytes_down_per_coord: f64,
    /// The public key.
    key_bytes: usize,
    peak_rss_bytes: Option<u64>,
    /// The ciphertexts of one reply by bare library calls.
    baseline_ns_per_coord: f64,
    party_ratio: f64,
    /// The exponentiations of one partial decryption by bare library calls.
    share_baseline_ns_per_coord: f64,
    share_ratio: f64,
    /// Making the key, all participants, by all threads.
    key_setup_ns: u64,
    /// Tables built once per process or key, and one sum of one coordinate.
    setup_ns: u64,
    pub(super) exact: bool,
}

/// A key and the shares of the authority and the first T holders.
struct Keys {
    public: Vec<u8>,
    shares: Vec<KeySecret>,
    source: &'static str,
    ns: u64,
}

/// CPU time of each piece of work.
#[derive(Default)]
struct Samples {
    encrypt: Vec<u64>,
    bare_encrypt: Vec<u64>,
    verify: Vec<u64>,
    add: Vec<u64>,
    /// The authority's first.
    partial: Vec<u64>,
    /// Of one [`BARE_PART`].
    bare_partial: Vec<u64>,
    verify_partial: Vec<u64>,
    combine: Vec<u64>,
}

/// Everything that does not change between sums.
struct Bench<'a> {
    scheme: &'a dyn ThresholdScheme,
    key: &'a dyn ThresholdKey,
    shares: &'a [KeySecret],
    seed: u64,
    started: Instant,
}

fn sample<T>(samples: &mut Vec<u64>, work: impl FnOnce() -> T) -> T {
    let mut ns = 0;
    let out = timed(&mut ns, work);
    samples.push(ns);
    out
}

fn median(samples: &[u64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).map_or(f64::NAN, |ns| *ns as f64)
}

fn draw(what: &str, seed: u64, number: u64) -> [u8; 32] {
    hash_parts(what, &[&seed.to_le_bytes(), &number.to_le_bytes()]).0
}

/// Runs the bench.
///
/// # Errors
/// A shape or a number of holders that the scheme refuses.
pub(super) fn measure(
    args: &BenchSum,
    scheme: &'static dyn ThresholdScheme,
) -> anyhow::Result<Report> {
    let started = Instant::now();
    ensure!((2..=64).contains(&args.bits), "bits must be within 2..=64");
    ensure!((1..=MAX_HOLDERS).contains(&args.holders), "holders must be within 1..={MAX_HOLDERS}");
    ensure!(
        (1..=args.holders).contains(&args.threshold),
        "the threshold must be within 1..={}, the holders",
        args.holders
    );
    let sum_bits = sum_bits(args.bits, args.parties);
    ensure!(sum_bits <= 64, "sums of {sum_bits} bits do not fit a 64-bit ring");
    let shape = SumShape {
        ring: if sum_bits <= 32 { Ring::Z32 } else { Ring::Z64 },
        dim: args.dim,
        parties: args.parties,
        authorities: 1,
        bits: args.bits,
    };
    scheme.check(&shape)?;
    let reply_bytes = scheme.reply_bytes(&shape).context("no length of a reply")?;
    let partial_bytes =
        scheme.partial_bytes(&shape).context("no length of a partial decryption")?;

    let keys = make_keys(args, scheme)?;
    progress(started, format_args!("key of {} holders made", args.holders));
    let key = scheme.load(&keys.public)?;
    let bare = baseline::threshold(scheme.info().name, &keys.public, &shape)?
        .with_context(|| format!("no baseline for {}", args.scheme))?;
    let bench = Bench { scheme, key: key.as_ref(), shares: &keys.shares, seed: args.seed, started };
    // Builds the tables.
    let mut setup_ns = 0;
    let one = SumShape { dim: 1, ..shape };
    let mut exact = timed(&mut setup_ns, || bench.once(&one, 0, None, &mut Samples::default()))?;
    let mut samples = Samples::default();
    let repeats = args.repeats.unwrap_or(1);
    for repeat in 1..=repeats {
        progress(started, format_args!("sum {repeat} of {repeats}"));
        exact &= bench.once(&shape, repeat.into(), Some(bare.as_ref()), &mut samples)?;
    }

    let dim = args.dim as f64;
    let (n, participants) = (f64::from(args.parties), keys.shares.len() as f64);
    let per_coord = |samples: &[u64]| median(samples) / dim;
    let party = per_coord(&samples.encrypt);
    let baseline = per_coord(&samples.bare_encrypt);
    let [verify, add] = [&samples.verify, &samples.add].map(|samples| per_coord(samples));
    let part = bare.ciphertexts().div_ceil(BARE_PART) as f64 / bare.ciphertexts() as f64;
    let share_baseline = per_coord(&samples.bare_partial) / part;
    let partial = per_coord(&samples.partial);
    let authority: Vec<u64> =
        samples.partial.iter().copied().step_by(keys.shares.len().max(1)).collect();
    let verify_partial = per_coord(&samples.verify_partial);
    let combine = per_coord(&samples.combine);
    Ok(Report {
        scheme: scheme.info().name,
        parties: args.parties,
        dim: args.dim,
        bits: args.bits,
        authorities: 1,
        holders: args.holders,
        threshold: args.threshold,
        ring_bits: shape.ring.bits(),
        seed: args.seed,
        repeats: repeats as usize,
        clock: "thread CPU time",
        statistic: "median",
        key_source: keys.source,
        party_ns_per_coord: round(party),
        party_beyond_bare_ns_per_coord: round(party - baseline),
        verify_reply_ns_per_coord: round(verify),
        add_ns_per_coord: round(add),
        aggregator_ns_per_coord: round(n * (verify + add)),
        authority_ns_per_coord: round(per_coord(&authority)),
        decryptor_ns_per_coord: round(partial),
        verify_partial_ns_per_coord: round(verify_partial),
        combine_ns_per_coord: round(combine),
        opening_ns_per_coord: round(participants * verify_partial + combine),
        commit_ns_per_coord: None,
        bytes_up_per_coord: round(reply_bytes as f64 / dim),
        bytes_partial_per_coord: round(partial_bytes as f64 / dim),
        bytes_down_per_coord: shape.ring.word_bytes() as f64,
        key_bytes: keys.public.len(),
        peak_rss_bytes: peak_rss_bytes(),
        baseline_ns_per_coord: round(baseline),
        party_ratio: round(party / baseline),
        share_baseline_ns_per_coord: round(share_baseline),
        share_ratio: round(partial / share_baseline),
        key_setup_ns: keys.ns,
        setup_ns,
        exact,
    })
}

/// Makes a key as its participants would, in one process.
fn make_keys(args: &BenchSum, scheme: &dyn ThresholdScheme) -> anyhow::Result<Keys> {
    let identities: Vec<Identity> = (0..=u64::from(args.holders))
        .map(|number| {
            let mut bytes = [0; 64];
            let (signing, exchange) = bytes.split_at_mut(32);
            signing.copy_from_slice(&draw("bench signing", args.seed, number));
            exchange.copy_from_slice(&draw("bench exchange", args.seed, number));
            Identity::from_bytes(&bytes)
        })
        .collect();
    let exchange: Vec<ExchangeKey> = identities.iter().map(Identity::exchange_key).collect();
    let (authority, holders) = exchange.split_first().context("no authority")?;
    let setup = KeySetup {
        context: draw("bench call", args.seed, 0),
        authority: *authority,
        holders,
        threshold: args.threshold,
    };
    let known = !args.fresh_key && scheme.info().id == PAILLIER.info().id;
    let start = clock_ns(ClockId::ProcessCPUTime);
    let mut posts: Vec<KeyPost> = Vec::new();
    let mut secrets: Vec<KeySecret> = identities.iter().map(|_| Secret::new(Vec::new())).collect();
    for (step, role) in scheme.key_steps().iter().map(|step| step.by).enumerate() {
        let number = u16::try_from(step)?;
        let mut posted = Vec::new();
        for ((from, identity), secret) in (0..).zip(&identities).zip(&mut secrets) {
            if (role == Role::Authority) != (from == AUTHORITY) {
                continue;
            }
            let seed = draw("bench key", args.seed, u64::from(number) << 32 | u64::from(from));
            let seed = Secret::new(seed);
            let (bytes, kept) = if known {
                testkit::dealer_from_primes(PAILLIER, &setup, testkit::INSECURE_TEST_PRIMES, &seed)?
            } else {
                scheme.key_post(&setup, step, (from, identity), secret, &posts, &seed)?
            };
            *secret = kept;
            posted.push(KeyPost { step: number, from, bytes });
        }
        posts.append(&mut posted);
        posts.sort();
    }
    let public = scheme.public_key(&setup, &posts)?;
    let shares = (0..=args.threshold)
        .zip(&identities)
        .zip(&secrets)
        .map(|(me, secret)| scheme.key_share(&setup, me, secret, &posts))
        .collect::<Result<Vec<_>, _>>()?;
    let source = if known { "dealt over known primes" } else { "made in this run" };
    Ok(Keys { public, shares, source, ns: clock_ns(ClockId::ProcessCPUTime) - start })
}

/// Party `i`'s values: both extremes, 0 and -1 first, for all parties alike.
fn values(shape: &SumShape, seed: u64, i: u64) -> Vec<i64> {
    let shift = 64 - shape.bits;
    let (least, most) = (i64::MIN >> shift, i64::MAX >> shift);
    let [seed, i] = [mix(seed), mix(i.wrapping_add(1))];
    (0..shape.dim)
        .map(|j| match j {
            0 => most,
            1 => least,
            2 => 0,
            3 => -1,
            // The mixer's top bit is 0: the next one is the sign.
            _ => (mix(seed ^ i.rotate_left(20) ^ j) << 1).cast_signed() >> shift,
        })
        .collect()
}

impl Bench<'_> {
    /// One whole sum, beside its bare operations if it is measured; whether it is exact.
    fn once(
        &self,
        shape: &SumShape,
        run: u64,
        bare: Option<&dyn ThresholdBaseline>,
        samples: &mut Samples,
    ) -> anyhow::Result<bool> {
        let mut reply = vec![0; self.scheme.reply_bytes(shape).unwrap_or(0)];
        let mut expected = vec![0i64; usize::try_from(shape.dim)?];
        let seed = self.seed ^ (run << 32);
        // Every participant adds up for itself what is in the list.
        let mut sum = self.key.sum(shape);
        let mut their_sums: Vec<_> = self.shares.iter().map(|_| self.key.sum(shape)).collect();
        for i in 0..u64::from(shape.parties) {
            let values = values(shape, seed, i);
            expected.iter_mut().zip(&values).for_each(|(sum, value)| *sum += value);
            let binding = ReplyBinding(draw("bench binding", seed, i));
            let fresh = Secret::new(draw("bench reply", seed, i));
            sample(&mut samples.encrypt, || {
                self.key.encrypt(shape, &binding, &values, &fresh, &mut reply)
            })?;
            if let Some(bare) = bare {
                sample(&mut samples.bare_encrypt, || bare.encrypt(bare.ciphertexts()));
                progress(self.started, format_args!("reply {} of {}", i + 1, shape.parties));
            }
            sample(&mut samples.verify, || self.key.verify_reply(shape, &binding, &reply))?;
            sample(&mut samples.add, || sum.add(&reply))?;
            for sum in &mut their_sums {
                sum.add(&reply)?;
            }
        }
        let context = draw("bench label", seed, 0);
        let mut partials = Vec::with_capacity(self.shares.len());
        for ((number, share), sum) in (1..).zip(self.shares).zip(&their_sums) {
            let mut partial = vec![0; self.scheme.partial_bytes(shape).unwrap_or(0)];
            let fresh = Secret::new(draw("bench partial", seed, number));
            if let Some(bare) = bare {
                let part = bare.ciphertexts().div_ceil(BARE_PART);
                sample(&mut samples.bare_partial, || bare.partial(part));
                let all = self.shares.len();
                progress(self.started, format_args!("partial decryption {number} of {all}"));
            }
            sample(&mut samples.partial, || {
                self.key.partial(shape, &context, share, sum.as_ref(), &fresh, &mut partial)
            })?;
            partials.push(partial);
        }
        for partial in &partials {
            sample(&mut samples.verify_partial, || {
                self.key.verify_partial(shape, &context, sum.as_ref(), partial)
            })?;
        }
        let partials: Vec<&[u8]> = partials.iter().map(Vec::as_slice).collect();
        let mut opened = Default::default();
        sample(&mut samples.combine, || {
            self.key.open(shape, shape.parties, sum.as_ref(), &partials, &mut opened)
        })?;
        Ok(*opened == expected)
    }
}

/// Prints the report for people.
pub(super) fn print(out: &mut impl std::io::Write, report: &Report) -> std::io::Result<()> {
    let Report { scheme, parties, dim, bits, ring_bits, holders, threshold, .. } = report;
    writeln!(
        out,
        "{scheme}: {parties} parties x {dim} values of {bits} bits mod 2^{ring_bits}, the authority \
         and {threshold} of {holders} holders, medians of {}, key {}",
        report.clock, report.key_source
    )?;
    for (what, ns) in [
        ("reply with proof", report.party_ns_per_coord),
        ("  bare operations", report.baseline_ns_per_coord),
        ("  proof and the rest", report.party_beyond_bare_ns_per_coord),
        ("check a reply", report.verify_reply_ns_per_coord),
        ("add a reply", report.add_ns_per_coord),
        ("partial decryption", report.decryptor_ns_per_coord),
        ("  bare operations", report.share_baseline_ns_per_coord),
        ("  the authority's", report.authority_ns_per_coord),
        ("check a partial", report.verify_partial_ns_per_coord),
        ("combine and open", report.combine_ns_per_coord),
    ] {
        writeln!(out, "  {what:<20} {:>12.3} us a value", ns / 1e3)?;
    }
    writeln!(out, "  {:<20} {:>12}", "party ratio", report.party_ratio)?;
    writeln!(out, "  {:<20} {:>12}", "share ratio", report.share_ratio)?;
    writeln!(out, "  {:<20} {:>12} bytes a value", "reply", report.bytes_up_per_coord)?;
    writeln!(out, "  {:<20} {:>12} bytes a value", "partial", report.bytes_partial_per_coord)?;
    writeln!(out, "  {:<20} {:>12} bytes", "public key", report.key_bytes)?;
    let memory = report.peak_rss_bytes.map_or("-".to_owned(), |bytes| bytes.to_string());
    writeln!(out, "  {:<20} {memory:>12} bytes", "peak memory")?;
    for (what, ns) in [("making the key", report.key_setup_ns), ("tables", report.setup_ns)] {
        writeln!(out, "  {what:<20} {:>12.1} ms", ns as f64 / 1e6)?;
    }
    writeln!(out, "  {:<20} {:>12}", "exact", report.exact)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_reach_their_bounds_and_no_further() {
        for bits in [2, 20, 64] {
            let shape = SumShape { ring: Ring::Z64, dim: 4096, parties: 2, authorities: 1, bits };
            let [one, two] = [0, 1].map(|i| values(&shape, 7, i));
            let (least, most) = (i64::MIN >> (64 - bits), i64::MAX >> (64 - bits));
            for values in [&one, &two] {
                assert_eq!(values.iter().min(), Some(&least));
                assert_eq!(values.iter().max(), Some(&most));
                let negative = values.iter().filter(|value| **value < 0).count();
                assert!((1024..3072).contains(&negative), "{negative}");
            }
            assert_ne!(one, two);
        }
    }
}
