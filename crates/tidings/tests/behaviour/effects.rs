//! Deeds outside the database: once per key, whatever happens.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use expect_test::expect;
use serde::{Deserialize, Serialize};
use tidings::status::Loop;
use tidings::store::Tables;
use tidings::{
    Causal as _, Cause, Effect, EffectError, EffectHandler, HandlerError, RunningService, Service, Settled,
    Store, Tx, params,
};
use tidings_testkit::eventually;
use tidings_testkit::stage::{Stage, advance_clock_until, idle, number, stop};
use tokio::sync::Notify;

pub const TABLES: Tables = Tables {
    sqlite: &["CREATE TABLE paid (id INTEGER PRIMARY KEY, bill TEXT NOT NULL)"],
    postgres: &["CREATE TABLE paid (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, bill TEXT NOT NULL)"],
};

/// Pay a bill.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pay {
    bill: String,
}

impl Effect for Pay {
    const KIND: &'static str = "pay";
    type Outcome = &'static str;

    fn key(&self) -> String {
        format!("pay/{}", self.bill)
    }
}

pub fn pay(bill: &str) -> Pay {
    Pay { bill: bill.to_owned() }
}

/// How one call of the bank ends. Where nothing is planned: well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    NotDone,
    /// The answer is lost after the deed was done …
    LostAfter,
    /// … or before.
    LostBefore,
    Panic,
    /// The bank contradicts what it is asked for.
    Conflict,
    /// Done, but answers only once it is let go on.
    Late,
}

/// The world outside: remembers under which key what was done, and every call.
#[derive(Clone, Default)]
pub struct Bank(Arc<Mutex<Books>>, Arc<Notify>);

#[derive(Default)]
pub struct Books {
    plan: HashMap<String, Vec<Reply>>,
    refuse_settling: HashMap<String, usize>,
    done: HashMap<String, usize>,
    pub is_closed: bool,
    pub calls: Vec<String>,
    causes: Vec<Cause>,
}

impl Bank {
    /// The next calls to pay `bill` end like this.
    pub fn plans(&self, bill: &str, replies: &[Reply]) {
        let replies = replies.iter().rev().copied().collect();
        self.books().plan.insert(bill.to_owned(), replies);
    }

    /// Recording that `bill` was paid fails so many times.
    fn refuses_settling(&self, bill: &str, times: usize) {
        self.books().refuse_settling.insert(bill.to_owned(), times);
    }

    pub fn go_on(&self) {
        self.1.notify_waiters();
    }

    pub fn calls(&self) -> String {
        self.books().calls.join("\n")
    }

    pub fn count(&self, call: &str) -> usize {
        self.books().calls.iter().filter(|found| *found == call).count()
    }

    /// Bills that were paid more than once.
    pub fn overpaid(&self) -> usize {
        self.books().done.values().filter(|times| **times > 1).count()
    }

    fn note(&self, call: impl Into<String>) {
        self.books().calls.push(call.into());
    }

    pub fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().expect("nobody panics with the lock")
    }
}

impl EffectHandler<Pay> for Bank {
    async fn perform(&self, key: &str, effect: &Pay) -> Result<&'static str, EffectError> {
        let released = self.1.notified();
        let reply = {
            let mut books = self.books();
            books.calls.push(format!("perform {key}"));
            let planned = books.plan.get_mut(&effect.bill).and_then(Vec::pop);
            let reply = if books.is_closed { Some(Reply::NotDone) } else { planned };
            if !matches!(reply, Some(Reply::NotDone | Reply::LostBefore | Reply::Panic | Reply::Conflict)) {
                *books.done.entry(key.to_owned()).or_default() += 1;
            }
            reply
        };
        match reply {
            None => Ok("done"),
            Some(Reply::NotDone) => Err(EffectError::NotDone("the bank is closed".into())),
            Some(Reply::LostAfter | Reply::LostBefore) => Err(EffectError::Unknown("no answer".into())),
            Some(Reply::Panic) => panic!("a bug, as planned"),
            Some(Reply::Conflict) => Err(EffectError::Conflict("this bill has another amount".into())),
            Some(Reply::Late) => {
                released.await;
                Ok("done late")
            }
        }
    }

    async fn look_up(&self, key: &str, _: &Pay) -> Result<Option<&'static str>, EffectError> {
        let found = self.books().done.contains_key(key);
        self.note(format!("look up {key}: {}", if found { "done" } else { "not done" }));
        Ok(found.then_some("found"))
    }

    fn stated_outcome(&self, _: &Pay, outcome: serde_json::Value) -> Result<&'static str, String> {
        match outcome.as_str() {
            Some("paid") => Ok("stated"),
            _ => Err("say \"paid\"".to_owned()),
        }
    }

    async fn settle(&self, done: &[Settled<Pay>], tx: &mut Tx) -> Result<(), HandlerError> {
        for settled in done {
            let bill = &settled.effect.bill;
            self.books().causes.push(settled.cause());
            tx.execute("INSERT INTO paid (bill) VALUES ($1)", params![bill]).await?;
            let refused = {
                let mut books = self.books();
                let left = books.refuse_settling.entry(bill.clone()).or_default();
                let refused = *left > 0;
                *left = left.saturating_sub(1);
                let told = if refused { " fails" } else { "" };
                books.calls.push(format!("settle {bill} {}{told}", settled.outcome));
                refused
            };
            if refused {
                return Err(HandlerError::Transient("as planned".into()));
            }
        }
        Ok(())
    }
}

