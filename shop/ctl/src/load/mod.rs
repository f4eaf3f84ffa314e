//! `shopctl load`: places orders, waits until all have settled, reports how it went.
//!
//! In reading order: `plan` draws the orders from a seed, `post` places them, `progress`
//! shows it, `settle` waits for their end and collects it, `report` says what happened,
//! `page` says it to a browser.

mod page;
mod plan;
mod post;
mod progress;
mod report;
mod retry;
mod settle;

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::value_parser;
use jiff::Timestamp;
use tidings_client::{Client, Endpoint, Error, Format, Target, output};

use self::plan::{Payments, Plan};
use self::post::{Pace, Posting};
use self::progress::Progress;
use self::report::{Report, Setup};

/// Enough to keep a shop on a small machine busy; more only adds to the generator's own bill.
const CONCURRENCY: u16 = 64;

/// With a schedule connections are a reserve for slow moments, not the pace, so there are more.
const CONCURRENCY_AT_A_RATE: u16 = 256;

/// Arguments of `shopctl load`: how much load, and of what kind.
#[derive(clap::Args)]
pub struct Args {
    /// The number of orders to place
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = value_parser!(u32).range(1..=10_000_000))]
    orders: u32,
    /// Place this many orders a second on a fixed schedule, however slow the answers;
    /// latency then counts from the moment an order was due
    #[arg(long, value_name = "R", value_parser = rate)]
    rate: Option<f64>,
    /// Connections; each places its next order when the last is answered
    /// [default: 64, with --rate 256]
    #[arg(long, value_name = "C", value_parser = value_parser!(u16).range(1..=10_000))]
    concurrency: Option<u16>,
    /// The same seed places the same orders
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Pay every order with this method
    #[arg(long, value_name = "PM", default_value = "pm_card_visa", conflicts_with = "mix")]
    payment_method: String,
    /// Draw payment methods: mostly good cards, some declined, lost, unavailable or failing late
    #[arg(long)]
    mix: bool,
    /// Give up after so many seconds without progress
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// Also write the report as a page
    #[arg(long, value_name = "REPORT")]
    html: Option<PathBuf>,
}

/// Places the load.
///
/// # Errors
/// An order is missing or has not settled; the shop refuses orders or stays away; the page cannot be written.
pub async fn run(args: Args, target: &Target, format: Format) -> Result<ExitCode, Error> {
    let page = args.html.as_ref().map(create).transpose()?;
    let endpoints = target.serving("/products").await?;
    let report = measure(&args, endpoints).await?;
    if let Some((path, mut file)) = page {
        file.write_all(report.html().as_bytes()).map_err(|error| cannot_write(path, &error))?;
    }
    output::print(match format {
        Format::Json => report.json(),
        Format::Text => report.text(),
    })?;
    match report.failure() {
        Some(failure) => Err(Error::new(failure)),
        None => Ok(ExitCode::SUCCESS),
    }
}

async fn measure(args: &Args, endpoints: Arc<[Endpoint]>) -> Result<Report, Error> {
    let mut client = Client::new(endpoints.clone());
    let plan = plan(args, &plan::products(&mut client).await?);
    let patience = Duration::from_secs(args.timeout);
    let open_before = progress::open_orders(&mut client).await;
    let started_at = Timestamp::now();
    let posting = Posting::start(plan, args.pace(), patience);
    let progress = Progress::start(posting.clone(), endpoints.clone(), open_before);
    let mut placed = post::all(posting, &endpoints, args.connections()).await?;
    settle::wait(&mut client, &placed.ids, patience, &progress).await?;
    let ids = std::mem::take(&mut placed.ids);
    let outcomes = settle::outcomes(&mut client, ids, patience).await?;
    progress.finish();
    Ok(Report::new(args.setup(&endpoints, started_at), &placed, &outcomes))
}

fn plan(args: &Args, products: &[String]) -> Plan {
    let payments = if args.mix { Payments::Mixed } else { Payments::All(&args.payment_method) };
    Plan::draw(args.seed, &run_id(), args.orders, products, &payments)
}

/// Tells this run's idempotency keys from those of every other run with the same seed.
fn run_id() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{:x}p{:x}", now.as_micros(), std::process::id())
}

impl Args {
    fn connections(&self) -> u32 {
        let most = self.concurrency.unwrap_or(match self.rate {
            Some(_) => CONCURRENCY_AT_A_RATE,
            None => CONCURRENCY,
        });
        u32::from(most).min(self.orders)
    }

    fn pace(&self) -> Pace {
        self.rate.map_or(Pace::Unhurried, Pace::per_second)
    }

    fn setup(&self, endpoints: &[Endpoint], started_at: Timestamp) -> Setup {
        let urls: Vec<&str> = endpoints.iter().map(|endpoint| endpoint.url.as_str()).collect();
        Setup {
            url: urls.join(","),
            orders: u64::from(self.orders),
            connections: self.connections(),
            rate_per_second: self.rate,
            seed: self.seed,
            payment_method: if self.mix { "mixed".to_owned() } else { self.payment_method.clone() },
            started_at,
        }
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.001..=1e6).contains(&rate) => Ok(rate),
        _ => Err("expected orders a second, from 0.001 to 1000000".to_owned()),
    }
}

/// Opened before the load: a report that cannot be written should not cost a run to find out.
fn create(path: &PathBuf) -> Result<(&PathBuf, File), Error> {
    let file = File::create(path).map_err(|error| cannot_write(path, &error))?;
    Ok((path, file))
}

fn cannot_write(path: &std::path::Path, error: &std::io::Error) -> Error {
    Error::new(format!("cannot write the report {}: {error}", path.display()))
}
