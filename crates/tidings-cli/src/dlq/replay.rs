//! `tidings dlq replay`: dead letters wait for their turn again, chunk by chunk, until too many of them die again.
//!
//! The services keep the state: a chunk that was brought back is not dead any more, so the command can be interrupted
//! and run again. What dies again meanwhile is left for the next run.

use std::process::ExitCode;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tidings_client::output::{self, grouped};
use tidings_client::{Error, Format};
use tokio::time::{Instant, sleep, sleep_until};

use super::PATH;
use super::chosen::{CHUNK_MAX, Choice, Summary, Which, agreed, number};
use super::filter::Filter;
use crate::change::{Actor, reason};
use crate::services::{Service, Services};

/// Fewer than this that are dead again prove nothing.
const DEAD_AGAIN_MIN: u64 = 10;
/// A chunk is given this long to be handled before the next one follows it, and the last one before the end: a thousand
/// are handled in less. Those that take longer are not waited for, and count as not tried yet.
const SETTLE_MAX: Duration = Duration::from_millis(100);
const SETTLE_LAST_MAX: Duration = Duration::from_secs(2);
const SETTLE_PAUSE: Duration = Duration::from_millis(10);
/// The exit code when too many are dead again.
const TOO_MANY: u8 = 2;

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    /// Change nothing; count what would come back, by the kind of failure
    #[arg(long)]
    dry_run: bool,
    /// Bring back at most this many a second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Stop when more than this share of those tried, and at least ten, are dead again
    #[arg(long, value_name = "PERCENT", default_value_t = 20, value_parser = clap::value_parser!(u8).range(0..=100))]
    max_failures: u8,
    /// Do not ask before a change of many
    #[arg(long)]
    yes: bool,
    /// Reason, recorded in the audit
    #[arg(long, value_name = "TEXT", value_parser = reason, required_unless_present = "dry_run")]
    reason: Option<String>,
    #[command(flatten)]
    actor: Actor,
}

pub(super) async fn run(args: Args, services: &mut Services, format: Format) -> Result<ExitCode, Error> {
    let mut work = args.which.of(services).await?;
    if args.dry_run || args.which.asks(args.yes) {
        let mut summary = Summary::default();
        for (service, choice) in &mut work {
            match choice.dry_run("redrive", &args.actor, service).await {
                Ok(one) => summary.add(one),
                Err(error) => services.tell(&error),
            }
        }
        if args.dry_run {
            output::print(match format {
                Format::Json => json!({"matched": summary.total, "groups": summary.groups()}).to_string(),
                Format::Text => summary.draw("no dead letters match"),
            })?;
            return Ok(services.code());
        }
        if summary.total > 0 && !agreed("bring back", summary.total)? {
            return Ok(ExitCode::FAILURE);
        }
    }
    let mut all = Report::default();
    for (mut service, choice) in work {
        let mut report = Report::default();
        let done = redrive(&args, &mut service, &choice, &mut report).await;
        all.add(&report);
        match done {
            Ok(()) if report.is_stopped => break,
            Ok(()) => {}
            Err(error) => services.tell(&error),
        }
    }
    output::print(match format {
        Format::Json => all.json().to_string(),
        Format::Text => all.to_string(),
    })?;
    Ok(if all.is_stopped { ExitCode::from(TOO_MANY) } else { services.code() })
}

/// Brings back what was chosen of one service.
async fn redrive(
    args: &Args,
    service: &mut Service,
    choice: &Choice,
    report: &mut Report,
) -> Result<(), Error> {
    let chunk = args.rate.map_or(CHUNK_MAX, |rate| CHUNK_MAX.min(rate as usize));
    let matched = choice.dry_run("redrive", &args.actor, service).await?;
    choice.tell_missing(matched.total);
    // By the service's own clock. What fails from then on, for the first time or again, is not of this run.
    let Some(start) = matched.last_failed().map(|last| last + Duration::from_micros(1)) else {
        return Ok(());
    };
    let fate = Fate::new(service, choice, start).await?;
    let mut pace = Pace { rate: args.rate, since: Instant::now(), done: 0 };
    let choice = match choice {
        Choice::Filter(filter) => &Choice::Filter(Box::new(filter.before(start))),
        ids @ Choice::Ids(_) => ids,
    };
    for body in choice.bodies(chunk) {
        let body = args.actor.body(body, args.reason.as_deref());
        loop {
            let answer = service.post(&format!("{PATH}/redrive"), &body).await?;
            let count = number(&answer, "redriven");
            report.take(&answer);
            pace.done += count;
            let left = matched.total.saturating_sub(report.redriven + report.quarantined);
            let wait = if left == 0 { SETTLE_LAST_MAX } else { SETTLE_MAX };
            (report.waiting, report.dead_again) = fate.settled(service, wait).await?;
            report.tell_progress(&service.name, left);
            if report.stops(args.max_failures) {
                return Ok(());
            }
            if !choice.is_filter() || count == 0 || left == 0 {
                break;
            }
            pace.wait().await;
        }
        if !choice.is_filter() {
            pace.wait().await;
        }
    }
    Ok(())
}

