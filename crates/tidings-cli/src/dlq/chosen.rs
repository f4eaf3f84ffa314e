//! Dead letters that a change is for: ids, a filter or all; and what services say about them.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::process::ExitCode;

use jiff::Timestamp;
use serde_json::{Value, json};
use tidings_client::output::{self, grouped};
use tidings_client::{Error, Format};

use super::filter::Filter;
use super::{PATH, TIMES};
use crate::change::{Actor, Change};
use crate::draw;
use crate::services::{Service, Services};

/// Dead letters of one request, in the admin API.
pub(super) const CHUNK_MAX: usize = 1_000;

/// The dead letters that are meant: ids, filters, or all.
#[derive(clap::Args)]
pub(super) struct Which {
    /// Ids as `dlq list` shows them, such as payment:17
    #[arg(value_name = "ID", conflicts_with_all = ["all", "Filter"])]
    ids: Vec<String>,
    #[command(flatten)]
    filter: Filter,
    /// All dead letters
    #[arg(long)]
    all: bool,
}

impl Which {
    /// The choice of each service. Ends the program as `clap` does where nothing is chosen: all of them would be a
    /// surprise.
    pub(super) async fn of(&self, services: &mut Services) -> Result<Vec<(Service, Choice)>, Error> {
        if self.ids.is_empty() && self.filter.is_empty() && !self.all {
            crate::misuse("say which dead letters: their ids, filters such as --code or --since, or --all");
        }
        let named = services.by_name().await?;
        if !self.ids.is_empty() {
            let owners = named.owners(&self.ids)?;
            return Ok(owners.into_iter().map(|(service, ids)| (service, Choice::Ids(ids))).collect());
        }
        let chosen = named.chosen(self.filter.service.as_deref())?;
        let choice = |service: Service| {
            let filter = self.filter.of(&service.name);
            (service, Choice::Filter(Box::new(filter)))
        };
        Ok(chosen.into_iter().map(choice).collect())
    }

    /// True if somebody sits there who did not name every one, and has not agreed yet.
    pub(super) fn asks(&self, is_agreed: bool) -> bool {
        !is_agreed && self.ids.is_empty() && std::io::stdin().is_terminal()
    }
}

/// Dead letters of one service.
pub(super) enum Choice {
    Ids(Vec<String>),
    Filter(Box<Filter>),
}

impl Choice {
    /// Bodies that together ask for all of it. A filter is asked for again until nothing is left.
    pub(super) fn bodies(&self, chunk: usize) -> Vec<Value> {
        match self {
            Choice::Ids(ids) => ids.chunks(chunk).map(|ids| json!({"ids": ids, "limit": chunk})).collect(),
            Choice::Filter(filter) => vec![json!({"filter": filter.json(), "limit": chunk})],
        }
    }

    /// The dead letters that a change would be for, by the kind of failure. Nothing is changed.
    pub(super) async fn dry_run(
        &self,
        verb: &str,
        actor: &Actor,
        service: &mut Service,
    ) -> Result<Summary, Error> {
        let mut all = Summary::default();
        for mut body in self.bodies(CHUNK_MAX) {
            body["dry_run"] = true.into();
            let answer = service.post(&format!("{PATH}/{verb}"), &actor.body(body, None)).await?;
            all.add(Summary::read(answer)?);
        }
        Ok(all)
    }

    /// Says on stderr how many ids are no dead letters: brought back or discarded before, or never there.
    pub(super) fn tell_missing(&self, found: u64) {
        if let Choice::Ids(ids) = self
            && let missing @ 1.. = (ids.len() as u64).saturating_sub(found)
        {
            eprintln!(
                "tidings: {} of {} ids are no dead letters, or none any more",
                grouped(missing),
                ids.len()
            );
        }
    }

    pub(super) fn is_filter(&self) -> bool {
        matches!(self, Choice::Filter(_))
    }
}

