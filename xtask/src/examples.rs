//! The examples of the libraries, counted: enough of them, and one for each thing that a newcomer meets.
//!
//! An example is a block of Rust in a doc comment that rustdoc compiles: not one marked `text` or `ignore`. It shows the
//! item that the comment is about; a method is named with its type.

use std::path::{Path, PathBuf};

/// Crates whose doc comments are pages for users.
const LIBRARIES: [&str; 5] =
    ["tidings", "tidings-client", "tidings-macros", "tidings-schema", "tidings-testkit"];
/// Examples in their doc comments; those of `docs/` come on top.
const EXAMPLES_MIN: usize = 60;
/// Things that somebody who builds a first service meets.
const NEWCOMER: [&str; 58] = [
    "event",
    "effect",
    "timer",
    "Event",
    "OlderVersion",
    "OpenEnum",
    "UnknownFields",
    "Envelope",
    "Causal",
    "Handler",
    "BatchHandler",
    "Effect",
    "EffectHandler",
    "EffectError",
    "Settled",
    "Timer",
    "TimerHandler",
    "HandlerError",
    "Error",
    "RetryPolicy",
    "Verdict",
    "DeadReason",
    "WaitReason",
    "Status",
    "Clock",
    "Message",
    "Headers",
    "Topic",
    "TopicSpec",
    "RunningService",
    "Settings",
    "Problem",
    "ValidQuery",
    "ValidJson",
    "Page",
    "PageRequest",
    "Idempotency",
    "WriteBatcher",
    "Store",
    "Store::transaction",
    "Row::get",
    "params",
    "Tx",
    "Tx::execute",
    "Tx::query",
    "Tx::publish",
    "Tx::perform",
    "Tx::schedule",
    "Tx::cancel_effect",
    "Service",
    "Service::tables",
    "Service::publishes",
    "Service::on",
    "Service::on_batch",
    "Service::get",
    "Service::post",
    "Service::effect",
    "Service::on_timer",
];
/// Things of the test kit.
const NEWCOMER_TO_TESTS: [&str; 3] = ["TestApp", "Stage", "eventually"];

/// Counts, and says what lacks.
pub(crate) fn check<'a>(files: impl Iterator<Item = &'a (PathBuf, String)>) -> bool {
    let examples: Vec<(&str, String)> = files
        .filter_map(|(path, code)| Some((library(path)?, code)))
        .flat_map(|(library, code)| shown(code).into_iter().map(move |item| (library, item)))
        .collect();
    let has = |library: &str, name: &str| examples.contains(&(library, name.to_owned()));
    let missing: Vec<&str> = [("tidings", &NEWCOMER[..]), ("tidings-testkit", &NEWCOMER_TO_TESTS)]
        .into_iter()
        .flat_map(|(library, names)| names.iter().map(move |name| (library, *name)))
        .filter(|(library, name)| !has(library, name))
        .map(|(_, name)| name)
        .collect();
    missing.iter().for_each(|name| eprintln!("no example shows {name}, which newcomers meet"));
    eprintln!("{} compiled examples in doc comments of at least {EXAMPLES_MIN}", examples.len());
    missing.is_empty() && examples.len() >= EXAMPLES_MIN
}

/// The library that a file belongs to.
fn library(path: &Path) -> Option<&'static str> {
    LIBRARIES.into_iter().find(|name| path.starts_with(Path::new("crates").join(name)))
}

/// The item that each example in code shows; nothing for one about a whole module.
fn shown(code: &str) -> Vec<String> {
    let (mut found, mut owner) = (Vec::new(), None);
    let (mut open, mut waiting, mut attribute_depth) = (None, 0, 0);
    for line in code.lines() {
        let text = line.trim_start();
        let doc = ["///", "//!"].into_iter().find_map(|mark| Some((mark, text.strip_prefix(mark)?)));
        if let Some((mark, doc)) = doc {
            let Some(info) = doc.trim_start().strip_prefix("```") else { continue };
            open = match open {
                Some(is_compiled) if is_compiled && mark == "//!" => {
                    found.push(String::new());
                    None
                }
                Some(is_compiled) => {
                    waiting += usize::from(is_compiled);
                    None
                }
                None => Some(is_compiled(info)),
            };
            continue;
        }
        owner = match line {
            "}" => None,
            line if line.starts_with("impl") => implemented(line),
            _ => owner,
        };
        if attribute_depth > 0 || text.starts_with("#[") {
            attribute_depth += text.matches('[').count();
            attribute_depth -= text.matches(']').count().min(attribute_depth);
        } else if waiting > 0 && !text.is_empty() && !text.starts_with("//") {
            let item = item(text).unwrap_or_default();
            let item = owner.map_or(item.to_owned(), |owner| format!("{owner}::{item}"));
            found.extend(std::iter::repeat_n(item, waiting));
            waiting = 0;
        }
    }
    found
}

/// Tells whether rustdoc compiles a block with these words after its fence.
fn is_compiled(info: &str) -> bool {
    let known = |word: &str| ["", "rust", "no_run", "should_panic", "compile_fail"].contains(&word.trim());
    info.split(',').all(known)
}

/// The type that an `impl` line is about.
fn implemented(line: &str) -> Option<&str> {
    let of = line.split_once(" for ").map(|(_, of)| of);
    let of = of.or_else(|| line.strip_prefix("impl ").or_else(|| line.split_once("> ").map(|(_, of)| of)))?;
    first_word(of)
}

/// The name of the item that a line declares; of a `use`, the last name of its path.
fn item(line: &str) -> Option<&str> {
    let mut words = line
        .split_whitespace()
        .skip_while(|word| word.starts_with("pub") || ["const", "async", "unsafe"].contains(word));
    match (words.next()?, words.next()?) {
        ("use", path) => first_word(path.rsplit("::").next()?),
        (_, name) => first_word(name),
    }
}

fn first_word(text: &str) -> Option<&str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next()
}

#[cfg(test)]
mod tests {
    use super::{is_compiled, shown};

    #[test]
    fn an_example_shows_the_item_below_it() {
        let code = "//! ```\n//! f();\n//! ```\n\n/// One.\n///\n/// ```\n/// f();\n/// ```\n/// ```text\n/// x\n/// ```\n\
                    #[a(\n    b = \"c\"\n)]\n#[must_use] // x\npub struct One<T> {\n}\n\n\
                    impl<T: A> One<T> {\n    /// ```no_run\n    /// ```\n    pub async fn get<A>(&self) {\n    }\n}\n\n\
                    /// ```\n/// ```\npub use inner::two;\n/// No example.\npub fn three() {}\n";
        assert_eq!(shown(code), ["", "One", "One::get", "two"]);
    }

    #[test]
    fn only_blocks_of_rust_are_compiled() {
        assert!(["", "rust", "no_run", "rust,no_run"].into_iter().all(is_compiled));
        assert!(!["text", "ignore", "toml", "rust,ignore"].into_iter().any(is_compiled));
    }
}
