//! Timers: set in a transaction, handled at their time, once.

use std::time::Duration;

use expect_test::expect;
use serde::{Deserialize, Serialize};
use tidings::{HandlerError, RunningService, Service, Timer, Tx, params};
use tidings_testkit::eventually;
use tidings_testkit::stage::{advance_clock_until, idle, stop};

#[derive(Serialize, Deserialize)]
struct Remind {
    parcel: String,
}

impl Timer for Remind {
    const KIND: &'static str = "remind";

    fn key(&self) -> String {
        format!("remind/{}", self.parcel)
    }
}

async fn remind(timer: &Remind, tx: &mut Tx) -> Result<(), HandlerError> {
    tx.execute("INSERT INTO reminder (parcel) VALUES ($1)", params![&timer.parcel]).await?;
    Ok(())
}

fn parcels() -> Service {
    Service::new("parcels").tables(&["CREATE TABLE reminder (parcel TEXT NOT NULL)"]).on_timer(remind)
}

async fn reminded(running: &RunningService) -> String {
    let rows = running.store().query("SELECT parcel FROM reminder ORDER BY parcel", &[]).await;
    let rows = rows.expect("the table can be read");
    rows.iter().map(|row| row.get::<String>(0).expect("text")).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn a_timer_is_handled_at_its_time_and_once() {
    let stage = crate::stage();
    let running = stage.start(parcels).await;
    let set = async |tx: &mut Tx| {
        for (parcel, hours) in [("late", 48), ("soon", 1), ("taken back", 1)] {
            let at = tx.now() + Duration::from_secs(hours * 3600);
            tx.schedule(at, Remind { parcel: parcel.to_owned() }).await?;
        }
        Ok(())
    };
    running.store().transaction(set).await.expect("timers can be set");
    // Set again under its key: it stays one.
    running.store().transaction(set).await.expect("timers can be set");
    let take_back = async |tx: &mut Tx| tx.cancel_effect(&Remind { parcel: "taken back".to_owned() }).await;
    running.store().transaction(take_back).await.expect("a timer can be taken back");
    idle(&running).await;
    expect![""].assert_eq(&reminded(&running).await);
    running.store().clock().advance(Duration::from_secs(2 * 3600));
    advance_clock_until(&running, "both are handled", async || reminded(&running).await == "late soon").await;
    idle(&running).await;
    expect!["late soon"].assert_eq(&reminded(&running).await);
}

#[tokio::test]
async fn a_service_that_would_leave_timers_undone_is_refused() {
    let stage = crate::stage();
    let running = stage.start(parcels).await;
    let set = async |tx: &mut Tx| {
        let at = tx.now() + Duration::from_secs(3600);
        tx.schedule(at, Remind { parcel: "p1".to_owned() }).await
    };
    running.store().transaction(set).await.expect("a timer can be set");
    stop(running).await;
    let forgetful = || Service::new("parcels").tables(&["CREATE TABLE reminder (parcel TEXT NOT NULL)"]);
    let mut told = String::new();
    eventually("it is refused for its effects", async || {
        let started = forgetful().start(&stage.store_url(), stage.broker()).await;
        told = started.err().map(|e| e.to_string()).unwrap_or_default();
        !told.contains("in use")
    })
    .await;
    expect!["service parcels was asked for effects of kind remind that are not done, and has no handler for them: add .effect::<…>(…) or .on_timer(…)"].assert_eq(&told);
}
