//! One job through the real services, and the same cell in plain arithmetic.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use quorate_client::api::{JobSpec, JobStatus, PrivacyTable, RoundReport, ThresholdTable};
use quorate_client::engine::noise_seed;
use quorate_client::learn::sweep::{Draws, Regime, Setting};
use quorate_crypto::merkle::hash_parts;
use quorate_protocols::job::Manifest;
use quorate_protocols::model::ModelState;
use quorate_protocols::payload::OpenedSum;
use quorate_protocols::policy::{Mechanism, Unit};
use quorate_protocols::round::messages::RoundOpen;
use quorate_protocols::wire::Name;

use super::{DATA_SET, Plan};
use crate::demo::data::Bank;
use crate::demo::faults::Faults;
use crate::demo::fleet::Fleet;
use crate::demo::job::{Aggregator, OpenedRound};
use crate::demo::watch::{Chronicle, watch};
use crate::demo::{COLLUDERS, K_MIN};
use crate::report::{RealRound, RealRun, number};

/// After this long without any progress the demo gives up: dealing a Paillier key takes a while.
const STALL: Duration = Duration::from_secs(300);

/// T, key holders that open a sum: the fewest that the colluders alone are not.
const NEEDED: u32 = COLLUDERS + 1;

/// N, key holders: so many that the colluders cannot keep a sum closed.
const HOLDERS: u32 = NEEDED + COLLUDERS;

/// Runs the hybrid cell of `setting` as a job under `scheme`, with all noise drawn from `seed`, and
/// compares its sums with those of the same cell in plain arithmetic.
///
/// # Errors
/// When the job does not come to its end.
pub(super) async fn run(
    plan: &Plan,
    banks: &[Bank],
    setting: &Setting<'_>,
    scheme: &str,
    seed: u64,
    out: &Path,
) -> anyhow::Result<RealRun> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let seed = hash_parts("quorate/demo-noise-seed/1", &[&seed.to_le_bytes()]);
    let mut fleet = Fleet::threshold(&program, &out.join(scheme)).await?;
    let aggregator = Aggregator::at(&fleet.aggregator.url()?)?;
    let begun = Instant::now();
    let job = aggregator.create(&job_spec(plan, setting, scheme)?).await?;
    let mut followed = aggregator.follow(job).await?;
    let hex = hex::encode(seed.0);
    for bank in banks {
        fleet.add_bank(&bank.name, &bank.file, job, &["--insecure-noise-seed", &hex])?;
    }
    for party in &mut fleet.banks {
        party.start().await?;
    }
    println!(
        "\n{scheme}: 1 authority, 1 aggregator and {} parties run on loopback; job {job}",
        banks.len()
    );
    let mut course = Course {
        setting,
        authority: fleet.authorities.iter().map(|service| service.name().to_owned()).collect(),
        begun,
        key_calls: 0,
        key_seconds: None,
        table: Vec::new(),
        sums: Vec::new(),
    };
    watch(&mut fleet, &mut Faults::default(), &mut followed, &mut course, STALL).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let authority = fleet.authorities.first().context("no authority")?.url()?;
    let spent = Aggregator::at(&authority)?.spent(plan.delta).await?;
    let spent = spent.into_iter().find(|spent| spent.data_set.as_str() == DATA_SET);
    drop(fleet);

    let manifest = followed.manifest();
    let (simulated, state) = simulate(setting, manifest, &seed.0)?;
    let difference = difference(&course.sums, &simulated);
    let Course { key_calls, key_seconds, table, .. } = course;
    let total = |bytes: fn(&RealRound) -> u64| table.iter().map(bytes).sum();
    let threshold = manifest.threshold.context("the job has no key holders")?;
    let run = RealRun {
        scheme: scheme.to_owned(),
        job: job.to_string(),
        epsilon: plan.epsilon,
        parties: banks.len(),
        holders: threshold.holders,
        needed: threshold.threshold,
        key_calls,
        key_seconds: key_seconds.unwrap_or(seconds),
        seconds,
        rounds: table.len(),
        sums_equal: difference.is_none(),
        difference,
        metric: setting.fit(followed.state())?.macro_f1,
        model_hash: hex::encode(followed.state().hash().0),
        simulated_model_hash: hex::encode(state.hash().0),
        bytes_up: total(|row| row.bytes_up),
        bytes_down: total(|row| row.bytes_down),
        bytes_shares: total(|row| row.bytes_shares),
        rho_spent: spent.as_ref().map_or(0.0, |spent| spent.rho),
        epsilon_spent: spent.as_ref().map_or(0.0, |spent| spent.zcdp),
        table,
    };
    match &run.difference {
        None => println!("{scheme}: every opened sum equals that of the simulated cell"),
        Some(difference) => println!("{scheme}: {difference}"),
    }
    Ok(run)
}

fn job_spec(plan: &Plan, setting: &Setting<'_>, scheme: &str) -> anyhow::Result<JobSpec> {
    let parties = u32::try_from(plan.parties).unwrap_or(u32::MAX);
    let title = format!("demo of {}", plan.model.name());
    let noise = setting.noise(Name::new(DATA_SET)?);
    Ok(JobSpec {
        scheme: scheme.to_owned(),
        quorum: parties,
        k_min: K_MIN,
        colluders: COLLUDERS,
        // Nobody is late here, only slow.
        grace_seconds: 120.0,
        threshold: Some(ThresholdTable { holders: Some(HOLDERS), threshold: Some(NEEDED) }),
        privacy: Some(PrivacyTable {
            unit: Unit::Record,
            mechanism: Mechanism::Gaussian,
            noise_multiplier: Some(noise.multiplier),
            epsilon: plan.epsilon,
            delta: plan.delta,
            clip: None,
            data_set: noise.data_set,
        }),
        ..JobSpec::of_workload(&title, parties, plan.workload.clone())
    })
}

