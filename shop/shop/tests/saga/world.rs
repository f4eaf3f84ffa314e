//! The three services in this process, each on its own store, all on one broker, and whatever scripts do to
//! them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use order::OrderSettings;
use serde_json::{Value, json};
use shop::ShopSettings;
use tidings::broker::{Outgoing, Record};
use tidings::{Broker, Headers, Message, RunningService, Service, Topic};
use tower::ServiceExt as _;

use super::backends::Backends;
use super::script::{Action, Line, Step};
use super::transcript::{self, Story};

/// The services, in the order in which the shop lists them.
pub const SERVICES: [&str; 3] = ["order", "payment", "inventory"];
/// What they state, and where: in the order of a transcript.
pub const TOPICS: [&str; 3] = ["orders", "payments", "inventory"];

/// Products and opening stock: enough tea, one last mug, no saffron.
const CATALOGUE: &str = r#"[
    {"product_id": "tea", "name": "Tea", "unit_price": {"amount": 1299, "currency": "EUR"}, "stock": 100},
    {"product_id": "coffee", "name": "Coffee", "unit_price": {"amount": 1190, "currency": "EUR"}, "stock": 100},
    {"product_id": "mug", "name": "The last mug", "unit_price": {"amount": 850, "currency": "EUR"}, "stock": 1},
    {"product_id": "saffron", "name": "Saffron", "unit_price": {"amount": 990, "currency": "EUR"}, "stock": 0}
]"#;
/// What one piece costs in a foreign order.
const FOREIGN_PRICE: u64 = 1000;
/// More than one, so that orders are spread.
const PARTITIONS: u32 = 3;
/// Everything a script starts is over long before; then it has got stuck.
const PATIENCE: Duration = Duration::from_secs(60);
/// How far the clock of a second instance is ahead.
const APART: Duration = Duration::from_secs(2);
/// Between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(2);

pub struct World {
    backends: Backends,
    broker: Broker,
    topics: Vec<String>,
    running: BTreeMap<&'static str, RunningService>,
    /// A second instance of each service, where there are two: it joins late, and its clock is ahead.
    second: BTreeMap<&'static str, RunningService>,
    settled: usize,
    /// How far the clocks have been moved.
    ahead: Duration,
    /// What orders are called in the script, by id.
    pub labels: BTreeMap<String, String>,
    /// Opening stock and deliveries, by product.
    pub received: BTreeMap<String, u64>,
    story: Story,
}

impl World {
    /// The shop, new.
    pub async fn open() -> Self {
        let backends = Backends::new(CATALOGUE);
        let broker = Broker::open(&backends.broker()).expect("the backends is nobody else's");
        let names: BTreeSet<String> = services(&backends).iter().flat_map(Service::topic_names).collect();
        let topic = |name: &String| Topic { name: Cow::Owned(name.clone()), partitions: PARTITIONS };
        let topics: Vec<Topic> = names.iter().map(topic).collect();
        broker.apply_topics(&topics).await.expect("the topics are new");
        let products: Vec<Value> = serde_json::from_str(CATALOGUE).expect("the catalogue is JSON");
        let opening =
            |p: &Value| (p["product_id"].as_str().unwrap().to_owned(), p["stock"].as_u64().unwrap());
        let mut world = Self {
            backends,
            broker,
            topics: names.into_iter().collect(),
            running: BTreeMap::new(),
            second: BTreeMap::new(),
            settled: 0,
            ahead: Duration::ZERO,
            labels: BTreeMap::new(),
            received: products.iter().map(opening).collect(),
            story: Story::default(),
        };
        for service in SERVICES {
            world.start(service).await;
        }
        world
    }

