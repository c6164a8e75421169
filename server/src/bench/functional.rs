//! The bench of functional encryption: contributors stream the vector in chunks, so memory does not
//! grow with the dimension; every chunk's opened words are compared with plain integer arithmetic.

use std::ops::Range;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use quorate_crypto::baseline::{GroupOp, KeystreamAdd};
use quorate_crypto::dlog;
use quorate_crypto::fe::ddh;
use quorate_crypto::fixed::{from_ring, to_ring};
use quorate_crypto::keys::SharedKey;
use quorate_crypto::merkle::hash_parts;
use quorate_crypto::sum::{
    Contributor, EncodedLen, KeyedNonce, Label, Nonce, Ring, Role, StepInput, SumContext,
    SumScheme, SumShape,
};
use serde::Serialize;

use super::{BenchSum, mix, peak_rss_bytes, progress, round, sum_bits, timed};

/// The result. Names are stable; a figure a scheme does not have is null.
///
/// Figures named `_ns_per_coord` are minima over the runs, `_median` their medians. The party's is
/// for one party, the authority's for one authority with all members, the aggregator's for taking
/// in all n ciphertexts, the opening's for all functional keys and the final step.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    scheme: &'static str,
    parties: u32,
    dim: u64,
    bits: u32,
    authorities: u32,
    ring_bits: u32,
    suite: u8,
    repeats: usize,
    clock: &'static str,
    party_ns_per_coord: f64,
    party_ns_per_coord_median: f64,
    aggregator_ns_per_coord: f64,
    aggregator_ns_per_coord_median: f64,
    authority_ns_per_coord: Option<f64>,
    authority_ns_per_coord_median: Option<f64>,
    decryptor_ns_per_coord: Option<f64>,
    opening_ns_per_coord: f64,
    opening_ns_per_coord_median: f64,
    /// Verified sums only.
    commit_ns_per_coord: Option<f64>,
    /// Ciphertext bytes of one party.
    bytes_up_per_coord: f64,
    /// Bytes of the opened sum that one party reads.
    bytes_down_per_coord: f64,
    /// One authority's functional key for the whole sum.
    key_bytes: Option<u64>,
    peak_rss_bytes: Option<u64>,
    /// The party's work by bare library calls: a keystream and an addition per authority, or the
    /// group operations of one coordinate.
    baseline_ns_per_coord: f64,
    baseline_ns_per_coord_median: f64,
    party_ratio: f64,
    /// The aggregator's and the opening's group operations, giant steps as these sums need them.
    opener_baseline_ns_per_coord: Option<f64>,
    opener_ratio: Option<f64>,
    giant_steps_per_coord: Option<f64>,
    /// Tables built once per process.
    setup_ns: u64,
    pub(super) exact: bool,
}

/// CPU time by role of one run.
#[derive(Clone, Copy, Default)]
struct Times {
    party: u64,
    aggregator: u64,
    authority: u64,
    opening: u64,
    baseline: u64,
}

/// Everything of a run that does not change between repeats.
struct Bench {
    scheme: &'static dyn SumScheme,
    context: SumContext,
    bits: u32,
    /// `keys[i][a]` of party i and authority a.
    keys: Vec<Vec<SharedKey>>,
    nonces: Vec<Nonce>,
    submit_width: usize,
    key_len: EncodedLen,
    /// Coordinates in hand at a time.
    chunk: u64,
    uses_group: bool,
}

