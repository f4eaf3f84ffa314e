//! Amounts as the provider counts them: pure.
//!
//! Ours are in the minor units of ISO 4217. The provider has a table of its own, at
//! <https://docs.stripe.com/currencies> («Zero-decimal currencies», «Special cases»; three-decimal currencies in its
//! editions up to 2024), which differs for some and asks for whole units of others. `docs/gateway.md` has it too.

use contracts::Money;

use crate::gateway::Answer;

/// Without decimals in ISO 4217, with two at the provider, which have to be 00.
const WHOLE_AS_CENTS: [&str; 2] = ["ISK", "UGX"];
/// With two decimals in ISO 4217, without any at the provider.
const CENTS_AS_WHOLE: [&str; 1] = ["MGA"];
/// With three decimals at both; the provider takes two of them.
const THREE_DECIMALS: [&str; 5] = ["BHD", "JOD", "KWD", "OMR", "TND"];
/// Without two decimals in ISO 4217, or without any unit there, and not in the provider's table: what it would take
/// an amount for is not known.
const UNKNOWN: [&str; 19] = [
    "CLF", "IQD", "LYD", "UYI", "UYW", "XAD", "XAG", "XAU", "XBA", "XBB", "XBC", "XBD", "XDR", "XPD", "XPT",
    "XSU", "XTS", "XUA", "XXX",
];

/// The conversion of the units of a currency into the provider's units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Units {
    /// They are the same.
    Same,
    /// They are the same, but amounts are multiples of this.
    Multiples(i64),
    /// One of our units is this many of the provider's.
    Times(i64),
    /// One of the provider's units is this many of ours.
    Per(i64),
}

impl Units {
    fn of(currency: &str) -> Option<Self> {
        if UNKNOWN.contains(&currency) {
            None
        } else if WHOLE_AS_CENTS.contains(&currency) {
            Some(Self::Times(100))
        } else if CENTS_AS_WHOLE.contains(&currency) {
            Some(Self::Per(100))
        } else if THREE_DECIMALS.contains(&currency) {
            Some(Self::Multiples(10))
        } else {
            Some(Self::Same)
        }
    }
}

/// An amount as the provider is told it.
///
/// # Errors
/// The provider cannot charge the amount: the refusal.
pub fn to_provider(money: &Money) -> Result<i64, Answer> {
    let Money { amount, currency } = money;
    let amount = *amount;
    let Some(units) = Units::of(currency) else {
        let reason = format!("how the provider counts amounts in {currency} is not known");
        return Err(Answer::refused("currency_not_supported", &reason));
    };
    let to_provider = match units {
        Units::Same => Some(amount),
        Units::Multiples(step) => (amount % step == 0).then_some(amount),
        Units::Times(factor) => amount.checked_mul(factor),
        Units::Per(factor) => (amount % factor == 0).then_some(amount / factor),
    };
    to_provider.ok_or_else(|| {
        let rule = match units {
            Units::Multiples(step) | Units::Per(step) => format!("takes only multiples of {step}"),
            Units::Same | Units::Times(_) => "does not take so much".to_owned(),
        };
        let reason = format!("the provider {rule} minor units of {currency}, and this is {amount}");
        Answer::refused("amount_not_chargeable", &reason)
    })
}

/// An amount that the provider tells, in our units; `None` if that is no whole number of them.
pub fn from_provider(amount: i64, currency: &str) -> Option<Money> {
    let currency = currency.to_ascii_uppercase();
    let amount = match Units::of(&currency)? {
        Units::Same | Units::Multiples(_) => amount,
        Units::Times(factor) => (amount % factor == 0).then_some(amount / factor)?,
        Units::Per(factor) => amount.checked_mul(factor)?,
    };
    Some(Money { amount, currency })
}

