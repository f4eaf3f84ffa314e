//! `tidings`, the operator's command: it looks into a running shop, acts on it and puts load on
//! it. It speaks HTTP only, so it works on any shop that keeps to the contract. `schema` judges a change before
//! anything runs.
//!
//! # Layout
//!
//! One module a command: a `clap` struct and a `run`. Below them [`target`] (which services the
//! operator means), [`client`] (a connection to one), [`output`] (tables, numbers) and [`error`].

mod asyncapi;
mod client;
mod error;
mod load;
mod orders;
mod output;
mod schema;
mod status;
mod tail;
mod target;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Look into a running shop, act on it, put load on it
#[derive(Parser)]
#[command(name = "tidings", version)]
struct Cli {
    #[command(flatten)]
    target: target::Target,
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
    /// Judge a change of events, record it, see who reads what
    Schema(schema::Args),
    /// Show every service's dependencies, backlog and lag
    Status,
    /// Show what is put on a topic, until Ctrl-C
    Tail(tail::Args),
    /// Place many orders, wait until all have settled, report how it went
    Load(load::Args),
}

// One thread: every command waits for answers most of its time, and `load` shares the machine's
// cores with the shop it measures.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let format = output::Format::chosen(cli.json);
    let done = match cli.command {
        Command::Orders(args) => orders::run(args, &cli.target, format).await,
        Command::Status => status::run(&cli.target, format).await,
        Command::Schema(args) => schema::run(args, &cli.target, format).await,
        Command::Tail(args) => tail::run(args, &cli.target, format).await,
        Command::Load(args) => load::run(args, &cli.target, format).await,
    };
    done.unwrap_or_else(|error| {
        output::complain(&error, "");
        ExitCode::FAILURE
    })
}