/// Runs the bench.
///
/// # Errors
/// A shape the scheme refuses, or a scheme without bench.
pub(super) fn measure(args: &BenchSum, scheme: &'static dyn SumScheme) -> anyhow::Result<Report> {
    let bench = Bench::new(args, scheme)?;
    let repeats = args.repeats.unwrap_or(if bench.uses_group { 3 } else { 9 }) as usize;
    let mut setup_ns = 0;
    if bench.uses_group {
        let _: &dlog::Table = timed(&mut setup_ns, dlog::table);
    }
    let started = Instant::now();
    let mut exact = true;
    let mut runs = Vec::with_capacity(repeats);
    let mut steps = 0;
    // The first run warms caches and lazily built tables; it is checked but not counted, and where
    // a run is long it is a short one.
    let warm_up = if bench.uses_group { args.dim.min(64) } else { args.dim };
    for repeat in 0..=repeats {
        let dim = if repeat == 0 { warm_up } else { args.dim };
        let (times, counted, good) = bench.once(dim)?;
        exact &= good;
        if repeat > 0 {
            runs.push(times);
            steps = counted;
        }
        progress(started, format_args!("run {repeat} of {repeats}"));
    }
    let ops = bench.uses_group.then(|| OpTimes::measure(repeats.max(3)));
    Ok(bench.report(args, &runs, ops, steps, setup_ns, exact))
}

impl Bench {
    fn new(args: &BenchSum, scheme: &'static dyn SumScheme) -> anyhow::Result<Self> {
        let roles: Vec<Role> = scheme.info().steps.iter().map(|step| step.by).collect();
        if roles != [Role::Party, Role::Authority] {
            bail!("no bench for the steps of {}", args.scheme);
        }
        ensure!((1..=62).contains(&args.bits), "bits must be within 1..=62");
        let sum_bits = sum_bits(args.bits + 1, args.parties);
        ensure!(sum_bits <= 64, "sums of {sum_bits} bits do not fit a 64-bit ring");
        let shape = SumShape {
            ring: if sum_bits <= 32 { Ring::Z32 } else { Ring::Z64 },
            dim: args.dim,
            parties: args.parties,
            authorities: args.authorities,
            bits: args.bits,
        };
        scheme.check(&shape)?;
        let draw =
            |what: &str, i: u32, a: u32| hash_parts(what, &[&i.to_le_bytes(), &a.to_le_bytes()]).0;
        let keys = (0..args.parties)
            .map(|i| {
                (0..args.authorities)
                    .map(|a| SharedKey::from_bytes(draw("bench key", i, a)))
                    .collect()
            })
            .collect();
        let nonces = (0..args.parties)
            .map(|i| {
                let [nonce, _] = split16(draw("bench nonce", i, 0));
                Nonce(nonce)
            })
            .collect();
        let Some(EncodedLen::PerCoordinate(submit_width)) = scheme.encoded_len(&shape, 0) else {
            bail!("ciphertexts of {} are not per coordinate", args.scheme);
        };
        let key_len = scheme.encoded_len(&shape, 1).context("no functional key")?;
        let uses_group = args.scheme == "ddh-mcfe";
        Ok(Self {
            scheme,
            context: SumContext {
                label: Label(draw("bench label", 0, 0)),
                shape,
                suite: args.suite,
                public: std::sync::Arc::default(),
            },
            bits: args.bits,
            keys,
            nonces,
            submit_width,
            key_len,
            chunk: if uses_group { 256 } else { 1 << 15 },
            uses_group,
        })
    }

    /// Values of party `i` in `range`, |x| < 2^bits, both extremes among the first.
    fn values(&self, i: usize, range: Range<u64>, out: &mut Vec<i64>) {
        let most = (1i64 << self.bits) - 1;
        out.clear();
        out.extend(range.map(|j| match j {
            0 => most,
            1 => -most,
            _ => {
                let mixed = mix(j.wrapping_mul(0x1_0001).wrapping_add((i as u64) << 40));
                (mixed >> (62 - self.bits)).cast_signed() - most
            }
        }));
        // The shift leaves 0..2^(bits+1); its last value would be one too many.
        out.iter_mut().for_each(|value| *value = (*value).min(most));
    }

