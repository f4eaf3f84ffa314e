//! The meaning of the provider's answers to an external call: pure.

use hyper::StatusCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tidings::EffectError;

use super::http::Reply;
use super::units;
use crate::domain::Operation;
use crate::gateway::{Answer, Charge, Standing};

/// Parameters that say what the order says: if one is wrong, the order is, not we.
const OF_THE_ORDER: [&str; 3] = ["amount", "currency", "payment_method"];
/// Longer than any status of the provider's.
const STATUS_CHARS_MAX: usize = 100;
/// The provider's codes for a hold that has lasted too long to be collected.
const EXPIRED: [&str; 2] = ["capture_charge_authorization_expired", "charge_expired_for_capture"];

/// The end of an external call.
#[derive(Debug)]
pub enum End {
    /// Done, or refused.
    Answer(Answer),
    /// Refused, but the provider keeps the hold open until another party acts, which does not happen here.
    LeftOpen {
        /// The provider's name for the hold.
        id: String,
        /// The answer once the hold is given up.
        refusal: Answer,
    },
}

/// The meaning of the answer to an external call.
#[derive(Debug)]
pub enum Meaning {
    /// It has ended.
    End(End),
    /// Not like this, says the provider: how the hold stands decides.
    Rejected(Rejection),
}

/// Reads the answer to an external call.
///
/// # Errors
/// It says that nothing was done, or leaves that open.
pub fn meaning(operation: Operation, charge: &Charge, reply: &Reply) -> Result<Meaning, EffectError> {
    let Reply { status, body, .. } = reply;
    let unknown = || EffectError::Unknown(message(*status, body));
    if status.is_success() {
        let end = match operation {
            Operation::Refund => Some(End::Answer(refunded(body)?)),
            _ => standing(operation, charge, &read(body)?)?,
        };
        return end.map(Meaning::End).ok_or_else(unknown);
    }
    // Keys and limits are checked before anything else is.
    if matches!(*status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS) {
        return Err(EffectError::NotDone(message(*status, body)));
    }
    let Ok(Failure { error }) = serde_json::from_slice(body) else { return Err(unknown()) };
    let rejection = Rejection { error, message: message(*status, body) };
    let refused = |answer| Meaning::End(End::Answer(answer));
    match (*status, operation) {
        (StatusCode::PAYMENT_REQUIRED, Operation::Authorize | Operation::Capture) => {
            Ok(refused(rejection.error.refusal()))
        }
        // There is no hold yet whose standing could say more, unless the key has been used before.
        (StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND, Operation::Authorize)
            if !rejection.is_about_key() =>
        {
            rejection.verdict(operation).map(refused)
        }
        (StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::PAYMENT_REQUIRED, _) => {
            Ok(Meaning::Rejected(rejection))
        }
        // A key or a hold in use, a failure, a proxy's word: the call may be under way, or done.
        _ => Err(unknown()),
    }
}

/// Decides what has become of an external call by the present state of its hold: `None` if it was not done.
///
/// # Errors
/// The outcome cannot be told yet, or the hold is not what it should be: an operator has to look.
pub fn standing(operation: Operation, charge: &Charge, intent: &Intent) -> Result<Option<End>, EffectError> {
    let Intent { id, status, .. } = intent;
    let strange = |what: &str| format!("{id} of order {} {what}", charge.order_id);
    let conflict = |what: &str| Err(EffectError::Conflict(strange(what)));
    let done = Ok(Some(End::Answer(Answer::Done(id.clone()))));
    let left_open = |refusal| Ok(Some(End::LeftOpen { id: id.clone(), refusal }));
    let refunded = intent.latest_charge.as_ref().is_some_and(Charged::is_refunded);
    match (operation, status.as_str()) {
        (_, "processing") => Err(EffectError::Unknown(strange("is still being processed"))),
        (Operation::Authorize, "requires_capture" | "succeeded") if !intent.is_for(charge) => {
            conflict(&format!("is for {} {}, which was not asked for", intent.amount, intent.currency))
        }
        (Operation::Authorize, "requires_capture" | "succeeded") => done,
        (Operation::Authorize, "requires_payment_method") => {
            let refusal = intent.last_payment_error.as_ref().map(ProviderError::refusal);
            Ok(refusal.map(End::Answer))
        }
        (Operation::Authorize, "requires_action") => left_open(Answer::needs_holder()),
        (Operation::Authorize, "requires_confirmation") => {
            left_open(Answer::refused("not_confirmed", "the provider began the hold and did not make it"))
        }
        (Operation::Authorize | Operation::Capture, "canceled") => {
            let refusal = Answer::refused("canceled", "the hold was given up at the provider");
            Ok(Some(End::Answer(refusal)))
        }
        (Operation::Capture | Operation::Void, "requires_capture") => Ok(None),
        (Operation::Void, "requires_action" | "requires_confirmation" | "requires_payment_method") => {
            Ok(None)
        }
        (Operation::Capture, "succeeded") if intent.is_collected_in_part() => {
            let (captured, _) = intent.moved();
            conflict(&format!("was collected in part: {captured} of {} {}", intent.amount, intent.currency))
        }
        (Operation::Capture, "succeeded") | (Operation::Void, "canceled") => done,
        (Operation::Void | Operation::Refund, "succeeded") if refunded => done,
        (Operation::Refund, "succeeded") => Ok(None),
        (Operation::Void, "succeeded") => {
            conflict("was captured and cannot be voided: give the money back in the dashboard")
        }
        _ => conflict(&format!("is {status}, which does not fit {operation:?}")),
    }
}

