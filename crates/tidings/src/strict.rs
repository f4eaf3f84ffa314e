//! JSON from outside, read as a validator reads it: one verdict, whichever way a document comes in.
//!
//! Beyond what serde asks of a document: a struct is an object, never a list of its fields; a whole number may
//! be written `2.0` or `1e2`, and lies between -2^63 and 2^63 - 1; text has no U+0000, which PostgreSQL
//! cannot store.

use std::fmt;

use serde::Serialize;
use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error as _, MapAccess, SeqAccess,
    Unexpected, VariantAccess, Visitor,
};

use crate::error::Error;

/// Begins the error of text that does not match it.
pub(crate) const NO_TEXT: &str = "text with the character U+0000";

/// Reads a document.
pub fn from_slice<'a, T: Deserialize<'a>>(json: &'a [u8]) -> serde_json::Result<T> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let value = T::deserialize(Strict(&mut deserializer))?;
    deserializer.end()?;
    Ok(value)
}

/// JSON as it is stored in a text column.
pub(crate) fn to_text(value: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|e| Error::invalid(format!("cannot be written as JSON: {e}")))
}

/// A deserializer, visitor, seed or access that reads as this module says.
pub(crate) struct Strict<T>(pub(crate) T);

/// A visitor of a struct: a list is refused.
struct StructFields<V>(V);

/// A visitor of a whole number.
struct Whole<V>(V);

macro_rules! forward {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.0.$method(Strict(visitor))
        }
    )*};
}

macro_rules! whole {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.0.$method(Whole(visitor))
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Strict<D> {
    type Error = D::Error;

    forward! {
        deserialize_any deserialize_bool deserialize_f32 deserialize_f64 deserialize_char deserialize_str
        deserialize_string deserialize_bytes deserialize_byte_buf deserialize_option deserialize_unit
        deserialize_seq deserialize_map deserialize_ignored_any
    }
    whole! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
    }

    /// A name that is none of the fields' is ignored, whatever it is.
    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_identifier(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_struct(name, fields, StructFields(visitor))
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_unit_struct(name, Strict(visitor))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_newtype_struct(name, Strict(visitor))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_tuple(len, Strict(visitor))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_tuple_struct(name, len, Strict(visitor))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_enum(name, variants, Strict(visitor))
    }

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }
}

