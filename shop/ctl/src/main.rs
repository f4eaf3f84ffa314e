//! `shopctl`, the shop's command.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use shopctl::{load, orders, reconcile};
use tidings_client::{Format, Target, output};

/// Look at the shop's orders, cancel one, compare payments with the provider, put load on the shop
#[derive(Parser)]
#[command(name = "shopctl", version)]
struct Cli {
    #[command(flatten)]
    target: Target,
    /// Print JSON for programs instead of text for people
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List orders, show one with its history, cancel one
    Orders(orders::Args),
    /// Place many orders, wait until all have settled, report how it went
    Load(load::Args),
    /// Compare the provider's book with the ledger: exit code 0 if they agree, 1 if they differ, 2 on an error
    Reconcile(reconcile::Args),
}

// One thread: the commands wait for answers most of their time, and `load` shares the machine's cores with the shop
// it measures.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let format = Format::chosen(cli.json);
    // 1 is an answer of `reconcile`.
    let failure = match &cli.command {
        Command::Reconcile(_) => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    };
    let done = match cli.command {
        Command::Orders(args) => orders::run(args, &cli.target, format).await,
        Command::Load(args) => load::run(args, &cli.target, format).await,
        Command::Reconcile(args) => reconcile::run(args, &cli.target, format).await,
    };
    done.unwrap_or_else(|error| {
        output::report_error("shopctl", &error, "");
        failure
    })
}