/// Arguments of `tidings dlq discard`.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    /// Do not ask before a change of many
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    change: Change,
}

pub(super) async fn discard(args: Args, services: &mut Services, format: Format) -> Result<ExitCode, Error> {
    let mut work = args.which.of(services).await?;
    if args.which.asks(args.yes) {
        let mut count = 0;
        for (service, choice) in &mut work {
            count += choice.dry_run("discard", &args.change.actor, service).await?.total;
        }
        if count > 0 && !agreed("discard", count)? {
            return Ok(ExitCode::FAILURE);
        }
    }
    let mut discarded = 0;
    for (mut service, choice) in work {
        if let Err(error) = discard_at(&mut service, &choice, &args.change, &mut discarded).await {
            services.tell(&error);
        }
    }
    output::print(match format {
        Format::Json => json!({"discarded": discarded}).to_string(),
        Format::Text => format!("discarded {} dead letters", grouped(discarded)),
    })?;
    Ok(services.code())
}

async fn discard_at(
    service: &mut Service,
    choice: &Choice,
    change: &Change,
    discarded: &mut u64,
) -> Result<(), Error> {
    for body in choice.bodies(CHUNK_MAX) {
        let body = change.body(body);
        loop {
            let answer = service.post(&format!("{PATH}/discard"), &body).await?;
            let count = number(&answer, "discarded");
            *discarded += count;
            if !choice.is_filter() || count == 0 || number(&answer, "left") == 0 {
                break;
            }
        }
    }
    Ok(())
}

/// Asks the person who sits there.
pub(super) fn agreed(verb: &str, count: u64) -> Result<bool, Error> {
    eprint!("{verb} {} dead letters? [y/N] ", grouped(count));
    let mut answer = String::new();
    let read = std::io::stderr().flush().and_then(|()| std::io::stdin().lock().read_line(&mut answer));
    read.map_err(|error| Error::new(format!("cannot read the answer: {error}")))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

pub(super) fn number(answer: &Value, name: &str) -> u64 {
    answer[name].as_u64().unwrap_or(0)
}

/// Failures by their kind, of one service or several.
#[derive(Default)]
pub(super) struct Summary {
    pub(super) total: u64,
    groups: Vec<Value>,
}

impl Summary {
    pub(super) fn read(answer: Value) -> Result<Summary, Error> {
        let groups = answer["groups"].as_array().cloned().unwrap_or_default();
        let total = answer["total"].as_u64().or_else(|| answer["matched"].as_u64());
        let total = total.ok_or_else(|| Error::new(format!("expected a summary, got {answer}")))?;
        Ok(Summary { total, groups })
    }

    pub(super) fn add(&mut self, other: Summary) {
        self.total += other.total;
        self.groups.extend(other.groups);
        self.groups.sort_by_key(|group| std::cmp::Reverse(number(group, "count")));
    }

    /// The last failure of all.
    pub(super) fn last_failed(&self) -> Option<Timestamp> {
        self.groups.iter().filter_map(|group| group["last_failed_at"].as_str()?.parse().ok()).max()
    }

    pub(super) fn json(&self) -> Value {
        json!({"total": self.total, "groups": self.groups})
    }

    pub(super) fn groups(&self) -> &[Value] {
        &self.groups
    }

    pub(super) fn draw(&self, none: &str) -> String {
        let table = draw::table(
            &[
                ("COUNT", &["count"]),
                ("SERVICE", &["service"]),
                ("CODE", &["code"]),
                ("TYPE", &["event_type"]),
                ("FINGERPRINT", &["fingerprint"]),
                ("FIRST FAILED", &["first_failed_at"]),
                ("LAST FAILED", &["last_failed_at"]),
                ("EXAMPLE", &["example"]),
                ("MESSAGE", &["message"]),
            ],
            TIMES,
            &draw::without_code(&self.groups),
            none,
        );
        if self.groups.is_empty() { table } else { format!("{table}\n{} in all\n", grouped(self.total)) }
    }
}