    /// Starts the second instance of each service that runs, where there are two.
    async fn join_late(&mut self) {
        // Late, and after what a script expects of its first moment: joining takes seconds.
        self.settled += 1;
        if !self.backends.has_two_instances() || self.settled < 2 {
            return;
        }
        for service in SERVICES.into_iter().filter(|service| self.running.contains_key(service)) {
            if !self.second.contains_key(service) {
                let second = self.run(service).await;
                second.store().clock().advance(APART);
                self.second.insert(service, second);
            }
        }
    }

    /// Does what a line of the script says.
    pub async fn take(&mut self, step: Step) {
        match step.action {
            Action::Post { order, lines, card } => self.post(order, &lines, card).await,
            Action::Cancel { order, status } => self.cancel(&order, status).await,
            Action::Receive { line, reference } => self.receive(line, &reference).await,
            Action::Expect { order, fields } => self.expect(&order, &fields).await,
            Action::Count { status, orders } => {
                let listed = self.list("order", &format!("/orders?status={status}&limit=1000")).await;
                assert_eq!(listed.len(), orders, "orders that are {status}");
            }
            Action::Foreign { order, lines, keyed } => self.foreign(order, &lines, keyed).await,
            Action::Fact { name, order, seq } => self.fact(&name, &order, seq).await,
            Action::Again { topic } => self.again(&topic).await,
            Action::Raw { topic, key, value } => {
                let message = Message {
                    key: Some(key.into()),
                    headers: Headers::default(),
                    value: value.into(),
                    ..Message::default()
                };
                self.send(&topic, message).await;
            }
            Action::Stop { service } => self.stop(known(&service)).await,
            Action::Start { service } => self.start(known(&service)).await,
            Action::Advance(by) => self.advance(by),
        }
        if step.waits {
            self.settle().await;
        }
    }

    async fn post(&mut self, order: String, lines: &[Line], card: Option<String>) {
        let items: Vec<Value> =
            lines.iter().map(|l| json!({"product_id": l.product_id, "quantity": l.quantity})).collect();
        let mut body = json!({ "items": items });
        if let Some(card) = card {
            body["payment_method"] = method(&card).into();
        }
        let (status, placed) = self.ask("order", Method::POST, "/orders", Some(body)).await;
        assert_eq!(status, StatusCode::CREATED, "POST /orders {order}: {placed}");
        let id = placed["id"].as_str().expect("an accepted order has an id");
        self.labels.insert(id.to_owned(), order);
    }

    async fn cancel(&self, order: &str, expected: u16) {
        let path = format!("/orders/{}/cancel", self.id(order));
        let (status, answer) = self.ask("order", Method::POST, &path, None).await;
        assert_eq!(status, expected, "cancel {order}: {answer}");
    }

    async fn receive(&mut self, line: Line, reference: &str) {
        let path = format!("/stock/{}/receipts", line.product_id);
        let body = json!({"quantity": line.quantity, "reference": reference});
        let (status, answer) = self.ask("inventory", Method::POST, &path, Some(body)).await;
        assert!(status.is_success(), "POST {path}: {status} {answer}");
        if status == StatusCode::CREATED {
            *self.received.entry(line.product_id).or_default() += line.quantity;
        }
    }

    async fn expect(&self, order: &str, fields: &[(String, String)]) {
        let shown = self.get("order", &format!("/orders/{}", self.id(order))).await;
        for (name, expected) in fields {
            assert_eq!(shown[name], **expected, "{name} of {order}: {shown}");
        }
    }

    /// What a program that knows nothing of CloudEvents would send.
    async fn foreign(&mut self, order: String, lines: &[Line], keyed: bool) {
        let items: Vec<Value> =
            lines.iter().map(|l| json!({"product_id": l.product_id, "qty": l.quantity})).collect();
        let pieces: u64 = lines.iter().map(|l| l.quantity).sum();
        let event = json!({
            "event_id": format!("event of {order}"),
            "event_type": "order_created",
            "timestamp": "2026-01-01T00:00:00Z",
            "payload": {"order_id": order, "items": items, "total": {"amount": pieces * FOREIGN_PRICE, "currency": "EUR"}},
        });
        let key = keyed.then(|| order.clone().into());
        self.labels.insert(order.clone(), order);
        self.send(
            "orders",
            Message {
                key,
                headers: Headers::default(),
                value: event.to_string().into(),
                ..Message::default()
            },
        )
        .await;
    }

