//! A payments job through real services: a forest trained and payments scored as in the clear, with
//! services killed and a bank lost on the way; and no account in the sight of a service.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};
use quorate_client::api::{JobSpec, PrivacyTable};
use quorate_client::party::{
    NetworkFinished, NetworkTask, PartyConfig, PartyError, PaymentsFinished, PaymentsPart,
};
use quorate_client::payments::bank::AccountBook;
use quorate_client::payments::bank_name;
use quorate_client::payments::generate::{Payments, PaymentsSpec};
use quorate_client::payments::record::{AccountRow, Payment};
use quorate_client::payments::replay::{repeat, result_hash};
use quorate_crypto::merkle::Hash;
use quorate_protocols::policy::{Mechanism, Unit};
use quorate_protocols::refusal::Code;
use quorate_protocols::round::aggregator::Outcome;
use quorate_protocols::wire::Name;
use quorate_protocols::workload::{PvSpec, QueryLimits, Workload};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::harness::{Answered, PATIENCE, World, name, until};

/// Generated payments with their banks' accounts.
struct Data {
    payments: Vec<Payment>,
    accounts: BTreeMap<Name, Vec<AccountRow>>,
}

impl Data {
    fn new(banks: u32, rows: u64) -> Result<Self> {
        let source = Payments::new(PaymentsSpec { rows, banks, seed: 3, anomaly_rate: 0.1 })?;
        let accounts = source.banks().map(|(bank, rows)| Ok((bank_name(&bank)?, rows)));
        let accounts = accounts.collect::<Result<_>>()?;
        let payments = source.days().flatten().map(|(payment, _)| payment).collect();
        Ok(Self { payments, accounts })
    }

    fn books(&self) -> BTreeMap<Name, AccountBook> {
        self.accounts.iter().map(|(bank, rows)| (bank.clone(), AccountBook::new(rows))).collect()
    }

    fn spec(&self) -> PvSpec {
        PvSpec {
            network: name("network"),
            banks: self.accounts.keys().cloned().collect(),
            class_bits: 2,
            trees: 4,
            depth: 3,
            part_rows: 64,
            rows_per_account: 3,
            max_rows: 10_000,
            versions: 1,
            queries: QueryLimits {
                total: 10_000,
                per_window: 10_000,
                window_ms: 60_000,
                per_account: 1000,
            },
            strict: false,
        }
    }

    fn job(&self, spec: PvSpec) -> JobSpec {
        let parties = u32::try_from(self.accounts.len()).unwrap() + 1;
        JobSpec {
            quorum: 3,
            grace_seconds: 0.1,
            ..JobSpec::of_workload("payments", parties, Workload::Payments(spec))
        }
    }

    /// What training and scoring in the clear give, for what the network says it drew.
    fn check(&self, spec: &PvSpec, finished: &NetworkFinished) -> Result<()> {
        let replay = finished.replay.as_ref().context("a replay")?;
        let plain = repeat(spec, &self.payments, self.books(), replay)?;
        ensure!(spec.strict || plain.counts.iter().sum::<i64>() > 0, "no flag counts");
        ensure!(plain.counts == finished.counts, "the counts differ");
        let hashes = [
            result_hash(&plain.counts, &plain.scores),
            result_hash(&finished.counts, &finished.scores),
        ];
        ensure!(!finished.scores.is_empty(), "{} payments are not scored", finished.unscored.len());
        ensure!(hashes[0] == hashes[1], "the scores differ");
        Ok(())
    }
}

type Running = JoinHandle<Result<PaymentsFinished, PartyError>>;

/// Starts a party; `via` is where it reaches the aggregator.
async fn start(
    world: &World,
    via: Option<&str>,
    job: Hash,
    party: &Name,
    part: PaymentsPart,
) -> Result<Running> {
    let mut config: PartyConfig = world.config(party.as_str())?;
    config.replayable = true;
    if let Some(via) = via {
        via.clone_into(&mut config.aggregator);
    }
    let connected = world.connect(config).await?;
    Ok(tokio::spawn(async move { connected.run_payments(job, part).await }))
}

fn bank_part(data: &Data, bank: &Name) -> PaymentsPart {
    PaymentsPart::Bank(AccountBook::new(&data.accounts[bank]))
}

fn network_part(data: &Data, score: usize) -> PaymentsPart {
    PaymentsPart::Network(NetworkTask { payments: data.payments.clone(), score })
}

