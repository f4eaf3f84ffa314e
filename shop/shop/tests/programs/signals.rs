//! What an operator, or the machine, does to a running program.

use std::process::Command;

use super::Program;

impl Program {
    /// Ends it as a power cut would: SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it is ours");
    }

    /// Halts it where it is: SIGSTOP.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// Lets it go on: SIGCONT.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// How much memory it has, in bytes.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = resident.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kilobytes.expect("Linux says how much") * 1024
    }

    /// Whether it has logged a line with this text.
    pub fn has_said(&self, text: &str) -> bool {
        self.log().iter().any(|line| line.contains(text))
    }

    /// The lines that it has logged, of those that are wanted.
    pub fn lines(&self, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        self.log().into_iter().filter(|line| wanted(line)).collect()
    }

    fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        let sent = Command::new("sh").arg("-c").arg(kill).status();
        assert!(sent.expect("there is a shell").success());
    }
}
