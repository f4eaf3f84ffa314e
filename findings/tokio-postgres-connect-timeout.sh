#!/usr/bin/env bash
# tokio-postgres 0.7.18: `connect_timeout` ends with the TCP connection; the start-up handshake has no limit.
#
# A PostgreSQL process that is stopped (SIGSTOP, a paused container, a node that hangs) still has connections accepted
# by its kernel. `Config::connect` with `connect_timeout(1 s)` then waits for ever for the first answer. psycopg's
# connect_timeout, of libpq, does end: it covers the handshake.
#
# Seen: with a listener that accepts and never answers, and a limit of one second,
#   tokio-postgres 0.7.18: no end after 5 s
#   psycopg 3.2.10: ended after about 2 s (libpq's least limit)
# Needs: cargo, python3 with venv. Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "$listener" 2>/dev/null || true; rm -rf "$folder"' EXIT
python3 - "$folder/port" <<'PYTHON' &
import socket, sys, time
server = socket.create_server(("127.0.0.1", 0))
open(sys.argv[1] + ".new", "w").write(str(server.getsockname()[1]))
import os; os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(600)  # the kernel accepts, nobody answers
PYTHON
listener=$!
until [ -s "$folder/port" ]; do sleep 0.1; done
port=$(cat "$folder/port")

mkdir -p "$folder/crate/src"
cat > "$folder/crate/Cargo.toml" <<'TOML'
[package]
name = "limit"
version = "0.0.0"
edition = "2021"
[dependencies]
tokio = { version = "1", features = ["macros", "rt", "time"] }
tokio-postgres = "=0.7.18"
[workspace]
TOML
cat > "$folder/crate/src/main.rs" <<'RUST'
use std::time::Duration;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(std::env::args().nth(1).unwrap().parse().unwrap()).user("anybody");
    config.connect_timeout(Duration::from_secs(1));
    let connecting = config.connect(tokio_postgres::NoTls);
    match tokio::time::timeout(Duration::from_secs(5), connecting).await {
        Err(_) => println!("tokio-postgres 0.7.18: no end after 5 s"),
        Ok(ended) => println!("tokio-postgres 0.7.18: ended: {}", ended.is_ok()),
    }
}
RUST
rust=$(cargo run --quiet --manifest-path "$folder/crate/Cargo.toml" -- "$port")

python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-input "psycopg[binary]==3.2.10"
python=$("$folder/venv/bin/python" - "$port" <<'PYTHON'
import sys, time
import psycopg
begun = time.monotonic()
try:
    psycopg.connect(f"host=127.0.0.1 port={sys.argv[1]} user=anybody dbname=any connect_timeout=1")
except psycopg.OperationalError:
    print("psycopg 3.2.10:", "ended" if time.monotonic() - begun < 5 else "ended late")
PYTHON
)
printf '%s\n%s\n' "$rust" "$python"
[ "$rust" = "tokio-postgres 0.7.18: no end after 5 s" ] && [ "$python" = "psycopg 3.2.10: ended" ] ||
    { echo "this has changed" >&2; exit 1; }
