//! The actor and the reason of a change: flags of every command that does.

use serde_json::{Value, json};

/// Characters of a reason, in the admin API.
const REASON_MAX: usize = 500;

/// Flags of a command that changes something.
#[derive(clap::Args)]
pub(crate) struct Change {
    /// Reason, recorded in the audit
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub(crate) reason: String,
    #[command(flatten)]
    pub(crate) actor: Actor,
}

/// The flag that says who acts.
#[derive(clap::Args)]
pub(crate) struct Actor {
    /// Name of who acts, recorded in the audit; $USER if nothing is said
    #[arg(
        long = "as",
        value_name = "NAME",
        env = "USER",
        hide_env = true,
        default_value = UNKNOWN,
        hide_default_value = true
    )]
    acting: String,
}

const UNKNOWN: &str = "unknown";

impl Change {
    /// A body with the reason and the actor.
    pub(crate) fn body(&self, body: Value) -> Value {
        self.actor.body(body, Some(&self.reason))
    }
}

impl Actor {
    /// A body with the actor, and a reason where there is one.
    pub(crate) fn body(&self, mut body: Value, reason: Option<&str>) -> Value {
        let name = if self.acting.is_empty() { UNKNOWN } else { &self.acting };
        body["actor"] = json!(name);
        if let Some(reason) = reason {
            body["reason"] = json!(reason);
        }
        body
    }
}

/// A reason of 1 to 500 characters.
pub(crate) fn reason(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("say why".to_owned()),
        text if text.chars().count() > REASON_MAX => Err(format!("expected at most {REASON_MAX} characters")),
        text => Ok(text.to_owned()),
    }
}
