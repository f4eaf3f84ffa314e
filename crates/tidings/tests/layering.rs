//! Who may know whom. Each rule is a test that prints its reason.

use std::collections::BTreeSet;
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
    let mut pure: Vec<String> = ["event", "envelope", "retry", "schema", "trace"]
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
            &["sqlite.rs", "error.rs", "store/", "broker/sqlite.rs"],
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
