//! The promises of every store.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tidings::store::BatchWork;
use tidings::{
    Effect, HandlerError, Idempotency, MESSAGE_BYTES_MAX, Param, Store, StoredResponse, Tx, params,
};
use tokio::sync::Notify;

use crate::event::NoteTaken;
use crate::{eventually, within};

/// Makes a test of every promise of a store.
#[macro_export]
macro_rules! store_conformance {
    ($fresh:expr) => {
        $crate::each_promise! { store, $fresh,
            a_rollback_leaves_nothing
            state_events_and_effects_commit_together
            a_stream_is_numbered_without_gaps
            transactions_that_meet_in_two_streams_all_commit
            an_insert_of_many_says_which_were_new
            parameters_are_bound_by_their_numbers
            a_statement_with_the_wrong_parameters_is_refused
            numbers_of_a_failed_transaction_are_given_again
            a_cancelled_transaction_leaves_no_trace_and_hangs_nobody
            a_cancelled_waiter_does_not_take_the_commit_of_others_away
            a_commit_that_nobody_waits_for_happens
            a_commit_that_is_refused_has_not_happened
            a_panic_leaves_no_trace_and_hangs_nobody
            a_failing_transaction_harms_no_neighbour
            a_query_sees_everything_committed_before_it
            a_write_batcher_answers_each_request
            a_failing_request_of_a_write_batcher_fails_alone
            a_panicking_request_of_a_write_batcher_fails_alone
            a_repeated_request_is_recognised
            an_invalid_event_is_fatal_and_nothing_is_stored
            reopening_keeps_everything
            data_of_a_newer_version_is_refused
            an_unknown_url_is_refused
        }
    };
}

const SERVICE: &str = "conformance";
const TABLES: &[&str] = &[
    "CREATE TABLE note (id TEXT PRIMARY KEY, body TEXT NOT NULL)",
    "CREATE TABLE tag (id TEXT PRIMARY KEY)",
    "CREATE TABLE reply (note TEXT REFERENCES note (id) DEFERRABLE INITIALLY DEFERRED)",
];

/// An external call to ask for.
#[derive(Serialize, Deserialize)]
struct Deed(String);

impl Effect for Deed {
    const KIND: &'static str = "deed";
    type Outcome = ();

    fn key(&self) -> String {
        format!("deed/{}", self.0)
    }
}

/// An error undoes state, events, effects and what was to happen after the commit.
pub async fn a_rollback_leaves_nothing(url: &str) {
    let store = open(url).await;
    let ran = Arc::new(AtomicBool::new(false));
    let after = ran.clone();
    let result: Result<(), HandlerError> = store
        .transaction(async move |tx: &mut Tx| {
            everything(tx, "a", 1).await?;
            tx.after_commit(move || after.store(true, Ordering::SeqCst));
            Err(HandlerError::fatal("no", "not today"))
        })
        .await;
    let e = result.expect_err("the transaction fails");
    assert!(matches!(e, HandlerError::Fatal { code: "no", .. }), "the work's own error comes back: {e:?}");
    assert_eq!(contents(&store).await, Contents::default());
    assert!(!ran.load(Ordering::SeqCst), "there was no commit to run after");
    // And it can be done afterwards.
    store.transaction(async |tx: &mut Tx| everything(tx, "a", 1).await).await.expect("it commits");
    assert_eq!(contents(&store).await, Contents::of(1));
}

/// A reader outside a transaction sees all of it or nothing.
pub async fn state_events_and_effects_commit_together(url: &str) {
    let store = open(url).await;
    let done = Arc::new(AtomicBool::new(false));
    let looking = {
        let (store, done) = (store.clone(), done.clone());
        tokio::spawn(async move {
            let mut looks = 0;
            while !done.load(Ordering::SeqCst) || looks == 0 {
                let found = contents(&store).await;
                assert_eq!(found, Contents::of(found.notes), "a transaction is visible in part");
                looks += 1;
                tokio::task::yield_now().await;
            }
        })
    };
    let writing = (0..100).map(|n| {
        let store = store.clone();
        tokio::spawn(async move {
            store
                .transaction(async move |tx: &mut Tx| {
                    everything(tx, &format!("k{n}"), 1).await?;
                    tokio::task::yield_now().await;
                    Ok(())
                })
                .await
        })
    });
    for written in within("transactions end", join_all(writing)).await {
        written.expect("no panic").expect("it commits");
    }
    done.store(true, Ordering::SeqCst);
    looking.await.expect("no transaction is visible in part");
    assert_eq!(contents(&store).await, Contents::of(100));
}

