//! What lies on a topic, for people who look: over HTTP on the embedded log, and with `tidings tail` on Kafka.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod process;
#[cfg(feature = "kafka")]
mod programs;

use bytes::Bytes;
use expect_test::{Expect, expect};
use process::{Client, Shop};
use serde_json::{Value, json};
use tidings::broker::Outgoing;
use tidings::{Broker, Headers, Message};

const TEA: &str = r#"{"items":[{"product_id":"tea","quantity":2}]}"#;

/// What a topic tells, from the beginning if nothing else is asked for.
async fn asked(client: &mut Client, topic: &str, query: &str) -> Value {
    client.json(&format!("/admin/topics/{topic}/messages?{query}")).await
}

/// Places of messages and what was asked for with them, a line each.
fn lines(answer: &Value, fields: &[&str]) -> Vec<String> {
    let messages = answer["messages"].as_array().unwrap().iter();
    let line = |message: &Value| {
        let fields = fields.iter().map(|field| match &message[*field] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        });
        fields.collect::<Vec<_>>().join(" ")
    };
    messages.map(line).collect()
}

/// Puts bytes on a topic that are no event of anybody's.
async fn put(broker: &Broker, topic: &'static str, key: &'static [u8], value: &'static [u8]) {
    let mut headers = Headers::default();
    for (name, value) in [("note", b"\xff".as_slice()), ("twice", b"one"), ("twice", b"two")] {
        headers.push(name, value);
    }
    let message = Message {
        key: Some(Bytes::from_static(key)),
        headers,
        value: Bytes::from_static(value),
        ..Message::default()
    };
    let sent = broker.send(vec![Outgoing::new(topic, message)]).await;
    sent.into_iter().for_each(Result::unwrap);
}

#[tokio::test]
async fn a_topic_is_read_from_wherever_one_likes() {
    let directory = tempfile::tempdir().unwrap();
    let shop = Shop::start(directory.path(), &["--partitions", "3"]);
    let mut client = shop.client();
    let mut placed = Vec::new();
    for _ in 0..4 {
        let id = client.place(TEA).await;
        client.ended(&id).await;
        placed.push(id);
    }
    let all = asked(&mut client, "orders", "from=beginning").await;
    let kinds: Vec<String> = placed
        .iter()
        .flat_map(|id| ["created", "confirmed", "completed"].map(|what| format!("order.{what}.v1 {id}")))
        .collect();
    assert_eq!(lines(&all, &["type", "key"]), kinds, "one order after the other, whatever the partition");
    assert_eq!(all["is_end"], true);

    // A page at a time it is the same.
    let (mut paged, mut query) = (Vec::new(), "from=beginning".to_owned());
    loop {
        let page = asked(&mut client, "orders", &format!("{query}&limit=5")).await;
        paged.extend(page["messages"].as_array().unwrap().clone());
        query = format!("cursor={}", page["cursor"].as_str().unwrap());
        if page["is_end"] == true {
            break;
        }
    }
    assert_eq!(json!(paged), all["messages"]);

    let of_offset = asked(&mut client, "orders", "from=1").await;
    let not_first: Vec<&Value> =
        all["messages"].as_array().unwrap().iter().filter(|message| message["offset"] != 0).collect();
    assert_eq!(json!(not_first), of_offset["messages"]);

    let third = &all["messages"][6];
    let since = asked(&mut client, "orders", &format!("from={}", third["time"].as_str().unwrap())).await;
    assert_eq!(json!(all["messages"].as_array().unwrap()[6..]), since["messages"]);
    assert_eq!(asked(&mut client, "orders", "from=1h").await["messages"], all["messages"]);
    assert_eq!(lines(&asked(&mut client, "orders", "from=0s").await, &["type"]), [""; 0]);
    assert_eq!(lines(&asked(&mut client, "orders", "").await, &["type"]), [""; 0], "from now on");

    let of_key = asked(&mut client, "payments", &format!("from=beginning&key={}", placed[1])).await;
    assert_eq!(
        lines(&of_key, &["type", "key", "streamseq"]),
        [format!("payment.authorized.v1 {} 1", placed[1]), format!("payment.captured.v1 {} 2", placed[1])]
    );
    let of_type = asked(&mut client, "inventory", "from=beginning&type=stock.committed.v1&limit=3").await;
    let committed: Vec<String> = placed[..3].iter().map(|id| format!("stock.committed.v1 {id}")).collect();
    assert_eq!(lines(&of_type, &["type", "key"]), committed);
}

