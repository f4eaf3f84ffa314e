//! Who may know whom. Each rule is a test that prints its reason.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const SERVICES: [&str; 3] = ["order", "payment", "inventory"];

#[test]
fn services_know_the_library_and_the_contracts_and_never_each_other() {
    for service in SERVICES {
        let manifest = format!("shop/{service}/Cargo.toml");
        let named = dependencies(&read(&manifest));
        for needed in ["tidings", "contracts"] {
            assert!(named.contains(needed), "{manifest} does not name {needed}: is it still a service?");
        }
        for other in SERVICES.into_iter().chain(["shop"]).filter(|other| *other != service) {
            assert!(
                !named.contains(other),
                "{manifest} names {other}: services talk through events; what both need belongs into contracts"
            );
        }
    }
    let named = dependencies(&read("shop/contracts/Cargo.toml"));
    for service in SERVICES {
        assert!(!named.contains(service), "contracts name {service}: they are what services share");
    }
}

#[test]
fn only_the_shop_names_two_services() {
    let mut seen = 0;
    for manifest in manifests() {
        let named = dependencies(&read(&manifest));
        let services: Vec<&str> = SERVICES.into_iter().filter(|s| named.contains(*s)).collect();
        if manifest == "shop/shop/Cargo.toml" {
            assert_eq!(services.len(), 3, "the shop is all three services in one process");
            seen += 1;
        } else {
            assert!(
                services.len() < 2,
                "{manifest} names {services:?}: only shop/shop puts services together; everything else is \
                 deployed with one, or with none"
            );
        }
    }
    assert_eq!(seen, 1, "shop/shop was not found");
}

#[test]
fn the_library_knows_no_service() {
    for manifest in manifests().iter().filter(|m| m.starts_with("crates/")) {
        let named = dependencies(&read(manifest));
        for ours in SERVICES.into_iter().chain(["shop", "contracts", "shopctl"]) {
            // Old names of commands: see SHIM.
            let is_shim = manifest == "crates/tidings-cli/Cargo.toml" && ours == "shopctl";
            assert!(
                is_shim || !named.contains(ours),
                "{manifest} names {ours}: the library serves any service"
            );
        }
    }
}

/// The one file of the command that may know the shop: `tidings load` and `tidings orders` lead to `shopctl`.
const SHIM: &str = "crates/tidings-cli/src/moved.rs";

#[test]
fn the_command_knows_no_shop() {
    let folders = ["crates/tidings-client/src", "crates/tidings-cli/src"];
    let files: Vec<PathBuf> = folders.iter().flat_map(|folder| sources(&root().join(folder))).collect();
    assert!(files.len() > 5, "only {} source files were found", files.len());
    assert!(files.iter().any(|file| file.ends_with(SHIM)), "{SHIM} was not found");
    for file in files.iter().filter(|file| !file.ends_with(SHIM)) {
        let source = fs::read_to_string(file).expect("a source can be read");
        assert_eq!(
            word_of_the_shop(&source),
            None,
            "in {}: the command serves any service; what speaks to the shop belongs into shop/ctl",
            file.display()
        );
    }
}

/// The first of the shop's routes, cards and packages that a source names.
fn word_of_the_shop(source: &str) -> Option<&'static str> {
    const WORDS: [&str; 6] = ["/orders", "/products", "/payments", "/stock", "pm_card", "shopctl"];
    WORDS.into_iter().find(|word| source.contains(word))
}

#[test]
fn what_is_decided_purely_knows_no_runtime_database_clock_or_network() {
    const IMPURE: [&str; 16] = [
        "tokio",
        "async",
        "await",
        "rusqlite",
        "Connection",
        "Tx",
        "Store",
        "Clock",
        "SystemTime",
        "Instant",
        "Timestamp::now",
        "std::net",
        "std::fs",
        "std::env",
        "axum",
        "reqwest",
    ];
    let mut pure: Vec<String> = [
        "event",
        "effect",
        "envelope",
        "failure",
        "retry",
        "schema",
        "status",
        "trace",
        "message/names",
        "message/headers",
        "message/codec",
        "message/frame",
        "message/read",
        "relay/lanes/admission",
    ]
    .map(|name| format!("crates/tidings/src/{name}.rs"))
    .into();
    let judging = ["form", "check", "change", "contract", "gate", "sample"];
    pure.extend(judging.map(|name| format!("crates/tidings-schema/src/{name}.rs")));
    pure.extend(SERVICES.map(|service| format!("shop/{service}/src/domain.rs")));
    for file in pure {
        let code = code(&read(&file));
        for word in IMPURE {
            assert!(
                !names(&code, word),
                "{file} names {word}: it decides, and is tested without anything running; act in the \
                 caller and hand the facts in"
            );
        }
    }
}