/// Many write to one stream at once, some fail: 1, 2, 3, … without gaps.
pub async fn a_stream_is_numbered_without_gaps(url: &str) {
    number_a_stream(url).await;
}

/// Only for stores with one writer: what runs after a commit runs in the order of the numbers.
pub async fn what_follows_a_commit_runs_in_commit_order(url: &str) {
    let (in_stream, committed) = number_a_stream(url).await;
    assert_eq!(in_stream, committed, "numbers follow the order of commits");
}

async fn number_a_stream(url: &str) -> (Vec<u64>, Vec<u64>) {
    const TASKS: u64 = 32;
    const EACH: u64 = 6;
    let store = open(url).await;
    let committed: Arc<Mutex<Vec<u64>>> = Arc::default();
    let writing = (0..TASKS).map(|task| {
        let (store, committed) = (store.clone(), committed.clone());
        tokio::spawn(async move {
            for round in 0..EACH {
                let number = 1 + task * EACH + round;
                let committed = committed.clone();
                let fails = number.is_multiple_of(5);
                let result = store
                    .transaction(async move |tx: &mut Tx| {
                        tx.publish(NoteTaken::new("shared", number)).await?;
                        for _ in 0..number % 4 {
                            tokio::task::yield_now().await;
                        }
                        tx.after_commit(move || locked(&committed).push(number));
                        if fails { Err(HandlerError::Transient("as planned".into())) } else { Ok(()) }
                    })
                    .await;
                assert_eq!(result.is_err(), fails);
            }
        })
    });
    for written in within("transactions end", join_all(writing)).await {
        written.expect("no panic");
    }
    let published = store.published("notes/shared").await.expect("the log can be read");
    let seqs: Vec<u64> = published.iter().map(|p| p.seq).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>(), "gapless from 1");
    assert_eq!(seqs.len() as u64, (1..=TASKS * EACH).filter(|n| n % 5 != 0).count() as u64);
    let in_stream: Vec<u64> = published
        .iter()
        .map(|p| serde_json::from_slice::<NoteTaken>(&p.message.value).expect("a note").n)
        .collect();
    for event in &published {
        assert_eq!(crate::wire::seq(&event.message), Some(event.seq), "the number is in the message");
    }
    let committed = locked(&committed).clone();
    (in_stream, committed)
}

/// Many transactions publish in the same two streams, in either order: none fails because of another.
pub async fn transactions_that_meet_in_two_streams_all_commit(url: &str) {
    const TASKS: u64 = 16;
    const EACH: u64 = 8;
    let store = open(url).await;
    let writing = (0..TASKS).map(|task| {
        let store = store.clone();
        tokio::spawn(async move {
            let keys = if task % 2 == 0 { ["left", "right"] } else { ["right", "left"] };
            for n in 1..=EACH {
                let publish = async move |tx: &mut Tx| {
                    for key in keys {
                        tx.publish(NoteTaken::new(key, task * EACH + n)).await?;
                    }
                    Ok::<_, HandlerError>(())
                };
                store.transaction(publish).await.expect("it commits");
            }
        })
    });
    for written in within("transactions end", join_all(writing)).await {
        written.expect("no panic");
    }
    for stream in ["notes/left", "notes/right"] {
        let published = store.published(stream).await.expect("the log can be read");
        assert_eq!(
            published.iter().map(|p| p.seq).collect::<Vec<_>>(),
            (1..=TASKS * EACH).collect::<Vec<_>>()
        );
    }
}