/// Returns the number that divides every amount in the provider's units; `None` for a currency that the provider
/// does not know.
#[must_use]
pub fn step(currency: &str) -> Option<i64> {
    Some(match Units::of(&currency.to_ascii_uppercase())? {
        Units::Times(factor) => factor,
        Units::Multiples(step) => step,
        Units::Same | Units::Per(_) => 1,
    })
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use expect_test::expect;
    use proptest::prelude::*;

    use super::*;

    fn money(amount: i64, currency: &str) -> Money {
        Money { amount, currency: currency.to_owned() }
    }

    #[test]
    fn each_class_of_currencies_is_told_as_the_provider_counts_it() {
        let amounts = [
            // Two decimals, also those that are paid out without.
            "1299 EUR",
            "1299 USD",
            "1045 HUF",
            "80045 TWD",
            // None, for both.
            "500 JPY",
            "500 KRW",
            "500 VND",
            "500 CLP",
            "500 BIF",
            "500 DJF",
            "500 GNF",
            "500 KMF",
            "500 PYG",
            "500 RWF",
            "500 VUV",
            "500 XAF",
            "500 XOF",
            "500 XPF",
            // None for us, two for the provider.
            "500 ISK",
            "1 UGX",
            // Two for us, none for the provider.
            "500 MGA",
            "501 MGA",
            // Three, of which the last is 0.
            "5120 KWD",
            "5124 KWD",
            "1000 BHD",
            "1 BHD",
            "10 OMR",
            "11 OMR",
            "10 JOD",
            "12 JOD",
            "10 TND",
            "15 TND",
            // Not in the provider's table.
            "1000 IQD",
            "1000 LYD",
            "10000 CLF",
            "1 UYI",
            "1 XAU",
            "1 XTS",
            "1 XXX",
        ];
        let mut table = String::new();
        for text in amounts {
            let (amount, currency) = text.split_once(' ').unwrap();
            let ours = money(amount.parse().unwrap(), currency);
            match to_provider(&ours) {
                Ok(amount) => {
                    assert_eq!(from_provider(amount, &currency.to_lowercase()), Some(ours));
                    writeln!(table, "{text} → {amount}").unwrap();
                }
                Err(Answer::Refused { code, reason }) => writeln!(table, "{text}: {code}: {reason}").unwrap(),
                Err(Answer::Done(_)) => unreachable!(),
            }
        }
        expect![[r#"
            1299 EUR → 1299
            1299 USD → 1299
            1045 HUF → 1045
            80045 TWD → 80045
            500 JPY → 500
            500 KRW → 500
            500 VND → 500
            500 CLP → 500
            500 BIF → 500
            500 DJF → 500
            500 GNF → 500
            500 KMF → 500
            500 PYG → 500
            500 RWF → 500
            500 VUV → 500
            500 XAF → 500
            500 XOF → 500
            500 XPF → 500
            500 ISK → 50000
            1 UGX → 100
            500 MGA → 5
            501 MGA: amount_not_chargeable: the provider takes only multiples of 100 minor units of MGA, and this is 501
            5120 KWD → 5120
            5124 KWD: amount_not_chargeable: the provider takes only multiples of 10 minor units of KWD, and this is 5124
            1000 BHD → 1000
            1 BHD: amount_not_chargeable: the provider takes only multiples of 10 minor units of BHD, and this is 1
            10 OMR → 10
            11 OMR: amount_not_chargeable: the provider takes only multiples of 10 minor units of OMR, and this is 11
            10 JOD → 10
            12 JOD: amount_not_chargeable: the provider takes only multiples of 10 minor units of JOD, and this is 12
            10 TND → 10
            15 TND: amount_not_chargeable: the provider takes only multiples of 10 minor units of TND, and this is 15
            1000 IQD: currency_not_supported: how the provider counts amounts in IQD is not known
            1000 LYD: currency_not_supported: how the provider counts amounts in LYD is not known
            10000 CLF: currency_not_supported: how the provider counts amounts in CLF is not known
            1 UYI: currency_not_supported: how the provider counts amounts in UYI is not known
            1 XAU: currency_not_supported: how the provider counts amounts in XAU is not known
            1 XTS: currency_not_supported: how the provider counts amounts in XTS is not known
            1 XXX: currency_not_supported: how the provider counts amounts in XXX is not known
        "#]].assert_eq(&table);
    }

    #[test]
    fn an_amount_that_is_no_whole_number_of_our_units_is_not_taken_for_one() {
        assert_eq!(from_provider(50_001, "isk"), None);
        assert_eq!(from_provider(500, "xau"), None);
        assert_eq!(from_provider(i64::MAX, "mga"), None);
        assert!(to_provider(&money(i64::MAX, "UGX")).is_err());
    }

    proptest! {
        #[test]
        fn what_is_told_is_heard_again_and_keeps_the_providers_own_rule(amount in 0..=contracts::AMOUNT_MAX, currency in "[A-Z]{3}") {
            let ours = money(amount, &currency);
            if let Ok(amount) = to_provider(&ours) {
                prop_assert_eq!(amount % step(&currency).unwrap(), 0);
                prop_assert_eq!(from_provider(amount, &currency.to_lowercase()), Some(ours));
            }
        }
    }
}
