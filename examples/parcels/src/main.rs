//! Parcels: `shipping` sends them by a carrier, `tracking` knows where they were seen.

mod carrier;

use std::time::Duration;

use carrier::{Carrier, Fetch};
use tidings::config::{Settings, program_alone};
use tidings::prelude::*;

#[event(name = "parcel.sent", version = 1, topic = "shipments", key = id)]
struct ParcelSent {
    #[garde(length(min = 1, max = 40))]
    id: String,
}

#[event(name = "parcel.seen", version = 1, topic = "sightings", key = id)]
struct ParcelSeen {
    #[garde(length(min = 1, max = 40))]
    id: String,
    #[garde(length(min = 1, max = 80))]
    place: String,
}

/// Comes back after two days, if the parcel was not seen.
#[timer(kind = "overdue", key = id)]
struct Overdue {
    id: String,
}

async fn send(tx: &mut Tx, parcel: ParcelSent) -> Result<(), HandlerError> {
    let id = &parcel.id;
    tx.execute("INSERT INTO parcel (id, state) VALUES ($1, 'sent')", params![id]).await?;
    tx.perform(Fetch { id: id.clone() }).await?;
    tx.schedule(tx.now() + Duration::from_secs(48 * 3600), Overdue { id: id.clone() }).await?;
    tx.publish(parcel).await
}

async fn seen(event: &Envelope<ParcelSeen>, tx: &mut Tx) -> Result<(), HandlerError> {
    tx.execute("UPDATE parcel SET state = 'seen' WHERE id = $1", params![event.key()]).await?;
    tx.cancel_effect(&Overdue { id: event.key().to_owned() }).await
}

async fn overdue(timer: &Overdue, tx: &mut Tx) -> Result<(), HandlerError> {
    tx.execute("UPDATE parcel SET state = 'overdue' WHERE id = $1", params![&timer.id]).await?;
    Ok(())
}

async fn parcel(store: &Store, Path(id): Path<String>) -> Result<(String, Option<String>), Problem> {
    let rows = store.query("SELECT state, tracking FROM parcel WHERE id = $1", params![&id]).await?;
    let row = rows.first().ok_or_else(|| Problem::not_found("there is no such parcel"))?;
    Ok((row.get(0)?, row.get(1)?))
}

/// Sends parcels by a carrier.
fn shipping(carrier: Carrier) -> Service {
    Service::new("shipping")
        .tables(&["CREATE TABLE parcel (id TEXT PRIMARY KEY, state TEXT NOT NULL, tracking TEXT)"])
        .publishes::<ParcelSent>()
        .post("/parcels", send)
        .get("/parcels/{id}", parcel)
        .on(seen)
        .effect(carrier)
        .on_timer(overdue)
}

async fn expect(event: &Envelope<ParcelSent>, tx: &mut Tx) -> Result<(), HandlerError> {
    tx.execute("INSERT INTO expected (id) VALUES ($1)", params![event.key()]).await?;
    Ok(())
}

async fn scan(tx: &mut Tx, seen: ParcelSeen) -> Result<(), HandlerError> {
    tx.execute("DELETE FROM expected WHERE id = $1", params![&seen.id]).await?;
    tx.publish(seen).await
}

/// Knows which parcels are expected, and tells where they are seen.
fn tracking() -> Service {
    Service::new("tracking")
        .tables(&["CREATE TABLE expected (id TEXT PRIMARY KEY)"])
        .publishes::<ParcelSeen>()
        .on(expect)
        .post("/scans", scan)
}

/// Both services in one process; the carrier's URL is in `CARRIER_URL`.
fn main() -> ExitCode {
    let services = [shipping(Carrier(std::env::var("CARRIER_URL").unwrap_or_default())), tracking()];
    program_alone(async { tidings::run(services.into(), Settings::from_command_line()?).await })
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tidings::axum::{Router, routing::post, serve};
    use tidings_testkit::{TestApp, eventually};

    use super::*;

    /// Both services and a carrier that numbers parcels; a parcel is sent.
    async fn sent() -> TestApp {
        let carrier = Router::new().route("/pickups/{id}", post(async || "T-1").get(async || "T-1"));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async { serve(listener, carrier).await });
        let app = TestApp::start([shipping(Carrier(url)), tracking()]).await;
        assert_eq!(app.post("/parcels", &json!({"id": "p1"})).await.status, 202);
        app.idle().await;
        app
    }

    #[tokio::test]
    async fn a_parcel_that_is_seen_is_not_overdue() {
        let app = sent().await;
        assert_eq!(app.get("/parcels/p1").await.body, json!(["sent", "T-1"]));
        assert_eq!(app.post("/scans", &json!({"id": "p1", "place": "Graz"})).await.status, 202);
        app.idle().await;
        app.advance(Duration::from_secs(72 * 3600));
        app.idle().await;
        assert_eq!(app.get("/parcels/p1").await.body, json!(["seen", "T-1"]));
        app.stop().await;
    }

    #[tokio::test]
    async fn a_parcel_that_is_not_seen_is_overdue_after_two_days() {
        let app = sent().await;
        app.advance(Duration::from_secs(49 * 3600));
        let is_overdue = async || app.get("/parcels/p1").await.body == json!(["overdue", "T-1"]);
        eventually("it is overdue", is_overdue).await;
        app.stop().await;
    }
}