    /// One whole sum over the first `dim` coordinates: times, giant steps, exactness.
    fn once(&self, dim: u64) -> anyhow::Result<(Times, u64, bool)> {
        let SumShape { ring, parties, authorities, .. } = self.context.shape;
        let word = ring.word_bytes();
        let mut times = Times::default();
        let by_party: Vec<Vec<KeyedNonce<'_>>> = self
            .keys
            .iter()
            .zip(&self.nonces)
            .map(|(keys, nonce)| keys.iter().map(|key| KeyedNonce { key, nonce: *nonce }).collect())
            .collect();
        let by_authority = (0..authorities as usize)
            .map(|a| by_party.iter().filter_map(|keys| keys.get(a).copied()).collect())
            .collect::<Vec<Vec<_>>>();
        let start = |step: usize, keys: &[KeyedNonce<'_>]| {
            let input = StepInput { keys, ..StepInput::default() };
            self.scheme.contributor(step, &self.context, &input)
        };
        // Deriving keys is part of a party's and an authority's work.
        let mut writers = timed(&mut times.party, || {
            by_party.iter().map(|keys| start(0, keys)).collect::<Result<Vec<_>, _>>()
        })?;
        let mut key_writers = timed(&mut times.authority, || {
            by_authority.iter().map(|keys| start(1, keys)).collect::<Result<Vec<_>, _>>()
        })?;
        let mut opener = self.scheme.opener(&self.context, parties)?;
        let mut bare: Vec<_> =
            (0..authorities).map(|_| KeystreamAdd::new(self.context.suite)).collect();

        let (mut values, mut expected, mut opened) = (Vec::new(), Vec::new(), Vec::new());
        let (mut plain, mut ciphertext, mut words) = (Vec::new(), Vec::new(), Vec::new());
        let mut digit_sums: Vec<[i64; 4]> = Vec::new();
        let (mut steps, mut exact) = (0, true);
        let mut first = 0;
        while first < dim {
            let range = first..dim.min(first + self.chunk);
            let count = usize::try_from(range.end - range.start)?;
            expected.clear();
            expected.resize(count, 0i64);
            digit_sums.clear();
            digit_sums.resize(if self.uses_group { count } else { 0 }, [0; 4]);
            timed(&mut times.aggregator, || opener.begin(range.clone()));
            for (i, writer) in writers.iter_mut().enumerate() {
                self.values(i, range.clone(), &mut values);
                expected.iter_mut().zip(&values).for_each(|(sum, value)| *sum += value);
                for (sums, value) in digit_sums.iter_mut().zip(&values) {
                    let digits = ddh::digits(value.cast_unsigned());
                    sums.iter_mut().zip(digits).for_each(|(sum, digit)| *sum += i64::from(digit));
                }
                plain.clear();
                to_ring(&values, ring, &mut plain);
                ciphertext.resize(count * self.submit_width, 0);
                if !self.uses_group {
                    // One keystream and addition per authority, as the party has to.
                    timed(&mut times.baseline, || {
                        bare.iter_mut().for_each(|bare| bare.run(ring, &plain, &mut ciphertext));
                    });
                }
                timed(&mut times.party, || writer.write(range.clone(), &plain, &mut ciphertext))?;
                timed(&mut times.aggregator, || opener.absorb(0, &ciphertext))?;
            }
            for writer in &mut key_writers {
                self.key(writer.as_mut(), &range, &mut ciphertext, &mut times)?;
                timed(&mut times.opening, || opener.absorb(1, &ciphertext))?;
            }
            words.resize(count * word, 0);
            timed(&mut times.opening, || opener.finish(&mut words))?;
            opened.clear();
            from_ring(&words, ring, &mut opened)?;
            exact &= opened == expected;
            let used = ddh::digits_of(ring);
            steps += digit_sums
                .iter()
                .flat_map(|sums| sums.iter().take(used))
                .map(|sum| dlog::steps(*sum))
                .sum::<u64>();
            first = range.end;
        }
        Ok((times, steps, exact))
    }

