//! The three programs on servers that nobody else has, and customers who order from them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tidings_servers::{Kafka, Postgres};
use tidings_testkit::servers::{FreshDatabase, FreshTopics};

use crate::load::{Clients, Load, all, audit, settled};
use crate::process::Client;
use crate::programs::{self, Backends, Program, said};
use crate::{provider, streams};

/// The services, callers before called.
pub const SERVICES: [&str; 3] = ["order", "payment", "inventory"];
/// Enough of two products, and one that will run out.
const PRODUCTS: [&str; 3] = ["tea", "coffee", "mug"];
const STOCK: [u64; 3] = [1_000_000, 1_000_000, 300];
/// More than one, so that keys spread and instances can share.
const PARTITIONS: &str = "3";
/// Under load a line for each event would only be in the way.
const LOG: &str = "warn,tidings::service=info";
/// How long a customer thinks between two orders: some hundred orders a second in all.
const THINKS: Duration = Duration::from_millis(100);

/// Where programs run.
pub struct Deployment {
    pub backends: Backends,
    directory: TempDir,
    /// The URL of the stores.
    store: String,
    /// The payment provider, where several processes need the same one.
    provider: Option<Program>,
}

impl Deployment {
    /// On the Kafka and the PostgreSQL that tests share.
    pub fn new() -> Self {
        Self::with("")
    }

    /// The same with properties of Kafka's client: `&session.timeout.ms=10000`.
    pub fn with(properties: &str) -> Self {
        Self::at(FreshDatabase::new(), FreshTopics::with(properties))
    }

    /// On servers that may be killed.
    pub fn on(servers: &OwnServers) -> Self {
        Self::at(FreshDatabase::on(&servers.postgres.url()), FreshTopics::on(&servers.kafka.bootstrap(), ""))
    }

    fn at(database: FreshDatabase, topics: FreshTopics) -> Self {
        let (store, directory) = (database.url(), tempfile::tempdir().unwrap());
        let deployment = Self { backends: Backends { database, topics }, directory, store, provider: None };
        let product = |(id, stock): (&str, u64)| json!({"product_id": id, "name": id, "unit_price": {"amount": 1299, "currency": "EUR"}, "stock": stock});
        let products: Vec<Value> = PRODUCTS.into_iter().zip(STOCK).map(product).collect();
        std::fs::write(deployment.catalogue(), Value::from(products).to_string()).unwrap();
        deployment
    }

    /// The payment provider is a program of its own: what instances of the service say to it, it knows, and
    /// its book is the last word on who was charged.
    #[must_use]
    pub fn with_provider(self) -> Self {
        let mut command = programs::command("psp-sandbox");
        let provider = Program::start("psp-sandbox", command.env("TIDINGS_LISTEN", "127.0.0.1:0"));
        Self { provider: Some(provider), ..self }
    }

    /// Programs reach the same database at another URL.
    pub fn by_way_of(&mut self, store: String) {
        self.store = store;
    }

    /// A program that is set up for this deployment.
    pub fn command(&self, name: &str) -> Command {
        let mut command = self.backends.command(name);
        command.envs([("TIDINGS_LOG", LOG), ("TIDINGS_PARTITIONS", PARTITIONS)]);
        command.env("TIDINGS_CATALOGUE", self.catalogue()).env("TIDINGS_STORE", &self.store);
        if let Some(provider) = &self.provider {
            command.env("TIDINGS_GATEWAY", format!("stripe:http://{}", provider.address));
            command.env("STRIPE_API_KEY", provider::KEY);
        }
        command
    }

    /// Makes the topics, as an operator does.
    pub fn make_topics(&self) {
        for name in SERVICES {
            said(self.command(name).args(["topics", "apply"]));
        }
    }

    /// Starts a program and waits until it is ready.
    #[track_caller]
    pub fn start(&self, name: &'static str) -> Program {
        Program::start(name, &mut self.command(name))
    }

    /// Starts one of each.
    #[track_caller]
    pub fn start_all(&self) -> Programs {
        Programs(SERVICES.map(|name| self.start(name)))
    }

    /// Makes the topics, starts one of each, and lets customers in.
    #[track_caller]
    pub fn open(&self, seed: u64) -> (Programs, Load) {
        self.make_topics();
        let programs = self.start_all();
        let load = self.customers(programs.order(), seed);
        (programs, load)
    }

    /// Customers who order from a program.
    pub fn customers(&self, order: &Program, seed: u64) -> Load {
        Load::paced(&order.address, seed, &PRODUCTS, THINKS)
    }

    /// Waits until everything has come to its end, checks that everything adds up, and says how much it was.
    pub async fn adds_up(&self, programs: &Programs, accepted: &[String]) -> streams::Streams {
        let mut clients = programs.clients();
        settled(&mut clients).await;
        let pieces: BTreeMap<String, u64> = PRODUCTS.iter().map(|p| (*p).to_owned()).zip(STOCK).collect();
        audit(&mut clients, accepted, &pieces).await;
        if let Some(provider) = &self.provider {
            provider::agrees(&provider.address, &all(&mut clients.order, "/orders").await).await;
        }
        let streams = streams::complete(&self.backends.topics.url()).await;
        println!("{} orders: {streams:?}", accepted.len());
        streams
    }

    fn catalogue(&self) -> PathBuf {
        self.directory.path().join("catalogue.json")
    }
}

/// One of each, in the order of [`SERVICES`].
pub struct Programs(pub [Program; 3]);

impl Programs {
    pub fn order(&self) -> &Program {
        &self.0[0]
    }

    pub fn payment(&self) -> &Program {
        &self.0[1]
    }

    pub fn inventory(&self) -> &Program {
        &self.0[2]
    }

    fn clients(&self) -> Clients {
        let [order, payment, inventory] = &self.0;
        let client = |program: &Program| Client::to(&program.address);
        Clients { order: client(order), payment: client(payment), inventory: client(inventory) }
    }
}

/// A Kafka and a PostgreSQL that may be killed.
pub struct OwnServers {
    pub kafka: Kafka,
    pub postgres: Postgres,
}

impl OwnServers {
    /// The one of this test program, for one test at a time. It ends with the program, whatever ends that.
    pub fn lock() -> OwnServersGuard {
        static SERVERS: Mutex<Option<OwnServers>> = Mutex::new(None);
        let mut servers = SERVERS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(servers) = &mut *servers {
            // A test that failed may have left them dead.
            let _ = (servers.postgres.start_again(), servers.kafka.start_again());
        } else {
            let data = Path::new(env!("CARGO_TARGET_TMPDIR")).join("chaos");
            let _ = std::fs::remove_dir_all(&data);
            let postgres = Postgres::start(&data.join("postgres")).unwrap();
            let kafka = Kafka::start(&data.join("kafka")).unwrap();
            *servers = Some(Self { kafka, postgres });
        }
        OwnServersGuard(servers)
    }
}

pub struct OwnServersGuard(MutexGuard<'static, Option<OwnServers>>);

impl std::ops::Deref for OwnServersGuard {
    type Target = OwnServers;

    fn deref(&self) -> &OwnServers {
        self.0.as_ref().expect("it was started before it was locked")
    }
}

impl std::ops::DerefMut for OwnServersGuard {
    fn deref_mut(&mut self) -> &mut OwnServers {
        self.0.as_mut().expect("it was started before it was locked")
    }
}
