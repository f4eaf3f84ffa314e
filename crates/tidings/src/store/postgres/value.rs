//! Parameters and rows as PostgreSQL has them: every whole number is a 64-bit one here.

use std::error::Error as StdError;

use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use crate::error::Error;
use crate::store::value::{Param, Row, Value};

type Outcome<T> = Result<T, Box<dyn StdError + Sync + Send>>;

/// Written as the type that the statement expects.
impl ToSql for Param<'_> {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Outcome<IsNull> {
        match (*self, ty) {
            (Param::Null, _) => Ok(IsNull::Yes),
            (Param::Integer(value), &Type::INT8) => value.to_sql(ty, out),
            (Param::Integer(value), &Type::INT4) => i32::try_from(value)?.to_sql(ty, out),
            (Param::Integer(value), &Type::INT2) => i16::try_from(value)?.to_sql(ty, out),
            (Param::Integer(value), &Type::BOOL) => (value != 0).to_sql(ty, out),
            (Param::Text(value), ty) if <&str as ToSql>::accepts(ty) => value.to_sql(ty, out),
            (Param::Blob(value), &Type::BYTEA) => value.to_sql(ty, out),
            (value, ty) => Err(format!("{value:?} cannot be written as {ty}").into()),
        }
    }

    fn accepts(_: &Type) -> bool {
        true // checked when written
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Value {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Outcome<Self> {
        Ok(match *ty {
            Type::INT8 => Self::Integer(i64::from_sql(ty, raw)?),
            Type::INT4 => Self::Integer(i32::from_sql(ty, raw)?.into()),
            Type::INT2 => Self::Integer(i16::from_sql(ty, raw)?.into()),
            Type::BOOL => Self::Integer(bool::from_sql(ty, raw)?.into()),
            Type::BYTEA => Self::Blob(raw.to_vec()),
            _ if <String as FromSql>::accepts(ty) => Self::Text(String::from_sql(ty, raw)?),
            _ => return Err(format!("values of type {ty} are not read here; cast them").into()),
        })
    }

    fn from_sql_null(_: &Type) -> Outcome<Self> {
        Ok(Self::Null)
    }

    fn accepts(_: &Type) -> bool {
        true // checked when read
    }
}

/// The columns of a row from `first` on.
pub(super) fn row(row: &tokio_postgres::Row, first: usize) -> Result<Row, Error> {
    let values = (first..row.len()).map(|column| row.try_get(column));
    let values: Result<Vec<Value>, _> = values.collect();
    values.map(Row).map_err(|e| Error::postgres("cannot read an answer", e))
}
