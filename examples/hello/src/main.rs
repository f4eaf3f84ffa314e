//! A greeting is posted, published in the same transaction, and printed by every listener.

use tidings::prelude::*;

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

fn main() -> ExitCode {
    Service::new("hello").publishes::<Greeting>().post("/greetings", send).on(print).main()
}