#[tokio::test]
async fn what_is_put_on_a_topic_next_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let shop = Shop::start(directory.path(), &[]);
    let mut client = shop.client();
    let before = client.place(TEA).await;
    client.ended(&before).await;
    let mut cursor = asked(&mut client, "orders", "").await["cursor"].as_str().unwrap().to_owned();
    for _ in 0..3 {
        let mut other = shop.client();
        let query = format!("cursor={cursor}&type=order.created.v1&wait=20");
        let (next, id) = tokio::join!(asked(&mut client, "orders", &query), other.place(TEA));
        assert_eq!(lines(&next, &["key"]), [id]);
        next["cursor"].as_str().unwrap().clone_into(&mut cursor);
    }
    // Who waits does not hold a shop up that stops.
    let mut shop = shop;
    let waiting = tokio::spawn(async move { asked(&mut client, "orders", "key=nobody&wait=20").await });
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    shop.terminate();
    assert_eq!(waiting.await.unwrap()["messages"], json!([]));
    assert!(shop.wait(std::time::Duration::from_secs(10)).unwrap().success());
}

#[tokio::test]
async fn what_is_no_event_is_shown_as_what_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().display());
    let topics = ["orders", "payments", "inventory", "orders_dlq", "payments_dlq", "inventory_dlq"];
    let broker = Broker::open(&url).unwrap();
    let one = |name: &'static str| tidings::Topic { name: name.into(), partitions: 1 };
    broker.apply_topics(&topics.map(one)).await.unwrap();
    for value in [b"\x00\xff\xfe".as_slice(), b"tea, please", b" [1.50,\n 2] ", b""] {
        put(&broker, "orders", b"\xc3\x28", value).await;
    }
    let plain =
        br#"{"event_id":"e-1","event_type":"order_created","timestamp":"2026-01-02T03:04:05Z","payload":{}}"#;
    put(&broker, "orders", b"o-1", plain).await;
    broker.close().await.unwrap();
    drop(broker);

    let shop = Shop::start(directory.path(), &["--partitions", "1"]);
    let mut client = shop.client();
    let seen = asked(&mut client, "orders", "from=beginning&limit=4").await;
    let first = &seen["messages"][0];
    assert_eq!(first["key"], json!({"base64": "wyg="}));
    assert_eq!(first["headers"], json!({"note": {"base64": "/w=="}, "twice": ["one", "two"]}));
    assert_eq!(
        lines(&seen, &["offset", "encoding", "value", "type", "streamseq"]),
        [
            "0 base64 AP/+ null null",
            "1 text tea, please null null",
            "2 json [1.5,2] null null",
            "3 text  null null"
        ]
    );
    let text = client.get("/admin/topics/orders/messages?from=2&limit=1").await.text();
    assert!(text.contains(r#""value":[1.50,2]"#), "numbers are shown as they were written: {text}");
    // By either of its names.
    for name in ["order_created", "order.created.v1"] {
        let found = asked(&mut client, "orders", &format!("from=beginning&type={name}&wait=20")).await;
        assert_eq!(lines(&found, &["key", "type"]), ["o-1 order_created"]);
    }
    // And the dead letters of it.
    let mut dead = Vec::new();
    let mut cursor = "from=beginning".to_owned();
    while dead.len() < 5 {
        let letters = asked(&mut client, "payments_dlq", &format!("{cursor}&wait=20")).await;
        dead.extend(lines(&letters, &["encoding"]));
        cursor = format!("cursor={}", letters["cursor"].as_str().unwrap());
    }
    dead.sort_unstable();
    assert_eq!(dead, ["base64", "json", "json", "text", "text"]);
}

#[tokio::test]
async fn what_cannot_be_shown_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let shop = Shop::start(directory.path(), &[]);
    let mut client = shop.client();
    let mut refused = async |topic: &str, query: &str, expected: Expect| {
        let answer = client.get(&format!("/admin/topics/{topic}/messages?{query}")).await;
        assert_eq!(answer.header("content-type"), "application/problem+json");
        let problem = answer.json();
        expected.assert_eq(&format!("{} {}", answer.status.as_u16(), problem["detail"].as_str().unwrap()));
    };
    refused("teas", "", expect!["404 there is no topic teas here; there are inventory, inventory_dlq, orders, orders_dlq, payments, payments_dlq"]).await;
    refused("orders", "from=soon", expect![[r#"400 Failed to deserialize query string: from: "soon" is no place in a topic; use beginning, end, an offset, a time (2026-01-02T03:04:05Z) or how long ago (15m)"#]]).await;
    refused(
        "orders",
        "cursor=1.x",
        expect!["400 Failed to deserialize query string: cursor: it is not one that an answer gave out"],
    )
    .await;
    refused(
        "orders",
        "cursor=1.2",
        expect!["400 the cursor is not one of topic orders, which has 6 partitions"],
    )
    .await;
    refused("orders", "cursor=0.0.0.0.0.0&from=end", expect!["400 give either `from` or `cursor`"]).await;
    refused("orders", "limit=0", expect!["400 limit: lower than 1"]).await;
    refused("orders", "wait=21", expect!["400 wait: greater than 20"]).await;
}

#[cfg(feature = "kafka")]
mod command {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Child, ChildStdout, Output, Stdio};

    use tidings_servers::ProcessGuard;

    use super::programs::{self, Services};
    use super::*;

    /// `tidings tail`, run to its end.
    #[track_caller]
    fn tail(url: &str, args: &[&str]) -> Output {
        programs::run(programs::command("tidings").args(["--url", url, "tail"]).args(args))
    }

    #[track_caller]
    fn told(url: &str, args: &[&str]) -> Vec<String> {
        let output = tail(url, args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    /// `tidings tail`, followed.
    struct Following {
        child: Child,
        guard: ProcessGuard,
        lines: BufReader<ChildStdout>,
    }

    impl Following {
        fn start(url: &str, args: &[&str]) -> Self {
            let mut command = programs::command("tidings");
            command.args(["--url", url, "--json", "tail"]).args(args).stdout(Stdio::piped());
            let (mut child, guard) = ProcessGuard::spawn(&mut command).unwrap();
            let lines = BufReader::new(child.stdout.take().unwrap());
            Self { child, guard, lines }
        }

        fn next(&mut self) -> Value {
            let mut line = String::new();
            self.lines.read_line(&mut line).unwrap();
            serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
        }

        /// Ctrl-C ends it well.
        fn interrupt(mut self) {
            let kill = format!("kill -INT {}", self.child.id());
            assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
            assert!(self.child.wait().unwrap().success());
            self.guard.release();
        }
    }

    #[tokio::test]
    async fn a_topic_of_kafka_is_followed_while_orders_are_placed() {
        let services = Services::start();
        let url = |program: &programs::Program| format!("http://{}", program.address);
        let order = url(&services.order);
        let mut client = services.order.client();
        let mut following = Following::start(&order, &["orders", "--from", "beginning"]);
        let mut created = Vec::new();
        for _ in 0..3 {
            let id = client.place(TEA).await;
            for what in ["created", "confirmed", "completed"] {
                let message = following.next();
                assert_eq!(message["type"], format!("order.{what}.v1"), "{message}");
                assert_eq!(message["key"], id);
                assert_eq!(message["value"]["order_id"], id);
                assert_eq!(message["headers"]["ce_subject"], id);
                if what == "created" {
                    created.push(message);
                }
            }
        }
        following.interrupt();

        // From a time on, to the millisecond, as Kafka counts.
        let third = created[2]["time"].as_str().unwrap();
        let since = told(&order, &["orders", "--from", third, "--limit", "3", "--json"]);
        assert_eq!(serde_json::from_str::<Value>(&since[0]).unwrap(), created[2]);
        let ago = told(&order, &["orders", "--from", "15m", "--type", "order.created.v1", "--limit", "3"]);
        let ids: Vec<&str> = created.iter().map(|message| message["key"].as_str().unwrap()).collect();
        for (line, message) in ago.iter().zip(&created) {
            let [id, event_id] = [&message["key"], &message["id"]].map(|id| id.as_str().unwrap());
            let shown = format!("  order.created.v1        {id}  #1  {event_id}  {{\"order_id\"");
            assert!(line.contains(&shown), "{line}");
        }
        let of_key = told(&order, &["payments", "--from", "0", "--key", ids[1], "--limit", "2", "--json"]);
        assert!(of_key.iter().all(|line| line.contains(&format!(r#""key":"{}""#, ids[1]))), "{of_key:?}");
        let partition = created[0]["partition"].as_i64().unwrap();
        let second = told(&order, &["orders", "--from", "1", "--key", ids[0], "--limit", "1"]);
        assert!(second[0].contains(&format!("  {partition}/1 ")), "{second:?}");

        // From now on: what was there before is not shown.
        let mut following = Following::start(&order, &["orders", "--type", "order.created.v1"]);
        let placing = tokio::spawn(async move {
            loop {
                client.place(TEA).await;
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        });
        let (following, next) = tokio::task::spawn_blocking(move || {
            let next = following.next();
            (following, next)
        })
        .await
        .unwrap();
        placing.abort();
        assert!(!ids.contains(&next["key"].as_str().unwrap()), "{next}");
        following.interrupt();

        // Bytes of strangers, and what becomes of them; several addresses, of which one knows the topic.
        let broker = Broker::open(&services.backends.topics.url()).unwrap();
        put(&broker, "payments", b"\xff", b"\x00\xff").await;
        let all = services.all().map(url).join(",");
        let letter = told(&all, &["orders_dlq", "--from", "beginning", "--limit", "1"]);
        assert!(
            letter[0].ends_with(r#"  -                       {"base64":"/w=="}  -  -  base64:AP8="#),
            "{letter:?}"
        );

        let unknown = tail(&order, &["teas"]);
        assert_eq!(unknown.status.code(), Some(1));
        expect![[r#"
            tidings: GET /admin/topics/teas/messages?from=end&limit=500&wait=0 was refused with 404 Not Found: there is no topic teas here; there are inventory, orders, orders_dlq, payments
        "#]]
        .assert_eq(&String::from_utf8_lossy(&unknown.stderr));
        services.stop();
        let away = tail(&order, &["orders"]);
        assert!(
            String::from_utf8_lossy(&away.stderr).starts_with("tidings: nothing listens at "),
            "{away:?}"
        );
    }
}
