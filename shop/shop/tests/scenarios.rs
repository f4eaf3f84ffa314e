//! The saga, path by path: what is done to the shop, and what its services state to each other.
//!
//! A script is text, its result is a transcript: `UPDATE_EXPECT=1 cargo test -p shop --test scenarios`
//! writes transcripts anew. After every script the books are checked too: every order has ended, ledgers
//! sum up to 0, exactly completed orders are paid for, no piece of stock appears or vanishes, streams are
//! numbered without gaps, histories are whole. What a script can say stands in `saga/script.rs`.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod saga;

use expect_test::expect;
use saga::{check, check_books};

#[test]
fn an_order_that_is_paid_and_in_stock_completes() {
    check(
        "POST /orders o-1 2×tea 1×coffee",
        expect![[r#"
        orders/o-1     order.created v1
        payments/o-1   payment.authorized v1
        inventory/o-1  stock.reserved v1
        orders/o-1     order.confirmed v1
        payments/o-1   payment.captured v1
        inventory/o-1  stock.committed v1
        orders/o-1     order.completed v1"#]],
    );
}

#[test]
fn a_declined_card_cancels_the_order_and_frees_the_stock() {
    check(
        "POST /orders o-1 2×tea card=declined",
        expect![[r#"
        orders/o-1     order.created v1
        payments/o-1   payment.declined v1   card_declined
        inventory/o-1  stock.reserved v1
        orders/o-1     order.cancelled v1    declined
        inventory/o-1  stock.released v1"#]],
    );
}

#[test]
fn insufficient_funds_cancel_the_order_too() {
    check(
        "POST /orders o-1 2×tea card=insufficient_funds",
        expect![[r#"
        orders/o-1     order.created v1
        payments/o-1   payment.declined v1   insufficient_funds
        inventory/o-1  stock.reserved v1
        orders/o-1     order.cancelled v1    declined
        inventory/o-1  stock.released v1"#]],
    );
}

#[test]
fn an_order_for_what_is_out_of_stock_is_cancelled_and_never_charged() {
    check(
        "POST /orders o-1 2×mug 2×tea",
        expect![[r#"
        orders/o-1     order.created v1
        payments/o-1   payment.authorized v1
        inventory/o-1  stock.rejected v1       1 of 2 mug
        orders/o-1     order.cancelled v1      out_of_stock
        payments/o-1   payment.voided v1"#]],
    );
}

#[test]
fn when_both_say_no_the_first_no_is_the_reason() {
    check(
        "stop payment
         POST /orders o-1 1×saffron card=declined
         expect o-1 cancelling payment=unknown stock=rejected
         start payment",
        expect![[r#"
            orders/o-1     order.created v1
            inventory/o-1  stock.rejected v1     0 of 1 saffron
            orders/o-1     order.cancelled v1    out_of_stock
            payments/o-1   payment.declined v1   card_declined"#]],
    );
    check(
        "stop inventory
         POST /orders o-1 1×saffron card=declined
         expect o-1 cancelling payment=declined stock=unknown
         start inventory",
        expect![[r#"
            orders/o-1     order.created v1
            payments/o-1   payment.declined v1   card_declined
            orders/o-1     order.cancelled v1    declined
            inventory/o-1  stock.rejected v1     0 of 1 saffron"#]],
    );
}

#[test]
fn a_delivery_makes_the_next_order_possible() {
    check(
        "POST /orders o-1 1×saffron
         receive 3×saffron r-1
         receive 3×saffron r-1
         POST /orders o-2 3×saffron
         POST /orders o-3 1×saffron",
        expect![[r#"
            orders/o-1     order.created v1
            payments/o-1   payment.authorized v1
            inventory/o-1  stock.rejected v1       0 of 1 saffron
            orders/o-1     order.cancelled v1      out_of_stock
            payments/o-1   payment.voided v1
            orders/o-2     order.created v1
            payments/o-2   payment.authorized v1
            inventory/o-2  stock.reserved v1
            orders/o-2     order.confirmed v1
            payments/o-2   payment.captured v1
            inventory/o-2  stock.committed v1
            orders/o-2     order.completed v1
            orders/o-3     order.created v1
            payments/o-3   payment.authorized v1
            inventory/o-3  stock.rejected v1       0 of 1 saffron
            orders/o-3     order.cancelled v1      out_of_stock
            payments/o-3   payment.voided v1"#]],
    );
}

#[test]
fn an_order_cancelled_before_it_is_confirmed_is_never_charged() {
    check(
        "stop payment
         POST /orders o-1 2×tea
         cancel o-1
         cancel o-1
         expect o-1 cancelling reason=cancelled_by_customer
         start payment
         expect o-1 cancelled payment=voided stock=released
         cancel o-1 = 200",
        expect![[r#"
            orders/o-1     order.created v1
            inventory/o-1  stock.reserved v1
            orders/o-1     order.cancelled v1      cancelled_by_customer
            inventory/o-1  stock.released v1
            payments/o-1   payment.authorized v1
            payments/o-1   payment.voided v1"#]],
    );
}

#[test]
fn an_order_cancelled_after_it_was_confirmed_gets_money_and_stock_back() {
    check(
        "stop inventory
         POST /orders o-1 2×tea
         stop payment
         start inventory
         expect o-1 confirmed payment=authorized stock=committed
         cancel o-1
         start payment
         expect o-1 cancelled payment=refunded stock=released",
        expect![[r#"
            orders/o-1     order.created v1
            payments/o-1   payment.authorized v1
            inventory/o-1  stock.reserved v1
            orders/o-1     order.confirmed v1
            inventory/o-1  stock.committed v1
            orders/o-1     order.cancelled v1      cancelled_by_customer
            inventory/o-1  stock.released v1
            payments/o-1   payment.captured v1
            payments/o-1   payment.refunded v1"#]],
    );
}

#[test]
fn a_completed_order_cannot_be_cancelled() {
    check(
        "POST /orders o-1 2×tea
         cancel o-1 = 409
         expect o-1 completed",
        expect![[r#"
            orders/o-1     order.created v1
            payments/o-1   payment.authorized v1
            inventory/o-1  stock.reserved v1
            orders/o-1     order.confirmed v1
            payments/o-1   payment.captured v1
            inventory/o-1  stock.committed v1
            orders/o-1     order.completed v1"#]],
    );
}

#[test]
fn an_order_that_payment_does_not_answer_is_cancelled_and_a_late_authorisation_is_voided() {
    check(
        "stop payment
         POST /orders o-1 2×tea
         advance 14m
         expect o-1 processing
         advance 1m
         expect o-1 cancelling reason=deadline
         start payment
         expect o-1 cancelled payment=voided stock=released",
        expect![[r#"
            orders/o-1     order.created v1
            inventory/o-1  stock.reserved v1
            orders/o-1     order.cancelled v1      deadline
            inventory/o-1  stock.released v1
            payments/o-1   payment.authorized v1
            payments/o-1   payment.voided v1"#]],
    );
}

#[test]
fn a_slow_authorisation_that_the_deadline_overtakes_is_voided() {
    check(
        "POST /orders o-1 2×tea card=slow &
         advance 15m
         expect o-1 cancelled reason=deadline payment=voided",
        expect![[r#"
            orders/o-1     order.created v1
            orders/o-1     order.cancelled v1      deadline
            payments/o-1   payment.authorized v1
            inventory/o-1  stock.reserved v1
            payments/o-1   payment.voided v1
            inventory/o-1  stock.released v1"#]],
    );
}

#[test]
fn a_confirmed_order_has_no_deadline() {
    check(
        "POST /orders o-1 2×tea
         advance 15m
         expect o-1 completed",
        expect![[r#"
            orders/o-1     order.created v1
            payments/o-1   payment.authorized v1
            inventory/o-1  stock.reserved v1
            orders/o-1     order.confirmed v1
            payments/o-1   payment.captured v1
            inventory/o-1  stock.committed v1
            orders/o-1     order.completed v1"#]],
    );
}

#[test]
fn a_lost_reply_is_looked_up_and_charged_once() {
    check(
        "POST /orders o-1 2×tea card=reply_lost",
        expect![[r#"
        orders/o-1     order.created v1
        payments/o-1   payment.authorized v1
        inventory/o-1  stock.reserved v1
        orders/o-1     order.confirmed v1
        payments/o-1   payment.captured v1
        inventory/o-1  stock.committed v1
        orders/o-1     order.completed v1"#]],
    );
}

#[test]
fn a_provider_that_is_away_three_times_is_asked_again_under_the_same_key() {
    // Where two instances run, each has a provider of its own that is away three times.
    check(
        "POST /orders o-1 2×tea card=unavailable
         expect o-1 processing payment=unknown
         advance 2s
         advance 2s
         advance 2s
         advance 4s
         advance 8s
         advance 16s
         advance 32s
         expect o-1 completed",
        expect![[r#"
            orders/o-1     order.created v1
            inventory/o-1  stock.reserved v1
            payments/o-1   payment.authorized v1
            orders/o-1     order.confirmed v1
            payments/o-1   payment.captured v1
            inventory/o-1  stock.committed v1
            orders/o-1     order.completed v1"#]],
    );
}

#[test]
fn a_slow_provider_is_waited_for() {
    check(
        "POST /orders o-1 2×tea card=slow",
        expect![[r#"
        orders/o-1     order.created v1
        payments/o-1   payment.authorized v1
        inventory/o-1  stock.reserved v1
        orders/o-1     order.confirmed v1
        payments/o-1   payment.captured v1
        inventory/o-1  stock.committed v1
        orders/o-1     order.completed v1"#]],
    );
}

#[test]
fn a_capture_that_fails_cancels_the_order_and_gives_everything_back() {
    check(
        "POST /orders o-1 2×tea card=capture_fails
         expect o-1 cancelled reason=capture_failed payment=voided",
        expect![[r#"
            orders/o-1     order.created v1
            payments/o-1   payment.authorized v1
            inventory/o-1  stock.reserved v1
            orders/o-1     order.confirmed v1
            payments/o-1   payment.capture_failed v1   capture_failed
            inventory/o-1  stock.committed v1
            orders/o-1     order.cancelled v1          capture_failed
            payments/o-1   payment.voided v1
            inventory/o-1  stock.released v1"#]],
    );
}

#[test]
fn an_order_that_another_program_puts_on_the_topic_is_adopted() {
    check(
        "foreign o-1 2×tea
         expect o-1 completed",
        expect![[r#"
            orders/o-1     order_created
            payments/o-1   payment.authorized v1
            inventory/o-1  stock.reserved v1
            orders/o-1     order.confirmed v1
            payments/o-1   payment.captured v1
            inventory/o-1  stock.committed v1
            orders/o-1     order.completed v1"#]],
    );
    check(
        "foreign o-1 2×tea unkeyed
         expect o-1 completed",
        expect![[r#"
            orders/o-1     order_created
            payments/o-1   payment.authorized v1
            inventory/o-1  stock.reserved v1
            orders/o-1     order.confirmed v1
            payments/o-1   payment.captured v1
            inventory/o-1  stock.committed v1
            orders/o-1     order.completed v1"#]],
    );
}

#[test]
fn an_order_of_another_program_can_be_out_of_stock() {
    check(
        "foreign o-1 2×mug",
        expect![[r#"
        orders/o-1     order_created
        payments/o-1   payment.authorized v1
        inventory/o-1  stock.rejected v1       1 of 2 mug
        orders/o-1     order.cancelled v1      out_of_stock
        payments/o-1   payment.voided v1"#]],
    );
}

#[test]
fn an_order_of_another_program_can_be_cancelled() {
    check(
        "stop payment
         foreign o-1 2×tea
         cancel o-1
         start payment",
        expect![[r#"
            orders/o-1     order_created
            inventory/o-1  stock.reserved v1
            orders/o-1     order.cancelled v1      cancelled_by_customer
            inventory/o-1  stock.released v1
            payments/o-1   payment.authorized v1
            payments/o-1   payment.voided v1"#]],
    );
}

#[test]
fn an_order_of_another_program_is_adopted_after_its_facts() {
    check(
        "stop order
         foreign o-1 2×tea
         start order
         expect o-1 completed",
        expect![[r#"
            orders/o-1     order_created
            payments/o-1   payment.authorized v1
            inventory/o-1  stock.reserved v1
            orders/o-1     order.confirmed v1
            payments/o-1   payment.captured v1
            inventory/o-1  stock.committed v1
            orders/o-1     order.completed v1"#]],
    );
    check(
        "stop payment
         stop inventory
         fact payment.authorized o-1 #1
         fact stock.reserved o-1 #1
         foreign o-1 2×tea
         expect o-1 confirmed payment=authorized stock=reserved
         fact payment.captured o-1 #2
         fact stock.committed o-1 #2
         expect o-1 completed",
        expect![[r#"
            payments/o-1   payment.authorized v1
            inventory/o-1  stock.reserved v1
            orders/o-1     order_created
            orders/o-1     order.confirmed v1
            payments/o-1   payment.captured v1
            inventory/o-1  stock.committed v1
            orders/o-1     order.completed v1"#]],
    );
    check(
        "stop payment
         stop inventory
         fact payment.declined o-1 #1
         foreign o-1 2×tea
         expect o-1 cancelling reason=declined",
        expect![[r#"
            payments/o-1  payment.declined v1   card_declined
            orders/o-1    order_created
            orders/o-1    order.cancelled v1    declined"#]],
    );
}

#[test]
fn a_cancellation_that_overtakes_its_order_leaves_nothing_behind() {
    check(
        "stop order
         fact order.cancelled o-1 #1
         foreign o-1 2×tea",
        expect![[r#"
            orders/o-1     order.cancelled v1   cancelled_by_customer
            orders/o-1     order_created
            payments/o-1   payment.voided v1
            inventory/o-1  stock.released v1"#]],
    );
}

#[test]
fn whatever_is_delivered_twice_happens_once() {
    check(
        "POST /orders o-1 2×tea
         POST /orders o-2 1×coffee card=declined
         foreign o-3 2×tea
         again orders
         again payments
         again inventory
         again orders",
        expect![[r#"
            orders/o-1     order.created v1
            payments/o-1   payment.authorized v1
            inventory/o-1  stock.reserved v1
            orders/o-1     order.confirmed v1
            payments/o-1   payment.captured v1
            inventory/o-1  stock.committed v1
            orders/o-1     order.completed v1
            orders/o-2     order.created v1
            payments/o-2   payment.declined v1     card_declined
            inventory/o-2  stock.reserved v1
            orders/o-2     order.cancelled v1      declined
            inventory/o-2  stock.released v1
            orders/o-3     order_created
            payments/o-3   payment.authorized v1
            inventory/o-3  stock.reserved v1
            orders/o-3     order.confirmed v1
            payments/o-3   payment.captured v1
            inventory/o-3  stock.committed v1
            orders/o-3     order.completed v1"#]],
    );
}

#[test]
fn what_is_delivered_twice_while_it_is_news_happens_once() {
    check(
        "stop payment
         stop inventory
         POST /orders o-1 2×tea
         foreign o-2 2×tea
         again orders
         start payment
         start inventory",
        expect![[r#"
            orders/o-1     order.created v1
            orders/o-2     order_created
            payments/o-1   payment.authorized v1
            payments/o-2   payment.authorized v1
            inventory/o-1  stock.reserved v1
            inventory/o-2  stock.reserved v1
            orders/o-1     order.confirmed v1
            orders/o-2     order.confirmed v1
            payments/o-1   payment.captured v1
            payments/o-2   payment.captured v1
            inventory/o-1  stock.committed v1
            inventory/o-2  stock.committed v1
            orders/o-1     order.completed v1
            orders/o-2     order.completed v1"#]],
    );
}

#[test]
fn facts_lead_to_the_same_end_in_any_order() {
    let (pay, keep) = ("fact payment.authorized o-1 #1", "fact stock.reserved o-1 #1");
    let (charge, ship) = ("fact payment.captured o-1 #2", "fact stock.committed o-1 #2");
    for [first, second, third, fourth] in [
        [pay, keep, charge, ship],
        [pay, keep, ship, charge],
        [keep, pay, charge, ship],
        [keep, pay, ship, charge],
    ] {
        check_books(&format!(
            "stop payment
             stop inventory
             POST /orders o-1 2×tea
             {first}
             expect o-1 processing
             {second}
             expect o-1 confirmed
             {third}
             expect o-1 confirmed
             {fourth}
             expect o-1 completed payment=captured stock=committed"
        ));
    }
    let refuse = "fact payment.declined o-1 #1";
    for [first, second] in [[refuse, keep], [keep, refuse]] {
        check_books(&format!(
            "stop payment
             stop inventory
             POST /orders o-1 2×tea
             {first}
             {second}
             expect o-1 cancelling reason=declined
             fact stock.released o-1 #2
             expect o-1 cancelled payment=declined stock=released"
        ));
    }
}

#[test]
fn a_fact_that_overtakes_another_of_its_stream_waits_for_it() {
    check(
        "stop payment
         stop inventory
         POST /orders o-1 2×tea
         fact stock.reserved o-1 #1
         fact payment.captured o-1 #2
         expect o-1 processing payment=unknown
         fact payment.authorized o-1 #1
         expect o-1 confirmed payment=captured
         fact stock.committed o-1 #2
         expect o-1 completed",
        expect![[r#"
            orders/o-1     order.created v1
            inventory/o-1  stock.reserved v1
            payments/o-1   payment.captured v1
            payments/o-1   payment.authorized v1
            orders/o-1     order.confirmed v1
            inventory/o-1  stock.committed v1
            orders/o-1     order.completed v1"#]],
    );
}

#[test]
fn of_two_orders_for_the_last_piece_one_gets_it() {
    check(
        "POST /orders o-1 1×mug
         POST /orders o-2 1×mug",
        expect![[r#"
            orders/o-1     order.created v1
            payments/o-1   payment.authorized v1
            inventory/o-1  stock.reserved v1
            orders/o-1     order.confirmed v1
            payments/o-1   payment.captured v1
            inventory/o-1  stock.committed v1
            orders/o-1     order.completed v1
            orders/o-2     order.created v1
            payments/o-2   payment.authorized v1
            inventory/o-2  stock.rejected v1       0 of 1 mug
            orders/o-2     order.cancelled v1      out_of_stock
            payments/o-2   payment.voided v1"#]],
    );
    check_books(
        "stop inventory
         POST /orders o-1 1×mug
         POST /orders o-2 1×mug
         start inventory
         expect 1 completed
         expect 1 cancelled",
    );
}

#[test]
fn of_many_orders_at_once_as_many_complete_as_there_are_pieces() {
    let orders: String = (1..=24).map(|n| format!("POST /orders o-{n} 4×saffron 1×tea &\n")).collect();
    check_books(&format!(
        "receive 50×saffron r-1
         {orders}
         advance 1s
         expect 12 completed
         expect 12 cancelled"
    ));
}

#[test]
fn what_is_no_event_is_a_dead_letter_of_each_group_and_the_rest_flows() {
    check(
        "raw orders k-1 nonsense
         POST /orders o-1 2×tea",
        expect![[r#"
            orders/k-1         ?
            inventory_dlq/k-1  ?                       envelope_undecodable
            orders_dlq/k-1     ?                       envelope_undecodable
            payments_dlq/k-1   ?                       envelope_undecodable
            orders/o-1         order.created v1
            payments/o-1       payment.authorized v1
            inventory/o-1      stock.reserved v1
            orders/o-1         order.confirmed v1
            payments/o-1       payment.captured v1
            inventory/o-1      stock.committed v1
            orders/o-1         order.completed v1"#]],
    );
}
