//! The catalogue file: a list of products; each service reads its own columns of it.
//!
//! There is one gate for all of them: [`read`] refuses a file that a service could not live with, and says
//! everything that is wrong with it, each with its place.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use garde::{Path as Place, Report, Validate};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use tidings::Error;
use tidings::config::read_json;

use crate::Money;

/// Most pieces of a product for sale: every program reads a JSON number of this size exactly, and sums of such
/// levels are far from overflowing.
pub const STOCK_MAX: u64 = 1_000_000_000_000_000;

/// The catalogue of a service that is told no other.
const BUILT_IN: &str = include_str!("../../catalogue.json");
/// The form of the file, for messages.
const FORM: &str = "[{product_id, name, unit_price, stock}, …]";

/// A product as one service reads it.
pub trait Row: for<'a> Deserialize<'a> + JsonSchema + Validate<Context = ()> {
    /// The id of the product; a catalogue has one product with it.
    fn product_id(&self) -> &str;
}

/// A product, as it is offered.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, Validate)]
pub struct Product {
    /// Its id.
    #[garde(length(chars, min = 1, max = 200))]
    pub product_id: String,
    /// What it is called.
    #[garde(skip)]
    pub name: String,
    /// What a piece costs.
    #[garde(dive)]
    pub unit_price: Money,
}

/// A product's price.
#[derive(Clone, Debug, Deserialize, JsonSchema, Validate)]
pub struct Price {
    /// Of which product.
    #[garde(length(chars, min = 1, max = 200))]
    pub product_id: String,
    /// What a piece costs.
    #[garde(dive)]
    pub unit_price: Money,
}

/// A product's opening stock.
#[derive(Clone, Debug, Deserialize, JsonSchema, Validate)]
pub struct OpeningStock {
    /// Of which product.
    #[garde(length(chars, min = 1, max = 200))]
    pub product_id: String,
    /// How many pieces there are at first.
    #[serde(default)]
    #[garde(range(max = STOCK_MAX))]
    pub stock: u64,
}

impl Row for Product {
    fn product_id(&self) -> &str {
        &self.product_id
    }
}

impl Row for Price {
    fn product_id(&self) -> &str {
        &self.product_id
    }
}

impl Row for OpeningStock {
    fn product_id(&self) -> &str {
        &self.product_id
    }
}

/// The products in a catalogue file, or in the catalogue that is built in.
///
/// # Errors
/// The file cannot be read or is no catalogue; in one line, with everything that is wrong with it.
pub fn read<R: Row>(file: Option<&Path>) -> Result<Vec<R>, Error> {
    read_json::<Rows<R>>(file, BUILT_IN, "catalogue", FORM).map(|rows| rows.0)
}

/// At least one product, and none twice.
#[derive(Deserialize)]
#[serde(transparent, bound = "R: Row")]
struct Rows<R>(Vec<R>);

impl<R: Row> JsonSchema for Rows<R> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Catalogue".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = Vec::<R>::json_schema(generator);
        schema.insert("minItems".to_owned(), 1.into());
        schema
    }
}

impl<R: Row> Validate for Rows<R> {
    type Context = ();

