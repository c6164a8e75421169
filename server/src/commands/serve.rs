//! `quorate authority` and `quorate aggregator`.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use quorate_protocols::job::Minima;
use quorate_protocols::wire::Name;
use tokio::net::TcpListener;

use crate::http::serve::signals;
use crate::http::{Access, Limits};
use crate::{aggregator, authority};

/// What both services need.
#[derive(Debug, Args)]
struct Common {
    /// Tenant of the deployment.
    #[arg(long, default_value = "default", value_parser = parse_name)]
    tenant: Name,
    /// Folder of the store; made if it is not there.
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// Take plain HTTP from other machines too: only where the network itself authenticates.
    #[arg(long)]
    plain_http_from_anyone: bool,
}

impl Common {
    const fn access(&self) -> Access {
        if self.plain_http_from_anyone { Access::Anyone } else { Access::Loopback }
    }
}

/// Arguments of `quorate authority`.
#[derive(Debug, Args)]
pub(super) struct AuthorityArgs {
    /// Its id, as manifests name it.
    #[arg(long, value_parser = parse_name)]
    name: Name,
    #[command(flatten)]
    common: Common,
    /// Address to listen on; port 0 takes any free one.
    #[arg(long, default_value = "127.0.0.1:7101")]
    listen: String,
    /// Least k_min in a manifest it signs off.
    #[arg(long, default_value_t = 2)]
    min_k: u32,
    /// Least c in a manifest it signs off.
    #[arg(long, default_value_t = 0)]
    min_colluders: u32,
    /// Address of the aggregator, from which it fetches the ciphertexts of threshold jobs; without
    /// it, such jobs are refused.
    #[arg(long, value_name = "URL", env = "QUORATE_AGGREGATOR")]
    aggregator: Option<String>,
    /// Refuse jobs that add no noise.
    #[arg(long)]
    require_privacy: bool,
    /// The most epsilon that each data set may spend here, whatever its jobs allow; jobs without noise
    /// are then refused.
    #[arg(long, value_name = "EPSILON", value_parser = parse_epsilon, requires = "accounts")]
    max_epsilon: Option<f64>,
    /// A data set that jobs with noise may name, once for each; one name for all data of the same
    /// parties, since every name has an account of its own.
    #[arg(long = "data-set", value_name = "NAME", value_parser = parse_name, group = "accounts")]
    data_sets: Vec<Name>,
    /// Let jobs name any data set: whoever creates jobs then opens a fresh account with each new name.
    #[arg(long, group = "accounts", conflicts_with = "data_sets")]
    any_data_set: bool,
}

/// Arguments of `quorate aggregator`.
#[derive(Debug, Args)]
pub(super) struct AggregatorArgs {
    #[command(flatten)]
    common: Common,
    /// Address to listen on; port 0 takes any free one.
    #[arg(long, default_value = "127.0.0.1:7100")]
    listen: String,
    /// Address of an authority, 1 to 4 times.
    #[arg(long = "authority", value_name = "URL", required = true)]
    authorities: Vec<String>,
}

fn parse_name(text: &str) -> Result<Name, String> {
    Name::new(text).map_err(|refusal| refusal.detail)
}

fn parse_epsilon(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(epsilon) if epsilon.is_finite() && epsilon > 0.0 => Ok(epsilon),
        _ => Err("epsilon is a positive number".to_owned()),
    }
}

async fn listen(address: &str) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}; choose another --listen"))?;
    let mut out = std::io::stdout();
    writeln!(out, "listening on {}", listener.local_addr()?)?;
    out.flush()?;
    Ok(listener)
}

pub(super) async fn authority(args: AuthorityArgs) -> anyhow::Result<()> {
    let minima = Minima {
        k_min: args.min_k,
        colluders: args.min_colluders,
        authorities: 1,
        accepted: Vec::new(),
        require_noise: args.require_privacy,
        data_sets: args.data_sets,
    };
    let config = authority::Config {
        name: args.name,
        access: args.common.access(),
        tenant: args.common.tenant,
        store: args.common.store,
        minima,
        aggregator: args.aggregator.map(|url| url.trim_end_matches('/').to_owned()),
        max_epsilon: args.max_epsilon,
        limits: Limits::default(),
    };
    let stop = signals()?;
    authority::run(config, listen(&args.listen).await?, stop).await
}

pub(super) async fn aggregator(args: AggregatorArgs) -> anyhow::Result<()> {
    let config = aggregator::Config {
        access: args.common.access(),
        tenant: args.common.tenant,
        store: args.common.store,
        authorities: args.authorities,
        limits: aggregator::limits(),
    };
    let stop = signals()?;
    aggregator::run(config, listen(&args.listen).await?, stop).await
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: AuthorityArgs,
    }

    #[test]
    fn an_authority_with_a_limit_says_of_which_data() {
        let parse = |line: &str| {
            let whole = format!("authority --name a --store s{line}");
            Line::try_parse_from(whole.split(' ')).map(|line| line.args)
        };
        let args = parse(" --max-epsilon 1.5 --data-set books --data-set trips").unwrap();
        let names: Vec<&str> = args.data_sets.iter().map(Name::as_str).collect();
        assert_eq!((args.max_epsilon, names), (Some(1.5), vec!["books", "trips"]));
        assert!(parse(" --max-epsilon 1.5 --any-data-set").unwrap().any_data_set);
        assert!(parse(" --require-privacy").unwrap().require_privacy);
        let args = parse("").unwrap();
        assert!(!args.require_privacy && args.max_epsilon.is_none() && args.data_sets.is_empty());
        for line in [
            " --max-epsilon 1.5",
            " --max-epsilon 0 --any-data-set",
            " --any-data-set --data-set books",
            " --data-set not/a/name",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
