//! The process: what its command line asks for; how services start, run and stop together.
//!
//! The door opens first. A store or a broker that is away at the start is waited for behind it: `/livez` is
//! 200, `/readyz` 503 with what is waited for. At the stop it is the other way round: `/readyz` says so, then
//! the door closes, then everything that others wait for is given back.

mod check;
mod topics;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use futures_util::future::{LocalBoxFuture, join_all};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, TopicSpec};
use crate::config::{self, Command, Settings};
use crate::error::Error;
use crate::http::{self, Manners, Problem};
use crate::panic::lock;
use crate::redact::redacted;
use crate::runtime::{RunningService, topics as watched};
use crate::service::{Service, topic_specs};
use crate::store::Store;
use crate::telemetry::{self, Signals};
use crate::{admin, documents, registry};

/// A clean stop takes no longer after the delay; what is not done by then is done at the next start.
const DRAIN_MAX: Duration = Duration::from_secs(18);
/// The time that requests under way may take to end. Long-lived answers (live events) end with the process.
const DOOR_MAX: Duration = Duration::from_secs(5);
/// The time for which the relays stay, to send what requests under way still commit.
const LAST_REQUESTS_MAX: Duration = Duration::from_secs(1);
/// The interval at which old records of the embedded log are forgotten.
const KEEP_SHORT_EVERY: Duration = Duration::from_secs(3600);
/// The name under which operators pick these lines: `--log warn,tidings::service=info`.
const TARGET: &str = "tidings::service";
/// The pause between tries of something that is away at the start, and the pause between log lines about it.
const TRY_EVERY: Duration = Duration::from_secs(1);
const SAY_EVERY: Duration = Duration::from_secs(60);

/// Does what the settings say with services in one process: run them until SIGTERM or SIGINT and drain
/// (a second signal ends it at once), bring their tables up to date, see to their topics, or check.
///
/// # Errors
/// In one line that says what to do: an address in use, a directory in use, data of a newer release, a
/// missing topic.
pub async fn run(services: Vec<Service>, settings: Settings) -> Result<ExitCode, Error> {
    boxed(services, settings).await
}

/// The whole life of a process as one box: compiled here, and not again in each program that awaits it.
fn boxed(services: Vec<Service>, settings: Settings) -> LocalBoxFuture<'static, Result<ExitCode, Error>> {
    Box::pin(obey(services, settings))
}

async fn obey(services: Vec<Service>, settings: Settings) -> Result<ExitCode, Error> {
    check::names(&services)?;
    let services: Vec<Service> =
        services.into_iter().map(|service| service.bounded_by(settings.bounds)).collect();
    match settings.command {
        Command::Run => {
            let served = serve(services, settings).await;
            telemetry::finish().await;
            served?;
        }
        Command::Migrate => {
            for service in services {
                service.open(&settings.store).await?.close().await?;
                say(format_args!("{}: up to date", service.name()));
            }
        }
        Command::Topics(command) => topics::command(&services, &settings, command).await?,
        Command::Document(document) => {
            let framed = settings.schema_registry().is_some();
            say(format_args!("{:#}", documents::render(&services, document, framed)));
        }
        Command::Check => return Ok(check::everything(services, &settings).await),
    }
    Ok(ExitCode::SUCCESS)
}

impl Service {
    /// Runs the service alone, with the settings of the command line, until it is told to stop.
    /// Starts the threads that it needs: not for use within another runtime.
    ///
    /// ```no_run
    /// use tidings::prelude::*;
    ///
    /// fn main() -> ExitCode {
    ///     Service::new("shipping").describe("Sends parcels", "1.0.0").main()
    /// }
    /// ```
    pub fn main(self) -> ExitCode {
        config::program_alone(async { run(vec![self], Settings::from_command_line()?).await })
    }
}

