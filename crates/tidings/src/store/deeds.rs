//! The things that a transaction would do, in words.

use crate::effect::EffectRequest;
use crate::message::Draft;

/// What was published and asked for, in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Deeds {
    /// Types and keys of events.
    pub(crate) published: Vec<(String, String)>,
    /// Kinds and keys of effects.
    pub(crate) effects: Vec<(String, String)>,
    /// Keys of effects that were taken back.
    pub(crate) cancelled: Vec<String>,
}

impl Deeds {
    pub(super) fn of(drafts: &[Draft], asked: &[EffectRequest], cancelled: &[String]) -> Self {
        let published = |draft: &Draft| {
            let event_type = draft.message.header("ce_type").unwrap_or_default();
            (event_type.to_owned(), draft.message.key_text().into_owned())
        };
        Self {
            published: drafts.iter().map(published).collect(),
            effects: asked.iter().map(|asked| (asked.kind.clone(), asked.key.clone())).collect(),
            cancelled: cancelled.to_vec(),
        }
    }
}
