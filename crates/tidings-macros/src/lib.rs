//! `#[event(…)]`, `#[effect(…)]` and `#[timer(…)]`: a name and a key, declared beside the fields of a struct.

mod effect;

use proc_macro2::TokenStream;
use quote::quote;
use syn::meta::ParseNestedMeta;
use syn::parse::Parse;
use syn::{
    Data, DeriveInput, Error, Fields, Ident, LitInt, LitStr, Result, Type, parse_macro_input, parse_quote,
};

/// Derives `tidings::Event` from `#[event(name = "…", version = N, topic = "…", key = FIELD)]`.
///
/// `alias = "…"` (repeatable) names another word for the type in plain JSON. `upcasts = OlderType` reads
/// events of an older version through `From<OlderType>`; `superseded_by = "….v2"` marks the older type.
#[proc_macro_derive(Event, attributes(event))]
pub fn derive_event(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand(&input).unwrap_or_else(Error::into_compile_error).into()
}

/// Makes a struct an event: `#[event(name = "…", version = N, topic = "…", key = FIELD)]` with the words of
/// [`derive@Event`], and every derive that an event needs beside it.
///
/// Adds `Clone`, `Debug`, `Serialize`, `Deserialize`, `JsonSchema` and `Validate`, as far as the struct does not derive
/// them itself. Of other crates only `garde` has to be a dependency: its derive names it.
#[proc_macro_attribute]
pub fn event(words: proc_macro::TokenStream, item: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let words = TokenStream::from(words);
    let input = parse_macro_input!(item as DeriveInput);
    let mut declared = input.clone();
    declared.attrs.push(parse_quote!(#[event(#words)]));
    let all = ["Clone", "Debug", "Serialize", "Deserialize", "JsonSchema", "Validate"];
    let derives = missing_derives(&input, &all);
    let event = expand(&declared).unwrap_or_else(Error::into_compile_error);
    quote! {
        #[derive(#(#derives),*)]
        #[serde(crate = "::tidings::serde")]
        #[schemars(crate = "::tidings::schemars")]
        #input

        #event
    }
    .into()
}

/// Makes a struct an effect: `#[effect(kind = "authorize", key = order_id, outcome = String)]`, with the derives that it
/// needs. Its permanent key is `authorize/{order_id}`.
///
/// `outcome` is left out where nothing comes back; `provider = "bank"` names who is called, where several kinds of
/// effects call one.
#[proc_macro_attribute]
pub fn effect(words: proc_macro::TokenStream, item: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let input = parse_macro_input!(item as DeriveInput);
    effect::expand(words.into(), &input, effect::Recorded::Effect)
        .unwrap_or_else(Error::into_compile_error)
        .into()
}

/// Makes a struct a timer: `#[timer(kind = "remind", key = order_id)]`, with the derives that it needs. Its permanent
/// key is `remind/{order_id}`.
#[proc_macro_attribute]
pub fn timer(words: proc_macro::TokenStream, item: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let input = parse_macro_input!(item as DeriveInput);
    effect::expand(words.into(), &input, effect::Recorded::Timer)
        .unwrap_or_else(Error::into_compile_error)
        .into()
}

/// The derives of these names that a struct does not have itself.
fn missing_derives(input: &DeriveInput, names: &[&str]) -> Vec<TokenStream> {
    let mut known = Vec::new();
    for attribute in input.attrs.iter().filter(|attribute| attribute.path().is_ident("derive")) {
        let _ = attribute.parse_nested_meta(|meta| {
            known.extend(meta.path.segments.last().map(|segment| segment.ident.to_string()));
            Ok(())
        });
    }
    [
        ("Clone", quote!(::core::clone::Clone)),
        ("Debug", quote!(::core::fmt::Debug)),
        ("Serialize", quote!(::tidings::serde::Serialize)),
        ("Deserialize", quote!(::tidings::serde::Deserialize)),
        ("JsonSchema", quote!(::tidings::schemars::JsonSchema)),
        ("Validate", quote!(::tidings::garde::Validate)),
    ]
    .into_iter()
    .filter(|(name, _)| names.contains(name) && !known.iter().any(|known| known == name))
    .map(|(_, path)| path)
    .collect()
}

fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let Declared { name, version, topic, key, aliases, upcasts, superseded_by } = Declared::read(input)?;
    check_field(input, &key)?;
    let number: u32 = version.base10_parse()?;
    let event_type = format!("{}.v{number}", name.value());
    let key_name = key.to_string();
    let ty = &input.ident;
    let superseded_by = superseded_by.map(|newer| {
        quote! { const SUPERSEDED_BY: ::core::option::Option<&'static str> = ::core::option::Option::Some(#newer); }
    });
    let upcasts = upcasts.map(|older| upcast(&older));
    let (impl_generics, type_generics, where_clause) = input.generics.split_for_impl();
    let complete = input.generics.params.is_empty().then(|| {
        quote! { const _: () = ::tidings::derives::complete::<#ty>(); }
    });
    Ok(quote! {
        #complete

        #[automatically_derived]
        impl #impl_generics ::tidings::Event for #ty #type_generics #where_clause {
            const NAME: &'static str = #name;
            const VERSION: u32 = #version;
            const TYPE: &'static str = #event_type;
            const TOPIC: &'static str = #topic;
            const ALIASES: &'static [&'static str] = &[#(#aliases),*];
            const KEY_NAME: &'static str = #key_name;
            #superseded_by
            #upcasts

            fn key(&self) -> &str {
                ::core::convert::AsRef::<str>::as_ref(&self.#key)
            }
        }
    })
}

/// Older events go through `From`, one version after the other.
fn upcast(older: &Type) -> TokenStream {
    quote! {
        fn upcasts() -> ::std::vec::Vec<::tidings::OlderVersion> {
            let older = ::tidings::OlderVersion {
                event_type: <#older as ::tidings::Event>::TYPE,
                topic: <#older as ::tidings::Event>::TOPIC,
            };
            let mut all = ::std::vec![older];
            all.extend(<#older as ::tidings::Event>::upcasts());
            all
        }

        fn read(event_type: &str, payload: &[u8]) -> ::tidings::json::Result<Self> {
            if event_type == Self::TYPE || Self::ALIASES.contains(&event_type) {
                return ::tidings::read_json(payload);
            }
            <#older as ::tidings::Event>::read(event_type, payload).map(::core::convert::From::from)
        }
    }
}

struct Declared {
    name: LitStr,
    version: LitInt,
    topic: LitStr,
    key: Ident,
    aliases: Vec<LitStr>,
    upcasts: Option<Type>,
    superseded_by: Option<LitStr>,
}

/// The words that `#[event(…)]` takes.
const WORDS: &str = "name, version, topic, key, alias, upcasts, superseded_by";

impl Declared {
    fn read(input: &DeriveInput) -> Result<Self> {
        let (mut name, mut version, mut topic, mut key) = (None, None, None, None);
        let (mut aliases, mut upcasts, mut superseded_by) = (Vec::new(), None, None);
        for attribute in input.attrs.iter().filter(|a| a.path().is_ident("event")) {
            attribute.parse_nested_meta(|meta| {
                let word = meta.path.get_ident().map(ToString::to_string);
                match word.as_deref() {
                    Some("name") => once(&mut name, &meta, "a text, as in name = \"order.created\""),
                    Some("version") => once(&mut version, &meta, "a whole number from 1, as in version = 1"),
                    Some("topic") => once(&mut topic, &meta, "a text, as in topic = \"orders\""),
                    Some("key") => once(&mut key, &meta, "the name of a field, as in key = order_id"),
                    Some("alias") => {
                        aliases.push(value(&meta, "a text, as in alias = \"order_created\"")?);
                        Ok(())
                    }
                    Some("upcasts") => {
                        once(&mut upcasts, &meta, "an older event, as in upcasts = OrderCreatedV1")
                    }
                    Some("superseded_by") => {
                        once(&mut superseded_by, &meta, "a text, as in superseded_by = \"order.created.v2\"")
                    }
                    _ => Err(meta.error(format!("an event has no such attribute; it has: {WORDS}"))),
                }
            })?;
        }
        let missing = |what: &str| {
            let hint = "#[event(name = \"order.created\", version = 1, topic = \"orders\", key = order_id)]";
            Error::new_spanned(&input.ident, format!("this event has no {what}: write {hint}"))
        };
        let declared = Self {
            name: name.ok_or_else(|| missing("name"))?,
            version: version.ok_or_else(|| missing("version"))?,
            topic: topic.ok_or_else(|| missing("topic"))?,
            key: key.ok_or_else(|| missing("key"))?,
            aliases,
            upcasts,
            superseded_by,
        };
        declared.check()?;
        Ok(declared)
    }

    fn check(&self) -> Result<()> {
        let version: u32 = self.version.base10_parse()?;
        if version == 0 {
            return Err(Error::new_spanned(&self.version, "versions count from 1"));
        }
        let name = self.name.value();
        let is_word = |word: &str| {
            !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        };
        if !name.split('.').all(is_word) {
            let words = "an event is called in small letters, digits, _ and dots: \"order.created\"";
            return Err(Error::new_spanned(&self.name, words));
        }
        let last = name.rsplit('.').next().unwrap_or_default();
        if last
            .strip_prefix('v')
            .is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| c.is_ascii_digit()))
        {
            let words = "the version stands in `version`, and is added to the name by itself";
            return Err(Error::new_spanned(&self.name, words));
        }
        let topic = self.topic.value();
        let is_topic = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if topic.is_empty() || topic.len() > 249 || !topic.chars().all(is_topic) {
            let words = "Kafka takes letters, digits, '.', '_' and '-' in a topic's name, 249 at most";
            return Err(Error::new_spanned(&self.topic, words));
        }
        if let Some(newer) = &self.superseded_by
            && newer.value() == format!("{name}.v{version}")
        {
            return Err(Error::new_spanned(newer, "an event is superseded by another one"));
        }
        Ok(())
    }
}

fn once<T: Parse>(slot: &mut Option<T>, meta: &ParseNestedMeta<'_>, form: &str) -> Result<()> {
    if slot.is_some() {
        return Err(meta.error("this was said before"));
    }
    *slot = Some(value(meta, form)?);
    Ok(())
}

fn value<T: Parse>(meta: &ParseNestedMeta<'_>, form: &str) -> Result<T> {
    let explained = |e: Error| Error::new(e.span(), format!("expected {form}"));
    meta.value().and_then(|value| value.parse()).map_err(explained)
}

fn check_field(input: &DeriveInput, key: &Ident) -> Result<()> {
    let Data::Struct(data) = &input.data else {
        return Err(Error::new_spanned(&input.ident, "an event is a struct with named fields"));
    };
    let Fields::Named(fields) = &data.fields else {
        return Err(Error::new_spanned(&input.ident, "an event is a struct with named fields"));
    };
    if fields.named.iter().any(|f| f.ident.as_ref() == Some(key)) {
        return Ok(());
    }
    Err(Error::new_spanned(key, format!("the key names a field; there is no field {key}")))
}
