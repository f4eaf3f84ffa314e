//! Health, status and metrics of the process; ids that lead from a request through every event.

use std::collections::BTreeSet;

use expect_test::expect;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tidings::Broker;

use super::process::{PATIENCE, eventually, request};
use super::{TEA, golden, open};

#[tokio::test]
async fn the_process_tells_how_it_is() {
    let (_directory, _shop, mut client) = open();
    assert_eq!(client.json("/livez").await, json!({"status": "live"}));
    assert_eq!(client.json("/readyz").await, json!({"status": "ready"}));
    let id = client.place(TEA).await;
    client.ended(&id).await;
    let status = eventually(async || {
        let status = client.json("/statusz").await;
        let idle = |s: &Value| s["outbox"]["pending"] == 0 && s["consumer"]["lag"] == 0;
        let all_idle = ["order", "payment", "inventory"].iter().all(|name| idle(&status[*name]));
        if all_idle { Ok(status) } else { Err(format!("not idle: {status}")) }
    })
    .await;
    golden(
        status,
        expect![[r#"
            {
              "inventory": {
                "consumer": {
                  "conflicts": 0,
                  "dead": 0,
                  "delivered": 3,
                  "differing": 0,
                  "duplicate": 0,
                  "failed_again": 0,
                  "given_up": 0,
                  "group": "inventory",
                  "handled": 2,
                  "ignored": 1,
                  "lag": 0,
                  "parked": 0,
                  "recovered": 0,
                  "retries_left": 256
                },
                "effects": {
                  "conflict": 0,
                  "done": 0,
                  "failing": 0,
                  "open": 0
                },
                "outbox": {
                  "blocked": 0,
                  "failed": 0,
                  "oldest_seconds": null,
                  "pending": 0,
                  "published": 2
                },
                "parked": {
                  "dead": 0,
                  "waiting": 0
                },
                "refusal": null,
                "waiting": []
              },
              "order": {
                "consumer": {
                  "conflicts": 0,
                  "dead": 0,
                  "delivered": 7,
                  "differing": 0,
                  "duplicate": 0,
                  "failed_again": 0,
                  "given_up": 0,
                  "group": "orders",
                  "handled": 4,
                  "ignored": 3,
                  "lag": 0,
                  "parked": 0,
                  "recovered": 0,
                  "retries_left": 256
                },
                "effects": {
                  "conflict": 0,
                  "done": 0,
                  "failing": 0,
                  "open": 0
                },
                "orders": {
                  "cancelling": 0,
                  "confirmed": 0,
                  "processing": 0
                },
                "outbox": {
                  "blocked": 0,
                  "failed": 0,
                  "oldest_seconds": null,
                  "pending": 0,
                  "published": 3
                },
                "parked": {
                  "dead": 0,
                  "waiting": 0
                },
                "refusal": null,
                "waiting": []
              },
              "payment": {
                "consumer": {
                  "conflicts": 0,
                  "dead": 0,
                  "delivered": 3,
                  "differing": 0,
                  "duplicate": 0,
                  "failed_again": 0,
                  "given_up": 0,
                  "group": "payments",
                  "handled": 2,
                  "ignored": 1,
                  "lag": 0,
                  "parked": 0,
                  "recovered": 0,
                  "retries_left": 256
                },
                "effects": {
                  "conflict": 0,
                  "done": 2,
                  "failing": 0,
                  "open": 0
                },
                "outbox": {
                  "blocked": 0,
                  "failed": 0,
                  "oldest_seconds": null,
                  "pending": 0,
                  "published": 2
                },
                "parked": {
                  "dead": 0,
                  "waiting": 0
                },
                "refusal": null,
                "waiting": [],
                "webhook": {
                  "ignored": 0,
                  "recorded": 0,
                  "refused": 0,
                  "repeated": 0
                }
              }
            }
        "#]],
    );
    let metrics = client.get("/metrics").await;
    assert_eq!(metrics.status, StatusCode::OK);
    assert!(metrics.header("content-type").starts_with("text/plain"), "{}", metrics.header("content-type"));
    let mut text: Vec<String> = metrics.text().lines().map(str::to_owned).collect();
    // Times differ from run to run, and so does the number of commits.
    let is_timed = |line: &str| {
        line.contains("_bucket{") || line.contains("_sum{") || line.starts_with("commit_seconds")
    };
    text.retain(|line| line.contains(r#"service="payment""#) && !is_timed(line));
    text.sort();
    expect![[r#"
        breaker_open{service="payment",provider="the payment provider"} 0
        consumer_conflicts_total{service="payment"} 0
        consumer_lag_records{service="payment"} 0
        consumer_lag_seconds{service="payment"} 0
        consumer_paused_seconds{service="payment"} 0
        consumer_stalled_seconds{service="payment"} 0
        dead_oldest_seconds{service="payment"} 0
        dead_rows{service="payment"} 0
        effects_conflict{service="payment"} 0
        effects_done_total{service="payment"} 2
        effects_failed_total{service="payment"} 0
        effects_failing{service="payment"} 0
        effects_open{service="payment"} 0
        event_end_to_end_seconds_count{service="payment",type="order.cancelled.v1"} 0
        event_end_to_end_seconds_count{service="payment",type="order.confirmed.v1"} 1
        event_end_to_end_seconds_count{service="payment",type="order.created.v1"} 1
        event_wait_seconds_count{service="payment",type="order.cancelled.v1"} 0
        event_wait_seconds_count{service="payment",type="order.confirmed.v1"} 1
        event_wait_seconds_count{service="payment",type="order.created.v1"} 1
        handle_seconds_count{service="payment",type="order.cancelled.v1"} 0
        handle_seconds_count{service="payment",type="order.confirmed.v1"} 1
        handle_seconds_count{service="payment",type="order.created.v1"} 1
        handler_blocking_total{service="payment",type="order.cancelled.v1"} 0
        handler_blocking_total{service="payment",type="order.confirmed.v1"} 0
        handler_blocking_total{service="payment",type="order.created.v1"} 0
        handler_failures_total{service="payment",type="order.cancelled.v1",kind="deadline"} 0
        handler_failures_total{service="payment",type="order.cancelled.v1",kind="dependency"} 0
        handler_failures_total{service="payment",type="order.cancelled.v1",kind="fatal"} 0
        handler_failures_total{service="payment",type="order.cancelled.v1",kind="panic"} 0
        handler_failures_total{service="payment",type="order.cancelled.v1",kind="transient"} 0
        handler_failures_total{service="payment",type="order.confirmed.v1",kind="deadline"} 0
        handler_failures_total{service="payment",type="order.confirmed.v1",kind="dependency"} 0
        handler_failures_total{service="payment",type="order.confirmed.v1",kind="fatal"} 0
        handler_failures_total{service="payment",type="order.confirmed.v1",kind="panic"} 0
        handler_failures_total{service="payment",type="order.confirmed.v1",kind="transient"} 0
        handler_failures_total{service="payment",type="order.created.v1",kind="deadline"} 0
        handler_failures_total{service="payment",type="order.created.v1",kind="dependency"} 0
        handler_failures_total{service="payment",type="order.created.v1",kind="fatal"} 0
        handler_failures_total{service="payment",type="order.created.v1",kind="panic"} 0
        handler_failures_total{service="payment",type="order.created.v1",kind="transient"} 0
        http_shed_total{service="payment",reason="effects"} 0
        http_shed_total{service="payment",reason="outbox_age"} 0
        http_shed_total{service="payment",reason="outbox_rows"} 0
        http_shed_total{service="payment",reason="requests"} 0
        inbox_blocked_keys{service="payment"} 0
        inbox_blocked_oldest_seconds{service="payment"} 0
        inbox_conservation_difference{service="payment"} 0
        inbox_delivered_total{service="payment"} 3
        inbox_differing_total{service="payment"} 0
        inbox_gap_streams{service="payment"} 0
        inbox_gaps_total{service="payment"} 0
        inbox_records_total{service="payment",result="dead"} 0
        inbox_records_total{service="payment",result="duplicate"} 0
        inbox_records_total{service="payment",result="handled"} 2
        inbox_records_total{service="payment",result="ignored"} 1
        inbox_records_total{service="payment",result="parked"} 0
        outbox_blocked_rows{service="payment"} 0
        outbox_blocked_total{service="payment"} 0
        outbox_lane_lease_lost_total{service="payment"} 0
        outbox_oldest_pending_seconds{service="payment"} 0
        outbox_pending_rows{service="payment"} 0
        outbox_published_total{service="payment"} 2
        outbox_seconds_count{service="payment",topic="payments"} 2
        outbox_seconds_count{service="payment",topic="payments_dlq"} 0
        outbox_send_failures_total{service="payment"} 0
        parked_failed_again_total{service="payment"} 0
        parked_given_up_total{service="payment"} 0
        parked_oldest_seconds{service="payment"} 0
        parked_recovered_total{service="payment"} 0
        parked_rows{service="payment"} 0
        parked_unstorable_total{service="payment"} 0
        paused{service="payment",scope="effects",name=""} 0
        paused{service="payment",scope="key",name=""} 0
        paused{service="payment",scope="service",name=""} 0
        paused{service="payment",scope="topic",name=""} 0
        paused{service="payment",scope="type",name=""} 0
        relay_lanes{service="payment"} 0
        retries_left{service="payment"} 256
        store_up{service="payment"} 1"#]]
    .assert_eq(&text.join("\n"));
}

#[tokio::test]
async fn a_request_id_is_returned_or_made() {
    let (_directory, _shop, mut client) = open();
    let answer = client.ask(request(Method::GET, "/livez", &[("x-request-id", "r-1")], "")).await;
    assert_eq!(answer.header("x-request-id"), "r-1");
    let made: BTreeSet<String> = [client.get("/livez").await, client.get("/nowhere").await]
        .map(|a| a.header("x-request-id").to_owned())
        .into();
    assert!(made.len() == 2 && made.iter().all(|id| id.len() == 36), "{made:?}");
}

#[tokio::test]
async fn request_id_and_trace_go_from_the_request_through_every_event() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let (directory, mut shop, mut client) = open();
    let traceparent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let headers = [("x-request-id", "request-1"), ("traceparent", &traceparent)];
    let answer = client.post_with("/orders", &headers, TEA).await;
    assert_eq!(answer.header("x-request-id"), "request-1");
    assert_eq!(answer.header("traceparent"), traceparent);
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    client.ended(&id).await;
    drop(client);
    shop.terminate();
    assert!(shop.wait(PATIENCE).unwrap().success());
    drop(shop);
    let broker = Broker::open(&format!("sqlite:{}", directory.path().display())).unwrap();
    let mut types = BTreeSet::new();
    for topic in ["orders", "payments", "inventory"] {
        for position in broker.positions("nobody", &[topic.to_owned()]).await.unwrap() {
            for record in broker.read(topic, position.partition, 0, 100).await.unwrap() {
                let header = |name| record.message.header(name).unwrap_or_default().to_owned();
                assert_eq!(header("ce_correlationid"), "request-1", "{}", header("ce_type"));
                assert_eq!(header("traceparent").split('-').nth(1), Some(TRACE), "{}", header("ce_type"));
                types.insert(header("ce_type"));
            }
        }
    }
    assert_eq!(types.len(), 7, "{types:?}");
}