async fn ended(running: Running) -> Result<PaymentsFinished> {
    Ok(tokio::time::timeout(PATIENCE, running).await???)
}

/// A proxy that keeps every byte that passes.
async fn tapped(upstream: SocketAddr) -> Result<(String, Arc<Mutex<Vec<u8>>>)> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let url = format!("http://{}", listener.local_addr()?);
    let tape: Arc<Mutex<Vec<u8>>> = Arc::default();
    let kept = Arc::clone(&tape);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(upstream).await else { continue };
            let ((client_in, client_out), (server_in, server_out)) =
                (client.into_split(), server.into_split());
            for (mut from, mut to) in [(client_in, server_out), (server_in, client_out)] {
                let tape = Arc::clone(&kept);
                tokio::spawn(async move {
                    let mut buffer = vec![0; 64 << 10];
                    while let Ok(count @ 1..) = from.read(&mut buffer).await {
                        tape.lock().unwrap().extend_from_slice(&buffer[..count]);
                        if to.write_all(&buffer[..count]).await.is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown().await;
                });
            }
        }
    });
    Ok((url, tape))
}

/// All bytes of all files under a folder.
fn bytes_under(folder: &Path) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    for entry in folder.read_dir()? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            all.extend(bytes_under(&entry.path())?);
        } else {
            // A file may be gone by now.
            all.extend(std::fs::read(entry.path()).unwrap_or_default());
        }
    }
    Ok(all)
}

/// The canaries that are found in `bytes`.
fn found<'a>(bytes: &[u8], canaries: &'a [String]) -> Vec<&'a String> {
    let holds =
        |canary: &&String| bytes.windows(canary.len()).any(|window| window == canary.as_bytes());
    canaries.iter().filter(holds).collect()
}

/// Counts and scores are those in the clear to the bit, though both services, the network and a bank die
/// on the way; and no account, name or address is in a service's store or log, nor on the wire.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payments_are_scored_as_in_the_clear_and_no_service_sees_an_account() -> Result<()> {
    let data = Data::new(3, 300)?;
    let mut world = World::one(None).await?;
    let (spec, via) = (data.spec(), tapped(world.aggregator.addr()).await?);
    let job = world.create(&data.job(spec.clone())).await?;
    let mut banks = Vec::new();
    for bank in data.accounts.keys() {
        banks.push(start(&world, Some(&via.0), job, bank, bank_part(&data, bank)).await?);
    }
    let network = name("network");
    let running = start(&world, Some(&via.0), job, &network, network_part(&data, 20)).await?;

    until(async || world.count("assignment.logged").await.is_ok_and(|count| count == 1)).await?;
    // What the end of a job erases is there before it.
    let kinds = ["payments-kept", "key-secret"].map(str::to_owned);
    let begun = async || {
        let bytes = bytes_under(&world.authority_folder(0)).unwrap_or_default();
        found(&bytes, &kinds).len() == kinds.len()
    };
    until(begun).await?;
    let folders = [world.aggregator_folder(), world.authority_folder(0)];
    let mut stores: Vec<Vec<u8>> = folders.iter().map(|f| bytes_under(f)).collect::<Result<_>>()?;
    world.aggregator.restart().await?;
    running.abort();
    let _ = running.await;
    world.authorities[0].restart().await?;
    let running = start(&world, Some(&via.0), job, &network, network_part(&data, 20)).await?;
    let first = data.accounts.keys().next().context("a bank")?;
    let killed: Running = banks.remove(0);
    killed.abort();
    let _ = killed.await;
    banks.push(start(&world, Some(&via.0), job, first, bank_part(&data, first)).await?);

    let finished = ended(running).await?;
    ensure!(finished.outcome == Outcome::Done, "{:?}", finished.outcome);
    let network = finished.network.context("the network's part")?;
    ensure!(network.unscored.is_empty(), "{:?}", network.unscored);
    ensure!(network.scores.len() == 20, "{} scores", network.scores.len());
    for bank in banks {
        ensure!(ended(bank).await?.outcome == Outcome::Done, "a bank ended otherwise");
    }
    data.check(&spec, &network)?;
    ensure!(world.count("assignment.logged").await? == 1, "a second assignment");

    // The longest texts of all accounts: a number, a name, an address.
    let mut canaries: Vec<String> = data
        .accounts
        .values()
        .flatten()
        .flat_map(|row| [row.account.clone(), row.name.clone(), row.address.clone()])
        .filter(|text| text.len() >= 8)
        .collect();
    canaries.extend(data.payments.iter().map(|payment| payment.beneficiary_account.clone()));
    canaries.sort();
    canaries.dedup();
    canaries.truncate(60);
    for folder in &folders {
        stores.push(bytes_under(folder)?);
    }
    let facts = serde_json::to_vec(&(
        world.facts(&world.aggregator).await?,
        world.facts(&world.authorities[0]).await?,
    ))?;
    stores.push(facts);
    let wire = via.1.lock().unwrap().clone();
    ensure!(wire.len() > 100_000 && stores.iter().all(|store| !store.is_empty()), "nothing seen");
    for seen in stores.iter().chain([&wire]) {
        let found = found(seen, &canaries);
        ensure!(found.is_empty(), "in a service's sight: {found:?}");
    }
    // The search finds what is there: a bank's own machine knows its accounts.
    let own = serde_json::to_vec(
        &data.accounts.values().flatten().map(|row| &row.account).collect::<Vec<_>>(),
    )?;
    ensure!(!found(&own, &canaries).is_empty(), "a search that finds nothing");
    Ok(())
}

