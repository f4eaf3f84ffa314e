//! `shopctl`, the shop's command.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use shopctl::{load, orders};
use tidings_client::{Format, Target, output};

/// Look at the shop's orders, cancel one, put load on the shop
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
}

// One thread: both commands wait for answers most of their time, and `load` shares the machine's cores with the shop
// it measures.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let format = Format::chosen(cli.json);
    let done = match cli.command {
        Command::Orders(args) => orders::run(args, &cli.target, format).await,
        Command::Load(args) => load::run(args, &cli.target, format).await,
    };
    done.unwrap_or_else(|error| {
        output::report_error("shopctl", &error, "");
        ExitCode::FAILURE
    })
}