/// Rows that are there already are told from new ones, and do no harm to what else the transaction does.
pub async fn an_insert_of_many_says_which_were_new(url: &str) {
    const INSERT: &str = "INSERT INTO note (id, body) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING";
    const REPLACE: &str = "INSERT INTO note (id, body) VALUES ($1, $2)
         ON CONFLICT (id) DO UPDATE SET body = excluded.body WHERE note.body = 'first'";
    let store = open(url).await;
    let ids: Vec<String> = (0..40).map(|n| format!("n{n}")).collect();
    let rows = async |sql, ids: &[String], body: &'static str| {
        store
            .transaction(async move |tx: &mut Tx| {
                tx.execute("INSERT INTO tag (id) VALUES ($1)", params![body]).await?;
                let rows = ids.iter().map(|id| [Param::from(id), Param::from(body)]);
                let changed = tx.execute_many(sql, rows).await?;
                tx.publish(NoteTaken::new(body, 1)).await?;
                Ok(changed)
            })
            .await
            .expect("it commits")
    };
    assert_eq!(rows(INSERT, &ids[..20], "first").await, [1; 20]);
    assert_eq!(rows(INSERT, &ids[10..], "second").await, [[0; 10].as_slice(), &[1; 20]].concat());
    assert_eq!(rows(REPLACE, &ids, "third").await, [[1; 20].as_slice(), &[0; 20]].concat());
    for (id, body) in [("n0", "third"), ("n15", "third"), ("n20", "second"), ("n39", "second")] {
        assert_eq!(note(&store, id).await.as_deref(), Some(body));
    }
    let tags = store.query("SELECT count(*) FROM tag", &[]).await.expect("a query");
    assert_eq!(tags[0].get::<i64>(0).expect("a count"), 3);
    for body in ["first", "second", "third"] {
        assert_eq!(store.published(&format!("notes/{body}")).await.expect("the log can be read").len(), 1);
    }
}

/// A number that was not committed leaves no hole.
pub async fn numbers_of_a_failed_transaction_are_given_again(url: &str) {
    let store = open(url).await;
    publish(&store, "k", 1).await.expect("it commits");
    let failed: Result<(), HandlerError> = store
        .transaction(async |tx: &mut Tx| {
            for n in 2..10 {
                tx.publish(NoteTaken::new("k", n)).await?;
            }
            Err(HandlerError::Transient("as planned".into()))
        })
        .await;
    failed.expect_err("it fails");
    publish(&store, "k", 2).await.expect("it commits");
    let published = store.published("notes/k").await.expect("the log can be read");
    assert_eq!(published.iter().map(|p| p.seq).collect::<Vec<_>>(), [1, 2]);
}

/// A caller that goes away in the middle: nothing of its work stays, everybody else goes on.
pub async fn a_cancelled_transaction_leaves_no_trace_and_hangs_nobody(url: &str) {
    let store = open(url).await;
    let entered = Arc::new(Notify::new());
    let cancelled = {
        let (store, entered) = (store.clone(), entered.clone());
        tokio::spawn(async move {
            store
                .transaction(async move |tx: &mut Tx| {
                    everything(tx, "cancelled", 1).await?;
                    entered.notify_one();
                    std::future::pending::<()>().await;
                    Ok(())
                })
                .await
        })
    };
    within("the first one is in the middle", entered.notified()).await;
    let others = (0..20).map(|n| {
        let store = store.clone();
        tokio::spawn(async move {
            store.transaction(async move |tx: &mut Tx| everything(tx, &format!("k{n}"), 1).await).await
        })
    });
    let others: Vec<_> = others.collect();
    tokio::task::yield_now().await;
    cancelled.abort();
    for other in within("the others end", join_all(others)).await {
        other.expect("no panic").expect("it commits");
    }
    assert_eq!(contents(&store).await, Contents::of(20));
    assert_eq!(note(&store, "cancelled 1").await, None);
}