fn text<E: de::Error>(text: &str) -> Result<&str, E> {
    if text.as_bytes().contains(&0) { Err(E::custom(NO_TEXT)) } else { Ok(text) }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Strict<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    fn visit_bool<E: de::Error>(self, v: bool) -> Result<V::Value, E> {
        self.0.visit_bool(v)
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<V::Value, E> {
        self.0.visit_i64(v)
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<V::Value, E> {
        self.0.visit_u64(v)
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<V::Value, E> {
        self.0.visit_f64(v)
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<V::Value, E> {
        self.0.visit_str(text(v)?)
    }

    fn visit_borrowed_str<E: de::Error>(self, v: &'de str) -> Result<V::Value, E> {
        // It stands in the document as it is, where U+0000 can only stand escaped.
        self.0.visit_borrowed_str(v)
    }

    fn visit_string<E: de::Error>(self, v: String) -> Result<V::Value, E> {
        text(&v)?;
        self.0.visit_string(v)
    }

    fn visit_bytes<E: de::Error>(self, v: &[u8]) -> Result<V::Value, E> {
        self.0.visit_bytes(v)
    }

    fn visit_borrowed_bytes<E: de::Error>(self, v: &'de [u8]) -> Result<V::Value, E> {
        self.0.visit_borrowed_bytes(v)
    }

    fn visit_none<E: de::Error>(self) -> Result<V::Value, E> {
        self.0.visit_none()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.0.visit_some(Strict(deserializer))
    }

    fn visit_unit<E: de::Error>(self) -> Result<V::Value, E> {
        self.0.visit_unit()
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.0.visit_newtype_struct(Strict(deserializer))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<V::Value, A::Error> {
        self.0.visit_seq(Strict(seq))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(Strict(map))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<V::Value, A::Error> {
        self.0.visit_enum(Strict(data))
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for StructFields<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(Strict(map))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<V::Value, A::Error> {
        Err(A::Error::invalid_type(Unexpected::Seq, &"an object"))
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Whole<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<V::Value, E> {
        self.0.visit_i64(v)
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<V::Value, E> {
        if i64::try_from(v).is_err() {
            return Err(E::invalid_value(Unexpected::Unsigned(v), &"a number below 2^63"));
        }
        self.0.visit_u64(v)
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<V::Value, E> {
        const END: f64 = 9_223_372_036_854_775_808.0; // 2^63
        match v {
            v if v.fract() != 0.0 => Err(E::invalid_type(Unexpected::Float(v), &self.0)),
            v if (0.0..END).contains(&v) => self.0.visit_u64(v as u64),
            v if (-END..0.0).contains(&v) => self.0.visit_i64(v as i64),
            v => Err(E::invalid_value(Unexpected::Float(v), &self.0)),
        }
    }

    /// A key of a map.
    fn visit_str<E: de::Error>(self, v: &str) -> Result<V::Value, E> {
        self.0.visit_str(v)
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Strict<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Strict(deserializer))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.0.next_element_seed(Strict(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.0.next_key_seed(Strict(seed))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.0.next_value_seed(Strict(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for Strict<A> {
    type Error = A::Error;
    type Variant = Strict<A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Strict<A::Variant>), A::Error> {
        self.0.variant_seed(Strict(seed)).map(|(value, variant)| (value, Strict(variant)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.0.unit_variant()
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.0.newtype_variant_seed(Strict(seed))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.0.tuple_variant(len, Strict(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.0.struct_variant(fields, StructFields(visitor))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;
    use serde_json::value::RawValue;

    use super::*;

    #[derive(Debug, Default, PartialEq, serde::Deserialize)]
    #[serde(default)]
    struct All {
        n: u32,
        big: u64,
        signed: i64,
        real: f64,
        text: String,
        list: Vec<All>,
        maybe: Option<Box<All>>,
        pair: (u8, String),
        map: BTreeMap<u16, String>,
        any: Value,
        word: Word,
    }

    #[derive(Debug, Default, PartialEq, serde::Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Word {
        #[default]
        None,
        Of(u8),
        With {
            n: i8,
        },
    }

    fn read(json: &str) -> Result<All, String> {
        from_slice(json.as_bytes()).map_err(|e| e.to_string())
    }

    #[test]
    fn whole_numbers_may_be_written_with_a_point_or_an_exponent() {
        assert_eq!(
            read(r#"{"n": 2.0, "signed": -1e2, "big": 1e18}"#).unwrap(),
            All { n: 2, signed: -100, big: 1_000_000_000_000_000_000, ..All::default() }
        );
        assert_eq!(
            read(r#"{"list": [{"pair": [-0.0, "a"]}], "word": {"of": 3.0}}"#).unwrap().word,
            Word::Of(3)
        );
        assert_eq!(read(r#"{"word": {"with": {"n": -1.0}}, "map": {"7": "a"}}"#).unwrap().map[&7], "a");
        for wrong in ["2.5", "-1", "4294967296", "4294967296.0", "1e300", "\"2\"", "true", "null"] {
            read(&format!(r#"{{"n": {wrong}}}"#)).expect_err(wrong);
        }
        assert_eq!(read(r#"{"big": 9223372036854775807}"#).unwrap().big, i64::MAX.unsigned_abs());
        for wrong in ["9223372036854775808", "18446744073709551615", "9223372036854775808.0", "1e19"] {
            read(&format!(r#"{{"big": {wrong}}}"#)).expect_err(wrong);
        }
    }

    #[test]
    fn a_struct_is_an_object_wherever_it_stands() {
        for wrong in [r#"[1, 2]"#, r#"{"list": [[1]]}"#, r#"{"maybe": [1]}"#, r#"{"word": {"with": [1]}}"#] {
            read(wrong).expect_err(wrong);
        }
        read(r#"{"maybe": {"list": [{}, {}]}, "pair": [1, "a"]}"#).expect("a tuple is a list");
    }

    #[test]
    fn text_has_no_zero_character_wherever_it_stands() {
        for wrong in [
            r#"{"text": "a\u0000"}"#,
            r#"{"map": {"1": "\u0000"}}"#,
            r#"{"any": {"deep": ["\u0000"]}}"#,
            r#"{"any": {"\u0000": 1}}"#,
            r#"{"pair": [1, "\u0000"]}"#,
            r#"{"unknown": 1, "text": "\u0000"}"#,
        ] {
            assert!(read(wrong).expect_err(wrong).contains(NO_TEXT), "{wrong}");
        }
        read(r#"{"text": "a\u0001\\u0000", "real": 2}"#).expect("only the character itself");
    }

    #[test]
    fn what_follows_a_document_is_an_error_and_raw_values_pass() {
        read("{} {}").expect_err("two documents");
        let raw: &RawValue = from_slice(br#"{"a" : [1] }"#).unwrap();
        assert_eq!(raw.get(), r#"{"a" : [1] }"#);
    }
}
