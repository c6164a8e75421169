//! Project chores, run as `cargo xtask NAME`:
//!
//! - `layers`: the four crates depend on each other in one direction only, and the two pure ones
//!   reach no input or output; `tfhe` is in none;
//! - `lab`: the binary that is served contains no laboratory scheme and no test switch.

mod lab;
mod layers;

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let findings = match (arguments.next().as_deref(), arguments.next()) {
        (Some("layers"), None) => layers(),
        (Some("lab"), None) => cargo(&lab::TREE).and_then(|tree| lab::check(&tree)),
        _ => Ok(vec!["usage: cargo xtask layers | lab".to_owned()]),
    };
    let findings = findings.unwrap_or_else(|error| vec![format!("{error:#}")]);
    for finding in &findings {
        eprintln!("xtask: {finding}");
    }
    if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn layers() -> Result<Vec<String>> {
    let text = cargo(&["metadata", "--format-version", "1", "--offline", "--locked"])?;
    layers::check(&serde_json::from_str(&text).context("reading cargo metadata")?)
}

/// Runs cargo and returns what it printed.
fn cargo(arguments: &[&str]) -> Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo).args(arguments).output().context("starting cargo")?;
    if !output.status.success() {
        bail!("cargo {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).context("cargo printed no UTF-8")
}
