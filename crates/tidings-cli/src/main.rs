//! `tidings`, the operator's command for services of any kind: it looks into running ones, says
//! why something waits, and mends it.
//! It speaks HTTP only. `schema` judges a change of events before anything runs.
//!
//! # Layout
//!
//! One module a group of commands: a `clap` struct and a `run`. [`services`] asks all addresses at once, [`list`] puts
//! their pages together, [`draw`] is for people, [`change`] says who and why. `tidings_client` has the rest: connections,
//! tables and numbers. [`moved`] keeps the names of commands that live elsewhere now.

mod asyncapi;
mod input;
mod schema;
mod status;
mod tail;
mod services;
mod list;
mod draw;
mod change;
mod why;
mod events;
mod topics;
mod dlq;
mod outbox;
mod gaps;
mod effects;
mod pauses;
mod seek;
mod replay;
mod audit;
mod manual;
mod moved;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use tidings_client::{Error, Format, Target, output};

use pauses::Verb;

/// Look into running services, find out why something waits, mend it
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
    Status(status::Args),
    /// Show what a key waits for, and the command that would free it
    Why {
        /// The key of its events, such as an order's id
        #[arg(allow_hyphen_values = true)]
        key: String,
    },
    Events(events::Args),
    /// Show how far each group has read
    Lag,
    /// Show the topics, and who writes and reads them
    Topics,
    /// Show what is put on a topic, until Ctrl-C
    Tail(tail::Args),
    #[command(visible_alias = "dead")]
    Dlq(Box<dlq::Args>),
    Outbox(outbox::Args),
    Gaps(gaps::Args),
    Effects(effects::Args),
    /// Hold a service, a type, a key or effects back; nothing is dropped
    Pause(pauses::Args),
    /// Let go what was paused
    Resume(pauses::Args),
    /// Show what is paused, by whom and why
    Pauses,
    Seek(seek::Args),
    Replay(replay::Args),
    Audit(audit::Args),
    /// Judge a change of events, record it, see who reads what
    Schema(schema::Args),
    /// Print completions for a shell
    Completions {
        shell: Shell,
    },
    /// Print the manual page, or write one a command into a directory
    Man {
        /// The directory
        #[arg(value_name = "DIR")]
        folder: Option<PathBuf>,
    },
    #[command(flatten)]
    Moved(moved::Command),
}

// One thread: every command waits for answers most of its time.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Cli { target, json, command } = Cli::parse();
    run(command, &target, Format::chosen(json)).await.unwrap_or_else(|error| {
        output::report_error("tidings", &error, "");
        ExitCode::FAILURE
    })
}

async fn run(command: Command, target: &Target, format: Format) -> Result<ExitCode, Error> {
    match command {
        Command::Status(args) => status::run(args, target, format).await,
        Command::Why { key } => why::run(&key, target, format).await,
        Command::Events(args) => events::run(args, target, format).await,
        Command::Lag => topics::lag(target, format).await,
        Command::Topics => topics::list(target, format).await,
        Command::Tail(args) => tail::run(args, target, format).await,
        Command::Dlq(args) => dlq::run(*args, target, format).await,
        Command::Outbox(args) => outbox::run(args, target, format).await,
        Command::Gaps(args) => gaps::run(args, target, format).await,
        Command::Effects(args) => effects::run(args, target, format).await,
        Command::Pause(args) => pauses::run(args, Verb::Pause, target, format).await,
        Command::Resume(args) => pauses::run(args, Verb::Resume, target, format).await,
        Command::Pauses => pauses::list(target, format).await,
        Command::Seek(args) => seek::run(args, target, format).await,
        Command::Replay(args) => replay::run(args, target, format).await,
        Command::Audit(args) => audit::run(args, target, format).await,
        Command::Schema(args) => schema::run(args, target, format).await,
        Command::Completions { shell } => manual::completions(shell),
        Command::Man { folder } => manual::man(folder),
        Command::Moved(command) => moved::run(command, target, format).await,
    }
}

/// Ends the program as `clap` does: the command line does not say enough.
fn misuse(message: &str) -> ! {
    Cli::command().error(ErrorKind::MissingRequiredArgument, message).exit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_flags_of_a_command_are_in_each_others_way() {
        Cli::command().debug_assert();
    }

    /// The words of a command line. Quotes hold together what is in them.
    fn words(line: &str) -> Vec<String> {
        let parts = line.split('\'').enumerate();
        let quoted = |(number, part): (usize, &str)| {
            if number % 2 == 1 {
                vec![part.to_owned()]
            } else {
                part.split_whitespace().map(str::to_owned).collect()
            }
        };
        parts.flat_map(quoted).collect()
    }

    #[test]
    fn every_command_of_the_docs_is_one() {
        let pages = [
            include_str!("../../../docs/operating.md"),
            include_str!("../../../docs/dead-letters.md"),
            include_str!("../../../docs/runbook.md"),
        ];
        let code = pages.iter().flat_map(|page| page.split('`').skip(1).step_by(2));
        let commands: Vec<&str> =
            code.filter(|code| code.starts_with("tidings ") && !code.ends_with('…')).collect();
        assert!(commands.len() > 75, "{commands:?}");
        for command in commands {
            let help =
                |error: &clap::Error| error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
            match Cli::try_parse_from(words(command)) {
                Err(error) if !help(&error) => panic!("{command}: {error}"),
                _ => {}
            }
        }
    }
}
