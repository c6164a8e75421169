//! The command line, one file per command.

/// Prints a line to standard output. A reader that went away, such as `head`, ends the command
/// quietly.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::commands::write_line(format_args!($($text)*))
    };
}

mod cards;
mod client;
mod data;
mod demo;
mod dp;
mod facts;
mod job;
mod key;
mod party;
mod plain;
mod serve;

use clap::{Parser, Subcommand};

use crate::http::observe::{LogFormat, init_logs};

/// Secure aggregation: sums and models over data that stays where it is.
#[derive(Debug, Parser)]
#[command(name = "quorate", version, about, propagate_version = true)]
pub struct Cli {
    /// What to log to standard error, such as `info` or `warn,quorate_server=debug`.
    #[arg(long, global = true, env = "QUORATE_LOG")]
    log: Option<String>,
    /// Logs as one JSON object per line.
    #[arg(long, global = true, env = "QUORATE_LOG_JSON")]
    log_json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a key authority.
    Authority(serve::AuthorityArgs),
    /// Run the aggregator.
    Aggregator(serve::AggregatorArgs),
    /// Take part in a job with the data of a CSV file.
    Party(party::PartyArgs),
    /// Train one model at several parties on this machine, with faults or with noise.
    Demo(demo::DemoArgs),
    /// Train in the clear over recorded sets and print the model's hash.
    Plain(plain::PlainArgs),
    /// Measure one secure sum, one epoch of vertical training, or how well models find anomalous payments.
    Bench {
        #[command(subcommand)]
        what: BenchCommand,
    },
    /// Generate synthetic data.
    Data(data::DataArgs),
    /// Create, list, show, watch and cancel jobs, and fetch their results.
    Job(job::JobArgs),
    /// Rotate or show a party's keys.
    Key(key::KeyArgs),
    /// Print what each protocol and scheme promises.
    Cards(cards::CardsArgs),
    /// Print what noise costs in privacy, or how much of it a budget needs.
    Dp(dp::DpArgs),
    /// Print the log of facts of a service.
    Facts(facts::FactsArgs),
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// One sum under one scheme, with the bare primitives beside it.
    Sum(crate::bench::BenchSum),
    /// One epoch of vertical training, all roles in this process.
    Vertical(crate::bench::vertical::BenchVertical),
    /// A payment network alone, with its banks, with noise, and pooled.
    Payments(crate::bench::payments::BenchPayments),
}

fn write_line(text: std::fmt::Arguments<'_>) {
    use std::io::Write as _;
    if let Err(error) = writeln!(std::io::stdout().lock(), "{text}") {
        let quiet = error.kind() == std::io::ErrorKind::BrokenPipe;
        if !quiet {
            eprintln!("error: cannot write to standard output: {error}");
        }
        std::process::exit(i32::from(!quiet));
    }
}

/// Runs the command line.
///
/// # Errors
/// What the command could not do, and what to do about it.
pub async fn run(cli: Cli) -> anyhow::Result<()> {
    let serves = matches!(cli.command, Command::Authority(_) | Command::Aggregator(_));
    let filter = cli.log.unwrap_or_else(|| if serves { "info" } else { "warn" }.to_owned());
    let format = if cli.log_json { LogFormat::Json } else { LogFormat::Pretty };
    init_logs(format, &filter)?;
    match cli.command {
        Command::Authority(args) => serve::authority(args).await,
        Command::Aggregator(args) => serve::aggregator(args).await,
        Command::Party(args) => party::run(args).await,
        Command::Key(args) => key::run(args).await,
        Command::Demo(args) => demo::run(args).await,
        Command::Plain(args) => plain::run(&args),
        Command::Bench { what: BenchCommand::Sum(args) } => crate::bench::run(&args),
        Command::Bench { what: BenchCommand::Vertical(args) } => crate::bench::vertical::run(&args),
        Command::Bench { what: BenchCommand::Payments(args) } => crate::bench::payments::run(&args),
        Command::Data(args) => data::run(&args),
        Command::Job(args) => job::run(args).await,
        Command::Cards(args) => cards::run(&args),
        Command::Dp(args) => dp::run(&args),
        Command::Facts(args) => facts::run(args).await,
    }
}
