use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidings::Event;

#[derive(Event, Serialize, Deserialize, JsonSchema, Validate)]
#[event(name = "tea.made", version = 1, topic = "teas", key = pot)]
enum TeaMade {
    #[garde(skip)]
    Green,
}

fn main() {}
