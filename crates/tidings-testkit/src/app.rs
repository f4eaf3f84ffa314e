//! Services under test, as a user of theirs sees them: requests in, events in and out, time that a test moves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use tidings::{Event, Headers, Message, RunningService, Service};
use tokio::sync::Mutex;
use tower::ServiceExt as _;

use crate::eventually;
use crate::fault::Tripwire;
use crate::stage::Stage;

/// Largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Services that run for one test, on the embedded default or on real servers, with the same body of the test.
///
/// ```
/// use tidings::prelude::*;
/// use tidings_testkit::TestApp;
///
/// #[event(name = "parcel.sent", version = 1, topic = "parcels", key = id)]
/// struct ParcelSent {
///     #[garde(length(min = 1))]
///     id: String,
/// }
///
/// async fn send(tx: &mut Tx, parcel: ParcelSent) -> Result<(), HandlerError> {
///     tx.publish(parcel).await
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let sender = || Service::new("sender").publishes::<ParcelSent>().post("/parcels", send);
/// let app = TestApp::start([sender()]).await;
/// let answer = app.post("/parcels", &serde_json::json!({"id": "p1"})).await;
/// assert_eq!(answer.status, 202);
/// app.idle().await;
/// assert_eq!(app.events::<ParcelSent>().await[0].id, "p1");
/// app.stop().await;
/// # });
/// ```
pub struct TestApp {
    stage: Stage,
    services: Arc<Vec<RunningService>>,
    router: Router,
    /// The last number that was published here, by stream.
    numbers: Mutex<BTreeMap<String, u64>>,
}

/// An answer to a request.
#[derive(Debug)]
pub struct Answer {
    /// Its status: `assert_eq!(answer.status, 201)`.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body as JSON; null if there is none.
    pub body: Value,
}

impl TestApp {
    /// Starts services on the embedded default, in a directory that goes with the test.
    ///
    /// # Panics
    /// When one does not start.
    pub async fn start(services: impl IntoIterator<Item = Service>) -> Self {
        Self::start_on(Stage::new(), services).await
    }

    /// Starts services on the stores and the broker of a stage: `Stage::on_postgres_and_kafka()` for real servers.
    ///
    /// # Panics
    /// When one does not start.
    pub async fn start_on(stage: Stage, services: impl IntoIterator<Item = Service>) -> Self {
        let mut running = Vec::new();
        for service in services {
            stage.topics(service.topic_names()).await;
            let started = service.start(&stage.store_url(), stage.broker()).await;
            running.push(started.expect("the service starts"));
        }
        let services = Arc::new(running);
        let operator = tidings::operator_routes(services.clone());
        let router = services.iter().fold(operator, |all, service| all.merge(service.router()));
        Self { stage, services, router, numbers: Mutex::default() }
    }

    /// The stage: topics, faults, messages byte by byte.
    #[must_use]
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// A service by its name: its store, its status.
    ///
    /// # Panics
    /// When there is none of this name.
    #[must_use]
    pub fn service(&self, name: &str) -> &RunningService {
        self.services.iter().find(|service| service.name() == name).expect("a service of this name runs")
    }

    /// The routes of all services and those for operators, as a server has them: `axum::serve(listener, app.router())`.
    pub fn router(&self) -> Router {
        tidings::http::finished(self.router.clone())
    }