#[test]
fn each_outside_library_is_named_in_one_place() {
    let rules: [(&str, &[&str], &str); 4] = [
        (
            "rdkafka",
            &["broker/kafka/"],
            "everything else sees a Broker, so that the embedded log can stand in",
        ),
        (
            "tokio_postgres",
            &["store/postgres/", "error.rs"],
            "everything else sees a Store, so that SQLite can stand in",
        ),
        ("opentelemetry", &["telemetry.rs", "telemetry/"], "everything else uses tracing and metrics"),
        (
            "rusqlite",
            &["sqlite.rs", "sqlite/", "error.rs", "store/", "broker/log/"],
            "everything else sees a Store or a Broker, so that PostgreSQL and Kafka can take over",
        ),
    ];
    let root = root().join("crates/tidings/src");
    let files = sources(&root);
    assert!(files.len() > 20, "only {} source files were found", files.len());
    for (library, places, reason) in rules {
        for file in &files {
            let place = file.strip_prefix(&root).expect("a source is under the root");
            let place = place.to_str().expect("paths are text");
            let allowed = places.iter().any(|p| place == *p || (p.ends_with('/') && place.starts_with(p)));
            let code = code(&fs::read_to_string(file).expect("a source can be read"));
            assert!(allowed || !names(&code, library), "{place} names {library}: {reason}");
        }
    }
}

#[test]
fn services_name_no_database_and_no_broker_client() {
    for service in SERVICES.into_iter().chain(["shop", "contracts"]) {
        let manifest = read(&format!("shop/{service}/Cargo.toml"));
        let runtime = manifest.split("[dev-dependencies]").next().unwrap_or_default();
        for client in ["rusqlite", "rdkafka", "tokio-postgres", "sqlx"] {
            assert!(
                !dependencies(runtime).contains(client),
                "shop/{service} depends on {client}: a service goes through Store, Tx and Broker, which \
                 keep state, events and dedupe records in one transaction"
            );
        }
    }
}

/// The crates of the workspace, each by the folder of its sources.
fn crates() -> Vec<PathBuf> {
    let folder = |manifest: String| root().join(manifest).with_file_name("src");
    manifests().into_iter().map(folder).collect()
}

#[test]
fn a_module_of_the_library_knows_only_those_declared_before_it() {
    let src = root().join("crates/tidings/src");
    let lib = fs::read_to_string(src.join("lib.rs")).expect("the library can be read");
    let name = |line: &str| {
        let line = line.trim_start_matches("pub ").strip_prefix("mod ")?;
        Some(line.strip_suffix(';')?.to_owned())
    };
    let order: Vec<String> = lib.lines().filter_map(name).collect();
    assert!(order.len() > 20, "only {} modules were found", order.len());
    let floor = |module: &str| order.iter().position(|known| known == module);
    let mut arrows = 0;
    for Arrow { from, to, path } in arrows_of(&modules(&src)) {
        let (Some(here), Some(there)) =
            (from.first().and_then(|top| floor(top)), to.first().and_then(|top| floor(top)))
        else {
            continue;
        };
        arrows += 1;
        assert!(
            here >= there,
            "{} names {path}: lib.rs declares {} after {}, so that a reader can go from top to bottom",
            from.join("::"),
            to[0],
            from[0]
        );
    }
    assert!(arrows > 300, "only {arrows} arrows were found");
}

#[test]
fn no_file_of_the_library_is_too_long_to_be_read() {
    const LINES_MAX: usize = 500;
    let src = root().join("crates/tidings/src");
    for file in sources(&src) {
        let lines = fs::read_to_string(&file).expect("a source can be read").lines().count();
        assert!(
            lines <= LINES_MAX,
            "{} has {lines} lines of at most {LINES_MAX}: it is two things",
            file.display()
        );
    }
}

#[test]
fn savepoints_and_engines_stay_in_the_store() {
    let src = root().join("crates/tidings/src");
    for file in sources(&src) {
        let place =
            file.strip_prefix(&src).expect("a source is under the root").to_string_lossy().into_owned();
        let code = code(&fs::read_to_string(&file).expect("a source can be read"));
        let has_savepoints = code.contains("\"SAVEPOINT") || code.contains("\"ROLLBACK TO");
        assert!(
            !has_savepoints
                || ["store/tx.rs", "sqlite.rs"].contains(&&*place)
                || place.starts_with("store/postgres/"),
            "{place} sets a savepoint: Tx::attempt does, with everything that belongs to it"
        );
        assert!(
            place.starts_with("store/") || !code.contains("Engine::"),
            "{place} asks which engine a store has: ask for the capability (Store::has_other_writers and others)"
        );
    }
}

