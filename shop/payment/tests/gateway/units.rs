//! Amounts on their way to the provider and back: ours in the units of ISO 4217, its in its own.

use std::process::Command;

use contracts::Money;
use expect_test::expect;
use hyper::StatusCode;
use payment::domain::Operation;
use payment::gateway::{Charge, PaymentGateway};

use crate::provider::{Provider, aged, charge, insist, key, words};

fn costs(order: &str, amount: i64, currency: &str) -> Charge {
    Charge { amount: Money { amount, currency: currency.to_owned() }, ..charge(order, "pm_card_visa") }
}

#[tokio::test]
async fn each_class_of_currencies_is_charged_in_the_providers_units_and_found_again() {
    let provider = Provider::start().await;
    let gateway = provider.gateway();
    let prices = [
        (1299, "EUR"),
        (1045, "HUF"),
        (500, "JPY"),
        (500, "ISK"),
        (500, "UGX"),
        (500, "MGA"),
        (5120, "KWD"),
        (501, "MGA"),
        (5124, "KWD"),
        (1000, "IQD"),
        (1, "XAU"),
    ];
    let mut told = String::new();
    for (amount, currency) in prices {
        let mut charge = costs(&format!("{amount}-{currency}"), amount, currency);
        let mut ends = insist(&gateway, Operation::Authorize, &mut charge).await;
        if charge.provider_ref.is_some() {
            ends.extend(insist(&gateway, Operation::Capture, &mut charge).await);
            // Once its key is old, the hold is searched for, and compared with what was asked for.
            charge = Charge { provider_ref: None, ..aged(&charge) };
            let found =
                gateway.look_up(Operation::Authorize, &key(Operation::Authorize, &charge), &charge).await;
            ends.push(words(found.as_ref().map(Option::as_ref)));
        }
        told += &format!("{amount} {currency}: {}\n", ends.join(", "));
    }
    expect![[r#"
        1299 EUR: done, done, done
        1045 HUF: done, done, done
        500 JPY: done, done, done
        500 ISK: done, done, done
        500 UGX: done, done, done
        500 MGA: done, done, done
        5120 KWD: done, done, done
        501 MGA: refused: amount_not_chargeable: the provider takes only multiples of 100 minor units of MGA, and this is 501
        5124 KWD: refused: amount_not_chargeable: the provider takes only multiples of 10 minor units of KWD, and this is 5124
        1000 IQD: refused: currency_not_supported: how the provider counts amounts in IQD is not known
        1 XAU: refused: currency_not_supported: how the provider counts amounts in XAU is not known
        ---
        1299-EUR 1299 succeeded amount_captured 1299
        1045-HUF 1045 succeeded amount_captured 1045
        500-JPY 500 succeeded amount_captured 500
        500-ISK 50000 succeeded amount_captured 50000
        500-UGX 50000 succeeded amount_captured 50000
        500-MGA 5 succeeded amount_captured 5
        5120-KWD 5120 succeeded amount_captured 5120
    "#]].assert_eq(&format!("{told}---\n{}", provider.book().await));
}

#[tokio::test]
async fn another_amount_in_the_providers_units_is_not_taken_for_ours() {
    let provider = Provider::start().await;
    let mut charge = costs("o-1", 500, "ISK");
    // As a release would have asked that knew nothing of the provider's units.
    let form = "amount=500&currency=isk&payment_method=pm_card_visa&confirm=true&capture_method=manual&metadata[order_id]=o-1";
    assert_eq!(provider.post("/v1/payment_intents", "authorize/o-1", form).await.0, StatusCode::OK);
    let asked = provider.gateway().perform(Operation::Authorize, "authorize/o-1", &charge).await;
    expect!["conflict: … of order o-1 is for 500 isk, which was not asked for"]
        .assert_eq(&words(asked.as_ref().map(Some)));
    charge.asked_at = None;
    let found = provider.gateway().look_up(Operation::Authorize, "", &charge).await;
    expect!["conflict: … of order o-1 is for 500 isk, which was not asked for"]
        .assert_eq(&words(found.as_ref().map(Option::as_ref)));
}

#[tokio::test]
async fn the_sandbox_takes_amounts_as_the_provider_does() {
    let provider = Provider::start().await;
    let mut told = String::new();
    for money in
        ["100 isk", "101 isk", "100 ugx", "99 ugx", "1 mga", "10 kwd", "11 kwd", "1 jpy", "1 huf", "1 xau"]
    {
        let (amount, currency) = money.split_once(' ').unwrap();
        let form = format!(
            "amount={amount}&currency={currency}&payment_method=pm_card_visa&confirm=true&capture_method=manual"
        );
        let (status, _, body) = provider.post("/v1/payment_intents", money, &form).await;
        told +=
            &format!("{money}: {} {} {}\n", status.as_u16(), body["error"]["param"], body["error"]["code"]);
    }
    expect![[r#"
        100 isk: 200 null null
        101 isk: 400 "amount" "invalid_charge_amount_no_decimal_compatible"
        100 ugx: 200 null null
        99 ugx: 400 "amount" "invalid_charge_amount_no_decimal_compatible"
        1 mga: 200 null null
        10 kwd: 200 null null
        11 kwd: 400 "amount" "invalid_charge_amount_no_decimal_compatible"
        1 jpy: 200 null null
        1 huf: 200 null null
        1 xau: 400 "currency" "parameter_invalid"
    "#]]
    .assert_eq(&told);
}

#[test]
fn a_price_that_cannot_be_charged_is_refused_at_the_start_in_one_line() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let check = |gateway: &str, amount: i64, currency: &str| {
        let file = directory.path().join("catalogue.json");
        let catalogue = format!(
            r#"[{{"product_id": "tea", "name": "Tea", "unit_price": {{"amount": {amount}, "currency": "{currency}"}}}}]"#
        );
        std::fs::write(&file, catalogue).expect("the directory is writable");
        let mut command = Command::new(env!("CARGO_BIN_EXE_payment"));
        command.args(["--gateway", gateway, "--listen", "127.0.0.1:0", "--catalogue"]).arg(file);
        for flag in ["--store", "--broker"] {
            command.arg(flag).arg(format!("sqlite:{}", directory.path().join(flag).display()));
        }
        let output =
            command.arg("migrate").env("STRIPE_API_KEY", "sk_test_1").output().expect("the program starts");
        let told = String::from_utf8(output.stderr).expect("it is text");
        format!(
            "{currency} {} {}\n",
            output.status,
            if output.status.success() { "\n" } else { &told }.trim()
        )
    };
    let stripe = "stripe:http://127.0.0.1:1";
    let told = [
        check(stripe, 1_000, "IQD"),
        check(stripe, 1_299, "KWD"),
        check(stripe, 50, "MGA"),
        check(stripe, 500, "ISK"),
        check("sandbox", 1_299, "KWD"),
    ];
    expect![[r#"
        IQD exit status: 1 "tea" in the catalogue cannot be paid through the gateway stripe: how the provider counts amounts in IQD is not known
        KWD exit status: 1 "tea" in the catalogue cannot be paid through the gateway stripe: the provider takes only multiples of 10 minor units of KWD, and this is 1299
        MGA exit status: 1 "tea" in the catalogue cannot be paid through the gateway stripe: the provider takes only multiples of 100 minor units of MGA, and this is 50
        ISK exit status: 0 
        KWD exit status: 0 
    "#]].assert_eq(&told.concat());
}