pub fn payer(bank: &Bank) -> impl Fn() -> Service + use<> {
    let bank = bank.clone();
    move || Service::new("payer").tables(TABLES).effect(bank.clone())
}

/// A bill whose payment the bank answers late: asked for, and on its way.
pub async fn under_way(stage: &Stage) -> (Bank, RunningService) {
    let bank = Bank::default();
    let running = stage.start(payer(&bank)).await;
    bank.plans("b1", &[Reply::Late]);
    ask(running.store(), "b1").await;
    eventually("it is under way", async || bank.count("perform pay/b1") == 1).await;
    (bank, running)
}

pub async fn ask(store: &Store, bill: &str) {
    let effect = pay(bill);
    let asked = store.transaction(async move |tx: &mut Tx| tx.perform(effect).await).await;
    asked.expect("an effect can be asked for");
}

/// What was recorded as paid, in order.
pub async fn paid(running: &RunningService) -> Vec<String> {
    let rows = running.store().query("SELECT bill FROM paid ORDER BY id", &[]).await;
    let rows = rows.expect("the table can be read");
    rows.iter().map(|row| row.get(0).expect("a bill is text")).collect()
}

async fn all_done(running: &RunningService) {
    advance_clock_until(running, "nothing is open", async || {
        number(running, |s| s.effects.rows.expect("it is known").open).await == 0
    })
    .await;
}