#[test]
fn modules_of_a_folder_form_no_circle() {
    for src in crates() {
        let circles = circles(&arrows_of(&modules(&src)));
        assert!(circles.is_empty(), "{}: {circles:?} need each other: none can be read first", src.display());
    }
}

/// A path in a module's code that leads to another module of its crate.
struct Arrow {
    from: Vec<String>,
    to: Vec<String>,
    path: String,
}

/// The modules of a crate by their paths, with their code.
fn modules(src: &Path) -> BTreeMap<Vec<String>, String> {
    let module = |file: PathBuf| {
        let place = file.strip_prefix(src).expect("a source is under the root").with_extension("");
        let mut path: Vec<String> = place.iter().map(|name| name.to_string_lossy().into_owned()).collect();
        if path.last().is_some_and(|name| ["mod", "lib", "main"].contains(&&**name)) {
            path.pop();
        }
        (path, code(&fs::read_to_string(file).expect("a source can be read")))
    };
    sources(src).into_iter().map(module).collect()
}

fn arrows_of(modules: &BTreeMap<Vec<String>, String>) -> Vec<Arrow> {
    let mut arrows = Vec::new();
    for (from, code) in modules {
        for path in paths(code) {
            let Some(mut to) = absolute(from, &path, modules) else { continue };
            while !to.is_empty() && !modules.contains_key(&to) {
                to.pop();
            }
            if to != *from {
                arrows.push(Arrow { from: from.clone(), to, path });
            }
        }
    }
    arrows
}

/// What the paths in a module's code begin with, made whole: from `crate`, `super`, `self` or a child.
fn absolute(from: &[String], path: &str, modules: &BTreeMap<Vec<String>, String>) -> Option<Vec<String>> {
    let mut rest: Vec<String> = path.split("::").map(|name| name.trim().to_owned()).collect();
    let mut base = from.to_vec();
    match &*rest[0] {
        "crate" => base.clear(),
        "self" => {}
        "super" => {
            while rest.get(1).is_some_and(|name| name == "super") {
                rest.remove(0);
                base.pop();
            }
            base.pop();
        }
        child => {
            let child = [from, &[child.to_owned()]].concat();
            return modules.contains_key(&child).then(|| [from, &rest].concat());
        }
    }
    Some([base, rest.split_off(1)].concat())
}

/// The paths that code names: each of a `use` tree, and those in place.
fn paths(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    let mut rest = String::new();
    for statement in code.split_inclusive(';') {
        match statement.rfind("use ").filter(|at| {
            let before = statement[..*at].chars().next_back();
            before.is_none_or(|c| c.is_whitespace() || c == ')') && statement[*at..].contains("::")
        }) {
            Some(at) if !statement[at..].contains('=') => {
                expand(statement[at + 4..].trim_end_matches(';').trim(), "", &mut paths);
                rest += &statement[..at];
            }
            _ => rest += statement,
        }
    }
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in rest.match_indices(start) {
            let is_whole =
                !rest[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':' || c == '$');
            if is_whole {
                let end = rest[at..].find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
                paths.push(rest[at..end.map_or(rest.len(), |end| at + end)].trim_end_matches(':').to_owned());
            }
        }
    }
    paths
}

