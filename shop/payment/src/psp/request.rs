//! The requests that the provider takes, and its refusals.

use axum::Json;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::domain::Operation;
use crate::gateway::stripe::units;

/// Longest list that can be asked for, and its length where the request names none.
const LIMIT_MAX: usize = 100;
const LIMIT: usize = 10;

/// Says that an answer was given before.
pub const REPLAYED: (&str, &str) = ("idempotent-replayed", "true");

/// An operation that is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Asked {
    /// A hold.
    Create(Create),
    /// To collect this one.
    Capture(String),
    /// To give it up.
    Cancel(String),
    /// To give its money back.
    Refund(String),
}

/// The terms of a hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Create {
    pub amount: i64,
    pub currency: String,
    pub method: String,
    /// In the order of their names.
    pub metadata: Vec<(String, String)>,
}

impl Asked {
    /// Reads a `POST`.
    pub fn read(path: &str, form: &[u8]) -> Result<Self, Failure> {
        let mut form = Form::read(form);
        let segments: Vec<&str> = path.split('/').skip(2).collect();
        let asked = match segments[..] {
            ["payment_intents"] => Self::Create(Create::read(&mut form)?),
            ["payment_intents", id, "capture"] => Self::Capture(id.to_owned()),
            ["payment_intents", id, "cancel"] => Self::Cancel(id.to_owned()),
            ["refunds"] => Self::Refund(form.required("payment_intent")?),
            _ => return Err(Failure::no_such_url(&Method::POST, path)),
        };
        form.nothing_else()?;
        Ok(asked)
    }

    /// Returns the kind of operation.
    pub fn operation(&self) -> Operation {
        match self {
            Self::Create(_) => Operation::Authorize,
            Self::Capture(_) => Operation::Capture,
            Self::Cancel(_) => Operation::Void,
            Self::Refund(_) => Operation::Refund,
        }
    }
}

impl Create {
    fn read(form: &mut Form) -> Result<Self, Failure> {
        let amount = form.required("amount")?;
        let amount = amount.parse().ok().filter(|amount| *amount >= 0);
        let create = Self {
            amount: amount
                .ok_or_else(|| Failure::invalid("amount", "parameter_invalid_integer", "Invalid integer"))?,
            currency: form.required("currency")?,
            method: form.required("payment_method")?,
            metadata: form.metadata(),
        };
        if create.currency.len() != 3 || !create.currency.bytes().all(|b| b.is_ascii_alphabetic()) {
            return Err(Failure::invalid("currency", "parameter_invalid", "Invalid currency"));
        }
        create.check_units()?;
        for (name, only) in [("confirm", "true"), ("capture_method", "manual")] {
            if form.required(name)? != only {
                return Err(Failure::invalid(
                    name,
                    "parameter_invalid",
                    &format!("The sandbox knows only {only}"),
                ));
            }
        }
        Ok(create)
    }

    /// Amounts in the provider's units, as it takes them.
    fn check_units(&self) -> Result<(), Failure> {
        let Some(step) = units::step(&self.currency) else {
            return Err(Failure::invalid("currency", "parameter_invalid", "Invalid currency"));
        };
        if self.amount % step != 0 {
            let message =
                format!("Invalid amount: in {} it must be evenly divisible by {step}", self.currency);
            return Err(Failure::invalid("amount", "invalid_charge_amount_no_decimal_compatible", &message));
        }
        Ok(())
    }
}

/// The page of intents to list, newest first.
#[derive(Debug, PartialEq, Eq)]
pub struct List {
    pub limit: usize,
    pub starting_after: Option<String>,
    pub created_from: Option<i64>,
    pub created_before: Option<i64>,
    /// Charges in whole, not by their ids alone.
    pub expand: bool,
}