/// The holds of one order that a list shows.
#[derive(Debug, Default)]
pub struct FoundHolds {
    /// The provider's name for one that was made.
    made: Option<String>,
    refused: Option<End>,
    left_open: Option<End>,
}

impl FoundHolds {
    /// Adds the end that one has come to, if it has.
    ///
    /// # Errors
    /// The order has been charged twice: an operator has to look.
    pub fn add(&mut self, end: Option<End>, charge: &Charge) -> Result<(), EffectError> {
        match end {
            Some(End::Answer(Answer::Done(id))) => match &self.made {
                Some(other) if *other != id => {
                    let order_id = &charge.order_id;
                    return Err(EffectError::Conflict(format!(
                        "order {order_id} has two charges, {other} and {id}: give one up in the dashboard"
                    )));
                }
                _ => self.made = Some(id),
            },
            Some(refused @ End::Answer(_)) => self.refused = self.refused.take().or(Some(refused)),
            Some(open) => self.left_open = self.left_open.take().or(Some(open)),
            None => {}
        }
        Ok(())
    }

    /// Tells whether one was made or refused.
    pub fn has_ended(&self) -> bool {
        self.made.is_some() || self.refused.is_some()
    }

    /// The end that counts: one that was made before one that was refused, and that before one that is left open.
    pub fn best(self) -> Option<End> {
        let made = self.made.map(|id| End::Answer(Answer::Done(id)));
        made.or(self.refused).or(self.left_open)
    }
}

/// Reads the answer to a question. Not to have got it leaves open what was asked about.
///
/// # Errors
/// A refusal, or an answer of another shape.
pub fn found<T: DeserializeOwned>(reply: &Reply) -> Result<T, EffectError> {
    let answer = if reply.status.is_success() { serde_json::from_slice(&reply.body).ok() } else { None };
    answer.ok_or_else(|| EffectError::Unknown(message(reply.status, &reply.body)))
}

/// Returns the provider's name for the hold that an answer shows, if it shows one.
pub fn id(reply: &Reply) -> Option<String> {
    let intent: Intent = reply.status.is_success().then(|| serde_json::from_slice(&reply.body).ok())??;
    Some(intent.id)
}

/// Tells an operator what the provider said.
pub fn message(status: StatusCode, body: &[u8]) -> String {
    let mut message = format!("the provider answered {}", status.as_u16());
    if let Ok(Failure { error }) = serde_json::from_slice::<Failure>(body) {
        for part in [error.code, error.message].into_iter().flatten() {
            message.push_str(": ");
            message.push_str(&part);
        }
    } else if status.is_success() {
        message.push_str(", and not what it was asked for");
    }
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        message.push_str("; is STRIPE_API_KEY right, and may it do this?");
    }
    message
}

/// Tells whether the provider itself, not a program before it, says that it does not know the requested object.
pub fn is_missing(reply: &Reply) -> bool {
    let is_it = |Failure { error }: Failure| error.code.as_deref() == Some("resource_missing");
    reply.status == StatusCode::NOT_FOUND && serde_json::from_slice(&reply.body).is_ok_and(is_it)
}

