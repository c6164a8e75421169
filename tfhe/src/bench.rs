//! `quorate-tfhe bench`: predictions through the three roles, equal to the plain forest's and timed.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::Path;
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, ensure};
use quorate_client::engine::os_rng;
use quorate_client::payments::bank::AccountBook;
use quorate_client::payments::generate::{Payments, PaymentsSpec};
use quorate_client::payments::record::Payment;
use quorate_client::payments::twin::{self, Sample, Trained, forest_spec};
use quorate_protocols::pv4fad::Side;
use quorate_protocols::pv4fad::forest::{ONE, Scores};
use quorate_tfhe::bank::{Bank, BankLimits};
use quorate_tfhe::holder::{EVALUATION_KEY_FILE, KeyHolder, Limits, PUBLIC_KEY_FILE};
use quorate_tfhe::network::{Network, Query, Row, RowSide};
use quorate_tfhe::parameters::{NAME, PARAMETERS};
use quorate_tfhe::table::{Answers, Table, of_greater};
use quorate_tfhe::wire::{AskedAccount, MAX_ROWS, QueryId};
use rand_core::Rng as _;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

/// Arguments of `quorate-tfhe bench`.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Bench {
    /// Payments to predict.
    #[arg(long, default_value_t = 1_000)]
    pub(crate) predictions: usize,
    /// Payments of one query.
    #[arg(long, default_value_t = 250, value_parser = clap::value_parser!(u64).range(1..=MAX_ROWS as u64))]
    pub(crate) batch: u64,
    /// Open scores, not labels.
    #[arg(long)]
    pub(crate) scores: bool,
    /// Generated payments, those for training included.
    #[arg(long, default_value_t = 20_000)]
    pub(crate) rows: u64,
    /// Banks.
    #[arg(long, default_value_t = 5)]
    pub(crate) banks: u32,
    /// What payments and forest are drawn from.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Share of anomalous payments, and of labels that are 1 among training payments.
    #[arg(long, default_value_t = 0.01)]
    pub(crate) anomaly_rate: f64,
    /// Trees of the forest.
    #[arg(long, default_value_t = twin::TREES)]
    pub(crate) trees: u32,
    /// Levels of each tree.
    #[arg(long, default_value_t = twin::DEPTH)]
    pub(crate) depth: u32,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What a role takes for a prediction; all cores work for one role at a time.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Spent {
    /// Elapsed milliseconds.
    ms: f64,
    /// Milliseconds of processor time, on all cores.
    cpu_ms: f64,
}

impl Spent {
    /// Adds what `work` takes.
    fn on<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let (start, cpu) = (Instant::now(), cpu_ms());
        let done = work();
        self.ms += ms(start);
        self.cpu_ms += cpu_ms() - cpu;
        done
    }
}

/// Milliseconds of processor time of this process so far.
fn cpu_ms() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}

/// By role.
#[derive(Debug, Default, Serialize)]
pub(crate) struct PerPrediction {
    /// Both banks: look up, encrypt, journal.
    bank: Spent,
    /// The network: read flags, evaluate, unmask.
    network: Spent,
    /// The key holder: journal, decrypt.
    holder: Spent,
}

/// Sizes in bytes.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Bytes {
    public_key: usize,
    evaluation_key: usize,
    /// Of all messages, over the predictions.
    to_banks_per_prediction: f64,
    from_banks_per_prediction: f64,
    to_holder_per_prediction: f64,
    from_holder_per_prediction: f64,
}

/// What the bench measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    predictions: usize,
    batch: u64,
    answers: &'static str,
    threads: usize,
    parameters: &'static str,
    log2_failure: f64,
    threshold: f64,
    /// Labels that are 1; with scores those that are at least the threshold.
    pub(crate) positive: usize,
    /// Payments whose answer depends on their banks.
    pub(crate) decided_by_banks: usize,
    make_keys_ms: f64,
    read_keys_ms: f64,
    per_prediction: PerPrediction,
    bytes: Bytes,
    different: usize,
    pub(crate) equal: bool,
}

/// Runs the bench and prints its report.
///
/// # Errors
/// A setting out of bounds; a role that refuses; an answer that differs from the plain one.
pub(crate) fn run(args: &Bench) -> anyhow::Result<()> {
    let report = measure(args)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    }
    ensure!(report.equal, "{} answers differ from the plain forest's", report.different);
    Ok(())
}

/// A network with its payments and the forest that it has trained.
struct Plain {
    sample: Sample,
    payments: Vec<Payment>,
    books: HashMap<String, AccountBook>,
    trained: Trained,
    scores: Scores,
    columns: quorate_client::payments::features::Columns,
    threshold: u64,
}

