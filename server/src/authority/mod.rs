//! The key authority: it shares a key with every party, promises one frozen set per round, and
//! releases one functional key for it, without seeing a ciphertext. In a threshold job it takes part
//! in the job's key instead, and its answer is a partial decryption of the ciphertexts of the frozen
//! set, which it fetches from the aggregator its operator names.

mod about;
mod budget;
mod enrollments;
mod jobs;
mod key_posts;
mod keys;
mod partial;
mod payments;
mod promises;
mod tombstones;
mod turn;
mod vertical;

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use axum::Router;
use axum::middleware::from_fn;
use axum::routing::{get, post};
use quorate_client::engine::load_or_create_identity;
use quorate_client::ledger::Ledgers;
use quorate_client::store::{Batch, Store};
use quorate_crypto::merkle::Hash;
use quorate_protocols::fedv;
use quorate_protocols::job::{Minima, RosterEntry};
use quorate_protocols::pv4fad;
use quorate_protocols::round::authority::AuthorityJob;
use quorate_protocols::wire::{Name, decode};
use tokio::net::TcpListener;

use crate::driver::Driver;
use crate::http::limits::body_limit;
use crate::http::{self, Access, Limits, Readiness, Server};
use crate::{facts, routes};

/// Record of its keys.
const IDENTITY: &str = "authority";

/// Settings of an authority.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its id, as manifests name it.
    pub name: Name,
    /// Tenant of the deployment.
    pub tenant: Name,
    /// Folder of its store.
    pub store: PathBuf,
    /// The least it accepts in a manifest.
    pub minima: Minima,
    /// Address of the aggregator whose ciphertexts it decrypts in threshold jobs; without it, it
    /// signs off none.
    pub aggregator: Option<String>,
    /// The most epsilon that any data set may spend here, whatever its jobs say. Such a limit implies
    /// [`Minima::require_noise`]; [`Minima::data_sets`] says what it is a limit of.
    pub max_epsilon: Option<f64>,
    /// Who may call.
    pub access: Access,
    /// Limits of its HTTP side.
    pub limits: Limits,
}

/// Who is enrolled, by name.
type Parties = BTreeMap<Name, RosterEntry>;

/// What all routes share.
pub(crate) struct Authority {
    config: Config,
    driver: Arc<Driver<AuthorityJob>>,
    vertical: Arc<Driver<fedv::authority::AuthorityJob>>,
    /// Payments jobs whose key is made, by the side of the machine that made it.
    payments: Arc<Driver<pv4fad::authority::AuthorityJob>>,
    /// Their keys, parsed.
    prepared: payments::Recent<payments::Prepared>,
    /// The records of kind `party`, which are written under `enrolling`.
    parties: RwLock<Arc<Parties>>,
    enrolling: tokio::sync::Mutex<()>,
    /// One lock per label or key call whose answer is being computed.
    computing: Mutex<HashMap<Hash, Arc<tokio::sync::Mutex<()>>>>,
    /// For ciphertexts; follows no redirect, so that only the operator's address is ever asked.
    http: reqwest::Client,
}

pub(crate) type Shared = Arc<Authority>;

impl Authority {
    /// Who is enrolled now.
    fn parties(&self) -> Arc<Parties> {
        Arc::clone(&self.parties.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Runs an authority until `shutdown`.
///
/// # Errors
/// Failures of the store, among them that another process uses it or that it belongs to an authority
/// of another name.
pub async fn run(
    mut config: Config,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    // No epsilon bounds exact sums.
    config.minima.require_noise |= config.max_epsilon.is_some();
    let store = Store::open(&config.store).await?;
    pin_name(&store, &config.name).await?;
    let keys = load_or_create_identity(&store, IDENTITY).await?;
    let mut parties = Parties::new();
    for (_, value) in store.list_records("party", "").await? {
        let entry: RosterEntry = decode(&value)?;
        parties.insert(entry.party.clone(), entry);
    }
    let limits = config.limits.clone();
    let access = config.access;
    let name = config.name.clone();
    let ledgers = Arc::new(Ledgers::new(config.max_epsilon, None));
    let vertical = Driver::new(store.clone(), keys.clone(), "vertical-authority-job", name);
    let kind = "payments-authority-job";
    let payments = Driver::new(store.clone(), keys.clone(), kind, config.name.clone())
        .with_ledgers(Arc::clone(&ledgers));
    let driver = Driver::new(store.clone(), keys, "authority-job", config.name.clone())
        .with_ledgers(ledgers);
    let http = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()?;
    let authority = Arc::new(Authority {
        config,
        driver: Arc::new(driver),
        vertical: Arc::new(vertical),
        payments: Arc::new(payments),
        prepared: payments::Recent::default(),
        parties: RwLock::new(Arc::new(parties)),
        enrolling: tokio::sync::Mutex::default(),
        computing: Mutex::default(),
        http,
    });
    let app = http::app(router(authority, store.clone()), &limits, access, ready(store.clone()));
    Server::new(listener, app, limits).run(shutdown).await;
    store.close().await;
    Ok(())
}

fn router(authority: Shared, store: Store) -> Router {
    Router::new()
        .route("/v1/authority", get(about::about))
        .route("/v1/enrollments", post(enrollments::enroll))
        .route("/v1/jobs", post(jobs::register).layer(body_limit(routes::MESSAGE_BYTES)))
        .route(
            "/v1/jobs/{job}/promises",
            post(promises::promise).layer(body_limit(routes::MESSAGE_BYTES)),
        )
        .route(
            "/v1/jobs/{job}/key-posts",
            post(key_posts::post).layer(body_limit(routes::MESSAGE_BYTES)),
        )
        .route("/v1/jobs/{job}/keys", post(keys::release).layer(body_limit(routes::MESSAGE_BYTES)))
        .route("/v1/jobs/{job}/keys/{label}/leaves", get(keys::leaves))
        .route("/v1/jobs/{job}/keys/{label}/chunks/{index}", get(keys::chunk))
        .route(
            "/v1/jobs/{job}/vertical",
            post(vertical::ask).layer(body_limit(routes::MESSAGE_BYTES)),
        )
        .route(
            "/v1/jobs/{job}/payments",
            post(payments::letter).layer(body_limit(routes::MESSAGE_BYTES)),
        )
        .route("/v1/jobs/{job}/tombstones", post(tombstones::bury))
        .route("/v1/budget", get(budget::budget))
        .with_state(authority)
        .merge(Router::new().route("/v1/facts", get(facts::facts)).with_state(store))
        .layer(from_fn(routes::refuse_long))
}

/// Ready when the store takes a write.
pub(crate) fn ready(store: Store) -> Readiness {
    Readiness::new(move || {
        let store = store.clone();
        async move {
            let probe = Batch::new().put_record("health", "write", Vec::new());
            store.commit(probe).await.err().map(|_| "the store does not take writes".to_owned())
        }
    })
}

/// One store holds the keys and promises of one authority: under a second name the same keys would
/// count as two.
async fn pin_name(store: &Store, name: &Name) -> anyhow::Result<()> {
    match store.get_record("authority-name", "").await? {
        Some(known) if known == name.as_str().as_bytes() => Ok(()),
        Some(known) => {
            let known = String::from_utf8_lossy(&known);
            anyhow::bail!("this store belongs to authority {known}: choose another --store")
        }
        None => {
            let batch = Batch::new().put_record("authority-name", "", name.as_str().into());
            Ok(store.commit(batch).await?)
        }
    }
}
