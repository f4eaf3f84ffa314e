//! One trial of a mutant: the sources are changed, its tests run, the sources are as they were again.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tidings_servers::ProcessGuard;

use crate::Failed;
use crate::cargo::{KAFKA, announce, cargo, root};

/// Tests that take longer hang; the slowest of them needs a minute.
const TESTS_MAX: Duration = Duration::from_secs(300);
/// Longer than a change of any crate takes to compile, with others on the machine.
const COMPILING_MAX: Duration = Duration::from_secs(1800);
/// The pause between two looks at a command.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A change of sources: each file as it is, and as it is to be.
#[derive(Default)]
pub(crate) struct Patch(BTreeMap<PathBuf, (String, String)>);

impl Patch {
    /// Replaces text that stands exactly once in a file.
    pub(crate) fn replace(&mut self, file: &Path, old: &str, new: &str) -> Result<(), String> {
        if !self.0.contains_key(file) {
            let text = fs::read_to_string(root().join(file)).map_err(|e| e.to_string())?;
            self.0.insert(file.to_owned(), (text.clone(), text));
        }
        let changed = &mut self.0.get_mut(file).expect("it was read").1;
        match changed.matches(old).count() {
            1 => *changed = changed.replace(old, new),
            count => return Err(format!("this stands there {count} times, not once:\n{old}")),
        }
        Ok(())
    }

    /// Fails if a file differs from what is committed: it could not be told from one that a trial left behind.
    pub(crate) fn refuse_changed_files(&self) -> Result<(), Failed> {
        let mut git = Command::new("git");
        git.current_dir(root()).args(["status", "--porcelain", "--"]).args(self.0.keys());
        let changed = git.output().map_err(said)?.stdout;
        if changed.is_empty() {
            return Ok(());
        }
        Err(said(format!("commit these first, or take them back:\n{}", String::from_utf8_lossy(&changed))))
    }

    /// Writes the changed files; they are as they were once what is returned is dropped.
    fn apply(&self) -> Result<Applied<'_>, Failed> {
        let applied = Applied(self);
        for (file, (_, changed)) in &self.0 {
            fs::write(root().join(file), changed).map_err(said)?;
        }
        Ok(applied)
    }
}

struct Applied<'a>(&'a Patch);

impl Drop for Applied<'_> {
    fn drop(&mut self) {
        for (file, (original, _)) in &self.0.0 {
            if let Err(e) = fs::write(root().join(file), original) {
                eprintln!("{} is still changed: git checkout {}: {e}", file.display(), file.display());
            }
        }
    }
}

/// The result of a trial.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    /// The tests have failed, as they should.
    Caught,
    /// These have passed.
    Survived(Vec<String>),
    DoesNotCompile,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Caught => f.write_str("caught"),
            Self::Survived(passed) => write!(f, "SURVIVED {}", passed.join(" and ")),
            Self::DoesNotCompile => f.write_str("DOES NOT COMPILE"),
        }
    }
}

/// Tests of one command.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Suite<'a> {
    /// Arguments of `cargo test`.
    pub(crate) run: &'a str,
    pub(crate) needs_servers: bool,
    /// Parts of their paths.
    pub(crate) names: Vec<&'a str>,
}