impl Plain {
    fn new(args: &Bench) -> anyhow::Result<Self> {
        let &Bench { rows, banks, seed, anomaly_rate, .. } = args;
        let source = Payments::new(PaymentsSpec { rows, banks, seed, anomaly_rate })?;
        let books = source.banks().map(|(bank, rows)| (bank, AccountBook::new(&rows))).collect();
        let payments: Vec<Payment> = source.days().flatten().map(|(payment, _)| payment).collect();
        let sample = Sample::new(&payments, &books);
        let columns = sample.stacked(&sample.forest_scores(&sample.columns, seed));
        let spec = forest_spec(&columns, args.trees, args.depth, stream(seed, "forest"));
        let asked = sample.asked(stream(seed, "asked"));
        let trained = Trained::new(&spec, &sample, &columns, &asked, None)?;
        let scores = trained.scores();
        let mut plain = Self { sample, payments, books, trained, scores, columns, threshold: 0 };
        let mut known: Vec<u64> =
            plain.sample.training.iter().map(|row| plain.score(*row)).collect();
        known.sort_unstable_by(|a, b| b.cmp(a));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a length"
        )]
        let flagged = (known.len() as f64 * anomaly_rate) as usize;
        plain.threshold = known.get(flagged).copied().context("there are no training payments")?;
        Ok(plain)
    }

    /// The plain score of a payment, by the twin.
    fn score(&self, row: usize) -> u64 {
        let by_class = self.scores.of(&self.trained.forest, self.columns.row(row));
        by_class.get(self.sample.class(row).class()).copied().unwrap_or_default()
    }

    /// A payment as the network queries it, and its scores in the order of their index.
    fn row(
        &self,
        row: usize,
        scores: bool,
        banks: &HashMap<&str, u32>,
    ) -> anyhow::Result<(Row, Vec<u64>)> {
        let payment = self.payments.get(row).context("no such payment")?;
        let of_pair = of_greater(&self.scores.of(&self.trained.forest, self.columns.row(row)));
        let (table, distinct) = if scores {
            Table::scores(&of_pair)
        } else {
            (Table::labels(&of_pair, self.threshold), vec![0, 1])
        };
        let bank = |name: &str| banks.get(name).copied().with_context(|| format!("no bank {name}"));
        let side = |bank, account: &str, name: &str| RowSide {
            bank,
            account: AskedAccount { account: account.to_owned(), name: name.to_owned() },
        };
        let sides = [
            side(bank(&payment.sender_bank)?, &payment.ordering_account, ""),
            side(
                bank(&payment.receiver_bank)?,
                &payment.beneficiary_account,
                &payment.beneficiary_name,
            ),
        ];
        Ok((Row { table, sides }, distinct))
    }
}

/// Rows of `all`, evenly over it.
fn spread(all: &[usize], count: usize) -> anyhow::Result<Vec<usize>> {
    ensure!(
        (1..=all.len()).contains(&count),
        "there are {} payments after the training days; ask for 1 to as many, or generate more --rows",
        all.len()
    );
    Ok((0..count).filter_map(|place| all.get(place * all.len() / count).copied()).collect())
}

