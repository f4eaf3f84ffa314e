//! The orders to place: everything is drawn from one seed before the clock starts.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Uri};
use serde::{Deserialize, Serialize};
use tidings_client::{Client, Error};

/// Bodies are made once and used in turn: the shop cannot tell, and the generator, which shares
/// the shop's cores, neither makes nor keeps half a million of them.
const BODIES_MAX: u32 = 4096;

const LINES_MAX: usize = 3;
const QUANTITY_MAX: usize = 3;

/// The orders of one run.
pub(crate) struct Plan {
    orders: u32,
    bodies: Vec<Bytes>,
    key_prefix: String,
}

impl Plan {
    /// The same seed, products and payments give the same bodies; `run` only enters the keys.
    pub(crate) fn draw(
        seed: u64,
        run: &str,
        orders: u32,
        products: &[String],
        payments: &Payments<'_>,
    ) -> Plan {
        let mut random = SplitMix64(seed);
        let bodies = (0..orders.min(BODIES_MAX)).map(|_| body(&mut random, products, payments)).collect();
        Plan { orders, bodies, key_prefix: format!("load-{seed}-{run}-") }
    }

    /// The number of orders.
    pub(crate) fn orders(&self) -> u32 {
        self.orders
    }

    /// The request that places an order; asked again, exactly the same one.
    pub(crate) fn request(&self, order: u32) -> Request<Full<Bytes>> {
        let body = self.bodies[order as usize % self.bodies.len()].clone();
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static("/orders");
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert("idempotency-key", self.key(order));
        request
    }

    fn key(&self, order: u32) -> HeaderValue {
        let key = format!("{}{order}", self.key_prefix);
        HeaderValue::from_maybe_shared(Bytes::from(key)).expect("digits, letters and dashes")
    }
}

/// The payment methods of the orders.
pub(crate) enum Payments<'a> {
    /// All with the same method.
    All(&'a str),
    /// Drawn by [`MIX`].
    Mixed,
}

/// Percent of the orders; enough of each trouble to see it, few enough to leave a healthy shop.
const MIX: [(usize, &str); 5] = [
    (90, "pm_card_visa"),
    (4, "pm_card_visa_chargeDeclined"),
    (2, "pm_sandbox_reply_lost"),
    (2, "pm_sandbox_unavailable"),
    (2, "pm_sandbox_capture_fails"),
];

impl Payments<'_> {
    fn draw(&self, random: &mut SplitMix64) -> &str {
        match self {
            Payments::All(method) => method,
            Payments::Mixed => {
                let mut left = random.below(100);
                let drawn = MIX.iter().find(|(percent, _)| {
                    let hit = left < *percent;
                    left = left.saturating_sub(*percent);
                    hit
                });
                drawn.expect("the mix adds up to 100").1
            }
        }
    }
}

fn body(random: &mut SplitMix64, products: &[String], payments: &Payments<'_>) -> Bytes {
    let order = Order { items: lines(random, products), payment_method: payments.draw(random) };
    serde_json::to_vec(&order).expect("strings and numbers serialise").into()
}

/// One to three different products.
fn lines<'a>(random: &mut SplitMix64, products: &'a [String]) -> Vec<Line<'a>> {
    let count = (1 + random.below(LINES_MAX)).min(products.len());
    let mut lines: Vec<Line<'a>> = Vec::with_capacity(count);
    while lines.len() < count {
        let product_id = products[random.below(products.len())].as_str();
        if lines.iter().all(|line| line.product_id != product_id) {
            lines.push(Line { product_id, quantity: 1 + random.below(QUANTITY_MAX) });
        }
    }
    lines
}

#[derive(Serialize)]
struct Order<'a> {
    items: Vec<Line<'a>>,
    payment_method: &'a str,
}

#[derive(Serialize)]
struct Line<'a> {
    product_id: &'a str,
    quantity: usize,
}

/// The ids of everything the shop sells, each once.
pub(crate) async fn products(client: &mut Client) -> Result<Vec<String>, Error> {
    let body = client.get("/products").await?;
    let catalogue: Catalogue = serde_json::from_slice(&body)
        .map_err(|error| Error::new(format!("cannot read the answer to GET /products: {error}")))?;
    let (Catalogue::Page { items: products } | Catalogue::Bare(products)) = catalogue;
    let mut ids: Vec<String> = products.into_iter().map(|product| product.product_id).collect();
    ids.sort_unstable();
    ids.dedup();
    if ids.is_empty() {
        return Err(Error::new("cannot draw orders: GET /products lists no product"));
    }
    Ok(ids)
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Catalogue {
    Page { items: Vec<Product> },
    Bare(Vec<Product>),
}

#[derive(Deserialize)]
struct Product {
    product_id: String,
}

/// Steele, Lea and Flood's generator: three lines, and the same numbers on every machine for ever,
/// which no library promises.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 up to but not including `bound`.
    fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn drawn(seed: u64, run: &str, payments: &Payments<'_>) -> Plan {
        let products = ["coffee", "mug", "tea"].map(str::to_owned);
        Plan::draw(seed, run, 5000, &products, payments)
    }

    #[test]
    fn a_seed_draws_the_same_bodies_in_every_run() {
        let (one, two) = (drawn(7, "a", &Payments::Mixed), drawn(7, "b", &Payments::Mixed));
        assert_eq!(one.bodies, two.bodies);
        assert_ne!(one.bodies, drawn(8, "a", &Payments::Mixed).bodies);
    }

    #[test]
    fn bodies_of_a_seed_stay_the_same_for_ever() {
        let plan = drawn(7, "a", &Payments::All("pm_card_visa"));
        let first: Vec<_> = plan.bodies[..3].iter().map(|body| String::from_utf8_lossy(body)).collect();
        expect![[r#"
            {"items":[{"product_id":"coffee","quantity":3},{"product_id":"mug","quantity":2}],"payment_method":"pm_card_visa"}
            {"items":[{"product_id":"mug","quantity":1}],"payment_method":"pm_card_visa"}
            {"items":[{"product_id":"mug","quantity":1}],"payment_method":"pm_card_visa"}"#]].assert_eq(&first.join("\n"));
    }

    #[test]
    fn splitmix64_gives_the_published_numbers() {
        let mut random = SplitMix64(1_234_567);
        assert_eq!([6_457_827_717_110_365_317, 3_203_168_211_198_807_973], [random.next(), random.next()]);
    }

    #[test]
    fn every_order_has_its_own_key_and_keeps_it() {
        let plan = drawn(7, "a", &Payments::Mixed);
        let key = |order| plan.request(order).headers()["idempotency-key"].to_str().unwrap().to_owned();
        assert_eq!("load-7-a-4999", key(4999));
        assert_eq!(key(3), key(3));
    }

    #[test]
    fn the_mix_is_mostly_good_cards_with_some_of_every_trouble() {
        let plan = drawn(7, "a", &Payments::Mixed);
        for (percent, method) in MIX {
            let needle = format!("\"{method}\"");
            let count =
                plan.bodies.iter().filter(|body| String::from_utf8_lossy(body).contains(&needle)).count();
            let expected = plan.bodies.len() * percent / 100;
            assert!(count.abs_diff(expected) < expected / 2, "{method}: {count} of {expected}");
        }
    }
}
