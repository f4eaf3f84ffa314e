//! Each wrong use of `#[derive(Event)]` is told in a sentence, at the word that is wrong.
//!
//! `TRYBUILD=overwrite cargo test -p tidings --test derive` writes them anew.

#[test]
fn what_is_wrong_with_an_event_is_told_when_it_is_compiled() {
    trybuild::TestCases::new().compile_fail("tests/derive/*.rs");
}
