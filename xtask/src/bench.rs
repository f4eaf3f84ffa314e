//! The benchmark: builds it and the programs it starts, this revision's and, to compare, another's.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::Command;

use crate::Failed;
use crate::cargo::{self, cargo, root};
use crate::servers::Servers;

const AGAINST: &str = "--against";

pub(crate) fn run(args: &[OsString]) -> Result<(), Failed> {
    let on_kafka = args.iter().any(|arg| arg == "--kafka");
    let mut args = args.to_vec();
    if let Some(revision) = revision(&mut args) {
        let programs = other(&revision?, on_kafka)?;
        args.extend([AGAINST.into(), programs.into()]);
    }
    build(cargo(["build", "--release", "--package", "shopctl"]), on_kafka)?;
    let servers = if on_kafka { Servers::start()? } else { Servers::default() };
    // Not `cargo run`: of one package it would build the library again, without what the programs need of it.
    let mut bench = Command::new(tidings_servers::target_dir().join("release/bench"));
    bench.args(args).envs(servers.variables());
    let done = cargo::run(bench);
    servers.remove();
    done
}

/// Builds the benchmark, and the programs that it starts from beside itself.
fn build(mut cargo: Command, on_kafka: bool) -> Result<(), Failed> {
    cargo.args(["--package", "bench"]);
    if on_kafka {
        cargo
            .args(["--package", "order", "--package", "payment", "--package", "inventory"])
            .args(cargo::KAFKA);
    } else {
        cargo.args(["--package", "shop"]);
    }
    cargo::run(cargo)
}

/// Takes the revision out of the arguments.
fn revision(args: &mut Vec<OsString>) -> Option<Result<OsString, Failed>> {
    let at =
        args.iter().position(|arg| arg == AGAINST || arg.as_encoded_bytes().starts_with(b"--against="))?;
    let arg = args.remove(at);
    if let Some(revision) = arg.to_str().and_then(|arg| arg.strip_prefix("--against=")) {
        return Some(Ok(revision.into()));
    }
    if at == args.len() {
        eprintln!("{AGAINST} needs a revision, such as a tag or a commit");
        return Some(Err(Failed));
    }
    Some(Ok(args.remove(at)))
}

/// Builds another revision in a work tree of its own and returns the directory of its programs.
fn other(revision: &OsStr, on_kafka: bool) -> Result<PathBuf, Failed> {
    let place = tidings_servers::target_dir().join("against");
    let (tree, target) = (place.join("tree"), place.join("target"));
    let mut commit = revision.to_owned();
    commit.push("^{commit}");
    let commit = git(["rev-parse", "--verify", "--quiet"].map(OsStr::new), &commit)
        .inspect_err(|Failed| eprintln!("there is no revision {}", revision.display()))?;
    git(["worktree", "prune"].map(OsStr::new), OsStr::new("--verbose"))?;
    let place = if tree.join(".git").exists() {
        let at =
            ["-C".as_ref(), tree.as_os_str(), "checkout".as_ref(), "--quiet".as_ref(), "--detach".as_ref()];
        git(at, commit.as_ref())
    } else {
        let at =
            ["worktree".as_ref(), "add".as_ref(), "--force".as_ref(), "--detach".as_ref(), tree.as_os_str()];
        git(at, commit.as_ref())
    };
    place.inspect_err(|Failed| eprintln!("git cannot put {commit} in {}", tree.display()))?;
    let mut build_other = cargo(["build", "--release"]);
    build_other.current_dir(&tree).env("CARGO_TARGET_DIR", &target);
    build(build_other, on_kafka)?;
    Ok(target.join("release"))
}

/// Runs git and returns the line it prints.
fn git<const N: usize>(args: [&OsStr; N], last: &OsStr) -> Result<String, Failed> {
    let output = Command::new("git").current_dir(root()).args(args).arg(last).output();
    let output = output.map_err(|e| {
        eprintln!("cannot run git: {e}");
        Failed
    })?;
    if !output.status.success() {
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        return Err(Failed);
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::revision;

    #[test]
    fn a_revision_is_taken_out_of_the_arguments() {
        let taken = |args: &[&str]| {
            let mut args: Vec<OsString> = args.iter().map(OsString::from).collect();
            let revision = revision(&mut args).map(|revision| revision.map_err(|_| ()));
            (revision, args)
        };
        let left: Vec<OsString> = vec!["--kafka".into()];
        assert_eq!(taken(&["--against", "main", "--kafka"]), (Some(Ok("main".into())), left.clone()));
        assert_eq!(taken(&["--kafka", "--against=v1"]), (Some(Ok("v1".into())), left.clone()));
        assert_eq!(taken(&["--kafka", "--against"]), (Some(Err(())), left.clone()));
        assert_eq!(taken(&["--kafka"]), (None, left));
    }
}
