//! The aggregator: it collects ciphertexts, freezes sets, asks the authorities for one functional
//! key per round, and opens the sums. In a threshold job it first calls for the key, and asks the
//! authority and holders for partial decryptions.

mod about;
mod authorities;
mod errands;
mod jobs;
mod key_posts;
mod opening;
mod outcomes;
mod package;
mod parties;
mod payments;
mod results;
mod runner;
mod shares;
mod states;
mod submissions;
mod vertical;
mod view;

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, RwLock};

use axum::Router;
use axum::middleware::from_fn;
use axum::routing::{get, post, put};
use quorate_client::bulk::Spool;
use quorate_client::engine::load_or_create_identity;
use quorate_client::store::{Batch, Store};
use quorate_crypto::merkle::{Hash, hash_parts};
use quorate_crypto::sum::Label;
use quorate_protocols::fedv;
use quorate_protocols::round::aggregator::AggregatorJob;
use quorate_protocols::wire::Name;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::driver::Driver;
use crate::http::limits::body_limit;
use crate::http::{self, Access, Limits, Readiness, Server};
use crate::{facts, routes};
use authorities::Authorities;

/// Record of its keys.
const IDENTITY: &str = "aggregator";

/// Settings of an aggregator.
#[derive(Clone, Debug)]
pub struct Config {
    /// Tenant of the deployment.
    pub tenant: Name,
    /// Folder of its store.
    pub store: PathBuf,
    /// Addresses of the authorities of its jobs, 1 to 4.
    pub authorities: Vec<String>,
    /// Who may call.
    pub access: Access,
    /// Limits of its HTTP side.
    pub limits: Limits,
}

/// What all routes share.
pub(crate) struct Aggregator {
    tenant: Name,
    driver: Arc<Driver<AggregatorJob>>,
    vertical: Arc<Driver<fedv::aggregator::AggregatorJob>>,
    /// Ids of the vertical jobs, which have a driver of their own.
    vertical_jobs: RwLock<HashSet<Hash>>,
    authorities: Authorities,
    /// Letters of payments jobs.
    mail: payments::Mailboxes,
    /// Uploads under way; rebuilt from records and chunks after a restart.
    spools: Mutex<HashMap<(Hash, Label, Name), Spool>>,
    /// Jobs whose runner is to be started, and whether they are vertical.
    starting: mpsc::UnboundedSender<(Hash, bool)>,
    /// True once the service is stopping: long polls end early.
    stopping: watch::Sender<bool>,
}

pub(crate) type Shared = Arc<Aggregator>;

/// Runs an aggregator until `shutdown`; every unfinished job goes on where it was.
///
/// # Errors
/// Failures of the store, among them that another process uses it; keys of an authority that are
/// not those pinned before.
pub async fn run(
    config: Config,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let store = Store::open(&config.store).await?;
    let keys = load_or_create_identity(&store, IDENTITY).await?;
    let actor = Name::new("aggregator")?;
    let kind = "vertical-aggregator-job";
    let vertical = Arc::new(Driver::new(store.clone(), keys.clone(), kind, actor.clone()));
    let driver = Arc::new(Driver::new(store.clone(), keys, "aggregator-job", actor));
    let authorities =
        Authorities::open(store.clone(), config.tenant.clone(), &config.authorities).await?;
    let (starting, mut jobs) = mpsc::unbounded_channel();
    for job in driver.jobs().await? {
        let _ = starting.send((job, false));
    }
    let vertical_jobs: HashSet<Hash> = vertical.jobs().await?.into_iter().collect();
    for job in &vertical_jobs {
        let _ = starting.send((*job, true));
    }
    let aggregator = Arc::new(Aggregator {
        tenant: config.tenant,
        driver,
        vertical,
        vertical_jobs: RwLock::new(vertical_jobs),
        authorities,
        mail: payments::Mailboxes::default(),
        spools: Mutex::default(),
        starting,
        stopping: watch::Sender::new(false),
    });
    let ready = ready(store.clone(), Arc::clone(&aggregator));
    let routes = router(Arc::clone(&aggregator), store.clone());
    let app = http::app(routes, &config.limits, config.access, ready);
    let stop = async {
        shutdown.await;
        aggregator.stopping.send_replace(true);
    };
    // The tasks live in this future: whoever drops it stops all of them.
    let working = async {
        let mut runners = JoinSet::new();
        loop {
            tokio::select! {
                Some((job, vertical)) = jobs.recv() => {
                    let aggregator = Arc::clone(&aggregator);
                    if vertical {
                        runners.spawn(vertical::run(aggregator, job));
                    } else {
                        runners.spawn(runner::run(aggregator, job));
                    }
                }
                Some(ended) = runners.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a job's task failed; restart to go on with it");
                    }
                }
            }
        }
    };
    let meeting = async {
        aggregator.authorities.meet().await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = Server::new(listener, app, config.limits).run(stop) => {}
        () = working => {}
        () = meeting => {}
    }
    store.close().await;
    Ok(())
}