/// Reads the query of the list.
pub fn read_list(query: Option<&str>) -> Result<List, Failure> {
    let mut form = Form::read(query.unwrap_or_default().as_bytes());
    let limit = form.take("limit").map_or(Some(LIMIT), |limit| limit.parse().ok());
    let mut second = |name: &str| {
        let read = |second: String| {
            second.parse().map_err(|_| Failure::invalid(name, "parameter_invalid_integer", "Invalid integer"))
        };
        form.take(name).map(read).transpose()
    };
    let (created_from, created_before) = (second("created[gte]")?, second("created[lt]")?);
    let list = List {
        limit: limit.filter(|limit| (1..=LIMIT_MAX).contains(limit)).ok_or_else(|| {
            Failure::invalid("limit", "parameter_invalid_integer", "A limit is a number from 1 to 100")
        })?,
        starting_after: form.take("starting_after"),
        created_from,
        created_before,
        expand: form.expand("data.latest_charge")?,
    };
    form.nothing_else()?;
    Ok(list)
}

/// Reads the query of a single intent: whether its charge is to be shown in whole.
pub fn read_retrieve(query: Option<&str>) -> Result<bool, Failure> {
    let mut form = Form::read(query.unwrap_or_default().as_bytes());
    let expand = form.expand("latest_charge")?;
    form.nothing_else()?;
    Ok(expand)
}

/// Parameters, taken one by one: what is left in the end is unknown.
struct Form(Vec<(String, String)>);

impl Form {
    fn read(form: &[u8]) -> Self {
        let mut pairs: Vec<_> = form_urlencoded::parse(form).into_owned().collect();
        pairs.sort_unstable();
        Self(pairs)
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let index = self.0.iter().position(|(found, _)| found == name)?;
        Some(self.0.remove(index).1)
    }

    fn required(&mut self, name: &str) -> Result<String, Failure> {
        let value = self.take(name).filter(|value| !value.is_empty());
        value.ok_or_else(|| Failure::invalid(name, "parameter_missing", "Missing required param"))
    }

    /// Whether the one thing that can be shown in whole is to be.
    fn expand(&mut self, only: &str) -> Result<bool, Failure> {
        match self.take("expand[]") {
            None => Ok(false),
            Some(asked) if asked == only => Ok(true),
            Some(_) => {
                let message = format!("The sandbox expands {only} only");
                Err(Failure::invalid("expand", "parameter_invalid", &message))
            }
        }
    }

    fn metadata(&mut self) -> Vec<(String, String)> {
        let name = |key: &str| Some(key.strip_prefix("metadata[")?.strip_suffix(']')?.to_owned());
        let mut metadata = Vec::new();
        self.0.retain_mut(|(key, value)| match name(key) {
            Some(name) => {
                metadata.push((name, std::mem::take(value)));
                false
            }
            None => true,
        });
        metadata
    }

    fn nothing_else(&self) -> Result<(), Failure> {
        match self.0.first() {
            Some((name, _)) => Err(Failure::invalid(name, "parameter_unknown", "Received unknown parameter")),
            None => Ok(()),
        }
    }
}

/// A no, in the provider's form.
#[derive(Clone, Debug)]
pub struct Failure {
    status: StatusCode,
    error: Value,
    is_again: bool,
}

impl Failure {
    fn new(status: StatusCode, kind: &str, code: Option<&str>, message: impl Into<String>) -> Self {
        let mut error = json!({ "type": kind, "message": message.into() });
        if let Some(code) = code {
            error["code"] = code.into();
        }
        Self { status, error, is_again: false }
    }

    fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.error[name] = value.into();
        self
    }

    fn invalid(param: &str, code: &str, message: &str) -> Self {
        let message = format!("{message}: {param}");
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", Some(code), message).with("param", param)
    }

    /// The card says no. `code` is the issuer's reason where that is all there is to say.
    pub fn card(operation: Operation, code: &str, reason: &str, intent: Value) -> Self {
        let failure = |code| Self::new(StatusCode::PAYMENT_REQUIRED, "card_error", Some(code), reason);
        let failure = match (operation, code) {
            (Operation::Authorize, "card_declined") => failure(code).with("decline_code", "generic_decline"),
            (Operation::Authorize, _) => failure("card_declined").with("decline_code", code),
            _ => failure(code),
        };
        failure.with("payment_intent", intent)
    }

    /// The failure as it was answered before.
    pub fn again(mut self) -> Self {
        self.is_again = true;
        self
    }

    /// The error as intents remember it.
    pub fn error(self) -> Value {
        self.error
    }

    /// The intent is not in a state for that.
    pub fn unexpected_state(message: String) -> Self {
        let code = Some("payment_intent_unexpected_state");
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", code, message)
    }

    pub fn already_refunded(charge: &str) -> Self {
        let message = format!("Charge {charge} has already been refunded.");
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", Some("charge_already_refunded"), message)
    }

    pub fn no_such_intent(id: &str) -> Self {
        let message = format!("No such payment_intent: '{id}'");
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", Some("resource_missing"), message)
    }

    pub fn no_such_url(method: &Method, path: &str) -> Self {
        let message = format!("Unrecognized request URL ({method}: {path}).");
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", None, message)
    }

    pub fn no_api_key() -> Self {
        let message = "You did not provide an API key: send it as 'Authorization: Bearer YOUR_SECRET_KEY'.";
        Self::new(StatusCode::UNAUTHORIZED, "invalid_request_error", None, message)
    }

    pub fn key_used_otherwise() -> Self {
        let message = "Keys for idempotent requests can only be used with the same parameters they were first used with.";
        Self::new(StatusCode::BAD_REQUEST, "idempotency_error", None, message)
    }

    pub fn key_in_use() -> Self {
        let message = "There is currently another in-progress request using this Idempotency-Key.";
        Self::new(StatusCode::CONFLICT, "idempotency_error", Some("idempotency_key_in_use"), message)
    }

    pub fn full() -> Self {
        let message = "The sandbox holds as many open payments as it can.";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "invalid_request_error", Some("rate_limit"), message)
    }

    pub fn unavailable() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "api_error",
            None,
            "The sandbox is unavailable, as it was told.",
        )
    }

    pub fn internal(message: &str) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "api_error", None, message)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let replayed = self.is_again.then_some([REPLAYED]);
        (self.status, replayed, Json(json!({ "error": self.error }))).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(failure: &Failure) -> &str {
        failure.error["code"].as_str().unwrap_or_default()
    }

    #[test]
    fn a_request_with_anything_missing_wrong_or_unknown_is_refused_by_its_name() {
        let form = "amount=1&currency=eur&payment_method=pm_card_visa&confirm=true&capture_method=manual&metadata[a]=b";
        let read = |form: &str| Asked::read("/v1/payment_intents", form.as_bytes());
        let asked = read(form).unwrap();
        assert_eq!(
            read(&format!("metadata%5Ba%5D=b&{}", form.trim_end_matches("&metadata[a]=b"))).unwrap(),
            asked
        );
        let refused = |form: &str, name, why| {
            let failure = read(form).expect_err(form);
            assert_eq!((failure.error["param"].as_str(), code(&failure)), (Some(name), why), "{form}");
        };
        refused(&form.replace("amount=1", ""), "amount", "parameter_missing");
        refused(&form.replace("amount=1", "amount=-1"), "amount", "parameter_invalid_integer");
        refused(&form.replace("eur", "euro"), "currency", "parameter_invalid");
        refused(&form.replace("manual", "automatic"), "capture_method", "parameter_invalid");
        refused(&format!("{form}&metadata=1"), "metadata", "parameter_unknown");
    }

    #[test]
    fn a_list_has_a_length_that_makes_sense() {
        let short =
            List { limit: 10, starting_after: None, created_from: None, created_before: None, expand: false };
        assert_eq!(read_list(None).unwrap(), short);
        let query =
            "limit=100&starting_after=pi_1&created%5Bgte%5D=7&created[lt]=9&expand[]=data.latest_charge";
        let expected = List {
            limit: 100,
            starting_after: Some("pi_1".to_owned()),
            created_from: Some(7),
            created_before: Some(9),
            expand: true,
        };
        assert_eq!(read_list(Some(query)).unwrap(), expected);
        for query in [
            "limit=0",
            "limit=101",
            "limit=many",
            "created[gte]=now",
            "created[lt]=",
            "expand[]=latest_charge",
            "order_id=o-1",
        ] {
            read_list(Some(query)).expect_err(query);
        }
    }
}
