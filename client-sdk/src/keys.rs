//! A party's keys: pins of the services it deals with, enrolment, and rotation to a new epoch.
//!
//! A service's keys are trusted on first use and pinned in the party's store; other keys under the
//! same name or address are refused from then on.
//!
//! Rotation stores the new keys before the first authority hears of them and forgets the old ones
//! after the last has confirmed, so it may be interrupted anywhere and asked for again.

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_crypto::keys::VerifyKey;
use quorate_protocols::enrol::{Enroll, EnrollRequest, Enrolled};
use quorate_protocols::job::{AuthorityKey, RosterEntry};
use quorate_protocols::machine::Fact;
use quorate_protocols::wire::{Name, Signed, decode, encode};

use crate::api::{AggregatorInfo, AuthorityInfo, MAX_JSON_BYTES, from_json};
use crate::engine::{StoredIdentity, load_or_create_identity, log_line};
use crate::party::PartyError;
use crate::store::{Batch, Store};
use crate::transport::{Ask, CallError, Transport};

const PIN: &str = "pin";
const CERTIFICATE: &str = "certificate";
/// Longest certificate read, in bytes.
const MAX_CERTIFICATE_BYTES: usize = 4096;

/// An authority whose keys are pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedAuthority {
    /// Where it is.
    pub url: String,
    /// Its keys.
    pub key: AuthorityKey,
    /// Tenant it serves.
    pub tenant: Name,
}

/// Certificates of the party's current keys, by authority.
pub type Certificates = BTreeMap<Name, Signed<Enrolled>>;

/// Public part of stored keys.
#[must_use]
pub fn entry(name: &Name, keys: &StoredIdentity) -> RosterEntry {
    RosterEntry {
        party: name.clone(),
        epoch: keys.epoch,
        verify: keys.identity.verify_key(),
        exchange: keys.identity.exchange_key(),
    }
}

/// Name under which keys wait for their confirmation; no party can have it.
fn pending(name: &Name) -> String {
    format!("{name}/next")
}

/// Stores `value` under a pin, or checks it against the stored one.
async fn pin(store: &Store, key: &str, value: Vec<u8>) -> Result<(), PartyError> {
    match store.get_record(PIN, key).await? {
        Some(known) if known == value => Ok(()),
        Some(_) => Err(PartyError::ChangedPin(key.to_owned())),
        None => {
            store.commit(Batch::new().insert_new_record(PIN, key, value)).await?;
            Ok(())
        }
    }
}

/// Binds a store to one party, whose keys and labels it holds.
///
/// # Errors
/// [`PartyError::ChangedPin`] when the store belongs to another party.
pub async fn pin_party(store: &Store, name: &Name) -> Result<(), PartyError> {
    pin(store, "party", name.as_str().as_bytes().to_vec()).await
}

/// The party a store belongs to, if any.
///
/// # Errors
/// Failures of the store.
pub async fn party_of(store: &Store) -> Result<Option<Name>, PartyError> {
    let name = store.get_record(PIN, "party").await?;
    name.map(|name| Ok(Name::new(&String::from_utf8_lossy(&name))?)).transpose()
}

/// Asks an authority who it is, and pins it.
///
/// # Errors
/// [`PartyError::ChangedPin`] when its keys are not the pinned ones, [`PartyError::Call`].
pub async fn meet_authority(
    store: &Store,
    http: &Transport,
    url: &str,
) -> Result<(PinnedAuthority, Option<u64>), PartyError> {
    let url = url.trim_end_matches('/').to_owned();
    let peer = format!("the authority at {url}");
    let ask = Ask::get(format!("{url}/v1/authority"));
    let answer = http.insist(&peer, &ask, MAX_JSON_BYTES).await?;
    let info: AuthorityInfo = from_json(&answer).map_err(|e| CallError::bad_answer(&peer, &e))?;
    let key = info.key();
    pin(store, &format!("authority {}", key.name), encode(&key)).await?;
    pin(store, &format!("url {url}"), encode(&key.name)).await?;
    Ok((PinnedAuthority { url, key, tenant: info.tenant }, info.now_ms))
}

/// Asks the aggregator who it is, and pins it.
///
/// # Errors
/// As [`meet_authority`].
pub async fn meet_aggregator(
    store: &Store,
    http: &Transport,
    url: &str,
) -> Result<AggregatorInfo, PartyError> {
    let peer = "the aggregator";
    let ask = Ask::get(format!("{url}/v1/aggregator"));
    let answer = http.insist(peer, &ask, MAX_JSON_BYTES).await?;
    let info: AggregatorInfo = from_json(&answer).map_err(|e| CallError::bad_answer(peer, &e))?;
    pin(store, "aggregator", info.verify.0.to_vec()).await?;
    Ok(info)
}

/// Addresses of all authorities this store ever enrolled at.
///
/// # Errors
/// Failures of the store.
pub async fn known_urls(store: &Store) -> Result<Vec<String>, PartyError> {
    let pins = store.list_records(PIN, "url ").await?;
    Ok(pins.iter().filter_map(|(key, _)| key.strip_prefix("url ").map(str::to_owned)).collect())
}