/// In a strict job no count is opened, and scores are those of the pooled rule in the clear.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strict_job_scores_without_opening_a_leaf() -> Result<()> {
    let data = Data::new(3, 300)?;
    let world = World::one(None).await?;
    let spec = PvSpec { strict: true, ..data.spec() };
    let job = world.create(&data.job(spec.clone())).await?;
    let mut banks = Vec::new();
    for bank in data.accounts.keys() {
        banks.push(start(&world, None, job, bank, bank_part(&data, bank)).await?);
    }
    let network = name("network");
    let running = start(&world, None, job, &network, network_part(&data, 20)).await?;
    let finished = ended(running).await?;
    ensure!(finished.outcome == Outcome::Done, "{:?}", finished.outcome);
    let network = finished.network.context("the network's part")?;
    ensure!(network.counts.is_empty() && network.scores.len() == 20, "{:?}", network.unscored);
    for bank in banks {
        ensure!(ended(bank).await?.outcome == Outcome::Done, "a bank ended otherwise");
    }
    data.check(&spec, &network)?;
    let open = repeat(
        &data.spec(),
        &data.payments,
        data.books(),
        network.replay.as_ref().context("a replay")?,
    )?;
    ensure!(open.scores != network.scores, "the strict rule is not another one");
    // The authority hears of the end: evidence and its share of the key leave its disk.
    let over = async || {
        let facts = world.facts(&world.authorities[0]).await.unwrap_or_default();
        facts.iter().filter(|fact| fact["predicate"] == "job.over").count() == 1
    };
    until(over).await?;
    let erased = async || {
        let bytes = bytes_under(&world.authority_folder(0)).unwrap_or_default();
        let kinds = ["payments-kept", "key-secret"].map(str::to_owned);
        !bytes.is_empty() && found(&bytes, &kinds).is_empty()
    };
    until(erased).await?;
    Ok(())
}

/// A bank that goes away is left out and not accused; what it was to answer is not scored; the rest is as
/// in the clear without it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bank_that_is_lost_is_left_out() -> Result<()> {
    let data = Data::new(4, 200)?;
    let world = World::one(None).await?;
    let spec = data.spec();
    let job = JobSpec { collect_seconds: 3.0, ..data.job(spec.clone()) };
    let job = world.create(&job).await?;
    let mut banks: BTreeMap<Name, Running> = BTreeMap::new();
    for bank in data.accounts.keys() {
        banks.insert(bank.clone(), start(&world, None, job, bank, bank_part(&data, bank)).await?);
    }
    let running = start(&world, None, job, &name("network"), network_part(&data, 30)).await?;
    // The last bank takes part in the key and is gone soon after it.
    until(async || world.count("letters.carried").await.is_ok_and(|count| count == 1)).await?;
    let (_, gone) = banks.pop_last().context("a bank")?;
    gone.abort();
    let _ = gone.await;
    let finished = ended(running).await?;
    let network = finished.network.context("the network's part")?;
    data.check(&spec, &network)?;
    let replay = network.replay.as_ref().context("a replay")?;
    let lost = replay.counted.iter().filter(|counted| !**counted).count();
    ensure!(lost > 0 && !network.unscored.is_empty(), "{lost} rows, {:?}", network.unscored);
    for bank in banks.into_values() {
        ended(bank).await?;
    }
    Ok(())
}

