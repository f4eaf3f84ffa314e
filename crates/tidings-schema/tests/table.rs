//! Every row of the table of changes, as a sentence: what was changed, and whom it harms.
//!
//! `ok` is for nobody, `✗` for somebody; backward first, then forward.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use expect_test::{Expect, expect};
use serde_json::{Value, json};
use tidings_schema::{Baseline, Contract, EventContract, changes, gate};

/// An event with these properties, of which `required` are.
fn event(properties: Value, required: &[&str]) -> Value {
    json!({"type": "object", "additionalProperties": false, "properties": properties, "required": required})
}

/// An event whose one property, `a`, is required and has this schema.
fn a(schema: Value) -> Value {
    event(json!({"a": schema}), &["a"])
}

#[track_caller]
fn row(old: Value, new: Value, expected: Expect) {
    let lines: Vec<String> = changes(&old, &new)
        .iter()
        .map(|change| {
            let mark = |harms: bool| if harms { "✗" } else { "ok" };
            format!("{} {} · {change}", mark(change.breaks.backward), mark(change.breaks.forward))
        })
        .collect();
    expected.assert_eq(&lines.join("\n"));
}

fn string() -> Value {
    json!({"type": "string"})
}

#[test]
fn nothing_changed() {
    let same = event(json!({"a": {"type": "string", "pattern": "x"}, "b": {"prefixItems": [true]}}), &["a"]);
    row(same.clone(), same, expect![""]);
}

#[test]
fn an_optional_property_added() {
    let new = event(json!({"a": string(), "b": string()}), &["a"]);
    row(a(string()), new, expect!["ok ok · the optional property `b` was added"]);
}

#[test]
fn a_required_property_added_or_one_that_is_required_now() {
    let both = json!({"a": string(), "b": {"type": "integer"}});
    let new = event(both.clone(), &["a", "b"]);
    row(a(string()), new.clone(), expect!["✗ ok · the required property `b` was added"]);
    row(event(both, &["a"]), new, expect!["✗ ok · `b` is required now"]);
}