    /// One authority's key for `range`; a key of fixed length is made anew only for the first.
    fn key(
        &self,
        writer: &mut dyn Contributor,
        range: &Range<u64>,
        out: &mut Vec<u8>,
        times: &mut Times,
    ) -> anyhow::Result<()> {
        let (len, counts) = match self.key_len {
            EncodedLen::Fixed(len) => (len, range.start == 0),
            EncodedLen::PerCoordinate(width) => {
                (usize::try_from(range.end - range.start)? * width, true)
            }
        };
        out.resize(len, 0);
        let mut uncounted = 0;
        let total = if counts { &mut times.authority } else { &mut uncounted };
        timed(total, || writer.write(range.clone(), &[], out))?;
        Ok(())
    }

    fn report(
        &self,
        args: &BenchSum,
        runs: &[Times],
        ops: Option<OpTimes>,
        steps: u64,
        setup_ns: u64,
        exact: bool,
    ) -> Report {
        let SumShape { ring, dim, parties, authorities, .. } = self.context.shape;
        let n = f64::from(parties);
        let figures = |pick: fn(&Times) -> u64, per: f64| {
            let mut each: Vec<u64> = runs.iter().map(pick).collect();
            each.sort_unstable();
            let pick = |index: usize| each.get(index).map_or(f64::NAN, |ns| *ns as f64);
            [pick(0), pick(each.len() / 2)].map(|ns| ns / per / dim as f64)
        };
        let party = figures(|t| t.party, n);
        let aggregator = figures(|t| t.aggregator, 1.0);
        let authority = figures(|t| t.authority, f64::from(authorities));
        let opening = figures(|t| t.opening, 1.0);
        let points = ddh::digits_of(ring) as f64;
        let giant_steps = steps as f64 / dim as f64;
        let baseline = match &ops {
            Some(ops) => [ops.party(points); 2],
            None => figures(|t| t.baseline, n),
        };
        let opener_baseline = ops.as_ref().map(|ops| ops.opener(points, n, giant_steps));
        let total = |len: EncodedLen| len.total(dim);
        Report {
            scheme: self.scheme.info().name,
            parties,
            dim,
            bits: args.bits,
            authorities,
            ring_bits: ring.bits(),
            suite: args.suite.number(),
            repeats: runs.len(),
            clock: "thread CPU time",
            party_ns_per_coord: round(party[0]),
            party_ns_per_coord_median: round(party[1]),
            aggregator_ns_per_coord: round(aggregator[0]),
            aggregator_ns_per_coord_median: round(aggregator[1]),
            authority_ns_per_coord: Some(round(authority[0])),
            authority_ns_per_coord_median: Some(round(authority[1])),
            decryptor_ns_per_coord: None,
            opening_ns_per_coord: round(opening[0]),
            opening_ns_per_coord_median: round(opening[1]),
            commit_ns_per_coord: None,
            bytes_up_per_coord: self.submit_width as f64,
            bytes_down_per_coord: ring.word_bytes() as f64,
            key_bytes: total(self.key_len),
            peak_rss_bytes: peak_rss_bytes(),
            baseline_ns_per_coord: round(baseline[0]),
            baseline_ns_per_coord_median: round(baseline[1]),
            party_ratio: round(party[0] / baseline[0]),
            opener_baseline_ns_per_coord: opener_baseline.map(round),
            opener_ratio: opener_baseline.map(|base| round((aggregator[0] + opening[0]) / base)),
            giant_steps_per_coord: self.uses_group.then(|| round(giant_steps)),
            setup_ns,
            exact,
        }
    }
}

/// Nanoseconds of each group operation, minima of repeated runs.
struct OpTimes {
    hash: f64,
    two_base: f64,
    two_base_vartime: f64,
    fixed_base: f64,
    encode: f64,
    decode: f64,
    add: f64,
    batch_encode: f64,
}

