//! `quorate facts`: the log of a service.

use clap::Args;
use serde_json::Value;

use super::client::Client;

/// Arguments of `quorate facts`.
#[derive(Debug, Args)]
pub(super) struct FactsArgs {
    /// Address of an aggregator or authority.
    #[arg(long, default_value = "http://127.0.0.1:7100")]
    url: String,
    /// Only facts after this number.
    #[arg(long, default_value_t = 0)]
    after: u64,
    /// Only facts of this job.
    #[arg(long)]
    job: Option<String>,
    /// One JSON object per line.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: FactsArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.url)?;
    let mut after = args.after;
    loop {
        let job = args.job.as_ref().map(|job| format!("&job={job}")).unwrap_or_default();
        let page: Vec<Value> = client.json(&format!("/v1/facts?after={after}{job}")).await?;
        let Some(last) = page.last().and_then(|fact| fact["seq"].as_u64()) else {
            return Ok(());
        };
        after = last;
        for fact in page {
            if args.json {
                say!("{fact}");
            } else {
                say!("{}", line(&fact));
            }
        }
    }
}

fn line(fact: &Value) -> String {
    let text = |key: &str| fact[key].as_str().unwrap_or_default();
    let job: String = text("job").chars().take(8).collect();
    let body = &fact["body"];
    let at = match (body["round"].as_u64(), body["attempt"].as_u64()) {
        (Some(round), Some(attempt)) => format!(" round {round}.{attempt}"),
        _ => String::new(),
    };
    let code = body["code"].as_str().map(|code| format!(" {code}")).unwrap_or_default();
    let note = match (body["note"].as_str(), body["party"].as_str()) {
        (Some(note), _) => note.to_owned(),
        (None, Some(party)) => format!("{party} epoch {}", body["epoch"]),
        (None, None) => String::new(),
    };
    let seq = fact["seq"].as_u64().unwrap_or(0);
    format!("{seq:6} {job:8} {:12} {}{at}{code} {note}", text("actor"), text("predicate"))
}
