//! Answers that an operator states, of an external call whose outcome nobody knows.

use serde::Deserialize;
use serde_json::Value;

use super::Answer;
use crate::domain::Operation;

/// The longest name of the provider's for anything, as it says.
const REFERENCE_CHARS_MAX: usize = 255;
/// The form of an outcome, for people.
const FORM: &str =
    r#"say {"done": "pi_…"}, or {"refused": {"code": "card_declined", "reason": "the bank said no"}}"#;

/// An answer as an operator writes it.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum StatedAnswer {
    /// Done, under this name of the provider's.
    Done(String),
    Refused(StatedRefusal),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StatedRefusal {
    code: String,
    reason: String,
}

impl Answer {
    /// Reads the outcome that an operator states of an external call.
    ///
    /// # Errors
    /// It is none, or none of this operation: the reason, for the operator.
    pub fn stated(operation: Operation, outcome: Value) -> Result<Self, String> {
        match serde_json::from_value(outcome).map_err(|e| format!("this is no outcome ({e}): {FORM}"))? {
            StatedAnswer::Done(reference) if is_reference(&reference) => Ok(Self::Done(reference)),
            StatedAnswer::Done(reference) => Err(format!(
                "{reference:?} is no name of the provider's, which has 1 to {REFERENCE_CHARS_MAX} letters, digits, `_`, `.` \
                 and `-`: {FORM}"
            )),
            StatedAnswer::Refused(_) if matches!(operation, Operation::Void | Operation::Refund) => {
                Err(format!(
                    "a {} has no refusal: an order that is cancelled is owed it; say {{\"done\": …}}, or that it is absent",
                    operation.name()
                ))
            }
            StatedAnswer::Refused(StatedRefusal { code, reason }) => {
                let refusal = Self::refused(&code, &reason);
                let as_stated = Self::Refused { code, reason };
                // Nothing is cut off silently, and nothing made up.
                if refusal != as_stated {
                    return Err(format!("a code has 1 to 200 characters, a reason at most 1000: {FORM}"));
                }
                Ok(as_stated)
            }
        }
    }
}

/// Tells whether a text can be a name of the provider's: it becomes a part of paths.
fn is_reference(text: &str) -> bool {
    (1..=REFERENCE_CHARS_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_outcome_is_read_strictly() {
        let read = |operation, outcome| Answer::stated(operation, outcome);
        let done = Answer::Done("pi_1".to_owned());
        for operation in [Operation::Authorize, Operation::Capture, Operation::Void, Operation::Refund] {
            assert_eq!(read(operation, json!({"done": "pi_1"})), Ok(done.clone()));
        }
        let refused = json!({"refused": {"code": "card_declined", "reason": "no"}});
        assert_eq!(read(Operation::Authorize, refused.clone()), Ok(Answer::refused("card_declined", "no")));
        for operation in [Operation::Void, Operation::Refund] {
            assert!(read(operation, refused.clone()).unwrap_err().contains("has no refusal"));
        }
        for wrong in [
            json!("done"),
            json!({}),
            json!(null),
            json!({"done": null}),
            json!({"done": ""}),
            json!({"done": "../refunds"}),
            json!({"done": "p".repeat(256)}),
            json!({"done": "pi_1", "refused": {"code": "a", "reason": "b"}}),
            json!({"paid": "pi_1"}),
            json!({"refused": {"code": "card_declined"}}),
            json!({"refused": {"code": "", "reason": "no"}}),
            json!({"refused": {"code": "a".repeat(201), "reason": "no"}}),
            json!({"refused": {"code": "a", "reason": "b".repeat(1001)}}),
            json!({"refused": {"code": "a", "reason": "b", "note": "c"}}),
        ] {
            let told = read(Operation::Authorize, wrong.clone()).unwrap_err();
            assert!(told.contains(r#"{"done": "pi_…"}"#), "{wrong}: {told}");
        }
    }
}