struct Pace {
    rate: Option<u32>,
    since: Instant,
    done: u64,
}

impl Pace {
    async fn wait(&self) {
        if let Some(rate) = self.rate {
            sleep_until(self.since + Duration::from_secs_f64(self.done as f64 / f64::from(rate))).await;
        }
    }
}

/// The fate of those that were brought back, as summaries tell it.
struct Fate {
    dead: String,
    waiting: String,
    /// Those of an earlier redrive, which waited or were dead already.
    waited: u64,
    died: u64,
}

impl Fate {
    async fn new(service: &mut Service, choice: &Choice, start: Timestamp) -> Result<Fate, Error> {
        let filter = match choice {
            Choice::Filter(filter) => Filter::clone(filter),
            Choice::Ids(_) => Filter::default().of(&service.name),
        };
        let query = |filter: Filter| filter.query(&format!("{PATH}/summary")).with("redriven", Some("true"));
        let (dead, waiting) = (query(filter.dead_again(start)), query(filter.at_any_time()));
        let (dead, waiting) =
            (dead.path().to_owned(), waiting.with("state", Some("waiting")).path().to_owned());
        let (died, waited) = (total(service, &dead).await?, total(service, &waiting).await?);
        Ok(Fate { dead, waiting, waited, died })
    }

    /// The numbers of those that wait and of those that are dead again, once all were tried or a while has passed.
    async fn settled(&self, service: &mut Service, wait: Duration) -> Result<(u64, u64), Error> {
        let end = Instant::now() + wait;
        loop {
            let waiting = total(service, &self.waiting).await?.saturating_sub(self.waited);
            if waiting == 0 || Instant::now() >= end {
                let dead = total(service, &self.dead).await?.saturating_sub(self.died);
                return Ok((waiting, dead));
            }
            sleep(SETTLE_PAUSE).await;
        }
    }
}

async fn total(service: &mut Service, path: &str) -> Result<u64, Error> {
    Ok(Summary::read(service.get(path).await?)?.total)
}

/// The work done, of one service or of all.
#[derive(Default)]
struct Report {
    redriven: u64,
    quarantined: u64,
    /// Not tried yet, or to be tried once more.
    waiting: u64,
    dead_again: u64,
    is_stopped: bool,
}

impl Report {
    fn add(&mut self, other: &Report) {
        self.redriven += other.redriven;
        self.quarantined += other.quarantined;
        self.waiting += other.waiting;
        self.dead_again += other.dead_again;
        self.is_stopped |= other.is_stopped;
    }

    /// Counts a chunk.
    fn take(&mut self, answer: &Value) {
        self.redriven += number(answer, "redriven");
        // Each chunk counts them anew.
        self.quarantined = self.quarantined.max(number(answer, "quarantined"));
    }

    /// True if too many are dead again; said so on stderr.
    fn stops(&mut self, percent_max: u8) -> bool {
        let dead_again = self.dead_again;
        // Those that died while the others were counted were tried, too.
        let tried = self.redriven.saturating_sub(self.waiting).max(dead_again);
        self.is_stopped = dead_again >= DEAD_AGAIN_MIN && dead_again * 100 > tried * u64::from(percent_max);
        if self.is_stopped {
            eprintln!(
                "tidings: stopped: {} of {} tried are dead again, more than {percent_max} %; `tidings dlq summary` says why, \
                 and after the mend the same command goes on",
                grouped(dead_again),
                grouped(tried),
            );
        }
        self.is_stopped
    }

    fn tell_progress(&self, service: &str, left: u64) {
        let [done, left, waiting, dead] = [self.redriven, left, self.waiting, self.dead_again].map(grouped);
        let service = output::printable(service);
        eprintln!("{service}: {done} brought back ({waiting} wait, {dead} dead again), {left} left");
    }

    fn json(&self) -> Value {
        json!({
            "redriven": self.redriven, "quarantined": self.quarantined, "waiting": self.waiting,
            "dead_again": self.dead_again, "stopped": self.is_stopped,
        })
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "brought back {} dead letters", grouped(self.redriven))?;
        if self.waiting > 0 {
            write!(f, "; {} wait for their turn", grouped(self.waiting))?;
        }
        if self.dead_again > 0 {
            write!(f, "; {} are dead again", grouped(self.dead_again))?;
        }
        if self.quarantined > 0 {
            let count = grouped(self.quarantined);
            write!(
                f,
                "\nleft out {count} that were brought back five times: name their ids to bring them back"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_stops_when_more_than_a_share_and_ten_are_dead_again() {
        let stops = |redriven, waiting, dead_again, percent| {
            Report { redriven, waiting, dead_again, ..Report::default() }.stops(percent)
        };
        assert!(!stops(9, 0, 9, 20));
        assert!(!stops(50, 0, 10, 20));
        assert!(stops(49, 0, 10, 20));
        assert!(stops(1_000, 0, 10, 0));
        assert!(!stops(10, 0, 10, 100));
        // Handling lags behind: those that wait prove nothing.
        assert!(stops(1_000, 951, 10, 20));
        assert!(!stops(1_000, 950, 10, 20));
        assert!(!stops(10, 10, 10, 100));
    }
}
