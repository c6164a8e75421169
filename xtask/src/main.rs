//! Project chores, run as `cargo xtask NAME`:
//!
//! - `layers`: the four crates depend on each other in one direction only, and the two pure ones
//!   reach no input or output;
//! - `lab`: the binary that is served contains no laboratory scheme and no test switch.

mod lab;
mod layers;

use std::process::Command;

use anyhow::{Context as _, Result, bail};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (task, findings) = match (arguments.next().as_deref(), arguments.next()) {
        (Some("layers"), None) => {
            let text = cargo(&["metadata", "--format-version", "1", "--offline", "--locked"])?;
            let metadata = serde_json::from_str(&text).context("reading cargo metadata")?;
            ("layers", layers::check(&metadata)?)
        }
        (Some("lab"), None) => {
            let tree = cargo(&[
                "tree",
                "--locked",
                "--offline",
                "--package",
                lab::SERVED,
                "--edges",
                "normal,build,features",
                "--prefix",
                "none",
            ])?;
            ("lab", lab::check(&tree)?)
        }
        _ => bail!("usage: cargo xtask layers | lab"),
    };
    for finding in &findings {
        eprintln!("xtask {task}: {finding}");
    }
    match findings.len() {
        0 => {
            println!("xtask {task}: ok");
            Ok(())
        }
        count => bail!("{count} violation(s)"),
    }
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
