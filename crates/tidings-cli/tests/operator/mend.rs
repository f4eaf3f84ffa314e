//! Outbox, gaps, effects and pauses.

use expect_test::expect;
use serde_json::json;

use crate::fake::{BREAK, Fake, NEVER, fails, json_of, shows, then, tidings};

#[test]
fn refused_events_are_found_sent_again_and_given_up() {
    let then = then();
    let event = json!({"id": "order:42", "service": "order", "topic": "teas", "stream": "teas/t-1", "key": "t-1", "seq": 2,
        "event_id": "e-1", "event_type": "tea.made.v1", "error": "message too large", "for_good": true,
        "recorded_at": then, "behind": 1});
    let listed = event.clone();
    let fake = Fake::of(&["order", "payment"], move |question, body| match question {
        "GET /admin/outbox?topic=teas&service=payment&limit=101" => Some(json!({"items": []})),
        "GET /admin/outbox?topic=teas&service=order&limit=101" => Some(json!({"items": [listed]})),
        "GET /admin/outbox/order%3A42" => {
            let mut shown = listed.clone();
            shown["headers"] = json!({"ce_id": "e-1"});
            shown["payload"] = json!({"cups": 2});
            Some(shown)
        }
        "POST /admin/outbox/retry" => Some(json!({"retried": body["ids"].as_array().map_or(7, Vec::len)})),
        "POST /admin/outbox/discard" => Some(json!({"discarded": 1})),
        _ => None,
    });
    let url = &[&*fake.url];
    shows(
        url,
        &then,
        &["outbox", "list", "--topic", "teas"],
        expect![[r#"
        ID        TOPIC  TYPE         KEY  SEQ  FOR GOOD  BEHIND  RECORDED                          ERROR
        order:42  teas   tea.made.v1  t-1  2    true      1       2026-11-28T10:00:00Z (3 min ago)  message too large
    "#]],
    );
    assert_eq!(json_of(url, &["outbox", "list", "--topic", "teas"]), json!([event]));
    shows(
        url,
        &then,
        &["outbox", "show", "order:42"],
        expect![[r#"
        id           order:42
        service      order
        topic        teas
        event type   tea.made.v1
        event id     e-1
        key          t-1
        stream       teas/t-1
        seq          2
        error        message too large
        for good     true
        recorded at  2026-11-28T10:00:00Z (3 min ago)
        behind       1

        headers
          ce_id  e-1

        payload
          {"cups":2}
    "#]],
    );
    shows(
        url,
        NEVER,
        &["outbox", "retry", "order:42", "--reason", "room"],
        expect![[r#"
        sends 1 events again
    "#]],
    );
    // Both services run in one process, which is asked once.
    assert_eq!(json_of(url, &["outbox", "retry", "--all", "--reason", "room"]), json!({"retried": 7}));
    assert_eq!(json_of(url, &["outbox", "discard", "order:42", "--reason", "old"]), json!({"discarded": 1}));
    assert_eq!(
        fake.posts(),
        [
            r#"POST /admin/outbox/retry {"actor":"anna","ids":["order:42"],"reason":"room"}"#,
            r#"POST /admin/outbox/retry {"actor":"anna","all":true,"reason":"room"}"#,
            r#"POST /admin/outbox/discard {"actor":"anna","ids":["order:42"],"reason":"old"}"#,
        ]
    );
    for args in [
        &["outbox", "retry", "--reason", "x"][..],
        &["outbox", "discard", "--reason", "x"],
        &["outbox", "retry", "order:1"],
    ] {
        assert_eq!(fails(url, args).0, 2, "{args:?}");
    }
}

/// A service that waits for the numbers 2 to 4 of a stream.
fn waiting(at: &str) -> Fake {
    let gap = json!({"service": "payment", "group": "payments", "stream": "teas/t-1", "topic": "teas", "key": "t-1",
        "expected": 2, "last_missing": 4, "waiting": 1, "since": at});
    Fake::of(&["payment"], move |question, body| match question {
        "POST /admin/gaps/skip" => Some(json!({"skipped": [2, 4]})),
        "POST /admin/gaps/fill" => Some(json!({"filled": body["events"].as_array().unwrap().len()})),
        question if question.starts_with("GET /admin/gaps") => Some(json!({"items": [gap]})),
        question if question.starts_with("GET /admin/log?") => Some(json!({"items": []})),
        _ => None,
    })
}

/// A service that has these numbers of the stream in its log.
fn publisher(seqs: &'static [u64]) -> Fake {
    let event = |seq: u64| json!({"service": "order", "topic": "teas", "key": "t-1", "seq": seq, "payload_base64": "e30="});
    Fake::of(&["order"], move |question, _| {
        if question.starts_with("GET /admin/gaps") {
            return Some(json!({"items": []}));
        }
        (question == "GET /admin/log?stream=teas%2Ft-1&first=2&last=4")
            .then(|| json!({"items": seqs.iter().map(|seq| event(*seq)).collect::<Vec<_>>()}))
    })
}

#[test]
fn missing_events_are_fetched_from_who_published_them() {
    let then = then();
    let (reader, order) = (waiting(&then), publisher(&[2, 3, 4]));
    let urls = [&*reader.url, &order.url];
    shows(
        &urls,
        &then,
        &["gaps", "list"],
        expect![[r#"
        SERVICE  GROUP     STREAM    EXPECTED  LAST MISSING  WAITING  SINCE
        payment  payments  teas/t-1  2         4             1        2026-11-28T10:00:00Z (3 min ago)
    "#]],
    );
    shows(
        &urls,
        NEVER,
        &["gaps", "fetch", "payment", "teas/t-1", "--reason", "lost topic"],
        expect![[r#"
        filled 3 of 3 missing events of teas/t-1, from order
    "#]],
    );
    expect![[r#"POST /admin/gaps/fill {"events":[{"key":"t-1","payload_base64":"e30=","seq":2,"service":"order","topic":"teas"},{"key":"t-1","payload_base64":"e30=","seq":3,"service":"order","topic":"teas"},{"key":"t-1","payload_base64":"e30=","seq":4,"service":"order","topic":"teas"}],"actor":"anna","reason":"lost topic","service":"payment","stream":"teas/t-1"}"#]]
    .assert_eq(&reader.posts().join("\n"));
    assert_eq!(order.posts(), [""; 0]);
    let told = json_of(&urls, &["gaps", "fetch", "payment", "teas/t-1", "--reason", "lost topic"]);
    assert_eq!(told, json!({"missing": [2, 4], "filled": 3, "from": ["order"], "absent": []}));
}

#[test]
fn a_long_gap_is_fetched_a_stretch_at_a_time() {
    let fake = Fake::of(&["payment"], |question, body| match question {
        "GET /admin/gaps?service=payment" => Some(
            json!({"items": [{"service": "payment", "stream": "s/k", "expected": 3, "last_missing": 452}]}),
        ),
        "POST /admin/gaps/fill" => Some(json!({"filled": body["events"].as_array().unwrap().len()})),
        _ => {
            let range = question.strip_prefix("GET /admin/log?stream=s%2Fk&first=")?;
            let (first, last): (u64, u64) = range
                .split_once("&last=")
                .map(|(first, last)| (first.parse().unwrap(), last.parse().unwrap()))?;
            Some(
                json!({"items": (first..=last).map(|seq| json!({"service": "order", "seq": seq})).collect::<Vec<_>>()}),
            )
        }
    });
    let told = json_of(&[&fake.url], &["gaps", "fetch", "payment", "s/k", "--reason", "x"]);
    assert_eq!(told, json!({"missing": [3, 452], "filled": 450, "from": ["order"], "absent": []}));
    let asked = fake.asked();
    let logs: Vec<&str> = asked.iter().filter_map(|question| question.split("&first=").nth(1)).collect();
    assert_eq!(logs, ["3&last=202", "203&last=402", "403&last=452"]);
    assert_eq!(fake.posts().len(), 3);
}

#[test]
fn what_nobody_has_is_said_and_can_be_skipped() {
    let then = then();
    let (reader, some, none) = (waiting(&then), publisher(&[2, 4]), publisher(&[]));
    let fetch = ["gaps", "fetch", "payment", "teas/t-1", "--reason", "x"];
    let output = tidings(&[&reader.url, &some.url], &fetch);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "filled 2 of 3 missing events of teas/t-1, from order; nobody has 1 of them, such as 3\n"
    );
    let output = tidings(&[&reader.url, &none.url], &fetch);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("nobody has 2 to 4 of teas/t-1"));
    assert_eq!(reader.posts().len(), 1);
    shows(
        &[&reader.url],
        NEVER,
        &["gaps", "skip", "payment", "teas/t-1", "--reason", "lost"],
        expect![[r#"
        skipped 2 to 4 of teas/t-1; what waited behind them goes on
    "#]],
    );
    let (code, stderr) = fails(&[&reader.url], &["gaps", "fetch", "payment", "teas/t-2", "--reason", "x"]);
    assert_eq!(
        (code, &*stderr),
        (1, "tidings: payment waits for nothing of teas/t-2; see `tidings gaps list`\n")
    );
}

#[test]
fn effects_are_found_tried_now_and_resolved() {
    let then = then();
    let effect = json!({"service": "payment", "key": "t-1/pay", "kind": "pay", "provider": "psp", "state": "unknown",
        "attempts": 3, "error": "no answer", "asked_at": then});
    let listed = effect.clone();
    let fake = Fake::of(&["order", "payment"], move |question, _| match question {
        "GET /admin/effects?state=unknown&service=order&limit=101" => Some(json!({"items": []})),
        "GET /admin/effects?state=unknown&service=payment&limit=101" => Some(json!({"items": [listed]})),
        "GET /admin/effects/show?service=payment&key=t-1%2Fpay" => {
            let mut shown = listed.clone();
            shown["request"] = json!({"amount": {"amount": 1299, "currency": "EUR"}});
            Some(shown)
        }
        "POST /admin/effects/retry" => Some(json!({"retried": true})),
        "POST /admin/effects/resolve" => Some(json!({"resolved": true})),
        _ => None,
    });
    let url = &[&*fake.url];
    shows(
        url,
        &then,
        &["effects", "list", "--state", "unknown"],
        expect![[r#"
        SERVICE  KEY      KIND  PROVIDER  STATE    ATTEMPTS  ASKED                             ERROR
        payment  t-1/pay  pay   psp       unknown  3         2026-11-28T10:00:00Z (3 min ago)  no answer
    "#]],
    );
    assert_eq!(json_of(url, &["effects", "list", "--state", "unknown"]), json!([effect]));
    shows(
        url,
        &then,
        &["effects", "show", "t-1/pay"],
        expect![[r#"
        service   payment
        key       t-1/pay
        kind      pay
        provider  psp
        state     unknown
        attempts  3
        error     no answer
        asked at  2026-11-28T10:00:00Z (3 min ago)

        request
          amount  12.99 EUR
    "#]],
    );
    shows(
        url,
        NEVER,
        &["effects", "retry", "t-1/pay", "--reason", "back"],
        expect![[r#"
        t-1/pay: its next try is now
    "#]],
    );
    shows(
        url,
        NEVER,
        &["effects", "resolve", "t-1/pay", "--absent", "--reason", "books"],
        expect![[r#"
        t-1/pay: it was never done, and is tried anew
    "#]],
    );
    let args = ["effects", "resolve", "t-1/pay", "--outcome", r#"{"id": "p-1"}"#, "--reason", "books"];
    assert_eq!(json_of(url, &args), json!({"resolved": true}));
    assert_eq!(
        fake.posts(),
        [
            r#"POST /admin/effects/retry {"actor":"anna","key":"t-1/pay","reason":"back","service":"payment"}"#,
            r#"POST /admin/effects/resolve {"absent":true,"actor":"anna","key":"t-1/pay","reason":"books","service":"payment"}"#,
            r#"POST /admin/effects/resolve {"actor":"anna","key":"t-1/pay","outcome":{"id":"p-1"},"reason":"books","service":"payment"}"#,
        ]
    );
    let (code, stderr) = fails(url, &["effects", "show", "t-2/pay"]);
    assert_eq!(
        (code, &*stderr),
        (1, "tidings: no effect t-2/pay; `tidings effects list` shows those not done\n")
    );
    assert_eq!(fails(url, &["effects", "resolve", "t-1/pay", "--reason", "x"]).0, 2);
    let (code, stderr) = fails(url, &["effects", "resolve", "t-1/pay", "--outcome", "paid", "--reason", "x"]);
    assert!(code == 2 && stderr.contains("expected JSON"), "{stderr}");
}

#[test]
fn an_effect_of_two_services_is_not_guessed() {
    let fake = Fake::of(&["order", "payment"], |question, _| {
        question.starts_with("GET /admin/effects/show?").then(|| json!({"key": "k"}))
    });
    let (code, stderr) = fails(&[&fake.url], &["effects", "retry", "k", "--reason", "x"]);
    assert_eq!(
        (code, &*stderr),
        (1, "tidings: order and payment have an effect k; say which with --service\n")
    );
    assert_eq!(fake.posts(), [""; 0]);
}

#[test]
fn a_pause_is_made_listed_and_ended() {
    let then = then();
    let pause = json!({"service": "payment", "scope": "type", "name": "tea.made.v1", "since": then, "actor": "anna",
        "reason": "a bug"});
    let listed = pause.clone();
    let fake = Fake::of(&["payment", "order"], move |question, _| match question {
        "GET /admin/pauses" => Some(json!({"items": [listed]})),
        "POST /admin/pauses" | "POST /admin/pauses/resume" => Some(listed.clone()),
        _ => None,
    });
    let url = &[&*fake.url];
    shows(
        url,
        NEVER,
        &["pause", "type", "tea.made.v1", "--service", "payment", "--reason", "a bug"],
        expect![[r#"
        payment: type tea.made.v1 pauses within five seconds, until `tidings resume` says so
    "#]],
    );
    shows(
        url,
        &then,
        &["pauses"],
        expect![[r#"
        SERVICE  SCOPE  NAME         SINCE                             BY    REASON
        payment  type   tea.made.v1  2026-11-28T10:00:00Z (3 min ago)  anna  a bug
    "#]],
    );
    assert_eq!(json_of(url, &["pauses"]), json!([pause]));
    shows(
        url,
        NEVER,
        &["resume", "service", "--service", "payment,order", "--reason", "mended"],
        expect![[r#"
        payment: goes on within five seconds
        order: goes on within five seconds
    "#]],
    );
    assert_eq!(
        fake.posts(),
        [
            r#"POST /admin/pauses {"actor":"anna","name":"tea.made.v1","reason":"a bug","scope":"type","service":"payment"}"#,
            r#"POST /admin/pauses/resume {"actor":"anna","reason":"mended","scope":"service","service":"payment"}"#,
            r#"POST /admin/pauses/resume {"actor":"anna","reason":"mended","scope":"service","service":"order"}"#,
        ]
    );
    for args in
        [&["key", "--service", "payment"][..], &["service", "x", "--service", "payment"], &["effects"]]
    {
        let (code, stderr) = fails(url, &[&["pause"], args, &["--reason", "x"]].concat());
        assert_eq!(code, 2, "{args:?}: {stderr}");
    }
    let (code, stderr) = fails(url, &["pause", "service", "--service", "payment,tea", "--reason", "x"]);
    assert!(code == 1 && stderr.contains("no service tea"), "{stderr}");
    assert_eq!(fake.posts().len(), 3);
}

#[test]
fn a_change_is_asked_of_another_instance_where_one_has_gone() {
    let broken = Fake::of(&["payment"], |_, _| Some(BREAK));
    let well = Fake::of(&["payment"], |_, _| Some(json!({"skipped": [1, 1]})));
    let args = ["gaps", "skip", "payment", "teas/t-1", "--reason", "x"];
    let output = tidings(&[&broken.url, &well.url], &args);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "skipped 1 to 1 of teas/t-1; what waited behind them goes on\n"
    );
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains(&broken.url) && stderr.ends_with("; asking another instance\n"), "{stderr}");
    assert_eq!(output.status.code(), Some(0));
    let (code, stderr) = fails(&[&broken.url], &args);
    assert_eq!((code, stderr.lines().count()), (1, 1), "{stderr}");
}
