use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidings::Event;

#[derive(Event, Serialize, Deserialize, JsonSchema, Validate)]
struct TeaMade {
    #[garde(length(min = 1))]
    pot: String,
}

fn main() {}
