//! Bringing dead letters back.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use expect_test::expect;
use serde_json::{Value, json};

use crate::fake::{Fake, fails, json_of, nobody, shows, then, tidings};

/// Dead letters that come back, of which a share dies again.
#[derive(Default)]
struct Letters {
    dead: u64,
    redriven: u64,
}

/// A service with so many dead letters, and one that was brought back five times; of the brought back, so many in a hundred die again at once.
fn service(dead: u64, percent: u64) -> Fake {
    service_at(then(), dead, percent)
}

fn service_at(at: String, dead: u64, percent: u64) -> Fake {
    let letters = Mutex::new(Letters { dead, redriven: 0 });
    Fake::of(&["payment"], move |question, body| {
        let mut letters = letters.lock().unwrap();
        let group = json!({"service": "payment", "fingerprint": "f", "code": "c", "message": "no water", "count": letters.dead + 1,
            "last_failed_at": at});
        let matched = letters.dead + 1;
        match question {
            "POST /admin/dead-letters/redrive" if body["dry_run"] == true => Some(
                json!({"matched": matched, "redriven": 0, "quarantined": 1, "left": letters.dead, "groups": [group]}),
            ),
            "POST /admin/dead-letters/redrive" => {
                assert_eq!((&body["actor"], &body["reason"]), (&json!("anna"), &json!("mended")), "{body}");
                let count = body["ids"].as_array().map_or(letters.dead, |ids| ids.len() as u64);
                let count = count.min(body["limit"].as_u64().unwrap());
                letters.dead -= count;
                letters.redriven += count;
                Some(
                    json!({"matched": matched, "redriven": count, "quarantined": 1, "left": letters.dead, "groups": []}),
                )
            }
            summary if summary.starts_with("GET /admin/dead-letters/summary?") => {
                assert!(summary.contains("&redriven=true"), "{summary}");
                let is_dead = !summary.contains("&state=waiting");
                assert_eq!(summary.contains("&since="), is_dead, "{summary}");
                let again = if is_dead { letters.redriven * percent / 100 } else { 0 };
                Some(json!({"total": again, "groups": []}))
            }
            _ => None,
        }
    })
}

#[test]
fn nothing_is_brought_back_by_accident() {
    let fake = service(5, 0);
    for (args, said) in [
        (
            &["--reason", "x"][..],
            "say which dead letters: their ids, filters such as --code or --since, or --all",
        ),
        (&["--dry-run"], "say which dead letters"),
        (&["--all"], "--reason <TEXT>"),
        (&["--all", "--rate", "0", "--reason", "x"], "0 is not in 1.."),
        (&["payment:1", "--topic", "teas", "--reason", "x"], "cannot be used with"),
    ] {
        let (code, stderr) = fails(&[&fake.url], &[&["dlq", "replay"], args].concat());
        assert_eq!(code, 2, "{args:?}: {stderr}");
        assert!(stderr.contains(said), "{args:?}: {stderr}");
    }
    assert_eq!(fake.asked(), [""; 0]);
}

