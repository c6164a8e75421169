//! `quorate cards`: what each protocol and scheme promises.

use clap::Args;
use quorate_crypto::schemes;
use quorate_protocols::registry::PROTOCOLS;
use serde_json::{Value, json};

/// Arguments of `quorate cards`.
#[derive(Debug, Args)]
pub(super) struct CardsArgs {
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &CardsArgs) -> anyhow::Result<()> {
    if args.json {
        say!("{}", serde_json::to_string_pretty(&as_json()?)?);
    } else {
        print!("{}", as_text());
    }
    Ok(())
}

fn as_json() -> anyhow::Result<Value> {
    let mut protocols = Vec::new();
    for protocol in PROTOCOLS {
        let mut card = serde_json::to_value(protocol.card)?;
        card["id"] = protocol.id.into();
        card["name"] = protocol.name.into();
        protocols.push(card);
    }
    let schemes: Vec<Value> = schemes::all()
        .iter()
        .map(|scheme| {
            let info = scheme.info();
            let steps: Vec<&str> = info.steps.iter().map(|step| step.name).collect();
            json!({
                "id": info.id, "name": info.name, "family": info.family, "steps": steps,
                "served": info.served, "source": info.source, "leakage": info.leakage,
            })
        })
        .collect();
    Ok(json!({ "protocols": protocols, "schemes": schemes }))
}

fn as_text() -> String {
    let mut out = String::new();
    let mut line = |label: &str, text: &str| out.push_str(&paragraph(label, text));
    for protocol in PROTOCOLS {
        let card = protocol.card;
        line(protocol.name, card.protocol);
        line("  phase", card.phase);
        for guarantee in card.guarantees {
            line(&format!("  {} learns", guarantee.role), guarantee.learns);
        }
        line("  utility", card.utility);
        line("  leakage", card.leakage);
        for assumption in card.assumptions {
            line("  assumes", assumption);
        }
        line("", "");
    }
    for scheme in schemes::all().iter().map(|scheme| scheme.info()) {
        line(&format!("scheme {}", scheme.name), scheme.source);
        line("  leakage", scheme.leakage);
    }
    out
}

/// A label and a text beside it, folded at 100 columns.
fn paragraph(label: &str, text: &str) -> String {
    const MARGIN: usize = 22;
    const WIDTH: usize = 78;
    let mut out = format!("{label:MARGIN$}");
    let mut column = 0;
    for word in text.split_whitespace() {
        if column > 0 && column + word.len() >= WIDTH {
            out.push('\n');
            out.push_str(&" ".repeat(MARGIN));
            column = 0;
        } else if column > 0 {
            out.push(' ');
        }
        out.push_str(word);
        column += word.len() + 1;
    }
    format!("{}\n", out.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_protocol_and_scheme_has_a_card() {
        let cards = as_json().unwrap();
        let names = |list: &Value| -> Vec<String> {
            let all = list.as_array().unwrap().iter();
            all.map(|card| card["name"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(names(&cards["protocols"]), ["hybrid-alpha", "threshold", "fedv", "pv4fad"]);
        assert!(names(&cards["schemes"]).contains(&"pad".to_owned()));
        let text = as_text();
        for word in ["hybrid-alpha", "authority learns", "utility", "scheme ddh-mcfe"] {
            assert!(text.contains(word), "{word}");
        }
        assert!(text.lines().all(|line| line.len() <= 100));
    }
}
