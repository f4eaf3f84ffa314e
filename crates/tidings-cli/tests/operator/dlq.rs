//! Looking at dead letters, discarding and editing them.

use expect_test::expect;
use serde_json::{Value, json};

use crate::fake::{Fake, NEVER, fails, json_of, nobody, shows, then, tidings};

fn letter(id: &str, at: &str) -> Value {
    json!({
        "id": id, "service": "payment", "group": "payments", "state": "dead", "topic": "teas", "partition": 3,
        "offset": 4711, "timestamp": at, "stream": "teas/t-1", "key": "t-1", "seq": 1, "event_id": "e-1",
        "event_type": "tea.made.v1", "code": "attempts_exhausted", "message": "transient: no \u{1b}[2Jwater",
        "fingerprint": "9f1c03ab77d2e610", "attempts": 20, "redrives": 0, "first_failed_at": at,
        "last_failed_at": at, "blocks": true, "behind": 3,
    })
}

#[test]
fn a_list_goes_from_page_to_page_with_its_filters() {
    let then = then();
    let at = then.clone();
    let fake = Fake::of(&["payment"], move |question, _| match question {
        "GET /admin/dead-letters?group=payments&code=a%26b&key=-1&service=payment&limit=3" => {
            Some(json!({"items": [letter("payment:1", &at)], "next_cursor": "1"}))
        }
        "GET /admin/dead-letters?group=payments&code=a%26b&key=-1&service=payment&limit=2&cursor=1" => {
            Some(json!({"items": [letter("payment:2", &at), letter("payment:3", &at)], "next_cursor": "3"}))
        }
        _ => None,
    });
    let args = ["dlq", "list", "--group", "payments", "--code", "a&b", "--key", "-1", "--limit", "2"];
    let output = tidings(&[&fake.url], &args);
    expect![[r#"
        ID         STATE  GROUP     TYPE         KEY  SEQ  CODE                ATTEMPTS  BEHIND  LAST FAILED                       MESSAGE
        payment:1  dead   payments  tea.made.v1  t-1  1    attempts_exhausted  20        3       2026-11-28T10:00:00Z (3 min ago)  transient: no \u{1b}[2Jwater
        payment:2  dead   payments  tea.made.v1  t-1  1    attempts_exhausted  20        3       2026-11-28T10:00:00Z (3 min ago)  transient: no \u{1b}[2Jwater
    "#]]
    .assert_eq(&String::from_utf8_lossy(&output.stdout).replace(&then, crate::fake::THEN));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "tidings: there are more than these 2; show more with --limit\n"
    );
    assert_eq!(output.status.code(), Some(0));
    let args = ["dead", "list", "--group", "payments", "--code", "a&b", "--key", "-1", "--limit", "2"];
    assert_eq!(json_of(&[&fake.url], &args), json!([letter("payment:1", &then), letter("payment:2", &then)]));
}

#[test]
fn times_in_filters_are_times_or_how_long_ago() {
    let fake = Fake::of(&["payment"], |_, _| Some(json!({"items": []})));
    let args = [
        "dlq",
        "list",
        "--since",
        "2026-01-02T03:04:05+01:00",
        "--until",
        "2026-01-03T00:00:00Z",
        "--state",
        "waiting",
    ];
    shows(
        &[&fake.url],
        NEVER,
        &args,
        expect![[r#"
        no dead letters
    "#]],
    );
    assert_eq!(
        fake.asked(),
        [
            "GET /admin/dead-letters?since=2026-01-02T02%3A04%3A05Z&until=2026-01-03T00%3A00%3A00Z&state=waiting&service=payment&limit=101"
        ]
    );
    assert_eq!(json_of(&[&fake.url], &["dlq", "list", "--since", "15m"]), json!([]));
    let (code, stderr) = fails(&[&fake.url], &["dlq", "list", "--since", "soon"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("expected a time (2026-01-02T03:04:05Z) or how long ago (15m)"), "{stderr}");
}

#[test]
fn instances_of_a_service_are_one_and_one_that_is_away_is_said() {
    // The oldest of all come first, whoever has them.
    let process = |services: &'static [&'static str]| {
        Fake::of(services, move |question, _| {
            let (_, service) = question.split_once("?service=")?;
            let ids: &[(&str, u8)] = match service {
                "order&limit=101" => &[("order:1", 2), ("order:2", 4)],
                "payment&limit=101" => &[("payment:1", 1), ("payment:2", 3)],
                "order&limit=3" => &[("order:1", 2), ("order:2", 4)],
                "payment&limit=3" => &[("payment:1", 1), ("payment:2", 3)],
                _ => return None,
            };
            let letters = ids.iter().map(|(id, day)| letter(id, &format!("2026-01-0{day}T00:00:00Z")));
            Some(json!({"items": letters.collect::<Vec<_>>()}))
        })
    };
    let (first, second) = (process(&["order", "payment"]), process(&["payment"]));
    let listed = |output: &std::process::Output| {
        let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
    };
    let both = tidings(&[&first.url, &second.url], &["dlq", "list", "--json"]);
    assert_eq!((&*listed(&both), both.status.code()), ("payment:1 order:1 payment:2 order:2", Some(0)));
    let two = tidings(&[&first.url, &second.url], &["dlq", "list", "--json", "--limit", "2"]);
    assert_eq!((&*listed(&two), two.status.code()), ("payment:1 order:1", Some(0)));
    let away = nobody();
    let one_away = tidings(&[&away, &second.url], &["dlq", "list", "--json"]);
    assert_eq!((&*listed(&one_away), one_away.status.code()), ("payment:1 payment:2", Some(1)));
    assert_eq!(
        String::from_utf8_lossy(&one_away.stderr),
        format!("tidings: nothing listens at {away}: start the service or say with --url where it is\n")
    );
    let (code, stderr) = fails(&[&away, &nobody()], &["dlq", "list", "--json"]);
    assert_eq!((code, stderr.lines().count()), (1, 3), "{stderr}");
    assert!(stderr.ends_with("tidings: none of 2 addresses gave an answer\n"), "{stderr}");
    let (code, stderr) = fails(&[&second.url], &["dlq", "list", "--service", "tea"]);
    assert_eq!(
        (code, &*stderr),
        (1, "tidings: no service tea at the addresses given with --url; there is payment\n")
    );
    // A service that is older than the route has no empty list.
    let old = Fake::of(&["order", "payment"], |_, _| None::<Value>);
    let (code, stderr) = fails(&[&old.url], &["dlq", "list"]);
    assert_eq!((code, stderr.matches("was refused with 404 Not Found").count()), (1, 2), "{stderr}");
}

#[test]
fn a_dead_letter_is_shown_whole_and_its_payload_as_it_came() {
    let then = then();
    let mut shown = letter("payment:1", &then);
    shown["headers"] = json!({"ce_type": "tea.made.v1"});
    let text = shown.to_string().replacen('{', r#"{"payload":{"cups":1.10,"n":123456789012345678901},"#, 1);
    let answer = text.clone();
    let fake = Fake::of(&["payment"], move |question, _| {
        (question == "GET /admin/dead-letters/payment%3A1").then(|| answer.clone())
    });
    let other = Fake::of(&["order"], |_, _| None::<Value>);
    let urls = [&*other.url, &fake.url];
    shows(
        &urls,
        &then,
        &["dlq", "show", "payment:1"],
        expect![[r#"
            id               payment:1
            state            dead
            service          payment
            group            payments
            code             attempts_exhausted
            message          transient: no \u{1b}[2Jwater
            fingerprint      9f1c03ab77d2e610
            event type       tea.made.v1
            event id         e-1
            key              t-1
            stream           teas/t-1
            seq              1
            topic            teas
            partition        3
            offset           4711
            timestamp        2026-11-28T10:00:00Z (3 min ago)
            attempts         20
            redrives         0
            first failed at  2026-11-28T10:00:00Z (3 min ago)
            last failed at   2026-11-28T10:00:00Z (3 min ago)
            blocks           true
            behind           3

            headers
              ce_type  tea.made.v1

            payload
              {"cups":1.10,"n":123456789012345678901}
        "#]],
    );
    let output = tidings(&urls, &["dlq", "show", "payment:1", "--json"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), text + "\n");
    let (code, stderr) = fails(&urls, &["dlq", "show", "payment:2"]);
    assert_eq!(
        (code, &*stderr),
        (1, "tidings: no dead letter payment:2; `tidings dlq list` shows those there are\n")
    );
}

#[test]
fn a_summary_counts_each_service_once() {
    let then = then();
    let answers = |service: &'static str, count: u64| {
        let at = then.clone();
        Fake::of(
            std::slice::from_ref(match service {
                "order" => &"order",
                _ => &"payment",
            }),
            move |question, _| {
                let expected = format!("GET /admin/dead-letters/summary?service={service}&topic=teas");
                (question == expected).then(|| {
                    json!({"total": count, "groups": [{"service": service, "fingerprint": "f", "code": "c",
                    "event_type": "tea.made.v1", "message": "no water", "count": count, "first_failed_at": at,
                    "last_failed_at": at, "example": format!("{service}:1")}]})
                })
            },
        )
    };
    let (order, payment, again) = (answers("order", 2), answers("payment", 1_300), answers("payment", 1_300));
    let urls = [&*order.url, &payment.url, &again.url];
    shows(
        &urls,
        &then,
        &["dlq", "summary", "--topic", "teas"],
        expect![[r#"
            COUNT  SERVICE  CODE  TYPE         FINGERPRINT  FIRST FAILED                      LAST FAILED                       EXAMPLE    MESSAGE
            1300   payment  c     tea.made.v1  f            2026-11-28T10:00:00Z (3 min ago)  2026-11-28T10:00:00Z (3 min ago)  payment:1  no water
            2      order    c     tea.made.v1  f            2026-11-28T10:00:00Z (3 min ago)  2026-11-28T10:00:00Z (3 min ago)  order:1    no water

            1,302 in all
        "#]],
    );
    let all = json_of(&urls, &["dlq", "summary", "--topic", "teas"]);
    assert_eq!((&all["total"], all["groups"].as_array().unwrap().len()), (&json!(1302), 2), "{all}");
}

#[test]
fn a_discard_goes_to_the_services_of_its_ids_and_until_nothing_is_left() {
    let fake = || {
        Fake::of(&["order", "payment"], |question, body| {
            assert_eq!(question, "POST /admin/dead-letters/discard");
            let count = body["ids"].as_array().map_or(1_000, Vec::len);
            Some(json!({"matched": count, "discarded": count, "left": 0, "groups": []}))
        })
    };
    let fakes = [fake(), fake()];
    let urls: Vec<&str> = fakes.iter().map(|fake| &*fake.url).collect();
    let args = ["dlq", "discard", "payment:1", "order:2", "payment:3", "--reason", "a test", "--as", "otto"];
    shows(
        &urls,
        NEVER,
        &args,
        expect![[r#"
        discarded 3 dead letters
    "#]],
    );
    assert_eq!(
        fakes[0].posts(),
        [
            r#"POST /admin/dead-letters/discard {"actor":"otto","ids":["order:2"],"limit":1000,"reason":"a test"}"#,
            r#"POST /admin/dead-letters/discard {"actor":"otto","ids":["payment:1","payment:3"],"limit":1000,"reason":"a test"}"#,
        ]
    );
    assert_eq!(fakes[1].posts(), [""; 0]);
    let args = ["dlq", "discard", "--service", "order", "--code", "c", "--reason", "a test"];
    assert_eq!(json_of(&urls, &args), json!({"discarded": 1_000}));
    assert_eq!(
        fakes[0].posts()[2],
        r#"POST /admin/dead-letters/discard {"actor":"anna","filter":{"code":"c","service":"order"},"limit":1000,"reason":"a test"}"#
    );
    for (args, said) in [
        (&["payment:1"][..], "--reason <TEXT>"),
        (&["--reason", "x"], "say which dead letters"),
        (&["payment:1", "--all", "--reason", "x"], "cannot be used with"),
        (&["payment:1", "--code", "c", "--reason", "x"], "cannot be used with"),
        (&["payment:1", "--reason", " "], "say why"),
    ] {
        let (code, stderr) = fails(&urls, &[&["dlq", "discard"], args].concat());
        assert_eq!(code, 2, "{args:?}: {stderr}");
        assert!(stderr.contains(said), "{args:?}: {stderr}");
    }
    for (id, said) in [
        ("17", "17 is no id"),
        ("tea:17", "no service tea at the addresses given with --url; there is order, payment"),
    ] {
        let (code, stderr) = fails(&urls, &["dlq", "discard", id, "--reason", "x"]);
        assert_eq!(code, 1);
        assert!(stderr.contains(said), "{stderr}");
    }
}

#[test]
fn an_edit_sends_the_payload_number_for_number() {
    let fake = Fake::of(&["payment"], |question, _| {
        (question == "POST /admin/dead-letters/payment%3A1/edit").then(|| json!({"id": "payment:1"}))
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("payload.json");
    std::fs::write(&file, r#"{"n": 1.10, "m": 123456789012345678901}"#).unwrap();
    let file = file.to_str().unwrap();
    let args = ["dlq", "edit", "payment:1", "--payload", file, "--reason", "typing"];
    shows(
        &[&fake.url],
        NEVER,
        &args,
        expect![[r#"
        replaced the payload of payment:1; bring it back with `tidings dlq replay payment:1 --reason TEXT`
    "#]],
    );
    assert_eq!(
        fake.posts(),
        [
            r#"POST /admin/dead-letters/payment%3A1/edit {"payload":{"n": 1.10, "m": 123456789012345678901},"actor":"anna","reason":"typing"}"#
        ]
    );
    std::fs::write(file, "tea").unwrap();
    let (code, stderr) = fails(&[&fake.url], &args);
    assert_eq!(code, 1);
    assert!(stderr.contains("is no JSON"), "{stderr}");
}
