//! Processes by number. The shell has `kill` built in, on every machine.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::Attempt as _;
use crate::{Error, Result};

/// The pause between two looks at a condition. A server starts in a second or more.
const INTERVAL: Duration = Duration::from_millis(20);

/// A signal to a process; its name is the shell's word for it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Signal {
    Interrupt,
    Terminate,
    Kill,
    Stop,
    Continue,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "INT",
            Self::Terminate => "TERM",
            Self::Kill => "KILL",
            Self::Stop => "STOP",
            Self::Continue => "CONT",
        }
    }
}

/// Sends a signal to processes; those that are gone are gone.
pub(crate) fn send(signal: Signal, processes: &[u32]) -> Result<()> {
    let mut kill = Command::new("sh");
    kill.args(["-c", "kill -s \"$@\" || true", "kill", signal.name()])
        .args(processes.iter().map(u32::to_string));
    let done =
        kill.stderr(Stdio::null()).status().attempt(|| format!("cannot send {signal:?} to {processes:?}"))?;
    if done.success() {
        Ok(())
    } else {
        Err(Error::new(format!("cannot send {signal:?} to {processes:?}: {done}")))
    }
}

/// The processes that a process has started and that have not been waited for.
pub(crate) fn children(process: u32) -> Vec<u32> {
    all().filter(|child| stat(*child).is_some_and(|(_, parent)| parent == process)).collect()
}

/// Tells whether this directory is the working directory of a living process.
pub(crate) fn works_in(directory: &Path) -> bool {
    let directory = fs::canonicalize(directory).unwrap_or_default();
    all().any(|process| fs::read_link(format!("/proc/{process}/cwd")).is_ok_and(|cwd| cwd == directory))
}

/// Tells whether a process does not run: halted by a signal, dead, or gone.
pub(crate) fn is_halted(process: u32) -> bool {
    stat(process).is_none_or(|(state, _)| matches!(state, 'T' | 'Z' | 'X'))
}

/// Tells whether nothing is left of a process but perhaps its number.
pub(crate) fn is_dead(process: u32) -> bool {
    stat(process).is_none_or(|(state, _)| matches!(state, 'Z' | 'X'))
}

/// Asks until it is so; `false` when it was not within the time given.
pub(crate) fn eventually(within: Duration, mut so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + within;
    while !so() {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(INTERVAL);
    }
    true
}

/// Tells whether this process has root's rights.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|this| this.uid() == 0)
}

fn all() -> impl Iterator<Item = u32> {
    let proc = fs::read_dir("/proc").into_iter().flatten().flatten();
    proc.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// State and parent, which follow the name in brackets.
fn stat(process: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}