/// At once, and after it has waited in the table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_effect_goes_on_with_the_whole_trace_of_its_cause() {
    let stage = crate::stage();
    let bank = Bank::default();
    let running = stage.start(payer(&bank)).await;
    let mut cause = Cause::default();
    cause.correlation_id = Some("r-1".into());
    cause.causation_id = Some("e-1".into());
    cause.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into());
    cause.tracestate = Some("vendor=1".into());
    let asked = cause.clone();
    running
        .store()
        .transaction(async move |tx: &mut Tx| {
            let now = tx.caused_by(&asked).now();
            tx.perform(pay("now")).await?;
            tx.perform_at(pay("later"), now + std::time::Duration::from_hours(12)).await
        })
        .await
        .expect("effects can be asked for");
    all_done(&running).await;
    assert_eq!(bank.books().causes, [cause.clone(), cause]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_effect_is_performed_once_however_often_it_is_asked_for() {
    let stage = crate::stage();
    let bank = Bank::default();
    let running = stage.start(payer(&bank)).await;
    let asking = (0..20).map(|n| {
        let store = running.store().clone();
        tokio::spawn(async move { ask(&store, &format!("b{}", n % 3)).await })
    });
    for task in asking.collect::<Vec<_>>() {
        task.await.expect("it can be asked for");
    }
    idle(&running).await;
    ask(running.store(), "b0").await;
    idle(&running).await;
    for bill in ["b0", "b1", "b2"] {
        assert_eq!(bank.count(&format!("perform pay/{bill}")), 1);
    }
    let mut paid = paid(&running).await;
    paid.sort();
    assert_eq!(paid, ["b0", "b1", "b2"]);
    assert_eq!(number(&running, |s| s.effects.done).await, 3);
}

#[tokio::test]
async fn an_effect_of_a_failed_transaction_is_not_performed() {
    let stage = crate::stage();
    let bank = Bank::default();
    let running = stage.start(payer(&bank)).await;
    let failed: Result<(), HandlerError> = running
        .store()
        .transaction(async |tx: &mut Tx| {
            tx.perform(pay("b1")).await?;
            Err(HandlerError::Transient("as planned".into()))
        })
        .await;
    failed.expect_err("it fails");
    ask(running.store(), "b2").await;
    all_done(&running).await;
    expect![[r#"
        perform pay/b2
        settle b2 done"#]]
    .assert_eq(&bank.calls());
}

#[tokio::test]
async fn an_unknown_outcome_is_looked_up_and_performed_again_only_if_it_was_not_done() {
    let stage = crate::stage();
    let bank = Bank::default();
    let running = stage.start(payer(&bank)).await;
    bank.plans("charged", &[Reply::LostAfter]);
    ask(running.store(), "charged").await;
    all_done(&running).await;
    bank.plans("lost", &[Reply::LostBefore, Reply::LostBefore]);
    ask(running.store(), "lost").await;
    all_done(&running).await;
    expect![[r#"
        perform pay/charged
        look up pay/charged: done
        settle charged found
        perform pay/lost
        look up pay/lost: not done
        perform pay/lost
        look up pay/lost: not done
        perform pay/lost
        settle lost done"#]]
    .assert_eq(&bank.calls());
    assert_eq!((bank.overpaid(), paid(&running).await.len()), (0, 2));
}

#[tokio::test]
async fn what_was_certainly_not_done_is_tried_again_under_the_same_key() {
    let stage = crate::stage();
    let bank = Bank::default();
    let running = stage.start(payer(&bank)).await;
    bank.plans("b1", &[Reply::NotDone, Reply::NotDone]);
    ask(running.store(), "b1").await;
    all_done(&running).await;
    expect![[r#"
        perform pay/b1
        perform pay/b1
        perform pay/b1
        settle b1 done"#]]
    .assert_eq(&bank.calls());
    assert_eq!(paid(&running).await, ["b1"]);
}

#[tokio::test]
async fn what_the_provider_contradicts_is_not_tried_again_by_time_or_by_a_restart() {
    let stage = crate::stage();
    let bank = Bank::default();
    let running = stage.start(payer(&bank)).await;
    bank.plans("b1", &[Reply::Conflict]);
    ask(running.store(), "b1").await;
    eventually("the bank was asked", async || number(&running, |s| s.effects.failed).await == 1).await;
    let ways = async |running: &RunningService, other: &str| {
        running.store().clock().advance(Duration::from_hours(48));
        // Tried again from the table: that was looked at.
        bank.plans(other, &[Reply::NotDone]);
        ask(running.store(), other).await;
        advance_clock_until(running, "the other is paid", async || {
            paid(running).await.contains(&other.to_owned())
        })
        .await;
        assert_eq!(bank.count("perform pay/b1") + bank.count("look up pay/b1: not done"), 1);
        let rows = async |read: fn(tidings::status::EffectRows) -> u64| {
            number(running, |s| read(s.effects.rows.expect("it is known"))).await
        };
        assert_eq!((rows(|rows| rows.open).await, rows(|rows| rows.failing).await), (1, 0));
        idle(running).await;
    };
    ways(&running, "b2").await;
    stop(running).await;
    let mut told = String::new();
    eventually("a program without its handler is refused", async || {
        let forgetful = Service::new("payer").tables(TABLES).start(&stage.store_url(), stage.broker()).await;
        told = forgetful.err().map(|e| e.to_string()).unwrap_or_default();
        !told.contains("in use")
    })
    .await;
    assert!(told.contains("effects of kind pay that are not done"), "{told}");
    let running = stage.start(payer(&bank)).await;
    ways(&running, "b3").await;
    stop(running).await;
}

#[tokio::test]
async fn an_effect_handler_that_panics_leaves_an_unknown_outcome() {
    let stage = crate::stage();
    let bank = Bank::default();
    let running = stage.start(payer(&bank)).await;
    bank.plans("b1", &[Reply::Panic]);
    ask(running.store(), "b1").await;
    all_done(&running).await;
    expect![[r#"
        perform pay/b1
        look up pay/b1: not done
        perform pay/b1
        settle b1 done"#]]
    .assert_eq(&bank.calls());
}

#[tokio::test]
async fn an_outcome_that_could_not_be_recorded_is_looked_up_and_recorded_once() {
    let stage = crate::stage();
    let bank = Bank::default();
    let running = stage.start(payer(&bank)).await;
    // Once with the others, once alone, once when it is tried again.
    bank.refuses_settling("b1", 4);
    ask(running.store(), "b1").await;
    all_done(&running).await;
    assert_eq!(bank.count("perform pay/b1"), 1, "{}", bank.calls());
    assert!(bank.count("look up pay/b1: done") > 0, "{}", bank.calls());
    assert_eq!(paid(&running).await, ["b1"], "what a failed attempt recorded is undone");
}

#[tokio::test]
async fn an_outcome_that_cannot_be_recorded_holds_up_no_other() {
    let stage = crate::stage();
    let bank = Bank::default();
    bank.refuses_settling("b7", 3);
    let running = stage
        .start({
            let payer = payer(&bank);
            move || {
                payer().on_start(|store| async move {
                    store
                        .transaction(async |tx: &mut Tx| {
                            for n in 0..20 {
                                tx.perform(pay(&format!("b{n}"))).await?;
                            }
                            Ok(())
                        })
                        .await
                })
            }
        })
        .await;
    eventually("the others are recorded", async || paid(&running).await.len() == 19).await;
    all_done(&running).await;
    let mut paid = paid(&running).await;
    paid.sort();
    paid.dedup();
    assert_eq!(paid.len(), 20);
    assert_eq!(bank.overpaid(), 0);
}

#[tokio::test]
async fn a_timer_fires_when_its_time_has_come_and_not_before() {
    let stage = crate::stage();
    let bank = Bank::default();
    let running = stage.start(payer(&bank)).await;
    let hours = |n| std::time::Duration::from_hours(n);
    running
        .store()
        .transaction(async move |tx: &mut Tx| {
            let now = tx.now();
            tx.perform_at(pay("tomorrow"), now + hours(24)).await?;
            tx.perform_at(pay("tonight"), now + hours(12)).await?;
            tx.perform_at(pay("yesterday"), now - hours(24)).await
        })
        .await
        .expect("timers can be set");
    idle(&running).await;
    eventually("what is due is done", async || paid(&running).await == ["yesterday"]).await;
    running.store().clock().advance(hours(11));
    // Something else in between, so that the table has been looked at.
    ask(running.store(), "now").await;
    eventually("it is done", async || paid(&running).await.len() == 2).await;
    idle(&running).await;
    running.store().clock().advance(hours(2));
    eventually("the first timer fires", async || paid(&running).await.len() == 3).await;
    idle(&running).await;
    running.store().clock().advance(hours(12));
    eventually("the second timer fires", async || paid(&running).await.len() == 4).await;
    assert_eq!(paid(&running).await, ["yesterday", "now", "tonight", "tomorrow"]);
    assert_eq!(bank.count("perform pay/tomorrow"), 1);
}

/// Whatever else there is to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timer_fires_while_effects_are_asked_for_all_the_time() {
    let stage = crate::stage();
    let bank = Bank::default();
    let running = stage.start(payer(&bank)).await;
    let set = running.store().transaction(async |tx: &mut Tx| {
        let soon = tx.now() + std::time::Duration::from_millis(300);
        tx.perform_at(pay("soon"), soon).await
    });
    set.await.expect("a timer can be set");
    let begun = std::time::Instant::now();
    for n in 0.. {
        if bank.count("perform pay/soon") == 1 {
            break;
        }
        assert!(begun.elapsed() < tidings_testkit::DEADLINE, "it is put off for ever");
        ask(running.store(), &format!("b{n}")).await;
    }
}

#[tokio::test]
async fn what_nobody_has_begun_can_be_withdrawn() {
    let stage = crate::stage();
    let bank = Bank::default();
    let running = stage.start(payer(&bank)).await;
    let hour = std::time::Duration::from_hours(1);
    running
        .store()
        .transaction(async move |tx: &mut Tx| {
            let due = tx.now() + hour;
            for bill in ["withdrawn", "kept", "asked again"] {
                tx.perform_at(pay(bill), due).await?;
            }
            // In the same transaction too.
            tx.perform(pay("at once")).await?;
            tx.cancel_effect(&pay("at once")).await
        })
        .await
        .expect("timers can be set");
    let failed: Result<(), HandlerError> = running
        .store()
        .transaction(async |tx: &mut Tx| {
            tx.cancel_effect(&pay("kept")).await?;
            Err(HandlerError::Transient("as planned".into()))
        })
        .await;
    failed.expect_err("it fails");
    running
        .store()
        .transaction(async move |tx: &mut Tx| {
            tx.cancel_effect(&pay("withdrawn")).await?;
            tx.cancel_effect(&pay("asked again")).await?;
            let due = tx.now() + hour + hour;
            tx.perform_at(pay("asked again"), due).await
        })
        .await
        .expect("timers can be withdrawn");
    running.store().clock().advance(hour);
    eventually("what was kept is done", async || paid(&running).await == ["kept"]).await;
    all_done(&running).await;
    assert_eq!(paid(&running).await, ["kept", "asked again"]);
    // What was begun, or is done, stays.
    running
        .store()
        .transaction(async |tx: &mut Tx| {
            tx.cancel_effect(&pay("kept")).await?;
            tx.perform(pay("kept")).await
        })
        .await
        .expect("it commits");
    all_done(&running).await;
    assert_eq!(paid(&running).await, ["kept", "asked again"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_effects_than_fit_into_memory_are_all_performed_once() {
    const COUNT: usize = 9000;
    let stage = crate::stage();
    let bank = Bank::default();
    let running = stage
        .start({
            let payer = payer(&bank);
            move || {
                payer().on_start(|store| async move {
                    for part in 0..COUNT / 500 {
                        store
                            .transaction(async move |tx: &mut Tx| {
                                for n in part * 500..(part + 1) * 500 {
                                    tx.perform(pay(&format!("b{n}"))).await?;
                                }
                                Ok(())
                            })
                            .await?;
                    }
                    Ok(())
                })
            }
        })
        .await;
    idle(&running).await;
    assert_eq!(paid(&running).await.len(), COUNT);
    let performed = bank.calls().lines().filter(|call| call.starts_with("perform")).count();
    assert_eq!((performed, bank.overpaid()), (COUNT, 0), "each is performed once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_provider_is_down_one_at_a_time_asks_and_all_go_on_when_it_is_back() {
    const BILLS: usize = 200;
    let stage = crate::stage();
    let bank = Bank::default();
    let running = stage.start(payer(&bank)).await;
    bank.books().is_closed = true;
    for n in 0..10 {
        ask(running.store(), &format!("b{n}")).await;
    }
    let status = async || running.status().await.expect("the store can be used");
    eventually("it counts as down", async || {
        status().await.waiting.first().is_some_and(|stopped| stopped.of == Loop::Perform)
    })
    .await;
    for n in 10..BILLS {
        ask(running.store(), &format!("b{n}")).await;
    }
    let calls = || bank.books().calls.iter().filter(|call| call.starts_with("perform")).count();
    let before = calls();
    eventually("somebody asks whether it is back", async || calls() > before).await;
    assert!(calls() < before + 5, "one at a time: {} calls for {BILLS} bills", calls() - before);
    bank.books().is_closed = false;
    eventually("all go on", async || paid(&running).await.len() == BILLS).await;
    assert_eq!((bank.overpaid(), status().await.waiting.len()), (0, 0));
    assert!(calls() < before + 5 + BILLS + 20, "hardly any was asked in vain: {}", calls());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_due_by_a_clock_that_was_ahead_is_due_now() {
    let stage = crate::stage();
    let bank = Bank::default();
    let running = stage.start(payer(&bank)).await;
    bank.plans("failed", &[Reply::NotDone]);
    ask(running.store(), "failed").await;
    eventually("it has failed", async || {
        number(&running, |s| s.effects.rows.expect("it is known").failing).await == 1
    })
    .await;
    let timer = running.store().clock().now() + Duration::from_hours(1);
    let asked = async move |tx: &mut Tx| tx.perform_at(pay("timer"), timer).await;
    running.store().transaction(asked).await.expect("a timer can be set");
    // As if the clock had been two days ahead.
    let shift = "UPDATE effect SET due_us = due_us + 172800000000, asked_us = asked_us + 172800000000
                 WHERE state <> 'done'";
    running
        .store()
        .transaction(async |tx: &mut Tx| Ok(tx.execute(shift, &[]).await?))
        .await
        .expect("a shift");
    stop(running).await;
    let running = stage.start(payer(&bank)).await;
    eventually("it is tried again", async || paid(&running).await == ["failed"]).await;
    running.store().clock().advance(Duration::from_hours(1));
    eventually("the timer runs for an hour", async || paid(&running).await.len() == 2).await;
}
