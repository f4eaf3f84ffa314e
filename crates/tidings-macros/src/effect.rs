//! `#[effect(…)]` and `#[timer(…)]`: the kind of an external call, its key and its outcome, declared beside its fields.

use proc_macro2::TokenStream;
use quote::quote;
use syn::parse::Parser as _;
use syn::{Data, DeriveInput, Error, Fields, Ident, LitStr, Result, Type};

use crate::{missing_derives, once};

/// A struct that is recorded in a transaction and acted on later.
#[derive(Clone, Copy)]
pub(crate) enum Recorded {
    Effect,
    Timer,
}

impl Recorded {
    fn word(self) -> &'static str {
        match self {
            Self::Effect => "an effect",
            Self::Timer => "a timer",
        }
    }

    fn hint(self) -> &'static str {
        match self {
            Self::Effect => "#[effect(kind = \"authorize\", key = order_id, outcome = String)]",
            Self::Timer => "#[timer(kind = \"remind\", key = order_id)]",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Effect => "kind, key, outcome, provider",
            Self::Timer => "kind, key",
        }
    }
}

struct Declared {
    kind: LitStr,
    key: Ident,
    outcome: Option<Type>,
    provider: Option<LitStr>,
}

impl Declared {
    fn read(words: TokenStream, input: &DeriveInput, recorded: Recorded) -> Result<Self> {
        let (mut kind, mut key, mut outcome, mut provider) = (None, None, None, None);
        let parser = syn::meta::parser(|meta| {
            let word = meta.path.get_ident().map(ToString::to_string);
            match (word.as_deref(), recorded) {
                (Some("kind"), _) => once(&mut kind, &meta, "a text, as in kind = \"authorize\""),
                (Some("key"), _) => once(&mut key, &meta, "the name of a field, as in key = order_id"),
                (Some("outcome"), Recorded::Effect) => {
                    once(&mut outcome, &meta, "a type, as in outcome = String")
                }
                (Some("provider"), Recorded::Effect) => {
                    once(&mut provider, &meta, "a text, as in provider = \"bank\"")
                }
                _ => {
                    let (word, words) = (recorded.word(), recorded.words());
                    Err(meta.error(format!("{word} has no such attribute; it has: {words}")))
                }
            }
        });
        parser.parse2(words)?;
        let missing = |name: &str| {
            let (word, hint) = (recorded.word(), recorded.hint());
            Error::new_spanned(&input.ident, format!("{word} has a {name}: write {hint}"))
        };
        Ok(Self {
            kind: kind.ok_or_else(|| missing("kind"))?,
            key: key.ok_or_else(|| missing("key"))?,
            outcome,
            provider,
        })
    }
}

/// The struct with its derives, and its implementation of `Effect` or `Timer`.
pub(crate) fn expand(words: TokenStream, input: &DeriveInput, recorded: Recorded) -> Result<TokenStream> {
    let Declared { kind, key, outcome, provider } = Declared::read(words, input, recorded)?;
    let has_key = match &input.data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(fields) => fields.named.iter().any(|field| field.ident.as_ref() == Some(&key)),
            _ => false,
        },
        _ => false,
    };
    if !has_key {
        let word = recorded.word();
        return Err(Error::new_spanned(
            &key,
            format!("{word} is a struct with named fields, and its key one of them"),
        ));
    }
    let derives = missing_derives(input, &["Clone", "Debug", "Serialize", "Deserialize"]);
    let ty = &input.ident;
    let (impl_generics, type_generics, where_clause) = input.generics.split_for_impl();
    let body = match recorded {
        Recorded::Timer => quote! {
            impl #impl_generics ::tidings::Timer for #ty #type_generics #where_clause {
                const KIND: &'static str = #kind;
                fn key(&self) -> ::std::string::String {
                    ::std::format!(::core::concat!(#kind, "/{}"), self.#key)
                }
            }
        },
        Recorded::Effect => {
            let outcome = outcome.map_or_else(|| quote!(()), |outcome| quote!(#outcome));
            let provider = provider.map(|provider| quote! { const PROVIDER: &'static str = #provider; });
            quote! {
                impl #impl_generics ::tidings::Effect for #ty #type_generics #where_clause {
                    const KIND: &'static str = #kind;
                    #provider
                    type Outcome = #outcome;
                    fn key(&self) -> ::std::string::String {
                        ::std::format!(::core::concat!(#kind, "/{}"), self.#key)
                    }
                }
            }
        }
    };
    Ok(quote! {
        #[derive(#(#derives),*)]
        #[serde(crate = "::tidings::serde")]
        #input

        #[automatically_derived]
        #body
    })
}