fn router(aggregator: Shared, store: Store) -> Router {
    let upload = "/v1/jobs/{job}/submissions/{label}/{party}";
    let under = |rest: &str| format!("{upload}/{rest}");
    Router::new()
        .route("/v1/aggregator", get(about::about))
        .route(
            "/v1/jobs",
            post(jobs::create).get(jobs::list).layer(body_limit(routes::MESSAGE_BYTES)),
        )
        .route("/v1/jobs/{job}", get(jobs::show).delete(jobs::cancel))
        .route("/v1/jobs/{job}/package", get(package::package))
        .route("/v1/jobs/{job}/parties", post(parties::join))
        .route("/v1/jobs/{job}/view", get(view::view))
        .route(
            "/v1/jobs/{job}/key-posts",
            post(key_posts::post).layer(body_limit(routes::MESSAGE_BYTES)),
        )
        .route(
            "/v1/jobs/{job}/shares",
            post(shares::share).layer(body_limit(routes::MESSAGE_BYTES)),
        )
        .route(
            "/v1/jobs/{job}/payments",
            post(payments::message).layer(body_limit(routes::MESSAGE_BYTES)),
        )
        .route("/v1/jobs/{job}/vertical/view", get(vertical::view))
        .route(
            "/v1/jobs/{job}/vertical/messages",
            post(vertical::message).layer(body_limit(routes::MESSAGE_BYTES)),
        )
        .route("/v1/jobs/{job}/vertical/common/leaves", get(vertical::common_leaves))
        .route("/v1/jobs/{job}/vertical/common/chunks/{index}", get(vertical::common_chunk))
        .route(upload, post(submissions::open))
        .route(&under("missing"), get(submissions::missing))
        .route(&under("chunks/{index}"), put(submissions::chunk).get(submissions::read_chunk))
        .route(&under("leaves"), get(submissions::leaves))
        .route(&under("complete"), post(submissions::complete))
        .route("/v1/jobs/{job}/results/{round}/leaves", get(results::leaves))
        .route("/v1/jobs/{job}/results/{round}/chunks/{index}", get(results::chunk))
        .route("/v1/jobs/{job}/frozen", get(outcomes::frozen))
        .route("/v1/jobs/{job}/report", get(outcomes::report))
        .with_state(aggregator)
        .merge(Router::new().route("/v1/facts", get(facts::facts)).with_state(store))
        .layer(from_fn(routes::refuse_long))
}

/// Ready when the store takes a write and every authority is known.
fn ready(store: Store, aggregator: Shared) -> Readiness {
    Readiness::new(move || {
        let (store, aggregator) = (store.clone(), Arc::clone(&aggregator));
        async move {
            let probe = Batch::new().put_record("health", "write", Vec::new());
            if store.commit(probe).await.is_err() {
                return Some("the store does not take writes".to_owned());
            }
            aggregator.authorities.all().err().map(|refusal| refusal.detail)
        }
    })
}

/// The first half of a label's hex: enough to tell labels apart in a path of limited length.
fn short(label: &Label) -> String {
    label.0.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Chunks of the ciphertexts of one label, by party.
fn uploads_space(job: &Hash, label: &Label) -> String {
    format!("{job}/up/{}", short(label))
}

/// Chunks of one party's ciphertext.
fn upload_space(job: &Hash, label: &Label, party: &Name) -> String {
    let party = hash_parts("upload-space", &[party.as_str().as_bytes()]);
    let party: String = party.0.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    format!("{}/{party}", uploads_space(job, label))
}

/// Chunks of the functional keys and partial decryptions of one label.
fn key_space(job: &Hash, label: &Label) -> String {
    format!("{job}/keys/{}", short(label))
}

/// Chunks of the opened sum of one round.
fn result_space(job: &Hash, round: u32) -> String {
    format!("{job}/results/{round}")
}

/// Chunks of the model state after one round.
fn state_space(job: &Hash, round: u32) -> String {
    format!("{job}/states/{round}")
}

/// Limits that leave room for every party of a large job to wait for news.
#[must_use]
pub fn limits() -> Limits {
    Limits { connections: 4096, requests: 2048, ..Limits::default() }
}
