//! Micro parts: what decoding and validating an event costs beside plain JSON.

use contracts::{Item, Money, OrderCreated, OrderId};
use criterion::{Criterion, criterion_group, criterion_main};
use garde::Validate as _;

fn order() -> OrderCreated {
    let item = |n: u32| Item {
        product_id: format!("product-{n}"),
        quantity: n + 1,
        unit_price: Some(Money { amount: 1299, currency: "EUR".to_owned() }),
    };
    OrderCreated {
        order_id: OrderId::from("01a1ff47-0733-713c-985a-61964da62f35"),
        customer_id: Some("c-1".to_owned()),
        items: (0..5).map(item).collect(),
        total: Money { amount: 1299, currency: "EUR".to_owned() },
        payment_method: Some("pm_card_visa".to_owned()),
    }
}

fn message(criterion: &mut Criterion) {
    let json = serde_json::to_vec(&order()).expect("an order is JSON");
    criterion.bench_function("decode, serde_json alone", |b| {
        b.iter(|| {
            serde_json::from_slice::<OrderCreated>(std::hint::black_box(&json)).expect("it is an order")
        });
    });
    criterion.bench_function("decode and validate", |b| {
        b.iter(|| {
            let order: OrderCreated =
                serde_json::from_slice(std::hint::black_box(&json)).expect("it is an order");
            order.validate().expect("it is valid");
            order
        });
    });
    criterion.bench_function("partition of a key", |b| {
        b.iter(|| tidings::partition_of(std::hint::black_box(b"01a1ff47-0733-713c-985a-61964da62f35"), 6));
    });
}

criterion_group!(benches, message);
criterion_main!(benches);