/// The sums and the last model of the job of `manifest`, from the parties' rows in plain arithmetic:
/// each party's share of noise is drawn as a party with `seed` draws it.
fn simulate(
    setting: &Setting<'_>,
    manifest: &Manifest,
    seed: &[u8; 32],
) -> anyhow::Result<(Vec<OpenedSum>, ModelState)> {
    let job = manifest.hash();
    let (workload, code) = (&manifest.workload, manifest.code);
    let same = Setting { workload, code, job, ..setting.clone() };
    let mut sums = Vec::new();
    let draws = noise_seed(seed, &job);
    let state =
        same.train(Regime::Hybrid, Draws::Shares(&draws), |_, sum| sums.push(sum.clone()))?;
    Ok((sums, state))
}

/// Where the opened sums differ from the simulated ones first, in words.
fn difference(opened: &[OpenedSum], simulated: &[OpenedSum]) -> Option<String> {
    if opened.len() != simulated.len() {
        return Some(format!("{} sums were opened, not {}", opened.len(), simulated.len()));
    }
    let mut pairs = opened.iter().zip(simulated).enumerate();
    let (round, (opened, simulated)) = pairs.find(|(_, (a, b))| a != b)?;
    if opened.rows != simulated.rows || opened.body.len() != simulated.body.len() {
        return Some(format!(
            "round {round} opened {} values of {} rows, the simulation {} of {}",
            opened.body.len(),
            opened.rows,
            simulated.body.len(),
            simulated.rows
        ));
    }
    let mut values = opened.body.iter().zip(&simulated.body).enumerate();
    let (place, (a, b)) = values.find(|(_, (a, b))| a != b)?;
    Some(format!("value {place} of round {round} was opened as {a} and simulated as {b}"))
}

/// What happens in a real run.
struct Course<'a> {
    setting: &'a Setting<'a>,
    authority: Vec<String>,
    begun: Instant,
    key_calls: u16,
    key_seconds: Option<f64>,
    table: Vec<RealRound>,
    sums: Vec<OpenedSum>,
}

impl Chronicle for Course<'_> {
    fn header(&self) -> String {
        format!(
            "{:>5} {:>7} {:>7} {:>8}  {:>8} {:>8} {:>8} {:>8}  opened by",
            "round", "values", "parties", "macro-F1", "collect", "promise", "decrypt", "open ms"
        )
    }

    fn rounds(&self) -> u32 {
        u32::try_from(self.table.len()).unwrap_or(u32::MAX)
    }

    fn saw(&mut self, status: &JobStatus, _: Option<&RoundOpen>) {
        let Some(key) = &status.threshold else { return };
        self.key_calls = key.key_calls;
        if key.key.is_some() && self.key_seconds.is_none() {
            self.key_seconds = Some(self.begun.elapsed().as_secs_f64());
        }
    }

    fn happened(&mut self, _: String) {}

    fn add(
        &mut self,
        _: &Manifest,
        opened: &OpenedRound,
        report: &[RoundReport],
        fleet: &Fleet,
    ) -> anyhow::Result<String> {
        let round = opened.record.round;
        let cost = report.iter().find(|cost| cost.round == round);
        let phases = cost.map(|cost| cost.ms).unwrap_or_default();
        let shares = fleet.shares(round);
        let holders = shares.iter().map(|(name, _)| name.clone());
        let row = RealRound {
            round,
            values: opened.sum.body.len(),
            members: opened.record.members.len(),
            opened_by: self.authority.iter().cloned().chain(holders).collect(),
            metric: self.setting.fit(&opened.state)?.macro_f1,
            bytes_up: cost.map_or(0, |cost| cost.bytes_up),
            bytes_down: cost.map_or(0, |cost| cost.bytes_down),
            bytes_shares: shares.iter().map(|(_, bytes)| bytes).sum(),
            collect_ms: phases.collect,
            promise_ms: phases.freeze + phases.promise,
            shares_ms: phases.key,
            open_ms: phases.open,
        };
        let line = format!(
            "{:>5} {:>7} {:>7} {:>8}  {:>8} {:>8} {:>8} {:>8}  {}",
            row.round,
            row.values,
            row.members,
            number(Some(row.metric)),
            row.collect_ms,
            row.promise_ms,
            row.shares_ms,
            row.open_ms,
            row.opened_by.join(", ")
        );
        self.table.push(row);
        self.sums.push(opened.sum.clone());
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(rows: u64, body: &[i64]) -> OpenedSum {
        OpenedSum { rows, body: body.to_vec() }
    }

    #[test]
    fn the_first_difference_is_named() {
        let opened = [sum(0, &[1, 2]), sum(0, &[3, 4])];
        assert_eq!(difference(&opened, &opened), None);
        let said = |other: &[OpenedSum]| difference(&opened, other).unwrap();
        let other = [opened[0].clone(), sum(0, &[3, 5])];
        assert_eq!(said(&other), "value 1 of round 1 was opened as 4 and simulated as 5");
        assert_eq!(
            said(&[sum(7, &[1, 2]), opened[1].clone()]),
            "round 0 opened 2 values of 0 rows, the simulation 2 of 7"
        );
        assert!(said(&[sum(0, &[1]), opened[1].clone()]).contains("the simulation 1 of 0"));
        assert_eq!(said(&opened[..1]), "2 sums were opened, not 1");
    }
}
