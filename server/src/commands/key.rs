//! `quorate key`: a party's long-term keys.
//!
//! The party must be stopped meanwhile: a running one holds its store's lock.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use quorate_client::engine::StoredIdentity;
use quorate_client::keys;
use quorate_client::store::{DATABASE, Store, StoreError};
use quorate_client::transport::Transport;
use quorate_protocols::wire::Name;

/// Arguments of `quorate key`.
#[derive(Debug, Args)]
pub(super) struct KeyArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Replace a party's keys by those of a new epoch, at every authority it is enrolled at.
    ///
    /// Stop the party first. The new keys are signed by the old ones, which are erased once every
    /// authority has confirmed; interrupted, the same command goes on with the same keys. When the
    /// party next starts, it burns its open labels and joins its jobs again with the new keys.
    Rotate {
        /// Folder of the party's store.
        #[arg(long, value_name = "DIR")]
        store: PathBuf,
        /// Address of an authority; those the party has used before need not be named.
        #[arg(long = "authority", value_name = "URL")]
        authorities: Vec<String>,
        /// How long an unreachable authority is tried again, in seconds.
        #[arg(long, default_value_t = 60)]
        patience: u64,
    },
    /// Print a party's public keys.
    Show {
        /// Folder of the party's store.
        #[arg(long, value_name = "DIR")]
        store: PathBuf,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Runs `quorate key`.
///
/// # Errors
/// What could not be done, and what to do about it.
pub(super) async fn run(args: KeyArgs) -> anyhow::Result<()> {
    match args.action {
        Action::Rotate { store, authorities, patience } => {
            let (store, name) = open(store).await?;
            rotate(&store, &name, authorities, Duration::from_secs(patience)).await
        }
        Action::Show { store, json } => {
            let (store, name) = open(store).await?;
            show(&store, &name, json).await
        }
    }
}

/// The store of a stopped party, and its name.
pub(super) async fn open(dir: PathBuf) -> anyhow::Result<(Store, Name)> {
    if !dir.join(DATABASE).is_file() {
        bail!("{} is no store of a party", dir.display());
    }
    let store = match Store::open(&dir).await {
        Err(StoreError::Locked(_)) => {
            bail!("{} is in use; stop the party first", dir.display())
        }
        done => done?,
    };
    let name = keys::party_of(&store).await?;
    let name = name.with_context(|| format!("{} is no store of a party", dir.display()))?;
    Ok((store, name))
}

async fn rotate(
    store: &Store,
    name: &Name,
    named: Vec<String>,
    patience: Duration,
) -> anyhow::Result<()> {
    let http = Transport::new(patience)?;
    let mut urls = keys::known_urls(store).await?;
    urls.extend(named.iter().map(|url| url.trim_end_matches('/').to_owned()));
    let mut authorities: Vec<keys::PinnedAuthority> = Vec::new();
    for url in urls {
        let known = authorities.iter().any(|authority| authority.url == url);
        if known {
            continue;
        }
        // An authority that moved is found at the address that is given now.
        match keys::meet_authority(store, &http, &url).await {
            Ok((authority, _)) => {
                authorities.retain(|known| known.key.name != authority.key.name);
                authorities.push(authority);
            }
            Err(error) if !named.is_empty() && !named.contains(&url) => {
                tracing::warn!(%error, url, "passed over");
            }
            Err(error) => return Err(error.into()),
        }
    }
    let (keys, _) = keys::rotate(store, &http, name, &authorities).await?;
    say!("{name}: key epoch {}, confirmed by {} authorities", keys.epoch, authorities.len());
    Ok(())
}

async fn show(store: &Store, name: &Name, json: bool) -> anyhow::Result<()> {
    let keys = StoredIdentity::load(store, name.as_str()).await?;
    let keys = keys.context("the party has no keys yet; it makes them when it first connects")?;
    let entry = keys::entry(name, &keys);
    let (verify, exchange) = (hex::encode(entry.verify.0), hex::encode(entry.exchange.0));
    if json {
        let shown = serde_json::json!({
            "party": name, "epoch": entry.epoch, "verify": verify, "exchange": exchange,
        });
        say!("{shown}");
    } else {
        say!(
            "party     {name}\nepoch     {}\nverify    {verify}\nexchange  {exchange}",
            entry.epoch
        );
    }
    Ok(())
}