fn refunded(body: &[u8]) -> Result<Answer, EffectError> {
    let Refund { id, status } = read(body)?;
    match status.as_deref() {
        Some("succeeded" | "pending") => Ok(Answer::Done(id)),
        // The money does not get there: to ask again under the key changes nothing.
        Some(ended @ ("failed" | "canceled")) => {
            Err(EffectError::Conflict(format!("refund {id} is {ended}: give the money back in another way")))
        }
        other => Err(EffectError::Unknown(format!("refund {id} is {}", other.unwrap_or("in no state")))),
    }
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, EffectError> {
    serde_json::from_slice(body).map_err(|_| EffectError::Unknown(message(StatusCode::OK, body)))
}

/// The reason for which the provider refused an external call as it was asked for.
#[derive(Debug)]
pub struct Rejection {
    error: ProviderError,
    message: String,
}

impl Rejection {
    /// Decides the answer if the external call is not done in another way either.
    ///
    /// # Errors
    /// The rejection is not the customer's: an operator has to look.
    pub fn verdict(self, operation: Operation) -> Result<Answer, EffectError> {
        let is_final = match operation {
            Operation::Authorize => {
                self.error.param.as_deref().is_some_and(|param| OF_THE_ORDER.contains(&param))
            }
            Operation::Capture => self.error.code.as_deref().is_some_and(|code| EXPIRED.contains(&code)),
            Operation::Void | Operation::Refund => false,
        };
        match is_final {
            true => Ok(self.error.refusal()),
            // Asked again, the provider would say the same for as long as it knows the key.
            false if self.is_about_key() => Err(EffectError::Conflict(self.message)),
            false => Err(EffectError::NotDone(self.message)),
        }
    }

    fn is_about_key(&self) -> bool {
        self.error.kind.as_deref() == Some("idempotency_error")
    }
}

/// A page of the list of intents.
#[derive(Debug, Deserialize)]
pub struct Page {
    pub data: Vec<Intent>,
    pub has_more: bool,
}

/// The provider's word for a payment from hold to end.
#[derive(Debug, Deserialize)]
pub struct Intent {
    pub id: String,
    status: String,
    amount: i64,
    currency: String,
    /// The time at which it was made, in seconds.
    pub created: Option<i64>,
    amount_received: Option<i64>,
    #[serde(default)]
    metadata: Metadata,
    last_payment_error: Option<ProviderError>,
    latest_charge: Option<Charged>,
}

#[derive(Debug, Default, Deserialize)]
struct Metadata {
    order_id: Option<String>,
}

impl Intent {
    /// The order that it pays for.
    pub fn order_id(&self) -> Option<&str> {
        self.metadata.order_id.as_deref()
    }

    /// Returns the standing of the payment, for people and to be compared.
    pub fn into_standing(self) -> Standing {
        // It is kept in a database, which takes any text but this.
        let mut words: String = self.status.chars().filter(|c| *c != '\0').take(STATUS_CHARS_MAX).collect();
        if let Some(Charged::Whole { refunded, amount_refunded, disputed }) = self.latest_charge {
            words += match (refunded, amount_refunded) {
                (true, _) => ", refunded",
                (false, 1..) => ", refunded in part",
                (false, _) => "",
            };
            words += if disputed { ", disputed" } else { "" };
        }
        Standing { words, order_id: self.metadata.order_id.filter(|id| !id.contains('\0')) }
    }

    /// The amount that was asked for, in the provider's units.
    pub fn amount(&self) -> i64 {
        self.amount
    }

    /// The currency in the provider's writing.
    pub fn currency(&self) -> &str {
        &self.currency
    }

    /// The parts that were collected and given back, in the provider's units.
    pub fn moved(&self) -> (i64, i64) {
        let refunded = match self.latest_charge {
            Some(Charged::Whole { amount_refunded, .. }) => amount_refunded,
            _ => 0,
        };
        (self.amount_received.unwrap_or(0), refunded)
    }

    fn is_collected_in_part(&self) -> bool {
        self.amount_received.is_some_and(|received| received < self.amount)
    }

    fn is_for(&self, charge: &Charge) -> bool {
        units::from_provider(self.amount, &self.currency).as_ref() == Some(&charge.amount)
    }
}

/// The collected charge: its id alone, unless more was asked for.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Charged {
    Whole {
        refunded: bool,
        #[serde(default)]
        amount_refunded: i64,
        #[serde(default)]
        disputed: bool,
    },
    Id(#[allow(dead_code, reason = "only its form matters")] String),
}

impl Charged {
    fn is_refunded(&self) -> bool {
        matches!(self, Self::Whole { refunded: true, .. })
    }
}

#[derive(Deserialize)]
struct Refund {
    id: String,
    status: Option<String>,
}

#[derive(Deserialize)]
struct Failure {
    error: ProviderError,
}

#[derive(Debug, Default, Deserialize)]
struct ProviderError {
    #[serde(rename = "type")]
    kind: Option<String>,
    code: Option<String>,
    decline_code: Option<String>,
    message: Option<String>,
    param: Option<String>,
}

impl ProviderError {
    /// The refusal as our events publish it: by the issuer's reason, if the provider gives one.
    fn refusal(&self) -> Answer {
        let specific = self.decline_code.as_deref().filter(|code| *code != "generic_decline");
        let code = specific.or(self.code.as_deref()).or(self.kind.as_deref());
        Answer::refused(code.unwrap_or_default(), self.message.as_deref().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use contracts::{Money, OrderId};
    use expect_test::expect;

    use super::*;

    #[test]
    fn how_a_hold_stands_says_what_became_of_a_deed() {
        let charge = Charge {
            order_id: OrderId::from("o-1".to_owned()),
            amount: Money { amount: 500, currency: "EUR".to_owned() },
            method: "pm_card_visa".to_owned(),
            provider_ref: Some("pi_1".to_owned()),
            asked_at: None,
        };
        let standings = [
            r#""requires_payment_method""#,
            r#""requires_payment_method", "last_payment_error": {"code": "card_declined"}"#,
            r#""requires_confirmation""#,
            r#""requires_action""#,
            r#""requires_capture""#,
            r#""processing""#,
            r#""succeeded""#,
            r#""succeeded", "latest_charge": {"refunded": true}"#,
            r#""canceled""#,
        ];
        let mut table = String::new();
        for standing_now in standings {
            let intent =
                format!(r#"{{"id": "pi_1", "amount": 500, "currency": "eur", "status": {standing_now}}}"#);
            let intent: Intent = serde_json::from_str(&intent).unwrap();
            writeln!(table, "{standing_now}").unwrap();
            for operation in [Operation::Authorize, Operation::Capture, Operation::Void, Operation::Refund] {
                let verdict = match standing(operation, &charge, &intent) {
                    Ok(None) => "not done".to_owned(),
                    Ok(Some(End::Answer(Answer::Done(id)))) => format!("done: {id}"),
                    Ok(Some(End::Answer(Answer::Refused { code, .. }))) => format!("refused: {code}"),
                    Ok(Some(End::LeftOpen { id, refusal: Answer::Refused { code, .. } })) => {
                        format!("refused: {code}, once {id} is given up")
                    }
                    Ok(Some(End::LeftOpen { .. })) => unreachable!("an open hold is no success"),
                    Err(e) => e.to_string(),
                };
                writeln!(table, "    {operation:?}: {verdict}").unwrap();
            }
        }
        expect![[r#"
            "requires_payment_method"
                Authorize: not done
                Capture: conflict: pi_1 of order o-1 is requires_payment_method, which does not fit Capture
                Void: not done
                Refund: conflict: pi_1 of order o-1 is requires_payment_method, which does not fit Refund
            "requires_payment_method", "last_payment_error": {"code": "card_declined"}
                Authorize: refused: card_declined
                Capture: conflict: pi_1 of order o-1 is requires_payment_method, which does not fit Capture
                Void: not done
                Refund: conflict: pi_1 of order o-1 is requires_payment_method, which does not fit Refund
            "requires_confirmation"
                Authorize: refused: not_confirmed, once pi_1 is given up
                Capture: conflict: pi_1 of order o-1 is requires_confirmation, which does not fit Capture
                Void: not done
                Refund: conflict: pi_1 of order o-1 is requires_confirmation, which does not fit Refund
            "requires_action"
                Authorize: refused: authentication_required, once pi_1 is given up
                Capture: conflict: pi_1 of order o-1 is requires_action, which does not fit Capture
                Void: not done
                Refund: conflict: pi_1 of order o-1 is requires_action, which does not fit Refund
            "requires_capture"
                Authorize: done: pi_1
                Capture: not done
                Void: not done
                Refund: conflict: pi_1 of order o-1 is requires_capture, which does not fit Refund
            "processing"
                Authorize: outcome unknown: pi_1 of order o-1 is still being processed
                Capture: outcome unknown: pi_1 of order o-1 is still being processed
                Void: outcome unknown: pi_1 of order o-1 is still being processed
                Refund: outcome unknown: pi_1 of order o-1 is still being processed
            "succeeded"
                Authorize: done: pi_1
                Capture: done: pi_1
                Void: conflict: pi_1 of order o-1 was captured and cannot be voided: give the money back in the dashboard
                Refund: not done
            "succeeded", "latest_charge": {"refunded": true}
                Authorize: done: pi_1
                Capture: done: pi_1
                Void: done: pi_1
                Refund: done: pi_1
            "canceled"
                Authorize: refused: canceled
                Capture: refused: canceled
                Void: done: pi_1
                Refund: conflict: pi_1 of order o-1 is canceled, which does not fit Refund
        "#]].assert_eq(&table);
    }
}
