//! Questions: why, events, lag, topics, audit; and the command described to shells and to `man`.

use expect_test::expect;
use serde_json::{Value, json};

use crate::fake::{Fake, NEVER, fails, json_of, nobody, shows, squeezed, then, tidings};

#[test]
fn the_status_begins_with_the_verdict() {
    let process = |service: &'static str, dead: u64| {
        Fake::of(&[], move |question, _| {
            (question == "GET /statusz").then(|| {
                json!({service: {"consumer": {"lag": 2}, "outbox": {"pending": 1, "blocked": 0},
                    "parked": {"waiting": 0, "dead": dead}, "effects": {"open": 0, "failing": 0}, "waiting": []}})
            })
        })
    };
    let (order, payment, ill) = (process("order", 0), process("payment", 0), process("payment", 3));
    shows(
        &[&order.url, &payment.url],
        NEVER,
        &["status"],
        expect![[r#"
        all is well

        SERVICE  LAG  UNSENT  REFUSED  WAITING  DEAD  EFFECTS  FAILING
        order    2    1       0        0        0     0        0
        payment  2    1       0        0        0     0        0
    "#]],
    );
    assert_eq!(json_of(&[&order.url], &["status"])["order"]["consumer"]["lag"], 2);
    let away = nobody();
    let urls = [&*ill.url, &payment.url, &away];
    let output = tidings(&urls, &["status"]);
    assert_eq!(output.status.code(), Some(1));
    let verdict = String::from_utf8_lossy(&output.stdout).replace(&away, "URL").replace(&payment.url, "URL");
    expect![[r#"
        something is wrong
          payment: 3 dead letters; see `tidings dlq summary --service payment`
          nothing listens at URL: start the service or say with --url where it is

        SERVICE  LAG  UNSENT  REFUSED  WAITING  DEAD  EFFECTS  FAILING
        payment  2  1  0  0  3  0  0
        payment at URL  2  1  0  0  0  0  0
    "#]]
    .assert_eq(&squeezed(&verdict));
    let output = tidings(&urls, &["status", "--json"]);
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(all[&away]["error"].is_string() && all["payment"]["parked"]["dead"] == 3, "{all}");
    let full = tidings(&[&order.url], &["status", "--full"]);
    assert!(String::from_utf8_lossy(&full.stdout).contains("order\n  consumer\n    lag  2\n"));
}

#[test]
fn why_says_what_a_key_waits_for_and_the_command_that_frees_it() {
    let then = then();
    let answers = || {
        let at = then.clone();
        Fake::of(&["payment"], move |question, _| match question {
            "GET /admin/why?key=4711" => Some(json!({"key": "4711", "waits": [
                {"service": "payment", "what": "dead", "stream": "teas/4711", "since": at, "detail": "attempts_exhausted: no water",
                 "command": "tidings dlq replay payment:17 --reason TEXT"},
                {"service": "payment", "what": "paused", "detail": "by anna: a bug"},
            ]})),
            "GET /admin/why?key=1" => Some(json!({"key": "1", "known": true, "waits": []})),
            "GET /admin/why?key=none" => Some(json!({"key": "none", "known": false, "waits": []})),
            _ => None,
        })
    };
    let (one, other) = (answers(), answers());
    let urls = [&*one.url, &other.url];
    shows(
        &urls,
        &then,
        &["why", "4711"],
        expect![[r#"
        service  payment
        what     dead
        stream   teas/4711
        since    2026-11-28T10:00:00Z (3 min ago)
        detail   attempts_exhausted: no water

          tidings dlq replay payment:17 --reason TEXT

        service  payment
        what     paused
        detail   by anna: a bug
    "#]],
    );
    assert_eq!(json_of(&urls, &["why", "4711"])["waits"].as_array().unwrap().len(), 2);
    shows(
        &urls,
        &then,
        &["why", "1"],
        expect![[r#"
        1 waits for nothing
    "#]],
    );
    shows(
        &urls,
        &then,
        &["why", "none"],
        expect![[r#"
        no service that was asked has published or handled an event of none
    "#]],
    );
    // One that does not know the question is no answer.
    let (code, _) = fails(&[&one.url], &["why", "2"]);
    assert_eq!(code, 1);
    let output = tidings(&[&one.url, &nobody()], &["why", "1"]);
    assert_eq!((output.status.code(), &*output.stdout), (Some(1), &b"1 waits for nothing\n"[..]));
}

#[test]
fn an_events_way_is_told_across_services() {
    let then = then();
    let at = then.clone();
    let order = Fake::of(&["order"], move |question, _| {
        (question == "GET /admin/events?id=e-1").then(|| {
            json!({"event_id": "e-1", "event_type": "tea.made.v1", "stream": "teas/t-1", "seq": 1, "steps": [
                {"service": "order", "step": "published", "at": at, "detail": ""},
                {"service": "order", "step": "sent", "detail": "partition 3, offset 17"}]})
        })
    });
    let at = then.clone();
    let payment = Fake::of(&["payment"], move |question, _| {
        (question == "GET /admin/events?id=e-1").then(|| {
            json!({"event_id": "e-1", "steps": [
                {"service": "payment", "step": "handled", "at": at, "detail": "by payments"}]})
        })
    });
    let urls = [&*order.url, &payment.url];
    shows(
        &urls,
        &then,
        &["events", "show", "e-1"],
        expect![[r#"
        event id    e-1
        event type  tea.made.v1
        stream      teas/t-1
        seq         1

        TIME                              SERVICE  STEP       DETAIL
        2026-11-28T10:00:00Z (3 min ago)  order    published
        2026-11-28T10:00:00Z (3 min ago)  payment  handled    by payments
                                          order    sent       partition 3, offset 17
    "#]],
    );
    let event = json_of(&urls, &["events", "show", "e-1"]);
    assert_eq!((&event["seq"], event["steps"].as_array().unwrap().len()), (&json!(1), 3), "{event}");
    let (code, stderr) = fails(&urls, &["events", "show", "e-2"]);
    assert_eq!((code, &*stderr), (1, "tidings: no service knows an event e-2\n"));
}

#[test]
fn lag_and_topics_are_those_of_all_services() {
    let fake = |service: &'static [&'static str], publishes: bool| {
        Fake::of(service, move |question, _| match question {
            "GET /admin/lag" => Some(json!({"items": [{"service": service[0], "group": service[0],
                "topic": "teas", "partition": 0, "offset": 7, "end": 9, "lag": 2, "oldest_seconds": 4000}]})),
            "GET /admin/topics" => Some(json!({"items": [{"name": "teas", "partitions": 6, "services": [
                {"service": service[0], "publishes": publishes, "reads": !publishes}]}]})),
            _ => None,
        })
    };
    let (order, payment) = (fake(&["order"], true), fake(&["payment"], false));
    let urls = [&*order.url, &payment.url, &order.url];
    shows(
        &urls,
        NEVER,
        &["lag"],
        expect![[r#"
        SERVICE  GROUP    TOPIC  PARTITION  OFFSET  END  LAG  OLDEST
        order    order    teas   0          7       9    2    1 h
        payment  payment  teas   0          7       9    2    1 h
    "#]],
    );
    assert_eq!(json_of(&urls, &["lag"]).as_array().unwrap().len(), 2);
    shows(
        &urls,
        NEVER,
        &["topics"],
        expect![[r#"
        TOPIC  PARTITIONS  WRITTEN BY  READ BY
        teas   6           order       payment
    "#]],
    );
    assert_eq!(json_of(&urls, &["topics"])[0]["services"].as_array().unwrap().len(), 2);
}

#[test]
fn the_audit_is_newest_first() {
    let then = then();
    let at = then.clone();
    let fake = Fake::of(&["order", "payment"], move |question, _| {
        assert!(question.starts_with("GET /admin/audit?action=redrive&since="), "{question}");
        let (service, at) = match question.split("&service=").nth(1)? {
            "order&limit=101" => ("order", "2000-01-01T00:00:00Z"),
            "payment&limit=101" => ("payment", &*at),
            _ => return None,
        };
        Some(json!({"items": [{"id": format!("{service}:1"), "service": service, "at": at, "actor": "anna",
            "action": "redrive", "subject": format!("{service}:17"), "reason": "mended", "detail": {"ids": 1}}]}))
    });
    let args = ["audit", "--action", "redrive", "--since", "15m"];
    let rows = json_of(&[&fake.url], &args);
    let services: Vec<&Value> = rows.as_array().unwrap().iter().map(|row| &row["service"]).collect();
    assert_eq!(services, ["payment", "order"]);
    shows(
        &[&fake.url],
        &then,
        &[&args[..], &["--service", "payment"]].concat(),
        expect![[r#"
        TIME                              SERVICE  BY    ACTION   SUBJECT     REASON  DETAIL
        2026-11-28T10:00:00Z (3 min ago)  payment  anna  redrive  payment:17  mended  {"ids":1}
    "#]],
    );
}

#[test]
fn an_address_that_is_away_costs_its_own_answers_and_the_exit_code() {
    let fake = Fake::of(&["payment"], |question, _| match question.split('?').next()? {
        "GET /admin/dead-letters/summary" => Some(json!({"total": 0, "groups": []})),
        "GET /admin/dead-letters/payment%3A1" | "GET /admin/outbox/payment%3A1" => {
            Some(json!({"id": "payment:1"}))
        }
        "GET /admin/effects/show" => Some(json!({"key": "k"})),
        "GET /admin/why" => Some(json!({"key": "k", "waits": []})),
        "GET /admin/events" => {
            Some(json!({"event_id": "e", "steps": [{"service": "payment", "step": "handled"}]}))
        }
        "GET /admin/log" => Some(json!({"items": [{"service": "payment", "seq": 1}]})),
        "GET /admin/gaps" => {
            Some(json!({"items": [{"service": "payment", "stream": "s", "expected": 1, "last_missing": 1}]}))
        }
        question if question.starts_with("GET") => Some(json!({"items": []})),
        // Any change.
        _ => Some(
            json!({"matched": 0, "groups": [], "redriven": 0, "discarded": 1, "retried": 1, "skipped": [1, 1], "filled": 1}),
        ),
    });
    let away = nobody();
    for command in [
        "status",
        "why k",
        "events show e",
        "lag",
        "topics",
        "pauses",
        "audit",
        "dlq list",
        "dlq show payment:1",
        "dlq summary",
        "dlq replay --all --dry-run",
        "dlq replay payment:1 --reason x",
        "dlq discard payment:1 --reason x",
        "outbox list",
        "outbox show payment:1",
        "outbox retry payment:1 --reason x",
        "outbox retry --all --reason x",
        "outbox discard payment:1 --reason x",
        "gaps list",
        "gaps skip payment s --reason x",
        "gaps fetch payment s --reason x",
        "effects list",
        "effects show k",
        "effects retry k --reason x",
        "effects resolve k --absent --reason x",
        "pause service --service payment --reason x",
        "resume service --service payment --reason x",
    ] {
        let args: Vec<&str> = command.split(' ').collect();
        for args in [args.clone(), [&args[..], &["--json"]].concat()] {
            let output = tidings(&[&away, &fake.url], &args);
            let [stdout, stderr] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
            assert_eq!(output.status.code(), Some(1), "{command}: {stderr}");
            assert!(!stdout.is_empty(), "{command}: {stderr}");
            assert!(stdout.contains(&away) || stderr.contains(&away), "{command}: {stderr}");
            let is_json = args.contains(&"--json");
            assert_eq!(serde_json::from_str::<Value>(&stdout).is_ok(), is_json, "{command}: {stdout}");
        }
        let one = tidings(&[&fake.url], &args);
        assert_eq!(one.status.code(), Some(0), "{command}: {}", String::from_utf8_lossy(&one.stderr));
    }
}

#[test]
fn shells_and_man_know_every_command() {
    let nobody = nobody();
    for shell in ["bash", "zsh", "fish"] {
        let output = tidings(&[&nobody], &["completions", shell]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && text.contains("max-failures"), "{shell}");
    }
    let page = tidings(&[&nobody], &["man"]);
    assert!(String::from_utf8_lossy(&page.stdout).contains("tidings\\-why(1)"));
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    let output = tidings(&[&nobody], &["man", pages.to_str().unwrap()]);
    assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b""[..]));
    for page in ["tidings.1", "tidings-why.1", "tidings-dlq-replay.1"] {
        assert!(pages.join(page).is_file(), "{page}");
    }
}