#[test]
fn a_required_property_for_which_older_events_are_given_a_value() {
    let new = event(json!({"a": string(), "b": {"type": "string", "x-upcast": "web"}}), &["a", "b"]);
    row(
        a(string()),
        new,
        expect![[r#"ok ok · the required property `b` was added; to readers of older events it is "web""#]],
    );
}

#[test]
fn an_optional_property_removed() {
    let old = event(json!({"a": string(), "b": {"type": "integer"}}), &["a"]);
    row(old, a(string()), expect!["ok ok · the optional property `b` was removed; its name stays taken"]);
}

#[test]
fn a_required_property_removed_or_optional_now() {
    let both = json!({"a": string(), "b": {"type": "integer"}});
    let old = event(both.clone(), &["a", "b"]);
    row(old.clone(), a(string()), expect!["ok ✗ · the required property `b` was removed"]);
    row(old, event(both, &["a"]), expect!["ok ✗ · `b` may be left out now"]);
}

#[test]
fn a_property_renamed() {
    let (old, new) = (a(string()), event(json!({"b": string()}), &["b"]));
    row(old, new, expect!["✗ ✗ · `a` was renamed to `b`"]);
    let (old, new) = (event(json!({"a": string()}), &[]), event(json!({"b": string()}), &[]));
    row(old, new, expect!["✗ ✗ · `a` was renamed to `b`"]);
}

#[test]
fn a_removed_name_used_again_with_another_type() {
    let with = |b: Value| event(json!({"a": string(), "b": b}), &["a"]);
    let directory = tempfile::tempdir().unwrap();
    let contract = |schema: Value| {
        let event = EventContract { schema, written_by: ["x".into()].into(), ..EventContract::default() };
        Contract::from([("tea.made.v1".to_owned(), event)])
    };
    for schema in [with(string()), a(string())] {
        let baseline = Baseline::read(directory.path()).unwrap();
        baseline.record(directory.path(), &contract(schema)).unwrap();
    }
    let report =
        gate(&Baseline::read(directory.path()).unwrap(), &contract(with(json!({"type": "integer"}))));
    let findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    assert!(!report.is_compatible());
    expect![[r#"
        tea.made.v1 at /b: was string and is integer
          breaks: whoever reads it could no longer read what was published as revision 1
          breaks: whoever reads it expects revision 1, and could not read what is published from now on
          instead: state tea.made.v2 beside tea.made.v1, until nobody reads that (tidings schema who-reads tea.made.v1)
        tea.made.v1: the optional property `b` was added"#]]
    .assert_eq(&findings.join("\n"));
}

#[test]
fn a_type_widened() {
    let (integer, number) = (json!({"type": "integer"}), json!({"type": "number"}));
    row(a(integer), a(number), expect!["ok ✗ · /a: was integer and is number"]);
    let nullable = json!({"type": ["string", "null"]});
    row(a(string()), a(nullable), expect!["ok ✗ · /a: was string and is string or null"]);
    row(a(string()), a(json!({})), expect!["ok ✗ · /a: may be anything now, was string"]);
}

#[test]
fn a_type_narrowed() {
    let (integer, number) = (json!({"type": "integer"}), json!({"type": "number"}));
    row(a(number), a(integer), expect!["✗ ok · /a: was number and is integer"]);
    row(a(json!({})), a(string()), expect!["✗ ok · /a: must be string now"]);
}

#[test]
fn a_type_changed() {
    row(a(string()), a(json!({"type": "integer"})), expect!["✗ ✗ · /a: was string and is integer"]);
}

#[test]
fn an_enum_value_added() {
    let values = |values: &[&str], open: bool| match open {
        true => a(json!({"type": "string", "enum": values, "x-open-enum": true})),
        false => a(json!({"type": "string", "enum": values})),
    };
    row(
        values(&["x"], false),
        values(&["x", "y"], false),
        expect![[r#"ok ✗ · /a: the value "y" was added"#]],
    );
    row(
        values(&["x"], true),
        values(&["x", "y"], true),
        expect![[r#"ok ok · /a: the value "y" was added to an open enum"#]],
    );
    // What counts is what the deployed readers do.
    row(
        values(&["x"], false),
        values(&["x", "y"], true),
        expect![[r#"
            ok ✗ · /a: the value "y" was added
            ok ok · /a: readers take values now that they do not know"#]],
    );
    row(
        values(&["x"], true),
        values(&["x"], false),
        expect!["✗ ok · /a: readers refuse values now that they do not know"],
    );
}

#[test]
fn an_enum_value_removed() {
    let values = |values: &[&str]| a(json!({"enum": values}));
    row(values(&["x", "y"]), values(&["x"]), expect![[r#"✗ ok · /a: the value "y" was removed"#]]);
    let constants = a(json!({"oneOf": [{"const": "x", "type": "string"}, {"const": "y", "type": "string"}]}));
    let listed = a(json!({"type": "string", "enum": ["x"]}));
    row(constants, listed, expect![[r#"✗ ok · /a: the value "y" was removed"#]]);
    row(values(&["x"]), a(json!({})), expect!["ok ✗ · /a: any value is taken now"]);
    row(a(json!({})), values(&["x"]), expect!["✗ ok · /a: only certain values are taken now"]);
}

#[test]
fn a_constant_changed() {
    let constant = |value: &str| a(json!({"const": value}));
    row(constant("x"), constant("y"), expect!["✗ ✗ · /a: was x and is y"]);
    row(a(json!({})), constant("y"), expect!["✗ ok · /a: must be y now"]);
    row(constant("x"), a(json!({})), expect!["ok ✗ · /a: need not be x any more"]);
}

#[test]
fn bounds_loosened() {
    let loosened = [
        (json!({"minimum": 1}), json!({"minimum": 0})),
        (json!({"exclusiveMinimum": 1}), json!({"exclusiveMinimum": 0})),
        (json!({"maximum": 1}), json!({"maximum": 2})),
        (json!({"exclusiveMaximum": 1}), json!({})),
        (json!({"minLength": 1}), json!({})),
        (json!({"maxLength": 1}), json!({"maxLength": 2})),
        (json!({"minItems": 1}), json!({"minItems": 0})),
        (json!({"maxItems": 1}), json!({})),
        (json!({"minProperties": 1}), json!({})),
        (json!({"maxProperties": 1}), json!({"maxProperties": 2})),
        (json!({"uniqueItems": true}), json!({"uniqueItems": false})),
        (json!({"multipleOf": 10}), json!({"multipleOf": 5})),
        (json!({"multipleOf": 10}), json!({})),
    ];
    for (old, new) in loosened {
        let found = changes(&a(old.clone()), &a(new.clone()));
        let [change] = found.as_slice() else { panic!("{old} → {new}: {found:?}") };
        assert!(!change.breaks.backward && change.breaks.forward, "{old} → {new}: {change:?}");
        // And the other way round it is tightened.
        let found = changes(&a(new.clone()), &a(old.clone()));
        let [change] = found.as_slice() else { panic!("{new} → {old}: {found:?}") };
        assert!(change.breaks.backward && !change.breaks.forward, "{new} → {old}: {change:?}");
    }
}

#[test]
fn bounds_tightened_or_added() {
    let least = |least: u32| a(json!({"minimum": least}));
    row(least(0), least(1), expect!["✗ ok · /a: minimum was 0 and is 1"]);
    row(a(json!({})), least(1), expect!["✗ ok · /a: minimum was nothing and is 1"]);
    let (five, three) = (json!({"multipleOf": 5}), json!({"multipleOf": 3}));
    row(a(five), a(three), expect!["✗ ✗ · /a: multipleOf was 5 and is 3"]);
}

#[test]
fn a_pattern_or_format_added_removed_or_changed() {
    for keyword in ["pattern", "format"] {
        let with = |value: &str| a(json!({"type": "string", keyword: value}));
        let told = |old: Value, new: Value| {
            let found = changes(&old, &new);
            assert_eq!(found.len(), 1, "{found:?}");
            (found[0].breaks.backward, found[0].breaks.forward)
        };
        assert_eq!(told(a(string()), with("x")), (true, false), "{keyword} added");
        assert_eq!(told(with("x"), a(string())), (false, true), "{keyword} removed");
        assert_eq!(told(with("x"), with("xy?")), (true, true), "{keyword} changed: nobody can decide that");
    }
}

#[test]
fn a_branch_added_or_removed() {
    for keyword in ["anyOf", "oneOf"] {
        let of = |branches: Value| a(json!({ keyword: branches }));
        let one = of(json!([{"type": "string"}]));
        let two = of(json!([{"type": "string"}, {"type": "integer"}]));
        assert_eq!(changes(&one, &two)[0].breaks, changes(&a(json!({"const": 1})), &a(json!({})))[0].breaks);
        let words = |old: &Value, new: &Value| changes(old, new)[0].to_string();
        assert_eq!(words(&one, &two), format!("/a: a form of `{keyword}` was added"));
        assert_eq!(words(&two, &one), format!("/a: a form of `{keyword}` was removed"));
        let (added, removed) = (&changes(&one, &two)[0], &changes(&two, &one)[0]);
        assert_eq!((added.breaks.backward, added.breaks.forward), (false, true));
        assert_eq!((removed.breaks.backward, removed.breaks.forward), (true, false));
    }
}

#[test]
fn a_branch_added_to_an_open_union_that_tells_its_branches_apart() {
    let form = |kind: &str| json!({"type": "object", "additionalProperties": false, "properties": {"kind": {"const": kind}}});
    let union = |kinds: &[&str]| {
        a(json!({"x-open-enum": true, "oneOf": kinds.iter().map(|kind| form(kind)).collect::<Vec<_>>()}))
    };
    row(
        union(&["card"]),
        union(&["card", "cash"]),
        expect!["ok ok · /a: a form of the open `oneOf` was added"],
    );
    let plain = |types: &[&str]| {
        let branches: Vec<Value> = types.iter().map(|t| json!({"type": t})).collect();
        a(json!({"x-open-enum": true, "anyOf": branches}))
    };
    row(plain(&["string"]), plain(&["string", "integer"]), expect!["ok ✗ · /a: a form of `anyOf` was added"]);
}

#[test]
fn a_change_within_a_branch() {
    let of = |least: u32| a(json!({"anyOf": [{"type": "string"}, {"type": "integer", "minimum": least}]}));
    row(of(0), of(1), expect!["✗ ok · /a/(anyOf): minimum was 0 and is 1"]);
}

#[test]
fn a_conjunct_added_or_a_negation_widened() {
    let all = |schemas: Value| a(json!({"allOf": schemas}));
    let (one, two) = (all(json!([{"minimum": 1}])), all(json!([{"minimum": 1}, {"maximum": 9}])));
    row(one.clone(), two.clone(), expect!["✗ ok · /a: a condition of `allOf` was added"]);
    row(two, one, expect!["ok ✗ · /a: a condition of `allOf` was removed"]);
    let not = |most: u32| a(json!({"not": {"maximum": most}}));
    row(not(1), not(2), expect!["✗ ok · /a/(not): maximum was 1 and is 2"]);
    row(not(2), not(1), expect!["ok ✗ · /a/(not): maximum was 2 and is 1"]);
    row(a(json!({})), not(1), expect!["✗ ok · /a: `not` was added"]);
    row(not(1), a(json!({})), expect!["ok ✗ · /a: `not` was removed"]);
}

#[test]
fn what_lies_deeper() {
    let items = |least: u32| a(json!({"type": "array", "items": {"minimum": least}}));
    row(items(0), items(1), expect!["✗ ok · /a/*: minimum was 0 and is 1"]);
    let first = |least: u32| a(json!({"prefixItems": [{"minimum": least}]}));
    row(first(0), first(1), expect!["✗ ok · /a/0: minimum was 0 and is 1"]);
    row(
        first(0),
        a(json!({"prefixItems": [{"minimum": 0}, {}]})),
        expect!["✗ ✗ · /a: the first items were 1 and are 2"],
    );
    let needs = |name: &str| a(json!({"dependentRequired": {"x": [name]}}));
    row(needs("y"), needs("z"), expect!["✗ ✗ · /a: which properties need each other has changed"]);
    let then = |least: u32| a(json!({"if": {"type": "integer"}, "then": {"minimum": least}}));
    row(then(0), then(1), expect!["✗ ok · /a/(then): minimum was 0 and is 1"]);
    let condition = |kind: &str| a(json!({"if": {"type": kind}, "then": {"minimum": 1}}));
    row(
        condition("integer"),
        condition("number"),
        expect!["✗ ✗ · /a: `if` has changed, and nobody here can prove what that means"],
    );
    let map = |kind: &str| a(json!({"type": "object", "additionalProperties": {"type": kind}}));
    row(map("integer"), map("number"), expect!["ok ✗ · /a/*: was integer and is number"]);
}

#[test]
fn what_a_reference_leads_to() {
    let money = |least: u32| {
        let mut event = a(json!({"$ref": "#/$defs/Money"}));
        event["$defs"] = json!({"Money": {"type": "integer", "minimum": least}});
        event
    };
    row(money(0), money(1), expect!["✗ ok · /a: minimum was 0 and is 1"]);
    row(a(json!({"type": "integer", "minimum": 0})), money(0), expect![""]);
    row(
        a(json!({"$ref": "#/$defs/Money"})),
        money(0),
        expect![[r#"
            ✗ ✗ · /a: `$ref (not found)` has changed, and nobody here can prove what that means
            ✗ ok · /a: minimum was nothing and is 0
            ✗ ok · /a: must be integer now"#]],
    );
    let tree = |least: u32| {
        json!({"$ref": "#/$defs/Tree", "$defs": {"Tree": {
            "type": "object", "additionalProperties": false,
            "properties": {"size": {"minimum": least}, "children": {"items": {"$ref": "#/$defs/Tree"}}},
        }}})
    };
    row(tree(0), tree(1), expect!["✗ ok · /size: minimum was 0 and is 1"]);
}

#[test]
fn an_unknown_keyword_is_never_probably_fine() {
    for keyword in ["unevaluatedProperties", "patternProperties", "dependentSchemas", "x-house-rule"] {
        let with = |value: Value| a(json!({ keyword: value }));
        for (old, new) in [
            (a(json!({})), with(json!({"x": {}}))),
            (with(json!({"x": {}})), a(json!({}))),
            (with(json!({"x": {}})), with(json!({"y": {}}))),
        ] {
            let found = changes(&old, &new);
            assert_eq!(found.len(), 1, "{keyword}: {found:?}");
            assert!(found[0].breaks.backward && found[0].breaks.forward, "{keyword}: {found:?}");
        }
        assert_eq!(changes(&with(json!({"x": {}})), &with(json!({"x": {}}))), [], "{keyword}: the same");
    }
}

#[test]
fn words_that_only_explain() {
    for keyword in ["default", "title", "description", "examples", "deprecated"] {
        let found = changes(&a(json!({ keyword: "x" })), &a(json!({ keyword: "y" })));
        assert_eq!(found.len(), 1, "{keyword}: {found:?}");
        assert!(!found[0].breaks.is_any(), "{keyword}: {found:?}");
    }
}

#[test]
fn the_same_document_meaning_something_else() {
    let unit = |unit: &str| a(json!({"type": "integer", "x-unit": unit}));
    row(
        unit("cents"),
        unit("euros"),
        expect!["✗ ✗ · /a: x-unit was cents and is euros: the same document means something else"],
    );
    row(
        a(json!({"type": "integer"})),
        a(json!({"type": "integer", "x-semantics": "net"})),
        expect!["✗ ✗ · /a: x-semantics was nothing and is net: the same document means something else"],
    );
}

#[test]
fn an_open_writer_is_refused_also_the_first_time() {
    let open = json!({"type": "object", "properties": {"a": {}}});
    for old in [open.clone(), event(json!({"a": {}}), &[])] {
        row(
            old,
            open.clone(),
            expect!["ok ✗ · the writer is open: it may publish properties that nobody described"],
        );
    }
    let event = EventContract { schema: open, written_by: ["x".into()].into(), ..EventContract::default() };
    let report = gate(&Baseline::default(), &Contract::from([("tea.made.v1".to_owned(), event)]));
    assert!(!report.is_compatible());
}

#[test]
fn another_name_that_is_understood() {
    let named = |aliases: &[&str]| a(json!({"x-aliases": aliases}));
    row(named(&[]), named(&["qty"]), expect!["ok ok · /a: another name is understood"]);
    row(named(&["qty"]), named(&[]), expect![[r#"✗ ok · /a: "qty" is not understood any more"#]]);
}

#[test]
fn a_type_that_is_read_and_not_written_any_more() {
    let contract = |read_by: &[&str], written_by: &[&str]| {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let event = EventContract {
            schema: a(string()),
            read_by: names(read_by),
            written_by: names(written_by),
            ..EventContract::default()
        };
        Contract::from([("tea.made.v1".to_owned(), event)])
    };
    let directory = tempfile::tempdir().unwrap();
    let before = contract(&["drinkers"], &["kitchen"]);
    Baseline::default().record(directory.path(), &before).unwrap();
    let baseline = Baseline::read(directory.path()).unwrap();
    assert!(gate(&baseline, &before).is_compatible());
    let report = gate(&baseline, &contract(&["drinkers"], &[]));
    assert!(!report.is_compatible());
    expect![[r#"
        tea.made.v1: drinkers reads it, and no service states it any more
          instead: state it until nobody reads it (tidings schema who-reads tea.made.v1)"#]]
    .assert_eq(&report.findings[0].to_string());
    let report = gate(&baseline, &Contract::new());
    assert!(report.is_compatible(), "neither written nor read");
    expect!["tea.made.v1: no program writes or reads it any more; its revisions stay"]
        .assert_eq(&report.findings[0].to_string());
}
