//! `tidings`, the operator's command for services of any kind: it looks into running ones and follows their topics.
//! It speaks HTTP only. `schema` judges a change of events before anything runs.
//!
//! # Layout
//!
//! One module a command: a `clap` struct and a `run`. `tidings_client` has the rest: the services that the operator
//! means, connections to them, tables and numbers. [`moved`] keeps the names of commands that live elsewhere now.

mod asyncapi;
mod moved;
mod schema;
mod status;
mod tail;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tidings_client::{Format, Target, output};

/// Look into running services, follow their topics, judge a change of their events
#[derive(Parser)]
#[command(name = "tidings", version)]
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
    /// Judge a change of events, record it, see who reads what
    Schema(schema::Args),
    /// Show every service's dependencies, backlog and lag
    Status,
    /// Show what is put on a topic, until Ctrl-C
    Tail(tail::Args),
    #[command(flatten)]
    Moved(moved::Command),
}

// One thread: every command waits for answers most of its time.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let format = Format::chosen(cli.json);
    let done = match cli.command {
        Command::Status => status::run(&cli.target, format).await,
        Command::Schema(args) => schema::run(args, &cli.target, format).await,
        Command::Tail(args) => tail::run(args, &cli.target, format).await,
        Command::Moved(command) => moved::run(command, &cli.target, format).await,
    };
    done.unwrap_or_else(|error| {
        output::report_error("tidings", &error, "");
        ExitCode::FAILURE
    })
}
