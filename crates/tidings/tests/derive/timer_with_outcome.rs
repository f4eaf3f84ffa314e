use tidings::prelude::*;

#[timer(kind = "remind", key = order_id, outcome = String)]
struct Remind {
    order_id: String,
}

#[timer(kind = "expire", key = order)]
struct Expire {
    order_id: String,
}

fn main() {}