/// A job with noise charges every bank and the authority; an authority whose ledger is spent releases
/// nothing, and the network says why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spent_budget_opens_nothing() -> Result<()> {
    let data = Data::new(3, 100)?;
    let world = World::one(Some(0.5)).await?;
    let mut job = data.job(data.spec());
    job.privacy = Some(PrivacyTable {
        unit: Unit::Record,
        mechanism: Mechanism::Gaussian,
        noise_multiplier: None,
        epsilon: 4.0,
        delta: 1e-6,
        clip: None,
        data_set: name("accounts"),
    });
    let job = world.create(&job).await?;
    let mut banks = Vec::new();
    for bank in data.accounts.keys() {
        banks.push(start(&world, None, job, bank, bank_part(&data, bank)).await?);
    }
    let running = start(&world, None, job, &name("network"), network_part(&data, 5)).await?;
    let error = tokio::time::timeout(PATIENCE, running).await??.unwrap_err();
    ensure!(
        matches!(&error, PartyError::Refused(refusal) if refusal.code == Code::BudgetSpent),
        "{error}"
    );
    for bank in banks {
        let outcome = ended(bank).await?.outcome;
        ensure!(
            matches!(&outcome, Outcome::Failed(refusal) if refusal.code == Code::BudgetSpent),
            "{outcome:?}"
        );
    }
    Ok(())
}

/// The route takes nothing from strangers, and nothing before there is a key.
#[tokio::test]
async fn letters_of_strangers_are_refused() -> Result<()> {
    use quorate_crypto::keys::Identity;
    use quorate_protocols::pv4fad::Envelope;
    use quorate_protocols::pv4fad::letters::{Close, PaymentsMessage};
    use quorate_protocols::round::messages::Message;
    use quorate_protocols::wire::Signed;

    let data = Data::new(3, 100)?;
    let world = World::one(None).await?;
    let job = world.create(&data.job(data.spec())).await?;
    let keys = Identity::from_bytes(&[9; 64]);
    let letter = Envelope { job, from: name("network"), to: name("bank01"), sealed: vec![0; 64] };
    let letter = PaymentsMessage::Letter(Signed::sign(letter, &keys).signed().clone());
    let close =
        PaymentsMessage::Close(Signed::sign(Close { job, failure: None }, &keys).signed().clone());
    let url = format!("{}/v1/jobs/{job}/payments", world.aggregator.url());
    for message in [&letter, &close] {
        let body = Message::Payments(message.clone()).to_wire();
        assert_eq!(Answered::post(url.clone(), body).await?.code(), "WRONG_STATE");
    }
    let body = Message::Payments(letter.clone()).to_wire();
    let unknown = format!("{}/v1/jobs/{}/payments", world.aggregator.url(), Hash([3; 32]));
    assert_eq!(Answered::post(unknown, body.clone()).await?.code(), "UNKNOWN_JOB");
    assert_eq!(Answered::post(url.clone(), body[..40].to_vec()).await?.code(), "MALFORMED");
    // Once it is made.
    let mut banks = Vec::new();
    for bank in data.accounts.keys() {
        banks.push(start(&world, None, job, bank, bank_part(&data, bank)).await?);
    }
    let running = start(&world, None, job, &name("network"), network_part(&data, 0)).await?;
    until(async || world.count("letters.carried").await.is_ok_and(|count| count == 1)).await?;
    for message in [&letter, &close] {
        let body = Message::Payments(message.clone()).to_wire();
        let code = Answered::post(url.clone(), body).await?.code();
        ensure!(code == "BAD_SIGNATURE" || code == "WRONG_STATE", "{code}");
    }
    let authority = format!("{}/v1/jobs/{job}/payments", world.authorities[0].url());
    assert_eq!(Answered::post(authority, body).await?.code(), "BAD_SIGNATURE");
    let finished = ended(running).await?;
    ensure!(finished.outcome == Outcome::Done, "{:?}", finished.outcome);
    for bank in banks {
        ended(bank).await?;
    }
    Ok(())
}
