//! `quorate-tfhe`: PV4FAD's label-only mode, measured on generated payments.

mod bench;

use std::io::Write as _;

use clap::{Parser, Subcommand};
use quorate_tfhe::CARD;

#[derive(Parser)]
#[command(version, about, after_help = quorate_tfhe::PATENT_NOTICE)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train a forest in the clear on generated payments, predict through bank, network and key holder, and
    /// compare every answer with the plain one.
    Bench(bench::Bench),
    /// Print what the protocol promises, as JSON.
    Card,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Bench(args) => bench::run(&args),
        Command::Card => {
            writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&CARD)?)?;
            Ok(())
        }
    }
}
