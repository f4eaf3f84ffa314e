//! A Python that has what a `requirements.txt` names, made once and kept beside what cargo builds.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A directory of the workspace.
pub fn workspace(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// A Python with these requirements, to be given its arguments; `None`, and a line that says so, where there
/// is no Python to begin with.
pub fn python(requirements: &Path) -> Option<Command> {
    let base = Command::new("python3")
        .args(["-c", "import sys, venv, ensurepip; print(sys.version, sys.base_prefix)"])
        .stdin(Stdio::null())
        .output();
    let Some(base) = base.ok().filter(|output| output.status.success()) else {
        // Past the test harness, which would keep it to itself.
        let _ =
            writeln!(std::io::stderr(), "SKIPPED: no python3 that can make a venv (Debian: python3-venv)");
        return None;
    };
    let mut hasher = DefaultHasher::new();
    fs::read(requirements).expect("requirements can be read").hash(&mut hasher);
    base.stdout.hash(&mut hasher);
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let home = kept.join(format!("python-{:016x}", hasher.finish()));
    let lock = File::create(kept.join("python.lock")).expect("the target directory can be written");
    lock.lock().expect("a lock is waited for");
    if !home.join("complete").exists() {
        make(&home, requirements);
    }
    let mut python = Command::new(home.join("bin/python"));
    // What is run lies in the workspace, which stays clean.
    python.env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONUTF8", "1").stdin(Stdio::null());
    Some(python)
}

fn make(home: &Path, requirements: &Path) {
    let _ = fs::remove_dir_all(home);
    done(Command::new("python3").args(["-m", "venv"]).arg(home));
    let mut pip = Command::new(home.join("bin/python"));
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
        "--requirement",
    ]);
    done(pip.arg(requirements));
    fs::write(home.join("complete"), "").expect("the target directory can be written");
}

fn done(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().expect("Python can be run");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {error}", output.status);
}
