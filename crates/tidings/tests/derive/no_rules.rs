use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidings::Event;

#[derive(Event, Serialize, Deserialize, JsonSchema)]
#[event(name = "tea.made", version = 1, topic = "teas", key = pot)]
struct TeaMade {
    pot: String,
}

fn main() {}