    /// What a service would send, so that a script can choose the order of arrival.
    async fn fact(&self, name: &str, order: &str, seq: u64) {
        let topic = match name.split('.').next() {
            Some("order") => "orders",
            Some("payment") => "payments",
            _ => "inventory",
        };
        let id = self.labels.iter().find(|(_, label)| *label == order).map_or(order, |(id, _)| id);
        let payload = match name {
            "order.cancelled" => json!({"order_id": id, "reason": "cancelled_by_customer"}),
            "payment.declined" => {
                json!({"order_id": id, "code": "card_declined", "reason": "the card was declined"})
            }
            "stock.rejected" => {
                json!({"order_id": id, "missing": [{"product_id": "tea", "requested": 2, "available": 0}]})
            }
            _ if topic == "payments" => {
                json!({"order_id": id, "payment_id": "p-1", "amount": {"amount": 2598, "currency": "EUR"}})
            }
            _ => json!({"order_id": id, "items": [{"product_id": "tea", "quantity": 2}]}),
        };
        let headers = Headers::from([
            ("ce_specversion", "1.0"),
            ("ce_id", &format!("{name} of {order}")),
            ("ce_type", &format!("{name}.v1")),
            ("ce_source", &format!("/{topic}")),
            ("ce_subject", id),
            ("ce_streamseq", &seq.to_string()),
            ("content-type", "application/json"),
        ]);
        let message = Message {
            key: Some(id.to_owned().into()),
            headers,
            value: payload.to_string().into(),
            ..Message::default()
        };
        self.send(topic, message).await;
    }

    async fn again(&self, topic: &str) {
        for record in self.records(topic).await {
            self.send(topic, Message::clone(&record.message)).await;
        }
    }

    pub async fn send(&self, topic: &str, message: Message) {
        let outgoing = Outgoing::new(topic.to_owned(), message);
        for sent in self.broker.send(vec![outgoing]).await {
            sent.expect("the broker takes it");
        }
    }

    async fn start(&mut self, service: &'static str) {
        let running = self.run(service).await;
        let before = self.running.insert(service, running);
        assert!(before.is_none(), "{service} runs already");
    }

    /// One more instance of a service.
    async fn run(&self, service: &'static str) -> RunningService {
        let begun = Instant::now();
        let number = SERVICES.iter().position(|s| *s == service).expect("scripts name real services");
        let running = loop {
            let described = services(&self.backends).swap_remove(number);
            match described.start(&self.backends.store(), &self.broker).await {
                Ok(running) => break running,
                // The former run lets its files go once its last task has ended.
                Err(e) if e.is_config() && begun.elapsed() < PATIENCE => tokio::time::sleep(LOOK_EVERY).await,
                Err(e) => panic!("{service} cannot start: {e}"),
            }
        };
        running.store().clock().advance(self.ahead);
        running
    }

    async fn stop(&mut self, service: &'static str) {
        let running = self.running.remove(service).expect("only what runs can be stopped");
        running.stop().await.expect("a service stops cleanly");
        if let Some(second) = self.second.remove(service) {
            second.stop().await.expect("a service stops cleanly");
        }
    }

    fn advance(&mut self, by: Duration) {
        self.ahead += by;
        for running in self.instances() {
            running.store().clock().advance(by);
        }
    }

    fn instances(&self) -> impl Iterator<Item = &RunningService> {
        self.running.values().chain(self.second.values())
    }

