//! The provider's book of holds, collections, refunds and its answers: no clock, no network.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};

use super::request::{Asked, Create, Failure, List};
use crate::domain::Operation;
use crate::gateway::cards::{Act, act, refusal};

/// Payments that have ended and are still known, at about 1 KB each: the oldest is forgotten first, and its
/// keys with it.
const ENDED_MAX: usize = 100_000;
/// Payments in all: those that have not ended are never forgotten, so at some point there can be no more.
const INTENTS_MAX: usize = 1_000_000;

/// The provider's book.
#[derive(Debug, Default)]
pub struct Book {
    /// By number, which is the order in which they were made.
    intents: BTreeMap<u64, Intent>,
    numbers: HashMap<Arc<str>, u64>,
    /// The request (its digest) and the operation that was done under a key.
    keys: HashMap<Arc<str>, (u64, Done)>,
    ended: VecDeque<u64>,
    last: u64,
}

/// A payment from hold to end.
#[derive(Debug)]
struct Intent {
    id: Arc<str>,
    order: Create,
    created: i64,
    standing: Standing,
    keys: Vec<Arc<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Held,
    NeedsAction,
    Declined,
    Captured,
    Canceled,
    Refunded,
}

/// An operation that was done, or refused by the card. The answer to it follows, then and later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    number: u64,
    operation: Operation,
}

impl Book {
    /// Returns the operation that was done under this key before.
    ///
    /// # Errors
    /// Another operation was done under this key.
    pub fn before(&self, asked: &Asked, key: &str) -> Result<Option<Done>, Failure> {
        match self.keys.get(key) {
            Some((digest, done)) if *digest == digest_of(asked) => Ok(Some(*done)),
            Some(_) => Err(Failure::key_used_otherwise()),
            None => Ok(None),
        }
    }

    /// Returns the payment method of the payment that a request is about.
    pub fn method<'a>(&'a self, asked: &'a Asked) -> Option<&'a str> {
        match asked {
            Asked::Create(order) => Some(&order.method),
            Asked::Capture(id) | Asked::Cancel(id) | Asked::Refund(id) => {
                Some(&self.intents[self.numbers.get(&**id)?].order.method)
            }
        }
    }

    /// Does an operation; a new payment is called after `id`.
    ///
    /// # Errors
    /// The operation does not fit the payment. Nothing is done, and nothing remembered.
    pub fn execute(&mut self, asked: &Asked, key: Option<&str>, id: &str, now: i64) -> Result<Done, Failure> {
        let number = match asked {
            Asked::Create(order) => self.create(order, id, now)?,
            Asked::Capture(id) | Asked::Cancel(id) | Asked::Refund(id) => {
                self.advance(asked.operation(), id)?
            }
        };
        let done = Done { number, operation: asked.operation() };
        if let Some(key) = key {
            let key: Arc<str> = key.into();
            self.keys.insert(key.clone(), (digest_of(asked), done));
            self.intents.get_mut(&number).expect("what was done was done to a payment").keys.push(key);
        }
        self.forget();
        Ok(done)
    }

    fn create(&mut self, order: &Create, id: &str, now: i64) -> Result<u64, Failure> {
        if self.intents.len() >= INTENTS_MAX {
            return Err(Failure::full());
        }
        self.last += 1;
        let id: Arc<str> = format!("pi_{id}").into();
        self.numbers.insert(id.clone(), self.last);
        let standing = Standing::first(&order.method);
        let intent = Intent { id, order: order.clone(), created: now, standing, keys: Vec::new() };
        self.intents.insert(self.last, intent);
        if standing == Standing::Declined {
            self.ended.push_back(self.last);
        }
        Ok(self.last)
    }