/// Enrols the stored keys, made on first use, at each authority; finishes a rotation that was
/// interrupted.
///
/// # Errors
/// [`PartyError::Call`] when an authority refuses, failures of the store.
pub async fn enrol(
    store: &Store,
    http: &Transport,
    name: &Name,
    authorities: &[PinnedAuthority],
) -> Result<(StoredIdentity, Certificates), PartyError> {
    let keys = load_or_create_identity(store, name.as_str()).await?;
    if StoredIdentity::load(store, &pending(name)).await?.is_some() {
        return rotate(store, http, name, authorities).await;
    }
    let mut certificates = Certificates::new();
    for authority in authorities {
        let id = authority.key.name.as_str();
        let stored = match store.get_record(CERTIFICATE, id).await? {
            Some(bytes) => Some(decode::<Signed<Enrolled>>(&bytes)?),
            None => None,
        };
        let valid = stored.filter(|signed| certifies(signed, authority, &entry(name, &keys)));
        let signed = match valid {
            Some(signed) => signed,
            None => {
                let signed = certify(http, name, authority, &keys, None).await?;
                store.commit(Batch::new().put_record(CERTIFICATE, id, encode(&signed))).await?;
                signed
            }
        };
        certificates.insert(authority.key.name.clone(), signed);
    }
    Ok((keys, certificates))
}

/// Replaces the stored keys by those of a new epoch, signed by the old ones, at every authority.
///
/// Jobs under way continue with the new keys: their open labels are burned, and the party asks to
/// be invited again when it next runs.
///
/// # Errors
/// [`PartyError::Config`] when an authority that knows the old keys is not among `authorities`;
/// [`PartyError::Call`]; failures of the store. Asked for again, the same rotation goes on.
///
/// # Security
/// The old secrets are erased from the database and its log; copies kept by the file system or
/// device are out of reach.
pub async fn rotate(
    store: &Store,
    http: &Transport,
    name: &Name,
    authorities: &[PinnedAuthority],
) -> Result<(StoredIdentity, Certificates), PartyError> {
    for (key, _) in store.list_records(PIN, "authority ").await? {
        let known =
            |a: &PinnedAuthority| key.strip_prefix("authority ") == Some(a.key.name.as_str());
        if !authorities.iter().any(known) {
            return Err(PartyError::Config(format!("{key} knows the old keys: name it too")));
        }
    }
    let old = load_or_create_identity(store, name.as_str()).await?;
    let slot = pending(name);
    let new = match StoredIdentity::load(store, &slot).await? {
        Some(new) => new,
        None => {
            let new = StoredIdentity::generate(old.epoch.saturating_add(1));
            store.commit(new.put(Batch::new(), &slot)).await?;
            new
        }
    };
    let mut certificates = Certificates::new();
    for authority in authorities {
        let signed = certify(http, name, authority, &new, Some(&old)).await?;
        certificates.insert(authority.key.name.clone(), signed);
    }
    let mut batch = StoredIdentity::erase(new.put(Batch::new(), name.as_str()), &slot);
    for (authority, signed) in &certificates {
        batch = batch.put_record(CERTIFICATE, authority.as_str(), encode(signed));
    }
    let fact = Fact::job("key.rotated", format!("epoch {}", new.epoch));
    store.commit(batch.fact(log_line("", name.as_str(), &fact))).await?;
    store.scrub().await?;
    Ok((new, certificates))
}

/// Asks one authority to certify keys.
async fn certify(
    http: &Transport,
    name: &Name,
    authority: &PinnedAuthority,
    keys: &StoredIdentity,
    old: Option<&StoredIdentity>,
) -> Result<Signed<Enrolled>, PartyError> {
    let entry = entry(name, keys);
    let enroll = Enroll { tenant: authority.tenant.clone(), entry: entry.clone() };
    let request =
        EnrollRequest::new(enroll, &keys.identity, old.map(|old| Arc::as_ref(&old.identity)));
    let peer = format!("authority {}", authority.key.name);
    let ask = Ask::post(format!("{}/v1/enrollments", authority.url), encode(&request));
    let answer = http.insist(&peer, &ask, MAX_CERTIFICATE_BYTES).await?;
    let signed: Signed<Enrolled> = decode(&answer).map_err(|e| CallError::bad_answer(&peer, &e))?;
    if !certifies(&signed, authority, &entry) {
        let why = "the certificate is not of these keys by the pinned authority".to_owned();
        return Err(CallError::BadAnswer { peer, why }.into());
    }
    Ok(signed)
}

fn certifies(signed: &Signed<Enrolled>, authority: &PinnedAuthority, entry: &RosterEntry) -> bool {
    let AuthorityKey { name, epoch, verify, exchange } = &authority.key;
    let verify: &VerifyKey = verify;
    signed.verify(verify).is_ok_and(|certificate| {
        certificate.authority == *name
            && certificate.authority_epoch == *epoch
            && certificate.verify == *verify
            && certificate.exchange == *exchange
            && certificate.tenant == authority.tenant
            && certificate.entry == *entry
    })
}