    fn validate_into(&self, (): &(), parent: &mut dyn FnMut() -> Place, report: &mut Report) {
        if self.0.is_empty() {
            report.append(parent(), garde::Error::new("there is no product"));
        }
        let mut first: BTreeMap<&str, usize> = BTreeMap::new();
        for (index, row) in self.0.iter().enumerate() {
            let mut at = || parent().join(index);
            row.validate_into(&(), &mut at, report);
            let before = *first.entry(row.product_id()).or_insert(index);
            if before != index {
                let refusal = format!("is the id of /{before} too");
                report.append(at().join("product_id"), garde::Error::new(refusal));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a file, in lines; nothing if it is taken.
    fn refusal<R: Row>(text: &str) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("catalogue.json");
        std::fs::write(&file, text).unwrap();
        let Err(e) = read::<R>(Some(&file)) else { return Vec::new() };
        let refusal = e.to_string();
        let begins = format!("{} is not a catalogue ({FORM}): ", file.display());
        assert_eq!(refusal.lines().count(), 1, "{refusal}");
        let broken = refusal.strip_prefix(&begins).unwrap_or_else(|| panic!("{refusal}"));
        broken.split("; ").map(str::to_owned).collect()
    }

    fn product(id: &str, amount: &str, currency: &str) -> String {
        format!(
            r#"{{"product_id": "{id}", "name": "x", "unit_price": {{"amount": {amount}, "currency": "{currency}"}}}}"#
        )
    }

    fn stock(stock: &str) -> Vec<String> {
        refusal::<OpeningStock>(&format!(r#"[{{"product_id": "tea", "stock": {stock}}}]"#))
    }

    #[test]
    fn what_is_built_in_is_a_catalogue_for_every_service() {
        assert!(!read::<Product>(None).unwrap().is_empty());
        assert!(!read::<Price>(None).unwrap().is_empty());
        assert!(!read::<OpeningStock>(None).unwrap().is_empty());
    }

    #[test]
    fn a_price_that_is_none_is_refused_with_its_place() {
        let max = crate::AMOUNT_MAX;
        let taken = format!("[{}, {}]", product("a", "0", "EUR"), product("b", &max.to_string(), "XTS"));
        assert_eq!(refusal::<Product>(&taken), Vec::<String>::new());
        let long = "x".repeat(201);
        let refused = [
            product("a", "-1", "EUR"),
            product("b", &(max + 1).to_string(), "EUR"),
            product("c", "1.5", "EUR"),
            product("", "1", "eur"),
            product(&long, "1", "EURO"),
        ];
        let refusal = refusal::<Product>(&format!("[{}]", refused.join(",")));
        // A document of the wrong type is told by what its schema says; rules in Rust come after that.
        assert_eq!(
            refusal,
            [
                "/0/unit_price/amount: must be at least 0 (minimum)",
                "/1/unit_price/amount: must be at most 1000000000000 (maximum)",
                "/2/unit_price/amount: must be a whole number, is 1.5 (type)",
                "/3/product_id: must have at least 1 character (minLength)",
                "/4/product_id: must have at most 200 characters (maxLength)",
                "/4/unit_price/currency: must have at most 3 characters (maxLength)",
            ]
        );
        let wrong = format!("[{}]", product("a", "1", "eur"));
        for refusal in [super::tests::refusal::<Product>(&wrong), super::tests::refusal::<Price>(&wrong)] {
            assert_eq!(refusal, ["/0/unit_price/currency: does not match pattern /^[A-Z]{3}$/ (pattern)"]);
        }
    }

    #[test]
    fn a_catalogue_has_products_each_once() {
        let empty = "the document: must have at least 1 item (minItems)";
        assert_eq!(refusal::<Product>("[]"), [empty]);
        assert_eq!(refusal::<Price>("[]"), [empty]);
        assert_eq!(refusal::<OpeningStock>("[]"), [empty]);
        let tea = r#"{"product_id": "tea"}"#;
        assert_eq!(
            refusal::<OpeningStock>(&format!("[{tea}, {tea}, {tea}]")),
            ["/1/product_id: is the id of /0 too (rule)", "/2/product_id: is the id of /0 too (rule)"]
        );
    }

    #[test]
    fn stock_is_a_whole_number_that_every_program_reads() {
        for taken in ["0", "1.0", "1e3", &STOCK_MAX.to_string()] {
            assert_eq!(stock(taken), Vec::<String>::new(), "{taken}");
        }
        assert_eq!(
            stock(&(STOCK_MAX + 1).to_string()),
            ["/0/stock: must be at most 1000000000000000 (maximum)"]
        );
        for wrong in ["-1", "1.5", "\"1\"", "null", "18446744073709551616", "1e300"] {
            let refusal = stock(wrong);
            assert!(refusal.len() == 1 && refusal[0].starts_with("/0/stock: "), "{wrong}: {refusal:?}");
        }
    }

    #[test]
    fn text_has_no_zero_character_in_any_column() {
        for (column, pointer) in [
            (r#""product_id": "\u0000""#, "/0/product_id"),
            (r#""product_id": "a", "x": ["\u0000"]"#, "/0/x/0"),
        ] {
            let refusal = refusal::<OpeningStock>(&format!("[{{{column}}}]"));
            assert_eq!(refusal, [format!("{pointer}: text with the character U+0000 (pattern)")]);
        }
    }

    #[test]
    fn columns_of_other_services_are_theirs() {
        assert_eq!(
            refusal::<OpeningStock>(r#"[{"product_id": "a", "unit_price": "free"}]"#),
            Vec::<String>::new()
        );
        assert_eq!(refusal::<Product>(r#"["a"]"#).len(), 1);
        assert_eq!(refusal::<Product>(r#"[["a", "b", {"amount": 1, "currency": "EUR"}]]"#).len(), 1);
    }
}
