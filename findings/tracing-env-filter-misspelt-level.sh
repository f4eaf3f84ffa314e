#!/usr/bin/env bash
# tracing-subscriber 0.3.23: a misspelt level is a valid filter that lets nothing through.
#
# `RUST_LOG=inof` is read as the target `inof` at every level. `EnvFilter::try_new` returns Ok, and since no directive
# is left for everything else, all other targets are off: a service starts, and its log is empty, errors included.
# Whoever takes a filter from an operator has to refuse names of targets that nobody has, or that look like a level.
#
# Seen:
#   inof: Ok, errors are logged: false
#   info: Ok, errors are logged: true
#   inof,warn: Ok, errors are logged: true
# Needs: cargo. Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
cat > "$folder/Cargo.toml" <<'TOML'
[package]
name = "filter"
version = "0.0.0"
edition = "2021"
[dependencies]
tracing = "0.1"
tracing-subscriber = { version = "=0.3.23", features = ["env-filter"] }
[workspace]
TOML
cat > "$folder/src/main.rs" <<'RUST'
use tracing_subscriber::EnvFilter;

fn main() {
    for text in ["inof", "info", "inof,warn"] {
        let filter = EnvFilter::try_new(text);
        let verdict = if filter.is_ok() { "Ok" } else { "refused" };
        let subscriber = tracing_subscriber::fmt().with_env_filter(filter.unwrap_or_default()).finish();
        let logged = tracing::subscriber::with_default(subscriber, || {
            tracing::enabled!(target: "shop::orders", tracing::Level::ERROR)
        });
        println!("{text}: {verdict}, errors are logged: {logged}");
    }
}
RUST
seen=$(cargo run --quiet --manifest-path "$folder/Cargo.toml")
printf '%s\n' "$seen"
[ "$seen" = "inof: Ok, errors are logged: false
info: Ok, errors are logged: true
inof,warn: Ok, errors are logged: true" ] || { echo "this has changed" >&2; exit 1; }
