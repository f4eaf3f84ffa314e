//! A greeting is posted, published in the same transaction, and printed by every listener.

use std::process::ExitCode;

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidings::{Envelope, Event, HandlerError, Service, Tx};

#[derive(Clone, Event, Serialize, Deserialize, JsonSchema, Validate)]
#[event(name = "greeting.sent", version = 1, topic = "greetings", key = name)]
struct Greeting {
    #[garde(length(min = 1))]
    name: String,
}

async fn send(tx: &mut Tx, greeting: Greeting) -> Result<(), HandlerError> {
    tx.publish(greeting).await
}

async fn print(event: &Envelope<Greeting>, _: &mut Tx) -> Result<(), HandlerError> {
    println!("hello {}", event.payload().name);
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    Service::new("hello").post("/greetings", send).publishes::<Greeting>().on(print).main().await
}
