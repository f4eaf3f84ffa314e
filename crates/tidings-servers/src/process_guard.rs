//! A guarded process lives no longer than the process that started it, however that process ends.
//!
//! A shell waits at a pipe whose other end only the holder has. When the holder is gone, by a
//! panic, by Ctrl-C or by SIGKILL, the system closes the pipe and the shell kills what it was told to.
//! (`PR_SET_PDEATHSIG` would be simpler, but fires when the starting *thread* ends.)

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use crate::Result;
use crate::error::Attempt as _;

/// Each line names what dies when the pipe ends. Signals to the terminal's processes are not meant for it.
const WATCH: &str =
    "trap '' HUP INT TERM; while read -r line; do doomed=$line; done; kill -s KILL -- $doomed";

/// Kills a process, and those of its group, when this process ends or drops it.
#[derive(Debug)]
pub struct ProcessGuard {
    watch: Child,
}

impl ProcessGuard {
    /// Starts a command as the head of a new group of processes, and guards them.
    ///
    /// # Errors
    ///
    /// When it, or the shell that watches, cannot be started.
    pub fn spawn(command: &mut Command) -> Result<(Child, Self)> {
        let program = command.get_program().to_owned();
        let mut sh = Command::new("sh");
        sh.args(["-c", WATCH])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        let watch = sh.spawn().attempt(|| "cannot run sh".to_owned())?;
        let mut guard = Self { watch };
        let child =
            command.process_group(0).spawn().attempt(|| format!("cannot run {}", program.display()))?;
        guard.hold_group(child.id());
        Ok((child, guard))
    }

    /// Kills also processes that left the group, until the next [`ProcessGuard::hold_group`].
    pub(crate) fn hold_all(&mut self, processes: &[u32]) {
        let processes: Vec<_> = processes.iter().map(u32::to_string).collect();
        self.hold(&processes.join(" "));
    }

    /// Kills the group that a process is the head of, and nothing else.
    pub(crate) fn hold_group(&mut self, head: u32) {
        self.hold(&format!("-{head}"));
    }

    /// Nothing dies any more: it has ended, and its number may be given to another.
    pub fn release(&mut self) {
        self.hold("");
    }

    fn hold(&mut self, doomed: &str) {
        if let Some(pipe) = &mut self.watch.stdin {
            // It only fails when somebody killed the shell; then there is no guard.
            let _ = writeln!(pipe, "{doomed}");
        }
    }
}

impl Drop for ProcessGuard {
    fn drop(&mut self) {
        drop(self.watch.stdin.take());
        let _ = self.watch.wait();
    }
}