    fn advance(&mut self, operation: Operation, id: &str) -> Result<u64, Failure> {
        let number = *self.numbers.get(id).ok_or_else(|| Failure::no_such_intent(id))?;
        let intent = self.intents.get_mut(&number).expect("what has a number is in the book");
        let standing = match (operation, intent.standing) {
            (Operation::Capture, Standing::Held) if refusal(operation, &intent.order.method).is_some() => {
                Standing::Held
            }
            (Operation::Capture, Standing::Held) => Standing::Captured,
            (Operation::Void, Standing::Held | Standing::NeedsAction | Standing::Declined) => {
                Standing::Canceled
            }
            (Operation::Refund, Standing::Captured) => Standing::Refunded,
            (Operation::Refund, Standing::Refunded) => {
                return Err(Failure::already_refunded(&intent.charge_id()));
            }
            (_, standing) => {
                return Err(Failure::unexpected_state(format!(
                    "{id} is {}: {operation:?} does not fit",
                    standing.word()
                )));
            }
        };
        if intent.standing.is_open() && !standing.is_open() {
            self.ended.push_back(number);
        }
        intent.standing = standing;
        Ok(number)
    }

    fn forget(&mut self) {
        while self.ended.len() > ENDED_MAX
            && let Some(number) = self.ended.pop_front()
            && let Some(intent) = self.intents.remove(&number)
        {
            self.numbers.remove(&intent.id);
            for key in &intent.keys {
                self.keys.remove(key);
            }
        }
    }

    /// Returns the answer to an operation: the first one and every later one are equal, whatever has been done since.
    ///
    /// # Errors
    /// The card refused it.
    pub fn answer(&self, done: Done) -> Result<Vec<u8>, Failure> {
        let intent = &self.intents[&done.number];
        let refusal = refusal(done.operation, &intent.order.method);
        let standing = match (done.operation, refusal) {
            (Operation::Authorize, _) => Standing::first(&intent.order.method),
            (Operation::Capture, Some(_)) => Standing::Held,
            (Operation::Capture, None) => Standing::Captured,
            (Operation::Void, _) => Standing::Canceled,
            (Operation::Refund, _) => return Ok(json_of(&intent.refund())),
        };
        let intent = intent.shown(standing, false);
        match refusal {
            Some((code, reason)) => Err(Failure::card(done.operation, code, reason, json!(intent))),
            None => Ok(json_of(&intent)),
        }
    }

    /// A payment as it is now, with its charge as a whole or by its id alone.
    ///
    /// # Errors
    /// There is none of that id.
    pub fn retrieve(&self, id: &str, expand: bool) -> Result<Vec<u8>, Failure> {
        let number = self.numbers.get(id).ok_or_else(|| Failure::no_such_intent(id))?;
        let intent = &self.intents[number];
        Ok(json_of(&intent.shown(intent.standing, expand)))
    }

    /// Payments as they are now, newest first.
    ///
    /// # Errors
    /// The one to start after does not exist.
    pub fn list(&self, list: &List) -> Result<Vec<u8>, Failure> {
        let end = match &list.starting_after {
            Some(id) => *self.numbers.get(&**id).ok_or_else(|| Failure::no_such_intent(id))?,
            None => u64::MAX,
        };
        let from = list.created_from.unwrap_or(i64::MIN);
        let before = list.created_before.unwrap_or(i64::MAX);
        let older = self.intents.range(..end).rev().map(|(_, intent)| intent);
        let mut intents = older.take_while(|i| i.created >= from).filter(|i| i.created < before);
        let data: Vec<Shown> =
            intents.by_ref().take(list.limit).map(|i| i.shown(i.standing, list.expand)).collect();
        let page =
            Page { object: "list", url: "/v1/payment_intents", has_more: intents.next().is_some(), data };
        Ok(json_of(&page))
    }
}

impl Standing {
    /// Returns the state in which a payment with this method begins.
    fn first(method: &str) -> Self {
        match act(Operation::Authorize, method, 1) {
            Act::Refuse(..) => Self::Declined,
            Act::AskHolder => Self::NeedsAction,
            Act::Do | Act::DoAfter(_) | Act::DoUnheard | Act::Fail => Self::Held,
        }
    }

    fn is_open(self) -> bool {
        matches!(self, Self::Held | Self::NeedsAction)
    }

    fn word(self) -> &'static str {
        match self {
            Self::Held => "requires_capture",
            Self::NeedsAction => "requires_action",
            Self::Declined => "requires_payment_method",
            Self::Captured | Self::Refunded => "succeeded",
            Self::Canceled => "canceled",
        }
    }
}

