//! The stock and how it moves: pure.

use std::collections::BTreeMap;

use contracts::{Item, Missing, StockLine};
use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr};

/// The place of an order's pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, EnumString, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Status {
    /// Known only from its cancellation; nothing was or will be set aside.
    Unknown,
    /// There was too little. Final.
    Rejected,
    /// Set aside.
    Reserved,
    /// Gone to the customer. Final, unless the order is cancelled.
    Committed,
    /// Available again. Final.
    Released,
}

/// The order service's decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Hand the pieces out.
    Confirmed,
    /// Put them back.
    Cancelled,
}

/// Pieces of one product, by where they are. Their sum changes only with a receipt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// Free to be ordered.
    pub available: u64,
    /// Set aside.
    pub reserved: u64,
    /// With customers.
    pub committed: u64,
}

/// Stock levels by product, in the order in which their rows are locked.
pub type Levels = BTreeMap<String, Level>;

/// An order's lines, one a product.
#[must_use]
pub fn lines(items: &[Item]) -> Vec<StockLine> {
    let mut quantities: BTreeMap<&str, u32> = BTreeMap::new();
    for item in items {
        let quantity = quantities.entry(&item.product_id).or_default();
        *quantity = quantity.saturating_add(item.quantity);
    }
    quantities
        .into_iter()
        .map(|(product_id, quantity)| StockLine { product_id: product_id.to_owned(), quantity })
        .collect()
}

/// Sets all lines aside, or none and says what is missing.
///
/// # Errors
/// The products of which there is too little; a product that is not kept has 0 pieces.
pub fn reserve(levels: &mut Levels, lines: &[StockLine]) -> Result<(), Vec<Missing>> {
    let missing: Vec<Missing> = lines
        .iter()
        .filter_map(|line| {
            let available = levels.get(&line.product_id).map_or(0, |level| level.available);
            let requested = u64::from(line.quantity);
            (available < requested).then(|| Missing {
                product_id: line.product_id.clone(),
                requested,
                available,
            })
        })
        .collect();
    if !missing.is_empty() {
        return Err(missing);
    }
    for line in lines {
        if let Some(level) = levels.get_mut(&line.product_id) {
            level.available -= u64::from(line.quantity);
            level.reserved += u64::from(line.quantity);
        }
    }
    Ok(())
}

/// Decides where an order's pieces go once the order is decided; `None` if they stay where they are.
#[must_use]
pub fn follow(status: Status, decision: Decision) -> Option<Status> {
    match (status, decision) {
        (Status::Reserved, Decision::Confirmed) => Some(Status::Committed),
        (Status::Reserved | Status::Committed, Decision::Cancelled) => Some(Status::Released),
        _ => None,
    }
}

/// Moves an order's pieces.
pub fn shift(levels: &mut Levels, lines: &[StockLine], from: Status, to: Status) {
    for line in lines {
        let Some(level) = levels.get_mut(&line.product_id) else {
            continue;
        };
        let quantity = u64::from(line.quantity);
        match (from, to) {
            (Status::Reserved, Status::Committed) => {
                level.reserved -= quantity;
                level.committed += quantity;
            }
            (Status::Reserved, Status::Released) => {
                level.reserved -= quantity;
                level.available += quantity;
            }
            (Status::Committed, Status::Released) => {
                level.committed -= quantity;
                level.available += quantity;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(product: usize, quantity: u32) -> StockLine {
        StockLine { product_id: format!("p{product}"), quantity }
    }

    proptest! {
        /// Whatever is ordered and decided, no level falls below zero and no piece appears or vanishes.
        #[test]
        fn pieces_are_conserved(
            opening in prop::collection::vec(0_u64..20, 3),
            orders in prop::collection::vec((prop::collection::vec((0_usize..4, 1_u32..8), 1..4), prop::collection::vec(any::<bool>(), 0..3)), 1..20),
        ) {
            let mut levels: Levels = opening.iter().enumerate()
                .map(|(p, &available)| (format!("p{p}"), Level { available, ..Level::default() }))
                .collect();
            for (wanted, decisions) in orders {
                let items: Vec<Item> = wanted.iter()
                    .map(|&(p, quantity)| Item { product_id: format!("p{p}"), quantity, unit_price: None })
                    .collect();
                let lines = lines(&items);
                let before = levels.clone();
                let mut status = match reserve(&mut levels, &lines) {
                    Ok(()) => Status::Reserved,
                    Err(missing) => {
                        prop_assert!(!missing.is_empty());
                        prop_assert_eq!(&before, &levels);
                        Status::Rejected
                    }
                };
                for confirmed in decisions {
                    let decision = if confirmed { Decision::Confirmed } else { Decision::Cancelled };
                    if let Some(next) = follow(status, decision) {
                        shift(&mut levels, &lines, status, next);
                        status = next;
                    }
                }
            }
            for (level, opening) in levels.values().zip(opening) {
                prop_assert_eq!(level.available + level.reserved + level.committed, opening);
            }
        }
    }

    #[test]
    fn lines_of_one_product_are_added_up() {
        let item =
            |product_id: &str, quantity| Item { product_id: product_id.into(), quantity, unit_price: None };
        assert_eq!(lines(&[item("p1", 2), item("p0", 1), item("p1", 3)]), [line(0, 1), line(1, 5)]);
    }
}