/// A transaction that has finished while another waited for its turn is committed, even if the waiting one goes away.
pub async fn a_cancelled_waiter_does_not_take_the_commit_of_others_away(url: &str) {
    struct Woken(AtomicBool);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let store = open(url).await;
    for round in 0..20 {
        let (entered, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let first = {
            let (store, entered, go) = (store.clone(), entered.clone(), go.clone());
            tokio::spawn(async move {
                store
                    .transaction(async move |tx: &mut Tx| {
                        everything(tx, "first", round + 1).await?;
                        entered.notify_one();
                        go.notified().await;
                        Ok(())
                    })
                    .await
            })
        };
        within("the first one is in the middle", entered.notified()).await;
        {
            let second = store.transaction(async |tx: &mut Tx| everything(tx, "second", 1).await);
            let mut second = pin!(second);
            let woken = Arc::new(Woken(AtomicBool::new(false)));
            let waker = Waker::from(woken.clone());
            let polled = second.as_mut().poll(&mut Context::from_waker(&waker));
            assert!(polled.is_pending(), "the second one waits for the first");
            go.notify_one();
            eventually("it is the second one's turn", async || woken.0.load(Ordering::SeqCst)).await;
            // Its turn has come; but its caller has hung up.
        }
        let committed = within("the first one is committed", first).await;
        committed.expect("no panic").expect("it commits");
    }
    assert_eq!(contents(&store).await, Contents::of(20));
}

/// A caller that hangs up while its commit is under way changes nothing: all of it is there, or none.
pub async fn a_commit_that_nobody_waits_for_happens(url: &str) {
    let store = open(url).await;
    for n in 1..=30_u64 {
        let mut unit = Box::pin(store.transaction(async move |tx: &mut Tx| everything(tx, "k", n).await));
        // However far it has come by then.
        for _ in 0..n % 6 {
            if futures_util::poll!(&mut unit).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(unit);
    }
    within("another one commits", publish(&store, "other", 1)).await.expect("it commits");
    let found = contents(&store).await;
    assert_eq!(found.notes, found.effects, "a transaction is there in part");
    assert_eq!(found.notes + 1, found.events, "a transaction is there in part");
    let published = store.published("notes/k").await.expect("the log can be read");
    assert!(published.iter().map(|p| p.seq).eq(1..=found.notes), "gapless");
}

/// The caller hears of a commit that the database refuses; nothing of it stays, nothing follows it.
pub async fn a_commit_that_is_refused_has_not_happened(url: &str) {
    let store = open(url).await;
    let followed: Arc<AtomicBool> = Arc::default();
    let follows = followed.clone();
    let refused: Result<(), HandlerError> = store
        .transaction(async move |tx: &mut Tx| {
            everything(tx, "k", 1).await?;
            // Looked at in the commit, and not before.
            tx.execute("INSERT INTO reply (note) VALUES ($1)", params!["to nothing"]).await?;
            tx.after_commit(move || follows.store(true, Ordering::SeqCst));
            Ok(())
        })
        .await;
    refused.expect_err("the commit is refused");
    assert!(!followed.load(Ordering::SeqCst), "nothing follows");
    assert_eq!(contents(&store).await, Contents::default());
    publish(&store, "k", 1).await.expect("the store goes on");
}

/// A bug in one transaction costs that transaction.
pub async fn a_panic_leaves_no_trace_and_hangs_nobody(url: &str) {
    let store = open(url).await;
    let tasks = (0..40).map(|n| {
        let store = store.clone();
        tokio::spawn(async move {
            store
                .transaction(async move |tx: &mut Tx| {
                    everything(tx, &format!("k{n}"), 1).await?;
                    tokio::task::yield_now().await;
                    assert!(n % 4 != 0, "a bug, as planned");
                    Ok(())
                })
                .await
        })
    });
    let ended = within("all end", join_all(tasks)).await;
    let panicked = ended.iter().filter(|e| e.is_err()).count();
    assert_eq!(panicked, 10);
    for unit in ended.into_iter().flatten() {
        unit.expect("it commits");
    }
    assert_eq!(contents(&store).await, Contents::of(30));
    publish(&store, "k0", 1).await.expect("the store goes on");
}

/// Transactions that share a commit share nothing else.
pub async fn a_failing_transaction_harms_no_neighbour(url: &str) {
    const TASKS: u64 = 240;
    let store = open(url).await;
    store
        .transaction(async |tx: &mut Tx| {
            tx.execute("INSERT INTO tag (id) VALUES ($1)", params!["taken"]).await?;
            Ok(())
        })
        .await
        .expect("it commits");
    let tasks = (0..TASKS).map(|n| {
        let store = store.clone();
        tokio::spawn(async move {
            (n, store.transaction(async move |tx: &mut Tx| one_of_many(tx, n).await).await)
        })
    });
    let mut committed = BTreeSet::new();
    for ended in within("all end", join_all(tasks)).await {
        // A panic is not told by the transaction.
        let Ok((n, result)) = ended else { continue };
        match (n % 8, result) {
            (1 | 2 | 3 | 5, result) => drop(result.expect_err("it fails")),
            (_, result) => {
                result.expect("it commits");
                committed.insert(format!("k{n}"));
            }
        }
    }
    let rows = store.query("SELECT body FROM note", &[]).await.expect("a query");
    let found: BTreeSet<String> = rows.iter().map(|row| row.get(0).expect("text")).collect();
    assert_eq!(found, committed);
    assert_eq!(contents(&store).await, Contents::of(committed.len() as u64));
}

async fn one_of_many(tx: &mut Tx, n: u64) -> Result<(), HandlerError> {
    if n.is_multiple_of(3) {
        tokio::task::yield_now().await;
    }
    everything(tx, &format!("k{n}"), 1).await?;
    match n % 8 {
        1 => Err(HandlerError::Transient("as planned".into())),
        3 => {
            tx.execute("INSERT INTO tag (id) VALUES ($1)", params!["taken"]).await?;
            Ok(())
        }
        5 => tx.publish(NoteTaken::new(format!("k{n}"), 0)).await,
        7 => panic!("a bug, as planned"),
        2 => {
            // Not even if the error is swallowed.
            let taken = tx.execute("INSERT INTO tag (id) VALUES ($1)", params!["taken"]).await;
            assert!(taken.is_err(), "the tag is taken");
            Ok(())
        }
        _ => Ok(()),
    }
}

/// A query sees what an earlier caller has been told is committed.
pub async fn a_query_sees_everything_committed_before_it(url: &str) {
    let store = open(url).await;
    for n in 1..=50 {
        store
            .transaction(async move |tx: &mut Tx| {
                everything(tx, "k", n).await?;
                // And a transaction sees what it did itself.
                let rows = tx.query("SELECT count(*) FROM note", &[]).await?;
                assert_eq!(rows[0].get::<u64>(0)?, n);
                Ok(())
            })
            .await
            .expect("it commits");
        assert_eq!(contents(&store).await, Contents::of(n));
    }
}

/// A handler for write batchers: answers a number with its square, after writing it down.
struct Squares {
    batches: Arc<AtomicUsize>,
    panics: bool,
}

impl BatchWork<u64, u64> for Squares {
    async fn handle(&self, requests: &[u64], tx: &mut Tx) -> Result<Vec<u64>, HandlerError> {
        self.batches.fetch_add(1, Ordering::SeqCst);
        let mut answers = Vec::new();
        for &n in requests {
            everything(tx, &format!("k{n}"), 1).await?;
            if n == 13 {
                assert!(!self.panics, "a bug, as planned");
                return Err(HandlerError::fatal("unlucky", n));
            }
            answers.push(n * n);
        }
        Ok(answers)
    }
}

/// Each of many requests that share a transaction gets its own answer.
pub async fn a_write_batcher_answers_each_request(url: &str) {
    let store = open(url).await;
    let batches = Arc::new(AtomicUsize::new(0));
    let squares = Squares { batches: batches.clone(), panics: false };
    let batcher = store.write_batcher(squares);
    let requests = (100..400_u64).map(|n| {
        let batcher = batcher.clone();
        async move { (n, batcher.submit(n).await) }
    });
    for (n, answer) in within("all are answered", join_all(requests)).await {
        assert_eq!(answer.expect("an answer"), n * n);
    }
    assert_eq!(contents(&store).await, Contents::of(300));
    assert!(batches.load(Ordering::SeqCst) < 300, "requests that wait share a transaction");
}

/// One bad request among many: the others are answered as if it had not been there.
pub async fn a_failing_request_of_a_write_batcher_fails_alone(url: &str) {
    unlucky(url, false).await;
}

/// One request among many that makes the handler panic: the others are answered as if it had not been there.
pub async fn a_panicking_request_of_a_write_batcher_fails_alone(url: &str) {
    unlucky(url, true).await;
}

async fn unlucky(url: &str, panics: bool) {
    let store = open(url).await;
    let batches = Arc::default();
    let batcher = store.write_batcher(Squares { batches, panics });
    let requests = (0..40_u64).map(|n| {
        let batcher = batcher.clone();
        async move { (n, batcher.submit(n).await) }
    });
    for (n, answer) in within("all are answered", join_all(requests)).await {
        match (n, answer) {
            (13, Err(HandlerError::Fatal { code, .. })) => assert_eq!((code, panics), ("unlucky", false)),
            (13, Err(HandlerError::Transient(message))) => {
                assert!(panics && message.contains("a bug, as planned"), "{message}");
            }
            (13, other) => panic!("the unlucky one was answered {other:?}"),
            (n, answer) => assert_eq!(answer.expect("an answer"), n * n),
        }
    }
    assert_eq!(contents(&store).await, Contents::of(39));
    assert_eq!(note(&store, "k13 1").await, None, "nothing of the unlucky one stays");
    assert_eq!(within("the batcher goes on", batcher.submit(50)).await.expect("an answer"), 2500);
}

/// A repeated key with an equal request gets its first answer; with another request it is refused.
pub async fn a_repeated_request_is_recognised(url: &str) {
    let store = open(url).await;
    let request = Idempotency { route: "POST /notes", key: "key-1".into(), fingerprint: [7; 32] };
    let other_body = Idempotency { fingerprint: [8; 32], ..request.clone() };
    let other_route = Idempotency { route: "POST /tags", ..other_body.clone() };
    assert_eq!(remember(&store, &request, 201, "{}", true).await, None, "rolled back: never used");
    assert_eq!(remember(&store, &request, 201, r#"{"n":1}"#, false).await, None, "used for the first time");
    let first = StoredResponse::Replay { status: 201, answer: r#"{"n":1}"#.into() };
    assert_eq!(remember(&store, &request, 500, "again", false).await, Some(first.clone()));
    assert_eq!(remember(&store, &other_body, 201, "other", false).await, Some(StoredResponse::Mismatch));
    assert_eq!(remember(&store, &other_route, 202, "null", false).await, None, "keys belong to a route");
    let asked = request.clone();
    let recalled = store
        .transaction(async move |tx: &mut Tx| Ok(tx.find_response(&asked).await?))
        .await
        .expect("it commits");
    assert_eq!(recalled, Some(first), "the first answer stays");
}

async fn remember(
    store: &Store,
    request: &Idempotency,
    status: u16,
    answer: &'static str,
    fails: bool,
) -> Option<StoredResponse> {
    let request = request.clone();
    let before = Arc::new(Mutex::new(None));
    let found = before.clone();
    let result = store
        .transaction(async move |tx: &mut Tx| {
            let before = tx.save_response(&request, status, answer).await?;
            *locked(&found) = before;
            if fails { Err(HandlerError::Transient("as planned".into())) } else { Ok(()) }
        })
        .await;
    assert_eq!(result.is_err(), fails);
    locked(&before).take()
}

/// An event that breaks its own rules is never published.
pub async fn an_invalid_event_is_fatal_and_nothing_is_stored(url: &str) {
    let store = open(url).await;
    let too_large = NoteTaken { text: "x".repeat(MESSAGE_BYTES_MAX), ..NoteTaken::new("large", 1) };
    for invalid in [NoteTaken::new("k", 0), NoteTaken::new("", 1), too_large] {
        let result = store
            .transaction(async move |tx: &mut Tx| {
                everything(tx, "k", 1).await?;
                tx.publish(invalid).await
            })
            .await;
        let e = result.expect_err("an invalid event is refused");
        assert!(matches!(e, HandlerError::Fatal { code: "invalid_event", .. }), "{e:?}");
        assert!(e.to_string().contains("note.taken.v1"), "{e} names the type");
    }
    assert_eq!(contents(&store).await, Contents::default());
}

/// A store that is opened again has everything, and goes on counting where it was.
pub async fn reopening_keeps_everything(url: &str) {
    let request = Idempotency { route: "POST /notes", key: "key-1".into(), fingerprint: [7; 32] };
    let before = {
        let store = open(url).await;
        for n in 1..=5 {
            store
                .transaction(async move |tx: &mut Tx| everything(tx, "k", n).await)
                .await
                .expect("it commits");
        }
        remember(&store, &request, 201, "answer", false).await;
        store.published("notes/k").await.expect("the log can be read")
    };
    let store = open(url).await;
    assert_eq!(contents(&store).await, Contents::of(5));
    assert_eq!(note(&store, "k 3").await.as_deref(), Some("k"));
    let after = store.published("notes/k").await.expect("the log can be read");
    let facts = |events: &[tidings::StoredEvent]| -> Vec<_> {
        events.iter().map(|p| (p.seq, p.recorded_us, p.message.clone())).collect()
    };
    assert_eq!(facts(&after), facts(&before));
    let again = remember(&store, &request, 201, "answer", false).await;
    assert!(matches!(again, Some(StoredResponse::Replay { .. })), "{again:?}");
    publish(&store, "k", 6).await.expect("it commits");
    let published = store.published("notes/k").await.expect("the log can be read");
    assert_eq!(published.last().map(|p| p.seq), Some(6), "numbers go on");
}

/// A program does not touch data that it does not understand.
pub async fn data_of_a_newer_version_is_refused(url: &str) {
    drop(open(url).await);
    let mut refused = None;
    eventually("the store is let go of", async || {
        refused = Store::open(url, SERVICE, &TABLES[..1]).await.err();
        refused.as_ref().is_none_or(|e| !e.to_string().contains("in use"))
    })
    .await;
    let e = refused.expect("data of a newer version is refused");
    assert!(e.is_config(), "{e:?}");
    let text = e.to_string();
    let theirs = format!("version {}", TABLES.len());
    assert!(text.contains(&theirs) && text.contains("knows 1"), "{text:?} names both versions");
    assert!(text.contains("run that release"), "{text:?} says what to do");
}

/// A wrong URL is told in one line that says what to write.
pub async fn an_unknown_url_is_refused(_: &str) {
    for url in ["", "sqlite:", "data", "oracle://there"] {
        let e = Store::open(url, SERVICE, &[]).await.expect_err("an unknown URL is refused");
        assert!(e.is_config(), "{e:?}");
        assert!(e.to_string().contains("--store"), "{e} names the flag");
    }
}

/// Only for stores that one process owns: a second opening is refused, in words that help.
pub async fn a_second_opening_is_refused(url: &str) {
    let store = open(url).await;
    let e = Store::open(url, SERVICE, TABLES).await.expect_err("a second opening is refused");
    assert!(e.is_config(), "{e:?}");
    let text = e.to_string();
    assert!(text.contains("in use by another process"), "{text:?} says what is the matter");
    assert!(text.contains("choose another directory"), "{text:?} says what to do");
    publish(&store, "k", 1).await.expect("the first one is not harmed");
    drop(store);
    drop(open(url).await);
}

/// Opens the store, waiting for one that was just dropped to let go of its files.
/// `$2` before `$1`, `$1` twice: the number decides, in whatever order the statement names them.
pub async fn parameters_are_bound_by_their_numbers(url: &str) {
    const RENAME: &str = "UPDATE note SET body = $2 WHERE id = $1";
    const FIND: &str = "SELECT body, id FROM note WHERE body = $2 AND id = $1 AND id = $1";
    let store = open(url).await;
    let changed = store
        .transaction(async |tx: &mut Tx| {
            let rows = ["a", "b", "c"].map(|id| [Param::from("first"), Param::from(id)]);
            tx.execute_many("INSERT INTO note (id, body) VALUES ($2, $1)", rows).await?;
            let one = tx.execute(RENAME, params!["a", "second"]).await?;
            let rows = [["b", "third"], ["c", "fourth"], ["d", "fifth"]].map(|row| row.map(Param::from));
            let many = tx.execute_many(RENAME, rows).await?;
            let found = tx.query(FIND, params!["a", "second"]).await?;
            assert_eq!(found[0].get::<String>(1)?, "a");
            let rows = [["c", "fourth"], ["b", "first"], ["b", "third"]].map(|row| row.map(Param::from));
            let found = tx.query_many(FIND, rows).await?;
            assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [1, 0, 1]);
            Ok((one, many))
        })
        .await
        .expect("it commits");
    assert_eq!(changed, (1, vec![1, 1, 0]));
    let found = store.query(FIND, params!["b", "third"]).await.expect("it can be asked");
    assert_eq!(found.len(), 1);
}

/// `?`, a number too many or too few: an error, and nothing is done.
pub async fn a_statement_with_the_wrong_parameters_is_refused(url: &str) {
    let store = open(url).await;
    let wrong: [(&str, &[Param<'_>]); 4] = [
        ("INSERT INTO note (id, body) VALUES (?, ?)", params!["a", "b"]),
        ("INSERT INTO note (id, body) VALUES ($1, $2)", params!["a"]),
        ("INSERT INTO note (id, body) VALUES ($1, 'b')", params!["a", "b"]),
        ("INSERT INTO note (id, body) VALUES ($1, $3)", params!["a", "b", "c"]),
    ];
    for (sql, params) in wrong {
        let failed = store.transaction(async |tx: &mut Tx| Ok(tx.execute(sql, params).await?)).await;
        let e = failed.expect_err("the statement is refused");
        assert!(matches!(e, HandlerError::Transient(_)), "{sql} is wrong, nothing is away: {e:?}");
        let few: Vec<[Param<'_>; 1]> = vec![[Param::from("a")], [Param::from("b")]];
        if params.len() == 1 {
            let failed =
                store.transaction(async move |tx: &mut Tx| Ok(tx.execute_many(sql, few).await?)).await;
            failed.expect_err("it is refused for many rows too");
        }
        assert_eq!(contents(&store).await, Contents::default());
    }
    let found = store.query("SELECT id FROM note WHERE id = $1", &[]).await;
    found.expect_err("a query is refused too");
}

async fn open(url: &str) -> Store {
    let mut opened = None;
    eventually("the store opens", async || {
        opened = Store::open(url, SERVICE, TABLES).await.ok();
        opened.is_some()
    })
    .await;
    opened.expect("it was opened")
}

/// State, an event and an effect.
async fn everything(tx: &mut Tx, key: &str, n: u64) -> Result<(), HandlerError> {
    let id = format!("{key} {n}");
    tx.execute("INSERT INTO note (id, body) VALUES ($1, $2)", &[Param::Text(&id), Param::Text(key)]).await?;
    tx.publish(NoteTaken::new(key, n)).await?;
    tx.perform(Deed(id)).await
}

async fn publish(store: &Store, key: &str, n: u64) -> Result<(), HandlerError> {
    let event = NoteTaken::new(key, n);
    store.transaction(async move |tx: &mut Tx| tx.publish(event).await).await
}

/// The number of rows of each kind.
#[derive(Debug, Default, PartialEq, Eq)]
struct Contents {
    notes: u64,
    events: u64,
    pending: u64,
    effects: u64,
}

impl Contents {
    /// The contents after `count` transactions whose events were not relayed.
    fn of(count: u64) -> Self {
        Self { notes: count, events: count, pending: count, effects: count }
    }
}

async fn contents(store: &Store) -> Contents {
    let rows = store
        .query(
            "SELECT (SELECT count(*) FROM note), (SELECT count(*) FROM event_log),
                    (SELECT count(*) FROM outbox), (SELECT count(*) FROM effect)",
            &[],
        )
        .await
        .expect("the tables can be read");
    let count = |column| rows[0].get(column).expect("a count is a number");
    Contents { notes: count(0), events: count(1), pending: count(2), effects: count(3) }
}

async fn note(store: &Store, id: &str) -> Option<String> {
    let rows = store.query("SELECT body FROM note WHERE id = $1", params![id]).await;
    let rows = rows.expect("the table can be read");
    rows.first().map(|row| row.get(0).expect("a note has a body"))
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics with the lock")
}
