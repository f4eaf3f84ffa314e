//! The products that can be ordered, and their prices.

use std::collections::BTreeMap;
use std::path::Path;

use contracts::catalogue::{self, Product};
use contracts::{AMOUNT_MAX, Item, Money};
use tidings::Error;
use tidings::http::Violation;

/// The products, by id.
#[derive(Debug)]
pub struct Catalogue(BTreeMap<String, Product>);

impl Catalogue {
    /// Reads a catalogue file, or takes the one that is built in.
    ///
    /// # Errors
    /// The file cannot be read or is not a catalogue.
    pub fn load(file: Option<&Path>) -> Result<Self, Error> {
        let products: Vec<Product> = catalogue::read(file)?;
        Ok(Self(products.into_iter().map(|p| (p.product_id.clone(), p)).collect()))
    }

    /// All products.
    pub fn products(&self) -> impl Iterator<Item = &Product> {
        self.0.values()
    }

    /// One product.
    #[must_use]
    pub fn product(&self, id: &str) -> Option<&Product> {
        self.0.get(id)
    }

    /// Prices wanted lines; says what is wrong with which, if anything is.
    ///
    /// # Errors
    /// Unknown products, and currencies or sums that do not go together.
    pub fn price(
        &self,
        wanted: impl Iterator<Item = (String, u32)>,
    ) -> Result<(Vec<Item>, Money), Vec<Violation>> {
        let mut items = Vec::new();
        let mut wrong = Vec::new();
        let mut total: Option<Money> = None;
        for (line, (product_id, quantity)) in wanted.enumerate() {
            let Some(product) = self.0.get(&product_id) else {
                let pointer = format!("/items/{line}/product_id");
                wrong.push(Violation::new(pointer, "product", format!("there is no product {product_id:?}")));
                continue;
            };
            let price = &product.unit_price;
            let sum = total.get_or_insert_with(|| Money { amount: 0, ..price.clone() });
            if sum.currency != price.currency {
                let detail = format!("is sold in {}, not {}", price.currency, sum.currency);
                wrong.push(Violation::new(format!("/items/{line}/product_id"), "currency", detail));
            }
            sum.amount = sum.amount.saturating_add(price.amount.saturating_mul(i64::from(quantity)));
            items.push(Item { product_id, quantity, unit_price: Some(price.clone()) });
        }
        match total {
            Some(total) if total.amount > AMOUNT_MAX => {
                wrong.push(Violation::new("/items", "total", "the order costs too much"));
                Err(wrong)
            }
            Some(total) if wrong.is_empty() => Ok((items, total)),
            _ => Err(wrong),
        }
    }
}