pub(crate) fn measure(args: &Bench) -> anyhow::Result<Report> {
    eprintln!("bench: generating {} payments, training in the clear", args.rows);
    let mut plain = Plain::new(args)?;
    let chosen = spread(&plain.sample.test, args.predictions)?;

    eprintln!("bench: making keys");
    let folder = tempfile::tempdir()?;
    let holder_folder = made(folder.path(), "holder")?;
    let answers = if args.scores { Answers::Scores } else { Answers::Labels };
    let bits = chosen.len() as u64 * u64::from(answers.bits());
    let limits = Limits {
        answers,
        bits_in_all: bits,
        bits_per_window: bits,
        window_s: 3600,
        // So many predictions with one key are not to be had without that; here the network is this process.
        network_may_extract_key: true,
    };
    let start = Instant::now();
    KeyHolder::create(&holder_folder, limits)?;
    let make_keys_ms = ms(start);
    let mut holder = KeyHolder::open(&holder_folder)?;
    let public_key = std::fs::read(holder_folder.join(PUBLIC_KEY_FILE))?;
    let evaluation_key = std::fs::read(holder_folder.join(EVALUATION_KEY_FILE))?;
    let start = Instant::now();
    let network = Network::new(&public_key, &evaluation_key)?;
    let read_keys_ms = ms(start);

    let mut books: Vec<(String, AccountBook)> = plain.books.drain().collect();
    books.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let names: Vec<String> = books.iter().map(|(name, _)| name.clone()).collect();
    let numbers: HashMap<&str, u32> = names.iter().map(|name| &**name).zip(0..).collect();
    let mut banks = Vec::new();
    for (name, book) in books {
        let limits = BankLimits { bits_per_account: u32::MAX, bits_in_all: u64::MAX };
        let home = made(folder.path(), &name)?;
        Bank::create(&home, &mut os_rng())?;
        banks.push(Bank::open(&home, book, &public_key, limits)?);
    }

    let mut time = PerPrediction::default();
    let mut bytes = Bytes {
        public_key: public_key.len(),
        evaluation_key: evaluation_key.len(),
        ..Bytes::default()
    };
    let (mut different, mut positive, mut decided_by_banks, mut done) = (0, 0, 0, 0);
    let batch = usize::try_from(args.batch)?;
    for batch in chosen.chunks(batch) {
        let mut rows = Vec::with_capacity(batch.len());
        let mut values = Vec::with_capacity(batch.len());
        for row in batch {
            let (row, distinct) = plain.row(*row, args.scores, &numbers)?;
            decided_by_banks += usize::from(row.table.depends_on_banks());
            rows.push(row);
            values.push(distinct);
        }
        let answers = predict(&network, &mut banks, &mut holder, rows, &mut time, &mut bytes)?;
        for ((row, answer), values) in batch.iter().zip(answers).zip(values) {
            let score = plain.score(*row);
            let label = score >= plain.threshold;
            positive += usize::from(label);
            let expected = if args.scores { score } else { u64::from(label) };
            let answer = answer.and_then(|answer| values.get(usize::from(answer)).copied());
            different += usize::from(answer != Some(expected));
        }
        done += batch.len();
        eprintln!("bench: {done} of {} predictions", chosen.len());
    }
    let count = chosen.len() as f64;
    for role in [&mut time.bank, &mut time.network, &mut time.holder] {
        *role = Spent { ms: role.ms / count, cpu_ms: role.cpu_ms / count };
    }
    for sum in [
        &mut bytes.to_banks_per_prediction,
        &mut bytes.from_banks_per_prediction,
        &mut bytes.to_holder_per_prediction,
        &mut bytes.from_holder_per_prediction,
    ] {
        *sum /= count;
    }
    Ok(Report {
        predictions: chosen.len(),
        batch: args.batch,
        answers: if args.scores { "scores" } else { "labels" },
        threads: rayon::current_num_threads(),
        parameters: NAME,
        log2_failure: PARAMETERS.log2_p_fail,
        threshold: plain.threshold as f64 / ONE as f64,
        positive,
        decided_by_banks,
        make_keys_ms,
        read_keys_ms,
        per_prediction: time,
        bytes,
        different,
        equal: different == 0,
    })
}

/// One query, message by message.
fn predict(
    network: &Network,
    banks: &mut [Bank],
    holder: &mut KeyHolder,
    rows: Vec<Row>,
    time: &mut PerPrediction,
    bytes: &mut Bytes,
) -> anyhow::Result<Vec<Option<u8>>> {
    let mut id = [0; 16];
    os_rng().fill_bytes(&mut id);
    let asked = time.network.on(|| {
        let query = Query::new(network, QueryId(id), rows)?;
        query.asks().map(|asks| (query, asks))
    });
    let (mut query, asks) = asked?;
    let mut flags: Vec<(u32, Side, Vec<u8>)> = Vec::with_capacity(asks.len());
    for (number, side, ask) in asks {
        let bank = banks.get_mut(number as usize).context("a bank that there is not")?;
        bytes.to_banks_per_prediction += ask.len() as f64;
        flags.push((number, side, time.bank.on(|| bank.answer(&ask))?));
    }
    for (bank, side, answer) in flags {
        bytes.from_banks_per_prediction += answer.len() as f64;
        time.network.on(|| query.accept(bank, side, &answer))?;
    }
    let (ask, pending) = time.network.on(|| query.evaluate(&mut os_rng()))?;
    bytes.to_holder_per_prediction += ask.len() as f64;
    let now_s = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let opened = time.holder.on(|| holder.answer(now_s, &ask))?;
    bytes.from_holder_per_prediction += opened.len() as f64;
    Ok(time.network.on(|| pending.finish(&opened))?)
}

fn ms(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1000.0
}

fn made(folder: &Path, name: &str) -> std::io::Result<std::path::PathBuf> {
    let folder = folder.join(name);
    std::fs::create_dir(&folder)?;
    Ok(folder)
}

/// The randomness of one purpose.
fn stream(seed: u64, purpose: &str) -> [u8; 32] {
    let hash = Sha256::new_with_prefix("quorate/tfhe-bench/1").chain_update(seed.to_be_bytes());
    hash.chain_update(purpose).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn predictions_equal_the_plain_forest() {
        let args = Bench {
            predictions: 24,
            batch: 16,
            scores: false,
            rows: 1_000,
            banks: 3,
            seed: 3,
            anomaly_rate: 0.2,
            trees: 8,
            depth: 4,
            json: true,
        };
        for scores in [false, true] {
            let report = measure(&Bench { scores, ..args.clone() }).unwrap();
            assert!(report.equal, "{report:?}");
            assert_eq!(report.predictions, 24);
            // Not all alike, and banks matter.
            assert!((1..24).contains(&report.positive), "{report:?}");
            assert!(report.decided_by_banks > 0, "{report:?}");
            assert_eq!(report.bytes.from_holder_per_prediction, (24 + 2 * 44) as f64 / 24.0);
        }
    }
}
