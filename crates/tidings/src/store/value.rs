//! Parameters and rows, the same for every database.

use rusqlite::types::{ToSqlOutput, ValueRef};

use crate::error::Error;

/// A parameter of a statement. Make a list with [`params!`](crate::params).
#[derive(Clone, Copy, Debug)]
pub enum Param<'a> {
    /// SQL null.
    Null,
    /// A whole number, a count, an amount, microseconds; booleans are 0 and 1.
    Integer(i64),
    /// Text.
    Text(&'a str),
    /// Bytes.
    Blob(&'a [u8]),
}

/// Parameters `$1`, `$2`, … of a statement: `params![order.id, 3, None::<&str>]`.
///
/// ```
/// use tidings::{Param, params};
///
/// let (id, grams, note) = (String::from("p1"), 250_u32, None::<&str>);
/// let row: &[Param<'_>] = params![&id, grams, note];
/// assert!(matches!(row, [Param::Text("p1"), Param::Integer(250), Param::Null]));
/// ```
#[macro_export]
macro_rules! params {
    ($($value:expr),* $(,)?) => { &[$($crate::Param::from($value)),*] };
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl From<$type> for Param<'_> {
            fn from(value: $type) -> Self {
                Self::Integer(i64::from(value))
            }
        }
    )*};
}
integers!(i64, i32, u32, u16, bool);

impl From<u64> for Param<'_> {
    fn from(value: u64) -> Self {
        Self::Integer(i64::try_from(value).expect("counters and amounts stay below 2^63"))
    }
}

impl From<jiff::Timestamp> for Param<'_> {
    fn from(value: jiff::Timestamp) -> Self {
        Self::Integer(value.as_microsecond())
    }
}

impl<'a> From<&'a str> for Param<'a> {
    fn from(value: &'a str) -> Self {
        Self::Text(value)
    }
}

impl<'a> From<&'a String> for Param<'a> {
    fn from(value: &'a String) -> Self {
        Self::Text(value)
    }
}

impl<'a> From<&'a [u8]> for Param<'a> {
    fn from(value: &'a [u8]) -> Self {
        Self::Blob(value)
    }
}

impl<'a, T: Into<Param<'a>>> From<Option<T>> for Param<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl rusqlite::ToSql for Param<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match *self {
            Self::Null => ValueRef::Null,
            Self::Integer(value) => ValueRef::Integer(value),
            Self::Text(value) => ValueRef::Text(value.as_bytes()),
            Self::Blob(value) => ValueRef::Blob(value),
        }))
    }
}

/// One row of an answer.
#[derive(Clone, Debug)]
pub struct Row(pub(crate) Vec<Value>);

/// One value of a row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Integer(i64),
    Text(String),
    Blob(Vec<u8>),
}

impl Row {
    /// The value of a column, counted from 0.
    ///
    /// ```
    /// # use tidings::prelude::*;
    /// # #[tokio::main] async fn main() -> Result<(), Error> {
    /// # let scratch = tidings_testkit::Scratch::new();
    /// # let store = Store::open(&scratch.url(), "shipping", &[]).await?;
    /// let rows = store.query("SELECT 'p1', 250, NULL", &[]).await?;
    /// let (id, grams): (String, u32) = (rows[0].get(0)?, rows[0].get(1)?);
    /// assert_eq!((&*id, grams), ("p1", 250));
    /// assert_eq!(rows[0].get::<Option<String>>(2)?, None);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When there is no such column or it holds another type.
    pub fn get<T: FromValue>(&self, column: usize) -> Result<T, Error> {
        let value = self.0.get(column);
        value.and_then(T::from_value).ok_or_else(|| {
            Error::invalid(format!(
                "column {column} of the answer is {value:?}, not {}",
                std::any::type_name::<T>()
            ))
        })
    }
}

/// A type as which a column can be read.
pub trait FromValue: Sized {
    #[doc(hidden)]
    #[allow(private_interfaces)] // rows are read through `Row::get`; the raw value stays inside
    fn from_value(value: &Value) -> Option<Self>;
}

macro_rules! from_value {
    ($($type:ty: $pattern:pat => $value:expr;)*) => {$(
        impl FromValue for $type {
            #[allow(private_interfaces)] // as in the trait
            fn from_value(value: &Value) -> Option<Self> {
                match value {
                    $pattern => $value,
                    _ => None,
                }
            }
        }
    )*};
}
from_value! {
    i64: Value::Integer(v) => Some(*v);
    u64: Value::Integer(v) => u64::try_from(*v).ok();
    i32: Value::Integer(v) => i32::try_from(*v).ok();
    u32: Value::Integer(v) => u32::try_from(*v).ok();
    u16: Value::Integer(v) => u16::try_from(*v).ok();
    bool: Value::Integer(v) => Some(*v != 0);
    jiff::Timestamp: Value::Integer(v) => jiff::Timestamp::from_microsecond(*v).ok();
    String: Value::Text(v) => Some(v.clone());
    Vec<u8>: Value::Blob(v) => Some(v.clone());
}

impl<T: FromValue> FromValue for Option<T> {
    #[allow(private_interfaces)] // as in the trait
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            value => T::from_value(value).map(Some),
        }
    }
}

impl From<ValueRef<'_>> for Value {
    fn from(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(v) => Self::Integer(v),
            // The framework and its services store no floating point numbers.
            ValueRef::Real(v) => Self::Text(v.to_string()),
            ValueRef::Text(v) => Self::Text(String::from_utf8_lossy(v).into_owned()),
            ValueRef::Blob(v) => Self::Blob(v.to_vec()),
        }
    }
}

/// The beginning of a statement, for errors.
pub(super) fn first_words(sql: &str) -> String {
    let words: Vec<&str> = sql.split_whitespace().take(6).collect();
    format!("«{} …»", words.join(" "))
}