    /// Sends a request with a JSON body, as one with an `Idempotency-Key` if there is one.
    ///
    /// # Panics
    /// When the path is none, or the answer is no JSON.
    pub async fn request(
        &self,
        method: &str,
        path: &str,
        idempotency_key: Option<&str>,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", key);
        }
        let body = match body {
            None => Body::empty(),
            Some(body) => {
                request = request.header("content-type", "application/json");
                serde_json::to_vec(body).expect("a body can be written as JSON").into()
            }
        };
        let request = request.body(body).expect("a method and a path");
        let answer = self.router.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
        let (status, headers) = (answer.status(), answer.headers().clone());
        let bytes = to_bytes(answer.into_body(), ANSWER_BYTES_MAX).await.expect("a body that ends");
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).expect("JSON") };
        Answer { status, headers, body }
    }

    /// Posts JSON.
    ///
    /// # Panics
    /// As [`request`](TestApp::request).
    pub async fn post(&self, path: &str, body: &(impl Serialize + Sync)) -> Answer {
        self.request("POST", path, None, Some(body)).await
    }

    /// Posts JSON under an `Idempotency-Key`.
    ///
    /// # Panics
    /// As [`request`](TestApp::request).
    pub async fn post_with_key(&self, path: &str, key: &str, body: &(impl Serialize + Sync)) -> Answer {
        self.request("POST", path, Some(key), Some(body)).await
    }

    /// Puts JSON.
    ///
    /// # Panics
    /// As [`request`](TestApp::request).
    pub async fn put(&self, path: &str, body: &(impl Serialize + Sync)) -> Answer {
        self.request("PUT", path, None, Some(body)).await
    }

    /// Deletes a resource.
    ///
    /// # Panics
    /// As [`request`](TestApp::request).
    pub async fn delete(&self, path: &str) -> Answer {
        self.request("DELETE", path, None, None::<&()>).await
    }

    /// Gets a resource.
    ///
    /// # Panics
    /// As [`request`](TestApp::request).
    pub async fn get(&self, path: &str) -> Answer {
        self.request("GET", path, None, None::<&()>).await
    }

    /// Gets a page that is no JSON: `/metrics`.
    ///
    /// # Panics
    /// When the path is none, or the answer is no text.
    pub async fn text(&self, path: &str) -> String {
        let request = Request::builder().uri(path).header("host", "localhost");
        let request = request.body(Body::empty()).expect("a path");
        let answer = self.router.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
        let bytes = to_bytes(answer.into_body(), ANSWER_BYTES_MAX).await.expect("a body that ends");
        String::from_utf8(bytes.into()).expect("text")
    }

    /// Publishes an event as the service that owns its topic does: with that source, and the next number of its stream.
    /// For events of services that do not run here.
    ///
    /// # Panics
    /// When the broker does not take it.
    pub async fn publish<E: Event>(&self, event: &E) {
        let stream = format!("{}/{}", E::TOPIC, event.key());
        let mut numbers = self.numbers.lock().await;
        let number = numbers.entry(stream.clone()).or_insert(0);
        *number += 1;
        let seq = number.to_string();
        let message = message(event, &format!("/{}", E::TOPIC), &format!("{stream}#{seq}"), Some(&seq));
        self.stage.send(E::TOPIC, [message]).await;
    }

    /// Publishes an event as a program outside does: with this source and id, and without a number.
    ///
    /// ```
    /// # use tidings::prelude::*;
    /// # use tidings_testkit::{TestApp, event::NoteTaken};
    /// # async fn count(_: &Envelope<NoteTaken>, _: &mut Tx) -> Result<(), HandlerError> { Ok(()) }
    /// # #[tokio::main] async fn main() {
    /// let app = TestApp::start([Service::new("pages").takes_external::<NoteTaken>().on(count)]).await;
    /// app.publish_external("/their-program", "id-1", &NoteTaken::new("k", 1)).await;
    /// app.idle().await;
    /// assert_eq!(app.service("pages").status().await.unwrap().consumer.handled, 1);
    /// # }
    /// ```
    ///
    /// # Panics
    /// When the broker does not take it.
    pub async fn publish_external<E: Event>(&self, source: &str, id: &str, event: &E) {
        self.stage.send(E::TOPIC, [message(event, source, id, None)]).await;
    }

    /// Reads every event of a type that lies on its topic; those of a key in their order.
    ///
    /// # Panics
    /// When the topic cannot be read, or an event is not of its type.
    pub async fn events<E: Event>(&self) -> Vec<E> {
        let records = self.stage.read(E::TOPIC).await;
        let own = records.iter().filter(|record| record.message.header("ce_type") == Some(E::TYPE));
        own.map(|record| serde_json::from_slice(&record.message.value).expect("an event of its type"))
            .collect()
    }

    /// Waits until nothing is left to do: all published, all handled, no effect under way. An effect or event that failed
    /// and waits for its next try is not waited for: ask with [`eventually`](crate::eventually), or
    /// [`advance`](TestApp::advance) the clock.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn idle(&self) {
        eventually("nothing is left to do", async || {
            for service in &*self.services {
                if !service.is_idle().await.expect("the store and the broker can be used") {
                    return false;
                }
            }
            true
        })
        .await;
    }

    /// Puts the clock of every service forward, so that timers and retries come due.
    pub fn advance(&self, by: Duration) {
        for service in &*self.services {
            service.store().clock().advance(by);
        }
    }

    /// The time by the services' clocks: what `tx.now()` says.
    ///
    /// # Panics
    /// When no service runs.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.services.first().expect("a service runs").store().clock().now()
    }

    /// Has the broker take nothing for as long as the returned value lives: what is published waits in the outboxes.
    ///
    /// # Panics
    /// When the broker is not the embedded log.
    #[must_use]
    pub fn broker_away(&self) -> Tripwire {
        Tripwire::broker_away(self.stage.scratch().path())
    }

    /// Has inserts into a table of a service fail for as long as the returned value lives: `("shipping", "parcel")`.
    ///
    /// # Panics
    /// When the table cannot be reached, or inserts into one of this service fail already.
    #[must_use]
    pub fn refuse_inserts(&self, service: &str, table: &str) -> Tripwire {
        self.stage.refusing(service, table)
    }

    /// Stops the services.
    ///
    /// # Panics
    /// When one cannot write down where it is, or takes too long.
    pub async fn stop(self) {
        for service in &*self.services {
            crate::stage::stop(service).await;
        }
    }
}

/// An event as CloudEvents' binary mode has it.
fn message<E: Event>(event: &E, source: &str, id: &str, seq: Option<&str>) -> Message {
    let mut headers = Headers::from([
        ("ce_specversion", "1.0"),
        ("ce_id", id),
        ("ce_type", E::TYPE),
        ("ce_source", source),
        ("ce_subject", event.key()),
        ("content-type", "application/json"),
    ]);
    if let Some(seq) = seq {
        headers.push("ce_streamseq", seq.as_bytes());
    }
    let value = serde_json::to_vec(event).expect("an event can be written as JSON");
    Message {
        key: Some(event.key().as_bytes().to_vec().into()),
        headers,
        value: value.into(),
        ..Message::default()
    }
}
