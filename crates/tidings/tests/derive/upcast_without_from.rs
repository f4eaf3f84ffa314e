use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidings::Event;

#[derive(Event, Serialize, Deserialize, JsonSchema, Validate)]
#[event(name = "tea.made", version = 1, topic = "teas", key = pot)]
struct TeaMade {
    #[garde(length(min = 1))]
    pot: String,
}

#[derive(Event, Serialize, Deserialize, JsonSchema, Validate)]
#[event(name = "tea.made", version = 2, topic = "teas", key = pot, upcasts = TeaMade)]
struct TeaMadeV2 {
    #[garde(length(min = 1))]
    pot: String,
}

fn main() {}
