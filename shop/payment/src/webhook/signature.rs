//! The check that a delivery is the provider's: pure.
//!
//! `Stripe-Signature: t=SECONDS,v1=HEX[,v1=HEX…]`, where a `v1` is the HMAC-SHA256 of `SECONDS.BODY` under the endpoint's
//! secret; there are several while secrets are changed. See <https://docs.stripe.com/webhooks#verify-manually>.

use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use sha2::Sha256;

/// The largest age of a delivery, and the largest difference of clocks: the provider's own default.
const TOLERANCE_SECONDS: i64 = 300;
/// Signatures that are compared: two while secrets are changed, and some room.
const SIGNATURES_MAX: usize = 8;

/// The secret that only the provider and this service know.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// The signing secret of a webhook endpoint: `whsec_…`.
    #[must_use]
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// Checks the signature of a delivery.
    ///
    /// # Errors
    /// It is not the provider's, or old; in words.
    pub fn verify(&self, signature: &str, body: &[u8], now: Timestamp) -> Result<(), &'static str> {
        let parts = || signature.split(',').filter_map(|part| part.trim().split_once('='));
        let mut times = parts().filter(|(name, _)| *name == "t").map(|(_, value)| value);
        let (Some(time), None) = (times.next(), times.next()) else {
            return Err("Stripe-Signature has no time (t=…), or several");
        };
        let seconds: i64 = time.parse().map_err(|_| "the time in Stripe-Signature (t=…) is no number")?;
        if now.as_second().abs_diff(seconds) > TOLERANCE_SECONDS.unsigned_abs() {
            return Err("the signature is more than five minutes old, or ahead: is the clock right?");
        }
        let mut mac =
            Hmac::<Sha256>::new_from_slice(self.0.as_bytes()).expect("a secret may have any length");
        mac.update(time.as_bytes());
        mac.update(b".");
        mac.update(body);
        let signatures = parts().filter(|(name, _)| *name == "v1").take(SIGNATURES_MAX);
        let mut decoded = signatures.filter_map(|(_, hex)| bytes(hex));
        // Compared in constant time.
        if decoded.any(|signature| mac.clone().verify_slice(&signature).is_ok()) {
            Ok(())
        } else {
            Err("no signature in Stripe-Signature (v1=…) is that of this body under STRIPE_WEBHOOK_SECRET")
        }
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = hex.as_bytes().chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = br#"{"id": "evt_1"}"#;
    /// `printf '%s' '1700000000.{"id": "evt_1"}' | openssl dgst -sha256 -hmac whsec_test`
    const GOOD: &str = "a0c091828640f0b68061abc7c03981ad1100ff7160c5dba6b656239494a2b537";

    #[test]
    fn only_what_the_provider_signed_just_now_is_taken() {
        let secret = Secret::new("whsec_test");
        let at = |seconds: i64| Timestamp::from_second(1_700_000_000 + seconds).unwrap();
        let verify = |signature: &str, body: &[u8], seconds| secret.verify(signature, body, at(seconds));
        let zeros = "0".repeat(64);
        for good in [
            format!("t=1700000000,v1={GOOD}"),
            format!("t=1700000000,v1={}", GOOD.to_uppercase()),
            format!("t=1700000000, v1={zeros}, v1={GOOD}, v0={zeros}"),
        ] {
            assert_eq!(verify(&good, BODY, 0), Ok(()), "{good}");
            assert_eq!(verify(&good, BODY, 300), Ok(()), "{good}");
            assert_eq!(verify(&good, BODY, -300), Ok(()), "{good}");
            verify(&good, BODY, 301).expect_err("it is old");
            verify(&good, BODY, -301).expect_err("it is from the future");
            verify(&good, br#"{"id": "evt_2"}"#, 0).expect_err("that was not signed");
            Secret::new("whsec_other").verify(&good, BODY, at(0)).expect_err("that is another secret");
        }
        for bad in [
            String::new(),
            "t".to_owned(),
            format!("v1={GOOD}"),
            "t=1700000000".to_owned(),
            "t=1700000000,v1=".to_owned(),
            format!("t=1700000001,v1={GOOD}"),
            format!("t=1700000000,t=1700000000,v1={GOOD}"),
            format!("t=now,v1={GOOD}"),
            format!("t=1700000000,v0={GOOD}"),
            format!("t=1700000000,v1={}", &GOOD[1..]),
            format!("t=1700000000,v1={}", &GOOD[2..]),
            format!("t=1700000000,v1=é{GOOD}"),
            format!("t=1700000000,{}v1={GOOD}", format!("v1={zeros},").repeat(SIGNATURES_MAX)),
            format!("t=-9223372036854775808,v1={GOOD}"),
        ] {
            assert!(verify(&bad, BODY, 0).is_err(), "{bad}");
        }
        assert!(!format!("{secret:?}").contains("whsec"));
    }
}