#[test]
fn a_dry_run_shows_the_kinds_of_failure_and_needs_no_reason() {
    let then = then();
    let fake = service_at(then.clone(), 1_199, 0);
    shows(
        &[&fake.url],
        &then,
        &["dlq", "replay", "--topic", "teas", "--dry-run"],
        expect![[r#"
            COUNT  SERVICE  CODE  FINGERPRINT  LAST FAILED                       MESSAGE
            1200   payment  c     f            2026-11-28T10:00:00Z (3 min ago)  no water

            1,200 in all
        "#]],
    );
    let told = json_of(&[&fake.url], &["dlq", "redrive", "--topic", "teas", "--dry-run"]);
    assert_eq!((&told["matched"], &told["groups"][0]["count"]), (&json!(1_200), &json!(1_200)), "{told}");
    assert!(fake.posts().iter().all(|post| post.contains(r#""dry_run":true"#)), "{:?}", fake.posts());
}

#[test]
fn all_are_brought_back_a_thousand_at_a_time() {
    let fake = service(2_500, 1);
    let output = tidings(&[&fake.url], &["dlq", "replay", "--all", "--reason", "mended"]);
    expect![[r#"
        payment: 1,000 brought back (0 wait, 10 dead again), 1,500 left
        payment: 2,000 brought back (0 wait, 20 dead again), 500 left
        payment: 2,500 brought back (0 wait, 25 dead again), 0 left
    "#]]
    .assert_eq(&String::from_utf8_lossy(&output.stderr));
    expect![[r#"
        brought back 2,500 dead letters; 25 are dead again
        left out 1 that were brought back five times: name their ids to bring them back
    "#]]
    .assert_eq(&String::from_utf8_lossy(&output.stdout));
    assert_eq!(output.status.code(), Some(0));
    // What dies again, after the last failure of those that are meant, is not brought back again by the same run.
    let expected = r#"POST /admin/dead-letters/redrive {"actor":"anna","filter":{"service":"payment","until":"AFTER"},"limit":1000,"reason":"mended"}"#;
    let posts = fake.posts();
    let after = posts[1].split(r#""until":""#).nth(1).unwrap().split('"').next().unwrap();
    assert!(after.ends_with(".000001Z"), "{after}");
    assert!(posts[1..].iter().all(|post| *post == expected.replace("AFTER", after)), "{posts:?}");
    assert_eq!(posts.len(), 4);
    let since = after.replace(':', "%3A");
    let counted = format!("GET /admin/dead-letters/summary?service=payment&since={since}&redriven=true");
    assert_eq!(fake.asked().iter().filter(|question| **question == counted).count(), 4);
    // Twice is no harm.
    let again = json_of(&[&fake.url], &["dlq", "replay", "--all", "--reason", "mended"]);
    assert_eq!((&again["redriven"], &again["stopped"]), (&json!(0), &json!(false)), "{again}");
}

#[test]
fn a_replay_stops_when_too_many_die_again() {
    let fake = service(2_500, 30);
    let args = ["dlq", "replay", "--code", "c", "--reason", "mended"];
    let output = tidings(&[&fake.url], &args);
    expect![[r#"
        payment: 1,000 brought back (0 wait, 300 dead again), 1,500 left
        tidings: stopped: 300 of 1,000 tried are dead again, more than 20 %; `tidings dlq summary` says why, and after the mend the same command goes on
    "#]]
    .assert_eq(&String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(2));
    let fake = service(2_500, 30);
    let told = json_of(&[&fake.url], &[&args[..], &["--max-failures", "30"]].concat());
    assert_eq!(
        told,
        json!({"redriven": 2_500, "quarantined": 1, "waiting": 0, "dead_again": 750, "stopped": false})
    );
}

#[test]
fn ids_go_to_their_service_at_the_rate_that_is_wanted() {
    let fake = service(9, 0);
    let start = Instant::now();
    let args = ["dlq", "replay", "payment:1", "payment:2", "payment:3", "--rate", "2", "--reason", "mended"];
    let told = json_of(&[&fake.url], &args);
    assert_eq!(told["redriven"], 3);
    assert!(start.elapsed() >= Duration::from_millis(1_500));
    assert_eq!(
        fake.posts()[1..],
        [
            r#"POST /admin/dead-letters/redrive {"actor":"anna","ids":["payment:1","payment:2"],"limit":2,"reason":"mended"}"#,
            r#"POST /admin/dead-letters/redrive {"actor":"anna","ids":["payment:3"],"limit":2,"reason":"mended"}"#,
        ]
    );
}

#[test]
fn one_that_is_away_does_not_hold_the_others_back() {
    let (fake, away) = (service(3, 0), nobody());
    let output = tidings(&[&away, &fake.url], &["dlq", "replay", "--all", "--reason", "mended", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["redriven"], 3);
    assert!(String::from_utf8_lossy(&output.stderr).contains(&format!("nothing listens at {away}")));
}
