use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidings::Event;

#[derive(Event, Serialize, Deserialize, JsonSchema, Validate)]
#[event(name = "tea.made", version = 0, topic = "teas", key = pot)]
struct TeaMade {
    #[garde(length(min = 1))]
    pot: String,
}

fn main() {}