/// Prints a line. A reader that has seen enough (`| head`) is no error.
fn say(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

async fn serve(services: Vec<Service>, settings: Settings) -> Result<(), Error> {
    let mut signals = Signals::new();
    telemetry::start(&settings.log, settings.log_format);
    let broker = Broker::open(&settings.broker)?;
    let listener = http::bind(&settings.listen, "--listen").await?;
    // The real one: port 0 stands for any that is free.
    let listen = listener.local_addr().map_or(settings.listen.clone(), |address| address.to_string());
    let manners = settings.manners(listener.local_addr().ok())?;
    listener.local_addr().map_or(Ok(()), |bound| settings.check_admin(bound))?;
    let (door, closing) = (Arc::new(Door { manners, ..Door::default() }), CancellationToken::new());
    serve_probes(&settings, &door, &closing).await?;
    let server = tokio::spawn(http::serve(listener, door.clone().router(), closing.clone()));
    let started = tokio::select! {
        started = start(services, &settings, &broker, &door, &listen) => started?,
        () = signals.next() => return Ok(()),
    };
    let (store, broker_url) = (redacted(&settings.store), redacted(&settings.broker));
    tracing::info!(target: TARGET, listen, store, broker = broker_url, "ready");
    let keeping = tokio::spawn(keep_short(broker.clone()));
    signals.next().await;
    keeping.abort();
    let delay = settings.shutdown_delay();
    tracing::info!(target: TARGET, delay_seconds = delay.as_secs(), "stopping: finishing what is under way");
    let stopped = async {
        started.iter().for_each(RunningService::leave);
        sleep(delay).await;
        let drained = timeout(DRAIN_MAX, drain(&started, &broker, &closing, server)).await;
        drained.unwrap_or_else(|_| {
            tracing::warn!("not everything was finished in time; it will be at the next start");
            Ok(())
        })
    };
    tokio::select! {
        stopped = stopped => stopped,
        // At once: threads that hang are not waited for.
        () = signals.next() => std::process::exit(0),
    }
}

/// Answers probes at an address of their own, if one is named: whatever happens at the other one.
async fn serve_probes(
    settings: &Settings,
    door: &Arc<Door>,
    closing: &CancellationToken,
) -> Result<(), Error> {
    let Some(address) = settings.probe_listen.as_deref().filter(|address| !address.is_empty()) else {
        return Ok(());
    };
    let listener = http::bind(address, "--probe-listen").await?;
    let listen = listener.local_addr().map_or(address.to_owned(), |address| address.to_string());
    tracing::info!(target: TARGET, listen, "probes are answered");
    tokio::spawn(http::serve(listener, door.clone().probe_router(), closing.clone()));
    Ok(())
}

/// Starts services; waits for a store, a broker or a schema registry that is away.
async fn start(
    services: Vec<Service>,
    settings: &Settings,
    broker: &Broker,
    door: &Door,
    listen: &str,
) -> Result<Arc<Vec<RunningService>>, Error> {
    let registry = registry::named(settings.schema_registry(), &settings.broker)?;
    let mut stores = Vec::with_capacity(services.len());
    for service in &services {
        stores.push(patiently(door, listen, async || service.open(&settings.store).await).await?);
    }
    // The embedded log belongs to this process: no other makes its topics.
    if settings.apply_topics || settings.broker.starts_with("sqlite:") {
        apply_topics(&services, &stores, settings, broker, door, listen).await?;
    }
    if let Some(client) = &registry {
        let register = async || registry::register(client, registry::subjects(&services), broker).await;
        patiently(door, listen, register).await?;
    }
    tokio::spawn(watched::warn(broker.clone(), topic_specs(&services)));
    let documents = documents::routes(&services, registry.is_some());
    let mut running = Vec::with_capacity(services.len());
    for (service, store) in services.into_iter().zip(stores) {
        running.push(service.start_on(store, broker).await?);
    }
    let running = Arc::new(running);
    let routes = admin::routes(running.clone()).merge(documents);
    let routes = running.iter().fold(routes, |all, service| all.merge(service.router()));
    let probes = http::finish(admin::probes(running.clone()), &Manners::default());
    door.open(http::finish(routes.merge(http::problem_routes()), &door.manners), probes);
    Ok(running)
}

/// Makes and changes topics. Those that were there before are there, wherever the broker is: then it is asked
/// in the background.
async fn apply_topics(
    services: &[Service],
    stores: &[Store],
    settings: &Settings,
    broker: &Broker,
    door: &Door,
    listen: &str,
) -> Result<(), Error> {
    let specs = topic_specs(services);
    match broker.apply_plan(&specs, settings.partitions).await {
        Err(e) if e.is_unavailable() => {
            if watched::are_known(stores, &specs).await? {
                tracing::warn!(error = %e, "topics are looked after later: the broker is away");
                tokio::spawn(apply_later(specs, settings.partitions, broker.clone()));
                return Ok(());
            }
            patiently(door, listen, async || broker.apply_plan(&specs, settings.partitions).await.map(drop))
                .await
        }
        applied => applied.map(drop),
    }
}

async fn apply_later(specs: Vec<TopicSpec>, partitions: u32, broker: Broker) {
    loop {
        sleep(TRY_EVERY).await;
        match broker.apply_plan(&specs, partitions).await {
            Ok(_) => return tracing::info!("topics are as they should be"),
            Err(e) if e.is_unavailable() => {}
            // Whoever reads them notices what matters.
            Err(e) => return tracing::error!(error = %e, "topics are not as they should be"),
        }
    }
}

/// Tries until it is done or refused. What is waited for is said at once, and then every minute.
async fn patiently<T>(
    door: &Door,
    listen: &str,
    mut attempt: impl AsyncFnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    let begun = Instant::now();
    let mut reported: Option<Instant> = None;
    loop {
        match attempt().await {
            Err(e) if e.is_unavailable() => {
                door.waits_for(e.to_string());
                if reported.is_none_or(|reported| reported.elapsed() >= SAY_EVERY) {
                    let waited_seconds = begun.elapsed().as_secs();
                    tracing::warn!(listen, waited_seconds, error = %e, "waiting: not ready yet");
                    reported = Some(Instant::now());
                }
                sleep(TRY_EVERY).await;
            }
            done => return done,
        }
    }
}

/// The routes behind an address: the services, or, until they have started, the name of what they wait for.
#[derive(Default)]
struct Door {
    manners: Manners,
    services: OnceLock<Router>,
    probes: OnceLock<Router>,
    waits_for: Mutex<String>,
}

impl Door {
    fn router(self: Arc<Self>) -> Router {
        Router::new().fallback(async move |request| self.answer(&self.services, request).await)
    }

    fn probe_router(self: Arc<Self>) -> Router {
        Router::new().fallback(async move |request| self.answer(&self.probes, request).await)
    }

    async fn answer(&self, routes: &OnceLock<Router>, request: Request) -> Response {
        use tower::ServiceExt as _;
        match routes.get() {
            Some(routes) => routes.clone().oneshot(request).await.unwrap_or_else(|never| match never {}),
            None => self.unready(request.uri().path()),
        }
    }

    fn open(&self, services: Router, probes: Router) {
        let _ = (self.probes.set(probes), self.services.set(services));
    }

    fn waits_for(&self, what: String) {
        *lock(&self.waits_for) = what;
    }

    fn unready(&self, path: &str) -> Response {
        let detail = match lock(&self.waits_for).as_str() {
            "" => "starting".to_owned(),
            what => format!("starting; waiting: {what}"),
        };
        let unready = StatusCode::SERVICE_UNAVAILABLE;
        match path {
            "/livez" => Json(json!({"status": "live"})).into_response(),
            "/readyz" => (unready, Json(json!({"status": "not ready", "detail": detail}))).into_response(),
            // Who asks for more need not know where the database is.
            _ => ([(header::RETRY_AFTER, "1")], Problem::new(unready, "unavailable", "starting; try again"))
                .into_response(),
        }
    }
}

/// Keeps the embedded log within its retention.
async fn keep_short(broker: Broker) {
    loop {
        sleep(KEEP_SHORT_EVERY).await;
        if let Err(e) = broker.forget(jiff::Timestamp::now()).await {
            tracing::warn!(error = %e, "old records are kept for another while");
        }
    }
}

/// Closes the door, then gives back what others wait for: partitions, lanes, claims.
async fn drain(
    running: &[RunningService],
    broker: &Broker,
    closing: &CancellationToken,
    mut server: JoinHandle<Result<(), Error>>,
) -> Result<(), Error> {
    closing.cancel();
    let begun = Instant::now();
    let last_requests = timeout(LAST_REQUESTS_MAX, &mut server);
    let (closed, _) = tokio::join!(last_requests, join_all(running.iter().map(RunningService::stop_working)));
    let stopped = join_all(running.iter().map(RunningService::stop_relaying)).await;
    broker.close().await?;
    if closed.is_err() {
        let _ = timeout(DOOR_MAX.saturating_sub(begun.elapsed()), server).await;
    }
    for stopped in stopped {
        if let Err(e) = stopped {
            tracing::warn!(error = %e, "not everything was written down; it is done again at the next start");
        }
    }
    tracing::info!(target: TARGET, "stopped");
    Ok(())
}