    /// Waits until no running service has anything to do, and notes what was stated meanwhile.
    pub async fn settle(&mut self) {
        let begun = Instant::now();
        while !self.is_idle().await {
            assert!(begun.elapsed() < PATIENCE, "not idle after {PATIENCE:?}:\n{}", self.transcript());
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let mut records = Vec::new();
        for topic in &self.topics {
            records.extend(self.records(topic).await);
        }
        self.story.go_on(&records);
        self.join_late().await;
    }

    /// Idle, all of them at once: nobody sent anything while they were asked.
    async fn is_idle(&self) -> bool {
        let before = self.sent().await;
        for running in self.instances() {
            if !running.is_idle().await.expect("a running service can be asked") {
                return false;
            }
        }
        before == self.sent().await
    }

    async fn sent(&self) -> i64 {
        let positions = self.broker.positions("nobody", &self.topics).await.expect("the topics are there");
        positions.iter().map(|position| position.end).sum()
    }

    /// Every message of a topic.
    pub async fn records(&self, topic: &str) -> Vec<Record> {
        let mut records = Vec::new();
        let topics = [topic.to_owned()];
        for position in self.broker.positions("nobody", &topics).await.expect("the topic is there") {
            let mut offset = 0;
            while offset < position.end {
                let found = self.broker.read(topic, position.partition, offset, 1000).await;
                let found = found.expect("the log can be read");
                offset = found.last().expect("there is more before the end").offset + 1;
                records.extend(found);
            }
        }
        records
    }

    /// What was stated so far.
    pub fn transcript(&self) -> String {
        transcript::write(&self.story, &self.labels)
    }

    pub fn story(&self) -> &Story {
        &self.story
    }

    pub fn runs(&self, service: &str) -> bool {
        self.running.contains_key(service)
    }

    pub fn all_run(&self) -> bool {
        self.running.len() == SERVICES.len()
    }

    /// What a `GET` answers.
    pub async fn get(&self, service: &str, path: &str) -> Value {
        let (status, answer) = self.ask(service, Method::GET, path, None).await;
        assert_eq!(status, StatusCode::OK, "GET {path}: {answer}");
        answer
    }

    /// The `items` of a list.
    pub async fn list(&self, service: &str, path: &str) -> Vec<Value> {
        match self.get(service, path).await["items"].take() {
            Value::Array(items) => items,
            other => panic!("GET {path} lists {other}"),
        }
    }

    async fn ask(
        &self,
        service: &str,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let running = self.running.get(service).unwrap_or_else(|| panic!("{service} is stopped"));
        let mut request = Request::builder().method(method).uri(path);
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = body.map_or_else(Body::empty, |json| Body::from(json.to_string()));
        let request = request.body(body).expect("scripts make valid requests");
        let answer = running.router().oneshot(request).await.expect("a router always answers");
        let status = answer.status();
        let body = answer.into_body().collect().await.expect("the body is in memory").to_bytes();
        (status, serde_json::from_slice(&body).expect("answers are JSON"))
    }

    fn id(&self, order: &str) -> &str {
        let found = self.labels.iter().find(|(_, label)| *label == order);
        found.map(|(id, _)| &**id).unwrap_or_else(|| panic!("the script has no order {order}"))
    }
}

fn services(backends: &Backends) -> Vec<Service> {
    let settings = ShopSettings {
        order: OrderSettings { catalogue: Some(backends.catalogue()), ..OrderSettings::default() },
        ..ShopSettings::default()
    };
    shop::services(&settings).expect("the catalogue can be read")
}

fn known(service: &str) -> &'static str {
    let found = SERVICES.iter().find(|known| **known == service);
    found.unwrap_or_else(|| panic!("there is no service {service}"))
}

/// The sandbox's name of a card.
fn method(card: &str) -> String {
    match card {
        "good" => "pm_card_visa".to_owned(),
        "declined" => "pm_card_visa_chargeDeclined".to_owned(),
        "insufficient_funds" => "pm_card_visa_chargeDeclinedInsufficientFunds".to_owned(),
        special => format!("pm_sandbox_{special}"),
    }
}
