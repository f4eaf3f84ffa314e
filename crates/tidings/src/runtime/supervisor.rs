//! The tasks of a service, stopped in order: first what reads and performs, then what sends.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::health::{Health, Loop};
use crate::store::Store;

/// The time that work under way may take to end when a service is told to stop: a batch, the outcome of an external
/// call, the leaving of a group.
const TASKS_MAX: Duration = Duration::from_secs(8);
/// A database that does not answer within this is not waited for.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(2);
/// The longest time that the relay waits for what is in flight and gives back what it has leased; more is a hang.
const RELAY_MAX: Duration = Duration::from_secs(6);
/// The longest time to write down what is still deferred.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// Owns the tasks of a service.
pub(super) struct Supervisor {
    service: String,
    health: Health,
    /// Ends everything but the relay.
    pub(super) stop: CancellationToken,
    /// Ends the consumer alone.
    pub(super) reading: CancellationToken,
    /// Ends the relay.
    pub(super) relaying: CancellationToken,
    stopped_by: Arc<OnceLock<Error>>,
    tasks: JoinSet<()>,
    relays: JoinSet<()>,
}

impl Supervisor {
    pub(super) fn new(service: &str, health: Health) -> Self {
        let stop = CancellationToken::new();
        let reading = stop.child_token();
        Self {
            service: service.to_owned(),
            health,
            stop,
            reading,
            relaying: CancellationToken::new(),
            stopped_by: Arc::default(),
            tasks: JoinSet::new(),
            relays: JoinSet::new(),
        }
    }

    /// Runs a loop that ends with the service.
    pub(super) fn spawn(&mut self, of: Loop, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(self.health.clone().watch(of, self.stop.clone(), task));
    }

    /// Runs the consumer; an error ends it.
    pub(super) fn consume(&mut self, task: impl Future<Output = Result<(), Error>> + Send + 'static) {
        let stopped_by = self.stopped_by.clone();
        self.tasks.spawn(self.health.clone().watch(Loop::Consume, self.reading.clone(), async move {
            if let Err(e) = task.await {
                tracing::error!(error = %e, "the consumer stopped");
                let _ = stopped_by.set(e);
            }
        }));
    }

    /// Runs the relay, which goes on until everything else has ended.
    pub(super) fn relay(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.relays.spawn(self.health.clone().watch(Loop::Send, self.relaying.clone(), task));
    }

    /// Runs what looks at the topics; an error ends reading and sending: keys may live elsewhere by now, and what is
    /// read or sent would be out of order.
    pub(super) fn watch_topics(&mut self, task: impl Future<Output = Option<Error>> + Send + 'static) {
        let (stopped_by, reading, relaying) =
            (self.stopped_by.clone(), self.reading.clone(), self.relaying.clone());
        self.spawn(Loop::Topics, async move {
            if let Some(e) = task.await {
                tracing::error!(error = %e, "nothing is read or sent any more");
                let _ = stopped_by.set(e);
                reading.cancel();
                relaying.cancel();
            }
        });
    }

    /// The tasks, running.
    pub(super) fn running(self) -> Tasks {
        let Self { service, stop, relaying, stopped_by, tasks, relays, .. } = self;
        Tasks { service, stop, relaying, stopped_by, tasks: Mutex::new(tasks), relays: Mutex::new(relays) }
    }
}

/// The tasks of a service that has been started.
pub(super) struct Tasks {
    service: String,
    pub(super) stop: CancellationToken,
    relaying: CancellationToken,
    stopped_by: Arc<OnceLock<Error>>,
    tasks: Mutex<JoinSet<()>>,
    relays: Mutex<JoinSet<()>>,
}

impl Tasks {
    /// The error that stopped consuming and relaying, if any.
    pub(super) fn stopped_by(&self) -> Option<&Error> {
        self.stopped_by.get()
    }

    /// Stops reading and performing. A database that hangs is left after a while.
    pub(super) async fn stop_working(&self, store: &Store) {
        self.stop.cancel();
        let mut tasks = self.tasks.lock().await;
        let all = async { while tasks.join_next().await.is_some() {} };
        let hangs = async {
            let answer = tokio::time::timeout(ANSWER_MAX, store.probe()).await;
            if answer.is_ok_and(|answer| answer.is_ok()) {
                tokio::time::sleep(TASKS_MAX).await;
            }
        };
        let ended = tokio::select! {
            () = all => true,
            () = hangs => false,
        };
        if !ended {
            tracing::warn!(
                service = self.service,
                "what is under way does not end; it is done again elsewhere or later"
            );
            tasks.abort_all();
        }
    }

    /// Sends what was committed on the way out, gives back the lanes and the claim on external calls, writes down
    /// what is deferred.
    pub(super) async fn stop_relaying(&self, store: &Store) -> Result<(), Error> {
        self.relaying.cancel();
        let mut relays = self.relays.lock().await;
        let all = async { while relays.join_next().await.is_some() {} };
        if tokio::time::timeout(RELAY_MAX, all).await.is_err() {
            tracing::warn!(service = self.service, "what the relay has leased runs out by itself");
            relays.abort_all();
        }
        let closed = tokio::time::timeout(CLOSE_MAX, store.close()).await;
        closed.unwrap_or_else(|_| Err(Error::unavailable("the database does not answer")))
    }
}