impl Intent {
    fn charge_id(&self) -> String {
        self.id.replacen("pi_", "ch_", 1)
    }

    fn shown(&self, standing: Standing, expand: bool) -> Shown<'_> {
        let amount_if = |is: bool| if is { self.order.amount } else { 0 };
        let captured = matches!(standing, Standing::Captured | Standing::Refunded);
        let refunded = standing == Standing::Refunded;
        let latest_charge = match (standing, expand) {
            (Standing::Declined | Standing::NeedsAction, _) => Value::Null,
            (_, false) => self.charge_id().into(),
            (_, true) => json!({
                "id": self.charge_id(),
                "object": "charge",
                "amount": self.order.amount,
                "amount_captured": amount_if(captured),
                "amount_refunded": amount_if(refunded),
                "captured": captured,
                "currency": self.order.currency,
                "paid": true,
                "payment_intent": self.id,
                "refunded": refunded,
            }),
        };
        let declined =
            refusal(Operation::Authorize, &self.order.method).filter(|_| standing == Standing::Declined);
        Shown {
            id: &self.id,
            object: "payment_intent",
            amount: self.order.amount,
            amount_capturable: amount_if(standing == Standing::Held),
            amount_received: amount_if(captured),
            capture_method: "manual",
            created: self.created,
            currency: &self.order.currency,
            last_payment_error: declined
                .map(|(code, reason)| Failure::card(Operation::Authorize, code, reason, Value::Null).error()),
            latest_charge,
            livemode: false,
            metadata: self.order.metadata.iter().map(|(name, value)| (&**name, &**value)).collect(),
            payment_method: &self.order.method,
            payment_method_types: ["card"],
            status: standing.word(),
        }
    }

    fn refund(&self) -> Value {
        json!({
            "id": self.id.replacen("pi_", "re_", 1),
            "object": "refund",
            "amount": self.order.amount,
            "charge": self.charge_id(),
            "created": self.created,
            "currency": self.order.currency,
            "payment_intent": self.id,
            "status": "succeeded",
        })
    }
}

#[derive(Serialize)]
struct Page<'a> {
    object: &'static str,
    url: &'static str,
    has_more: bool,
    data: Vec<Shown<'a>>,
}

/// An intent as the provider shows it.
#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    object: &'static str,
    amount: i64,
    amount_capturable: i64,
    amount_received: i64,
    capture_method: &'static str,
    created: i64,
    currency: &'a str,
    last_payment_error: Option<Value>,
    latest_charge: Value,
    livemode: bool,
    metadata: BTreeMap<&'a str, &'a str>,
    payment_method: &'a str,
    payment_method_types: [&'static str; 1],
    status: &'static str,
}

fn json_of(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("text and numbers are JSON")
}

fn digest_of(asked: &Asked) -> u64 {
    let mut hasher = DefaultHasher::new();
    asked.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(n: usize) -> Asked {
        let metadata = vec![("order_id".to_owned(), format!("o-{n}"))];
        let (currency, method) = ("eur".to_owned(), "pm_card_visa".to_owned());
        Asked::Create(Create { amount: 500, currency, method, metadata })
    }

    #[test]
    fn what_has_ended_is_forgotten_after_a_while_and_what_has_not_is_kept() {
        let mut book = Book::default();
        for n in 0..ENDED_MAX + 2 {
            book.execute(&order(n), Some(&format!("k-{n}")), &n.to_string(), 0).unwrap();
            if n > 0 {
                book.execute(&Asked::Cancel(format!("pi_{n}")), None, "", 0).unwrap();
            }
        }
        assert!(book.retrieve("pi_0", false).is_ok() && book.before(&order(0), "k-0").unwrap().is_some());
        assert!(book.retrieve("pi_1", false).is_err() && book.before(&order(1), "k-1").unwrap().is_none());
        assert!(book.retrieve("pi_2", false).is_ok());
        let sizes = (book.intents.len(), book.numbers.len(), book.keys.len(), book.ended.len());
        assert_eq!(sizes, (ENDED_MAX + 1, ENDED_MAX + 1, ENDED_MAX + 1, ENDED_MAX));
    }
}
