//! Kinds of settings: text, numbers, switches. A setting's flag says which it is; a file and a variable are read by it.

use std::any::TypeId;
use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Arg, ArgAction};
use figment::value::{Num, Value};

/// Characters of a wrong value that are told.
const FOUND_MAX: usize = 40;

/// The values that a setting may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SettingKind {
    /// Any text: a URL, an address, a path.
    Text,
    /// A whole number that is not negative.
    Whole { max: u64 },
    /// On or off.
    Switch,
    /// One of these words.
    OneOf(Vec<String>),
    /// A type of the program's own, which judges by itself.
    Own,
}

impl SettingKind {
    /// The kind of what a flag takes.
    pub(super) fn of(flag: &Arg) -> Self {
        let id = flag.get_value_parser().type_id();
        if matches!(flag.get_action(), ArgAction::SetTrue | ArgAction::SetFalse) || id == TypeId::of::<bool>()
        {
            return Self::Switch;
        }
        let numbers = [
            (TypeId::of::<u16>(), u16::MAX.into()),
            (TypeId::of::<u32>(), u32::MAX.into()),
            (TypeId::of::<u64>(), u64::MAX),
            (TypeId::of::<usize>(), usize::MAX as u64),
        ];
        if let Some((_, max)) = numbers.into_iter().find(|(number, _)| id == *number) {
            return Self::Whole { max };
        }
        let words: Vec<String> =
            flag.get_possible_values().iter().map(|word| word.get_name().to_owned()).collect();
        match words.as_slice() {
            [] if id == TypeId::of::<String>() || id == TypeId::of::<PathBuf>() => Self::Text,
            [] => Self::Own,
            _ => Self::OneOf(words),
        }
    }

    /// The value that a text is, of a variable or of a file that one names.
    pub(super) fn read(&self, text: &str) -> Option<Value> {
        match self {
            Self::Text => Some(unquoted(text).into()),
            Self::Whole { max } => {
                let number = text.trim().parse::<u64>().ok();
                number.filter(|number| number <= max).map(Value::from)
            }
            Self::Switch => switch(text).map(Value::from),
            Self::OneOf(words) => {
                let word = unquoted(text.trim());
                words.iter().any(|known| known == word).then(|| word.into())
            }
            Self::Own => Some(plain(text)),
        }
    }

    /// The value that stands in a TOML file, if it is one.
    pub(super) fn take(&self, value: &Value) -> Option<Value> {
        match (self, value) {
            (Self::Own, _) | (Self::Switch, Value::Bool(..)) => Some(value.clone()),
            (Self::Text | Self::OneOf(_) | Self::Switch, Value::String(_, text)) => self.read(text),
            (Self::Whole { .. }, Value::Num(_, number)) if !matches!(number, Num::F32(_) | Num::F64(_)) => {
                self.read(&shown(value))
            }
            _ => None,
        }
    }

    /// The values that are wanted, in words.
    pub(super) fn wanted(&self, found: &str) -> String {
        match self {
            Self::Whole { max } if found.trim().parse::<i128>().is_ok() => format!("0 to {max} is wanted"),
            Self::Whole { .. } => "a whole number is wanted".to_owned(),
            Self::Switch => "true or false is wanted".to_owned(),
            Self::OneOf(words) => format!("{} is wanted", words.join(" or ")),
            Self::Text | Self::Own => "text in quotes is wanted".to_owned(),
        }
    }
}

/// Returns the value that a text looks like: a truth value, a number, or else the text itself.
fn plain(text: &str) -> Value {
    match (text.parse::<bool>(), text.parse::<i64>(), text.parse::<f64>()) {
        (Ok(is_on), ..) => is_on.into(),
        (_, Ok(number), _) => number.into(),
        (.., Ok(number)) => number.into(),
        _ => text.into(),
    }
}

/// The usual spellings.
fn switch(text: &str) -> Option<bool> {
    match unquoted(text.trim()).to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// A text without the quotes around it, which files of variables may hand on.
fn unquoted(text: &str) -> &str {
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text)
}

/// A wrong value as it is told: its beginning, in one line.
pub(super) fn quoted(text: &str) -> String {
    let mut begins: String = text.chars().take(FOUND_MAX).collect();
    if begins.len() < text.len() {
        begins.push('…');
    }
    format!("{begins:?}")
}

/// A value of a TOML file as it is told.
pub(super) fn shown(value: &Value) -> String {
    let mut shown = String::new();
    let _ = match value {
        Value::String(_, text) => write!(shown, "{}", quoted(text)),
        Value::Char(_, c) => write!(shown, "{c:?}"),
        Value::Bool(_, is_on) => write!(shown, "{is_on}"),
        Value::Num(_, number) => match (number.to_i128(), number.to_u128(), number.to_f64()) {
            (Some(number), _, _) => write!(shown, "{number}"),
            (_, Some(number), _) => write!(shown, "{number}"),
            (_, _, number) => write!(shown, "{}", number.unwrap_or(f64::NAN)),
        },
        Value::Array(..) => write!(shown, "[…]"),
        Value::Dict(..) | Value::Empty(..) => write!(shown, "{{…}}"),
    };
    shown
}