/// The leaves of a `use` tree.
fn expand(tree: &str, prefix: &str, paths: &mut Vec<String>) {
    let Some((head, list)) = tree.split_once('{') else {
        let leaf = tree.split(" as ").next().unwrap_or_default().trim();
        paths.push(format!("{prefix}{leaf}").trim_end_matches("::self").to_owned());
        return;
    };
    let list = list.trim_end().strip_suffix('}').unwrap_or(list);
    let (mut depth, mut start) = (0, 0);
    for (at, c) in list.char_indices().chain([(list.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let leaf = list[start..at].trim();
                if !leaf.is_empty() {
                    expand(leaf, &format!("{prefix}{}", head.trim()), paths);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// Modules of one folder that need each other, whatever the way; parent and child are one.
fn circles(arrows: &[Arrow]) -> Vec<Vec<String>> {
    let mut needs: BTreeMap<(Vec<String>, String), BTreeSet<String>> = BTreeMap::new();
    for Arrow { from, to, .. } in arrows {
        let common = from.iter().zip(to).take_while(|(a, b)| a == b).count();
        if common < from.len() && common < to.len() {
            let folder = from[..common].to_vec();
            needs.entry((folder, from[common].clone())).or_default().insert(to[common].clone());
        }
    }
    let reached = |folder: &[String], start: &str| {
        let mut reached: BTreeSet<String> = BTreeSet::new();
        let mut open = vec![start.to_owned()];
        while let Some(next) = open.pop() {
            for needed in needs.get(&(folder.to_vec(), next)).into_iter().flatten() {
                if reached.insert(needed.clone()) {
                    open.push(needed.clone());
                }
            }
        }
        reached
    };
    let on_a_circle = |(folder, module): &&(Vec<String>, String)| reached(folder, module).contains(module);
    needs
        .keys()
        .filter(on_a_circle)
        .map(|(folder, module)| [&folder[..], std::slice::from_ref(module)].concat())
        .collect()
}

#[test]
fn these_rules_can_be_broken() {
    let manifest = "[package]\nname = \"x\"\n[dependencies]\norder.workspace = true\n\
                    pay = { package = \"payment\", path = \"../payment\" }\n[dev-dependencies]\ninventory = \"1\"\n\
                    [features]\nkafka = [\"rdkafka\"]";
    let named = dependencies(manifest);
    assert_eq!(named, ["order", "pay", "payment", "inventory"].map(ToOwned::to_owned).into());
    let source =
        "//! tokio\nuse tokio::x; // rusqlite\nfn f() { rusqlite_like(); }\n#[cfg(test)]\nmod tests { axum }";
    let code = code(source);
    assert!(names(&code, "tokio"));
    assert!(!names(&code, "rusqlite"), "neither in a comment nor as a part of another word");
    assert!(!names(&code, "axum"), "tests may use what they like");
    let module = |path: &str, code: &str| {
        let path = path.split("::").filter(|name| !name.is_empty()).map(ToOwned::to_owned).collect();
        (path, code.to_owned())
    };
    let modules: BTreeMap<Vec<String>, String> = [
        module("", "mod a; mod b;"),
        module("a", "use crate::b::{self, c::D as E};"),
        module("b", "pub mod c; fn f() -> super::super::x::Y {}"),
        module("b::c", "use std::fmt; fn g() { crate::a::h(); }"),
        module("d", "use super::a::Z;"),
    ]
    .into();
    let arrows = arrows_of(&modules);
    let mut told: Vec<String> =
        arrows.iter().map(|arrow| format!("{} -> {}", arrow.from.join("::"), arrow.to.join("::"))).collect();
    told.sort();
    assert_eq!(told, ["a -> b", "a -> b::c", "b -> ", "b::c -> a", "d -> a"]);
    assert_eq!(circles(&arrows), [["a"], ["b"]]);
    assert_eq!(word_of_the_shop("client.get(\"/products\")"), Some("/products"));
    assert_eq!(word_of_the_shop("use shopctl::load;"), Some("shopctl"));
    assert_eq!(word_of_the_shop("client.get(\"/statusz\")"), None);
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("cannot read {file}: {e}"))
}

/// The manifests of the workspace's members.
fn manifests() -> Vec<String> {
    let mut manifests = vec!["xtask/Cargo.toml".to_owned(), "bench/Cargo.toml".to_owned()];
    for folder in ["crates", "shop", "examples"] {
        for entry in fs::read_dir(root().join(folder)).expect("the workspace can be listed") {
            let name = entry.expect("the workspace can be listed").file_name();
            let manifest = format!("{folder}/{}/Cargo.toml", name.to_string_lossy());
            if root().join(&manifest).is_file() {
                manifests.push(manifest);
            }
        }
    }
    manifests
}

/// What the dependency tables of a manifest name, renamed packages under both names.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    let mut in_table = false;
    for line in manifest.lines().map(str::trim) {
        if let Some(table) = line.strip_prefix('[') {
            let table = table.trim_end_matches(']');
            in_table = table.ends_with("dependencies");
            if let Some((_, name)) = table.split_once("dependencies.") {
                named.insert(name.to_owned());
            }
        } else if in_table && let Some((name, value)) = line.split_once('=') {
            named.insert(name.trim().split('.').next().unwrap_or_default().to_owned());
            if let Some((_, package)) = value.split_once("package = \"") {
                named.extend(package.split('"').next().map(ToOwned::to_owned));
            }
        }
    }
    named
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("sources can be listed") {
        let path = entry.expect("sources can be listed").path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files
}

/// A source without its comments and without its unit tests, which stand at its end.
fn code(source: &str) -> String {
    let code = source.split("#[cfg(test)]").next().unwrap_or_default();
    code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// Whether code names something as a whole word.
fn names(code: &str, word: &str) -> bool {
    let part_of_a_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let (before, after) = (&code[..at], &code[at + word.len()..]);
        !before.ends_with(part_of_a_word) && !after.starts_with(part_of_a_word)
    })
}
