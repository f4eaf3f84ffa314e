use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidings::Event;

#[derive(Event, Serialize, Deserialize, JsonSchema, Validate)]
#[event(name = "tea.made", version = 1, topic = "teas", key = pot, superseded_by = "tea.made.v1")]
struct TeaMade {
    #[garde(length(min = 1))]
    pot: String,
}

fn main() {}
