use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidings::{Envelope, Event, Service, Tx};

#[derive(Event, Serialize, Deserialize, JsonSchema, Validate)]
#[event(name = "tea.made", version = 1, topic = "teas", key = pot)]
struct TeaMade {
    #[garde(skip)]
    pot: String,
}

fn main() {
    let _ = Service::new("drinkers").on::<TeaMade, _>(|_: &Envelope<TeaMade>, _: &mut Tx| async { Ok(()) });
}
