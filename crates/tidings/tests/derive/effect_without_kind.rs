use tidings::prelude::*;

#[effect(key = order_id, outcome = String)]
struct Authorize {
    order_id: String,
}

fn main() {}