impl OpTimes {
    fn measure(repeats: usize) -> Self {
        let time = |op: GroupOp| {
            const COUNT: usize = 512;
            let runs = (0..repeats).map(|_| {
                let mut ns = 0;
                timed(&mut ns, || op.run(COUNT));
                ns as f64 / COUNT as f64
            });
            runs.fold(f64::INFINITY, f64::min)
        };
        Self {
            hash: time(GroupOp::HashToPoint),
            two_base: time(GroupOp::TwoBase),
            two_base_vartime: time(GroupOp::TwoBaseVartime),
            fixed_base: time(GroupOp::FixedBase),
            encode: time(GroupOp::Encode),
            decode: time(GroupOp::Decode),
            add: time(GroupOp::Add),
            batch_encode: time(GroupOp::BatchEncode),
        }
    }

    /// One party, one coordinate of `points` points.
    fn party(&self, points: f64) -> f64 {
        points * (2.0 * self.hash + self.two_base + self.fixed_base + self.encode)
    }

    /// Taking in `n` ciphertexts of one coordinate, unmasking and `giant_steps` steps.
    fn opener(&self, points: f64, n: f64, giant_steps: f64) -> f64 {
        points * (n * (self.decode + self.add) + 2.0 * self.hash + self.two_base_vartime)
            + giant_steps * (self.add + self.batch_encode)
    }
}

fn split16(bytes: [u8; 32]) -> [[u8; 16]; 2] {
    let (a, b) = bytes.split_at(16);
    [a, b].map(|half| half.try_into().unwrap_or_default())
}

pub(super) fn print(out: &mut impl std::io::Write, report: &Report) -> std::io::Result<()> {
    let Report { scheme, parties, dim, bits, authorities, ring_bits, repeats, .. } = report;
    writeln!(
        out,
        "{scheme}: {parties} parties x {dim} coordinates of {bits} bits mod 2^{ring_bits}, \
         {authorities} authorities, {repeats} runs, {}",
        report.clock
    )?;
    let optional = |value: Option<f64>| value.map_or("-".to_owned(), |value| value.to_string());
    for (what, least, median) in [
        ("party", report.party_ns_per_coord, Some(report.party_ns_per_coord_median)),
        ("  bare primitives", report.baseline_ns_per_coord, None),
        ("aggregator", report.aggregator_ns_per_coord, Some(report.aggregator_ns_per_coord_median)),
        ("opening", report.opening_ns_per_coord, Some(report.opening_ns_per_coord_median)),
    ] {
        writeln!(out, "  {what:<20} {least:>12} ns a coordinate, median {}", optional(median))?;
    }
    let authority = optional(report.authority_ns_per_coord);
    let median = optional(report.authority_ns_per_coord_median);
    writeln!(out, "  {:<20} {authority:>12} ns a coordinate, median {median}", "authority")?;
    writeln!(out, "  {:<20} {:>12}", "party ratio", report.party_ratio)?;
    writeln!(out, "  {:<20} {:>12}", "opener ratio", optional(report.opener_ratio))?;
    writeln!(out, "  {:<20} {:>12} bytes a coordinate", "up", report.bytes_up_per_coord)?;
    writeln!(out, "  {:<20} {:>12} bytes a coordinate", "down", report.bytes_down_per_coord)?;
    for (what, bytes) in [("key", report.key_bytes), ("peak memory", report.peak_rss_bytes)] {
        let bytes = bytes.map_or("-".to_owned(), |bytes| bytes.to_string());
        writeln!(out, "  {what:<20} {bytes:>12} bytes")?;
    }
    writeln!(out, "  {:<20} {:>12}", "exact", report.exact)
}

#[cfg(test)]
mod tests {
    use super::super::tests::args;
    use super::*;

    #[test]
    fn values_stay_below_their_bound() {
        let scheme = quorate_crypto::schemes::by_name("pad").unwrap();
        let bench = Bench::new(&args("pad", 5000, 10), scheme).unwrap();
        let mut values = Vec::new();
        bench.values(1, 0..5000, &mut values);
        assert_eq!((values.iter().max(), values.iter().min()), (Some(&1023), Some(&-1023)));
        assert!(values.iter().any(|value| *value < -512) && values.iter().any(|v| *v > 512));
    }
}
