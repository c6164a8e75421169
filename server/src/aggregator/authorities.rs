//! The authorities an aggregator works with: their keys, pinned at first sight, and requests to
//! them.

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use anyhow::bail;
use quorate_client::api::{AuthorityInfo, ProblemBody, from_json};
use quorate_client::store::{Batch, Store};
use quorate_crypto::merkle::Hash;
use quorate_protocols::refusal::{Code, Refusal};
use quorate_protocols::round::messages::Message;
use quorate_protocols::wire::Name;

use crate::routes::MESSAGE_BYTES;

/// Kind of the records that pin an authority's keys, by its address.
const PIN: &str = "authority";
/// Longest time for a request; a functional key of a long vector, or a threshold key, is computed
/// within it, or asked for again.
const TIMEOUT: Duration = Duration::from_secs(55);
/// First and longest wait between attempts.
pub(crate) const FIRST_DELAY: Duration = Duration::from_millis(100);
pub(crate) const MAX_DELAY: Duration = Duration::from_secs(5);

/// An authority whose keys are pinned.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// Where it is reached.
    pub(crate) url: String,
    /// Its name and keys.
    pub(crate) info: AuthorityInfo,
}

/// How an authority answered.
pub(crate) enum Answered {
    /// With a message.
    Message(Message),
    /// It refuses for good.
    Refused(Refusal),
    /// Not now: unreachable, overloaded, or a failure of its own.
    Later(String),
}

/// All authorities of one aggregator.
pub(crate) struct Authorities {
    store: Store,
    tenant: Name,
    urls: Vec<String>,
    known: RwLock<Vec<Known>>,
    http: reqwest::Client,
}

impl Authorities {
    /// Reads what is pinned for these addresses.
    pub(crate) async fn open(store: Store, tenant: Name, urls: &[String]) -> anyhow::Result<Self> {
        let urls: Vec<String> =
            urls.iter().map(|url| url.trim_end_matches('/').to_owned()).collect();
        if urls.is_empty() || urls.len() > quorate_protocols::job::MAX_AUTHORITIES {
            bail!("an aggregator works with 1 to 4 authorities, {} are given", urls.len());
        }
        let mut known = Vec::new();
        for url in &urls {
            if let Some(record) = store.get_record(PIN, url).await? {
                known.push(Known { url: url.clone(), info: from_json(&record)? });
            }
        }
        let http = reqwest::Client::builder().timeout(TIMEOUT).no_proxy().build()?;
        Ok(Self { store, tenant, urls, known: RwLock::new(known), http })
    }

    /// All authorities.
    ///
    /// # Errors
    /// [`Code::Unavailable`] while one was never reached.
    pub(crate) fn all(&self) -> Result<Vec<Known>, Refusal> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).clone();
        let missing: Vec<&str> = self
            .urls
            .iter()
            .filter(|url| !known.iter().any(|k| k.url == **url))
            .map(String::as_str)
            .collect();
        if missing.is_empty() {
            return Ok(known);
        }
        let why = format!("waiting to reach for the first time: {}", missing.join(", "));
        Err(Refusal::new(Code::Unavailable, why))
    }

    /// The client for requests to authorities.
    pub(crate) const fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// Where the authority of this name is reached.
    pub(crate) fn url(&self, name: &Name) -> Option<String> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().find(|known| known.info.name == *name).map(|known| known.url.clone())
    }

    /// Fetches and pins the keys of every authority, until all are known.
    pub(crate) async fn meet(&self) {
        for url in &self.urls {
            let mut delay = FIRST_DELAY;
            loop {
                match self.meet_one(url).await {
                    Ok(()) => break,
                    Err(error) => tracing::warn!(url, %error, "authority not met yet"),
                }
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(MAX_DELAY);
            }
        }
    }

    async fn meet_one(&self, url: &str) -> anyhow::Result<()> {
        let answer = self.http.get(format!("{url}/v1/authority")).send().await?;
        let answer = answer.error_for_status()?;
        let mut info: AuthorityInfo = from_json(&bounded(answer).await?)?;
        info.now_ms = None;
        if info.tenant != self.tenant {
            bail!("it serves tenant {}, this aggregator {}", info.tenant, self.tenant);
        }
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(pinned) = known.iter().find(|known| known.url == url) {
            if pinned.info == info {
                return Ok(());
            }
            bail!("its keys are not those pinned before; jobs go on with the pinned ones");
        }
        if known.iter().any(|other| other.info.name == info.name) {
            bail!("another authority is called {} too", info.name);
        }
        let record = serde_json::to_vec(&info)?;
        self.store.commit(Batch::new().put_record(PIN, url, record)).await?;
        tracing::info!(url, name = %info.name, "authority pinned");
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.push(Known { url: url.to_owned(), info });
        Ok(())
    }

    /// Sends one request of a job to an authority.
    pub(crate) async fn ask(&self, to: &Name, job: &Hash, request: &Message) -> Answered {
        let Some(url) = self.url(to) else {
            return Answered::Later("its address is not known".to_owned());
        };
        let path = match request {
            Message::Register(_) => format!("{url}/v1/jobs"),
            Message::PromiseRequest(_) => format!("{url}/v1/jobs/{job}/promises"),
            Message::KeyRequest(_) => format!("{url}/v1/jobs/{job}/keys"),
            Message::KeyAsk(_) => format!("{url}/v1/jobs/{job}/key-posts"),
            Message::TombstoneRequest(_) => format!("{url}/v1/jobs/{job}/tombstones"),
            Message::Vertical(_) => format!("{url}/v1/jobs/{job}/vertical"),
            Message::Payments(_) => format!("{url}/v1/jobs/{job}/payments"),
            _ => return Answered::Later("no request to an authority".to_owned()),
        };
        let answer = match self.http.post(path).body(request.to_wire()).send().await {
            Ok(answer) => answer,
            Err(error) => return Answered::Later(error.without_url().to_string()),
        };
        let status = answer.status();
        let body = match bounded(answer).await {
            Ok(body) => body,
            Err(error) => return Answered::Later(error.to_string()),
        };
        if status.is_success() {
            return match Message::from_wire(&body) {
                Ok(message) => Answered::Message(message),
                Err(refusal) => Answered::Later(refusal.to_string()),
            };
        }
        // Only a code of the protocol is an answer for good; anything else, such as a proxy's own
        // error, may pass.
        let problem: ProblemBody = serde_json::from_slice(&body).unwrap_or_default();
        let code = Code::ALL.iter().copied().find(|code| code.as_str() == problem.code);
        match code {
            Some(code) if code != Code::Unavailable && status.is_client_error() => {
                let refusal = Refusal::new(code, problem.detail);
                Answered::Refused(problem.concerns.into_iter().fold(refusal, Refusal::concerning))
            }
            _ => Answered::Later(format!("status {status} {}", problem.code)),
        }
    }
}

/// A body of at most one control message.
async fn bounded(mut answer: reqwest::Response) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(reqwest::Error::without_url)? {
        if body.len() + part.len() > MESSAGE_BYTES {
            bail!("the answer is too long");
        }
        body.extend_from_slice(&part);
    }
    Ok(body)
}