/// The place where tests run, one suite at a time.
pub(crate) struct Bench {
    variables: Vec<(&'static str, String)>,
    interrupted: Arc<AtomicBool>,
    /// The output of the last command.
    output: PathBuf,
}

/// The end of a command.
#[derive(PartialEq)]
enum Ended {
    Well,
    Badly,
    TooLate,
}

impl Bench {
    /// `variables` name the real servers.
    pub(crate) fn new(variables: impl Iterator<Item = (&'static str, String)>) -> Result<Self, Failed> {
        let output = tidings_servers::target_dir().join("mutants.log");
        Ok(Self { variables: variables.collect(), interrupted: interrupts()?, output })
    }

    /// Fails unless there are such tests, and all of them pass.
    pub(crate) fn passes(&self, suite: &Suite<'_>) -> Result<(), Failed> {
        let ended = match self.compile(suite)? {
            Ended::Well => self.test(suite)?,
            ended => ended,
        };
        let output = self.output()?;
        if ended != Ended::Well {
            return Err(said(format!("{output}\nthey fail without any change")));
        }
        let is_there =
            |name: &str| output.lines().any(|line| line.starts_with("test ") && line.contains(name));
        match suite.names.iter().find(|name| !is_there(name)) {
            None => Ok(()),
            Some(missing) => Err(said(format!("cargo test {} has no test {missing}", suite.run))),
        }
    }

    /// Changes the sources and runs tests, each of which is to fail.
    pub(crate) fn judge(&self, patch: &Patch, suite: &Suite<'_>) -> Result<Verdict, Failed> {
        let _applied = patch.apply()?;
        if self.compile(suite)? != Ended::Well {
            eprintln!("{}", self.output()?);
            return Ok(Verdict::DoesNotCompile);
        }
        let ended = self.test(suite)?;
        let output = self.output()?;
        let failed = failed(&output);
        let passed = suite.names.iter().filter(|name| !failed.iter().any(|path| path.contains(**name)));
        let passed: Vec<String> = passed.map(ToString::to_string).collect();
        Ok(match ended {
            // They hang, or their program died, and nobody could overlook that.
            Ended::TooLate => Verdict::Caught,
            Ended::Badly if failed.is_empty() || passed.is_empty() => Verdict::Caught,
            Ended::Well | Ended::Badly => Verdict::Survived(passed),
        })
    }

    fn compile(&self, suite: &Suite<'_>) -> Result<Ended, Failed> {
        let mut compile = self.command(suite);
        compile.arg("--no-run");
        self.ended(compile, COMPILING_MAX)
    }

    fn test(&self, suite: &Suite<'_>) -> Result<Ended, Failed> {
        let mut test = self.command(suite);
        test.arg("--").args(&suite.names);
        announce(&test);
        self.ended(test, TESTS_MAX)
    }

    fn command(&self, suite: &Suite<'_>) -> Command {
        let mut command = cargo(["test", "--no-fail-fast"]);
        command.args(suite.run.split(' ')).envs(self.variables.iter().cloned());
        if suite.needs_servers {
            command.args(KAFKA);
        }
        command
    }

    /// Runs a command to its end; fails on Ctrl-C.
    fn ended(&self, mut command: Command, max: Duration) -> Result<Ended, Failed> {
        let output = File::create(&self.output).map_err(said)?;
        command.stdin(Stdio::null()).stdout(output.try_clone().map_err(said)?).stderr(output);
        let (mut child, mut leash) = ProcessGuard::spawn(&mut command).map_err(said)?;
        let begun = Instant::now();
        // Whatever is still running then is killed with the leash.
        let status = loop {
            if let Some(status) = child.try_wait().map_err(said)? {
                break status;
            }
            if self.interrupted.load(Ordering::Relaxed) {
                return Err(said("interrupted; the sources are as they were"));
            }
            if begun.elapsed() >= max {
                return Ok(Ended::TooLate);
            }
            thread::sleep(LOOK_EVERY);
        };
        leash.release();
        Ok(if status.success() { Ended::Well } else { Ended::Badly })
    }

    fn output(&self) -> Result<String, Failed> {
        fs::read(&self.output).map(|output| String::from_utf8_lossy(&output).into_owned()).map_err(said)
    }
}

/// The paths of tests that have failed: each has a paragraph with its output.
fn failed(output: &str) -> Vec<&str> {
    output.lines().filter_map(|line| line.strip_prefix("---- ")?.strip_suffix(" stdout ----")).collect()
}

/// The flag that Ctrl-C raises; once it is registered, nothing else happens by itself.
fn interrupts() -> Result<Arc<AtomicBool>, Failed> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, flag.clone()).map_err(said)?;
    }
    Ok(flag)
}

fn said(e: impl fmt::Display) -> Failed {
    eprintln!("{e}");
    Failed
}

#[cfg(test)]
mod tests {
    use super::failed;

    #[test]
    fn failed_tests_are_told_by_the_heads_of_their_output() {
        let output =
            "test a::b ... ok\ntest a::c ... FAILED\n\nfailures:\n\n---- a::c stdout ----\npanicked\n";
        assert_eq!(failed(output), ["a::c"]);
    }
}
