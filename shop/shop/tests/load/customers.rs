//! Customers who do not give up: each order is asked for, under one key, until it is accepted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hyper::{Method, StatusCode};
use serde_json::json;
use tokio::task::JoinSet;

use crate::process::{Client, LOOK_EVERY, PATIENCE, request};

/// Customers at the same time.
const CUSTOMERS: u64 = 12;

/// How they pay, out of 100: enough of every trouble to meet it, few enough to leave a healthy shop.
const METHODS: [(u64, &str); 6] = [
    (80, "pm_card_visa"),
    (8, "pm_card_visa_chargeDeclined"),
    (4, "pm_sandbox_reply_lost"),
    (4, "pm_sandbox_unavailable"),
    (3, "pm_sandbox_capture_fails"),
    (1, "pm_sandbox_slow"),
];

/// Orders being placed.
pub struct Load {
    shared: Arc<Shared>,
    customers: JoinSet<()>,
}

struct Shared {
    /// Where the shop listens now.
    address: Mutex<String>,
    /// Ids of orders that were answered with 201, and how long that answer took.
    accepted: Mutex<Vec<(String, Duration)>>,
    /// Answers that sent a customer away for a moment.
    busy: Mutex<Vec<String>>,
    enough: AtomicBool,
    /// How long a customer thinks between two orders.
    thinks: Duration,
}

impl Load {
    /// Starts placing orders for these products, as fast as they are accepted.
    pub fn start(address: &str, seed: u64, products: &'static [&'static str]) -> Self {
        Self::paced(address, seed, products, Duration::ZERO)
    }

    /// The same with customers who think for so long before each order.
    pub fn paced(address: &str, seed: u64, products: &'static [&'static str], thinks: Duration) -> Self {
        let shared = Arc::new(Shared {
            address: Mutex::new(address.to_owned()),
            accepted: Mutex::default(),
            busy: Mutex::default(),
            enough: AtomicBool::new(false),
            thinks,
        });
        let mut customers = JoinSet::new();
        for customer in 0..CUSTOMERS {
            let random = Random(seed ^ (customer << 32));
            customers.spawn(order_on_and_on(shared.clone(), format!("{seed}-{customer}"), random, products));
        }
        Self { shared, customers }
    }

    /// The shop has moved.
    pub fn goes_on_at(&self, address: &str) {
        address.clone_into(&mut lock(&self.shared.address));
    }

    pub fn accepted(&self) -> usize {
        lock(&self.shared.accepted).len()
    }

    /// How long each accepted order waited for its answer, in the order of the answers.
    pub fn waits(&self) -> Vec<Duration> {
        lock(&self.shared.accepted).iter().map(|(_, waited)| *waited).collect()
    }

    /// What customers were told when they were sent away.
    pub fn busy(&self) -> Vec<String> {
        lock(&self.shared.busy).clone()
    }

    /// Waits until so many more orders are accepted.
    pub async fn more(&self, count: usize) {
        let enough = self.accepted() + count;
        self.until("orders are accepted", || self.accepted() >= enough).await;
    }

    /// Waits until `done`, as long as customers are well.
    pub async fn until(&self, what: &str, done: impl Fn() -> bool) {
        let begun = Instant::now();
        while !done() {
            assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}; {:?}", self.busy().last());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Lets every customer finish the order they are at; returns the ids of all that were accepted.
    pub async fn end(mut self) -> Vec<String> {
        self.shared.enough.store(true, Ordering::Relaxed);
        while let Some(customer) = self.customers.join_next().await {
            customer.expect("a customer is never refused for good");
        }
        lock(&self.shared.accepted).iter().map(|(id, _)| id.clone()).collect()
    }
}

async fn order_on_and_on(shared: Arc<Shared>, name: String, mut random: Random, products: &[&str]) {
    let mut client = Client::to("");
    for n in 0.. {
        if shared.enough.load(Ordering::Relaxed) {
            return;
        }
        let accepted =
            insist(&shared, &mut client, &format!("{name}-{n}"), &body(&mut random, products)).await;
        lock(&shared.accepted).push(accepted);
        tokio::time::sleep(shared.thinks).await;
    }
}

/// Asks until accepted: whoever gets no answer does not know whether there is an order.
async fn insist(shared: &Shared, client: &mut Client, key: &str, body: &str) -> (String, Duration) {
    let begun = Instant::now();
    loop {
        let headers = [("content-type", "application/json"), ("idempotency-key", key)];
        let asked = Instant::now();
        match client.try_ask(request(Method::POST, "/orders", &headers, body)).await {
            Ok(answer) if answer.status == StatusCode::CREATED => {
                let id = answer.json()["id"].as_str().expect("an accepted order has an id").to_owned();
                return (id, asked.elapsed());
            }
            // The second is the answer to whoever hung up and asks again while the first one is handled.
            Ok(answer)
                if [StatusCode::SERVICE_UNAVAILABLE, StatusCode::CONFLICT].contains(&answer.status) =>
            {
                assert_ne!(answer.header("retry-after"), "", "{}", answer.text());
                lock(&shared.busy).push(answer.text());
            }
            Ok(answer) => panic!("POST /orders {body}: {} {}", answer.status, answer.text()),
            Err(_) => *client = Client::to(&lock(&shared.address)),
        }
        assert!(begun.elapsed() < PATIENCE, "order {key} is not accepted");
        // Asking at once would only keep the machine from what it has to do.
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn body(random: &mut Random, products: &[&str]) -> String {
    let mut left = random.below(100);
    let drawn = METHODS.iter().find(|(percent, _)| {
        let hit = left < *percent;
        left = left.saturating_sub(*percent);
        hit
    });
    let mut line = || {
        let product = random.below(products.len() as u64) as usize;
        json!({"product_id": products[product], "quantity": 1 + random.below(3)})
    };
    let items = [line(), line()];
    json!({"items": items, "payment_method": drawn.expect("they add up to 100").1}).to_string()
}

/// Steele, Lea and Flood's generator: three lines, and the same numbers on every machine.
pub struct Random(pub u64);

impl Random {
    /// A number from 0 up to but not including `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    pub fn milliseconds(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}

/// A seed that is new each time, or the one to be run again.
pub fn seed() -> u64 {
    let given = std::env::var("TEST_SEED").ok().map(|seed| seed.parse().expect("TEST_SEED is a number"));
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("this is not the sixties");
    let seed = given.unwrap_or(u64::from(since.subsec_nanos()));
    println!("run this again with TEST_SEED={seed}");
    seed
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("customers do not panic while they write")
}
