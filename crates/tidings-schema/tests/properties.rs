//! The gate against documents: whatever it lets through, nobody meets a document that he cannot read.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::cell::Cell;

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use tidings_schema::{changes, check, opened, sample};

/// Schemas of values, as types derive them.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({"type": "boolean"})),
        (0_i64..5, 5_i64..10)
            .prop_map(|(least, most)| json!({"type": "integer", "minimum": least, "maximum": most})),
        (0_i64..5).prop_map(|least| json!({"type": "integer", "exclusiveMinimum": least})),
        Just(json!({"type": "number"})),
        Just(json!({"type": ["string", "null"]})),
        (0_u64..3, 3_u64..6)
            .prop_map(|(least, most)| json!({"type": "string", "minLength": least, "maxLength": most})),
        (prop::sample::subsequence(vec!["x", "y", "z"], 1..=3), any::<bool>()).prop_map(|(values, open)| {
            match open {
                true => json!({"type": "string", "enum": values, "x-open-enum": true}),
                false => json!({"type": "string", "enum": values}),
            }
        }),
        Just(json!({"const": "x"})),
        Just(json!({"$ref": "#/$defs/Money"})),
        Just(json!({"oneOf": [{"type": "string"}, {"type": "integer"}]})),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            (inner.clone(), 0_u64..2, 2_u64..4)
                .prop_map(|(items, least, most)| json!({"type": "array", "items": items, "minItems": least, "maxItems": most})),
            properties(inner).prop_map(|properties| object(&properties)),
        ]
    })
}

/// Some of four names, each with its schema and whether it is required.
fn properties(
    value: impl Strategy<Value = Value>,
) -> impl Strategy<Value = Vec<(&'static str, Value, bool)>> {
    let names = prop::sample::subsequence(vec!["a", "b", "c", "d"], 1..=4);
    (names, prop::collection::vec((value, any::<bool>()), 4)).prop_map(|(names, values)| {
        names.into_iter().zip(values).map(|(name, (value, required))| (name, value, required)).collect()
    })
}

fn object(properties: &[(&str, Value, bool)]) -> Value {
    let required: Vec<&str> =
        properties.iter().filter(|(.., required)| *required).map(|(name, ..)| *name).collect();
    let properties: Map<String, Value> =
        properties.iter().map(|(name, value, _)| ((*name).to_owned(), value.clone())).collect();
    json!({"type": "object", "additionalProperties": false, "properties": properties, "required": required})
}

fn event(properties: &[(&str, Value, bool)], amount: i64) -> Value {
    let mut event = object(properties);
    event["$defs"] =
        json!({"Money": object(&[("amount", json!({"type": "integer", "minimum": amount}), true)])});
    event
}

/// Two revisions of an event that have most in common.
fn revisions() -> impl Strategy<Value = (Value, Value)> {
    let edits = prop::collection::vec((0_usize..5, value(), 0_usize..4), 0..3);
    (properties(value()), edits, 0_i64..2, 0_i64..2).prop_map(|(old, edits, before, after)| {
        let mut new = old.clone();
        for (edit, value, place) in edits {
            let place = place % new.len().max(1);
            match edit {
                0 if new.len() > 1 => drop(new.remove(place)),
                1 => new[place].2 ^= true,
                2 => new[place].1 = value,
                3 if !new.iter().any(|(name, ..)| *name == "e") => new.push(("e", value, false)),
                4 if !new.iter().any(|(name, ..)| *name == "f") => new.push(("f", value, true)),
                _ => {}
            }
        }
        (event(&old, before), event(&new, after))
    })
}

fn documents(schema: &Value, seed: u64) -> Vec<Value> {
    let mut state = seed | 1;
    let mut dice = |below: u64| {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) % below.max(1)
    };
    (0..8).map(|_| sample(schema, &mut dice)).collect()
}

#[test]
fn what_the_gate_lets_through_can_be_read_by_everybody() {
    let (passed, refused) = (Cell::new(0), Cell::new(0));
    let config = ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let tried = runner.run(&(revisions(), any::<u64>()), |((old, new), seed)| {
        let found = changes(&old, &new);
        let ways = [
            ("backward", &old, &new, found.iter().any(|change| change.breaks.backward)),
            ("forward", &new, &old, found.iter().any(|change| change.breaks.forward)),
        ];
        for (way, writer, reader, harms) in ways {
            let written = documents(writer, seed);
            for document in &written {
                prop_assert_eq!(check(writer, document), [], "a sample is valid: {}", document);
            }
            let reader = opened(reader.clone());
            let unread = written.iter().find(|document| !check(&reader, document).is_empty());
            match harms {
                false => prop_assert_eq!(unread, None, "{} {} → {}: {:?}", way, old, new, found),
                true => refused.set(refused.get() + 1),
            }
            passed.set(passed.get() + usize::from(!harms));
        }
        Ok(())
    });
    tried.unwrap_or_else(|e| panic!("{e}"));
    assert!(
        passed.get() > 300 && refused.get() > 300,
        "{} passed, {} were refused",
        passed.get(),
        refused.get()
    );
}

#[test]
fn a_change_of_nothing_is_no_change() {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |((old, _) in revisions())| {
        prop_assert_eq!(changes(&old, &old), []);
    });
}
