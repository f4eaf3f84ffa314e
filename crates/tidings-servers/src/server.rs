use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{self, Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::error::Attempt as _;
use crate::process::{self, Signal, children, eventually, is_dead, is_halted};
use crate::process_guard::ProcessGuard;
use crate::{Error, Result};

/// To start takes 7 s at most on two cores; recovering after a crash under load, and other tests, add to it.
const START_MAX: Duration = Duration::from_secs(90);

/// To stop in good order; longer is a hang.
const STOP_MAX: Duration = Duration::from_secs(30);

/// The system halts and ends processes at once, unless one is inside a write to the disk.
const SIGNAL_MAX: Duration = Duration::from_secs(10);

/// A server process that may be running. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) name: &'static str,
    /// Everything it says, from all its starts
    pub(crate) log: PathBuf,
    /// The line that the server writes when it is ready
    pub(crate) ready: &'static str,
    /// Asks it to stop in good order
    pub(crate) stop: Signal,
    pub(crate) running: Option<Running>,
}

#[derive(Debug)]
pub(crate) struct Running {
    process: Child,
    guard: ProcessGuard,
}

impl Server {
    /// Starts it and waits until it is ready.
    pub(crate) fn start(&mut self, mut command: Command) -> Result<()> {
        if self.running().is_ok() {
            return Err(Error::new(format!("{} runs already", self.name)));
        }
        let cannot = || format!("cannot open {}", self.log.display());
        let log = File::options().create(true).append(true).open(&self.log).attempt(cannot)?;
        let log_too = log.try_clone().attempt(cannot)?;
        let mut unread = File::open(&self.log).attempt(cannot)?;
        unread.seek(SeekFrom::End(0)).attempt(cannot)?;
        command.stdin(Stdio::null()).stdout(log).stderr(log_too);
        let (process, guard) = ProcessGuard::spawn(&mut command)?;
        let running = self.running.insert(Running { process, guard });

        let mut ended = None;
        let mut printed = Vec::new();
        let ready = eventually(START_MAX, || {
            ended = running.ended();
            let _ = unread.read_to_end(&mut printed); // what cannot be read, it has not said
            ended.is_some() || String::from_utf8_lossy(&printed).contains(self.ready)
        });
        let unready = match ended {
            None if ready => return Ok(()),
            None => format!("is not ready after {} s", START_MAX.as_secs()),
            Some(status) => format!("ended before it was ready ({status})"),
        };
        self.kill()?;
        Err(Error::new(format!("{} {unready}, see {}", self.name, self.log.display())))
    }

    /// Ends it and its children without a chance to do anything.
    pub(crate) fn kill(&mut self) -> Result<()> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        if running.ended().is_some() {
            return Ok(());
        }
        // Halted first, so that it neither starts another child nor sees one die.
        let all = running.halt()?;
        process::send(Signal::Kill, &all)?;
        running.wait(self.name, SIGNAL_MAX)?;
        if eventually(SIGNAL_MAX, || all.iter().all(|p| is_dead(*p))) {
            Ok(())
        } else {
            Err(Error::new(format!("of {} something is left after SIGKILL: {all:?}", self.name)))
        }
    }

    /// Lets it end in good order.
    pub(crate) fn stop(&mut self) -> Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        if running.ended().is_none() {
            process::send(self.stop, &[running.process.id()])?;
        }
        running.wait(self.name, STOP_MAX)?;
        self.running = None;
        Ok(())
    }

    /// Halts it and its children where they are.
    pub(crate) fn pause(&mut self) -> Result<()> {
        self.running()?.halt().map(drop)
    }

    /// Lets them go on.
    pub(crate) fn resume(&mut self) -> Result<()> {
        let running = self.running()?;
        let head = running.process.id();
        process::send(Signal::Continue, &running.family())?;
        running.guard.hold_group(head);
        Ok(())
    }

    fn running(&mut self) -> Result<&mut Running> {
        let running = self.running.as_mut().and_then(|running| running.ended().is_none().then_some(running));
        running.ok_or_else(|| Error::new(format!("{} does not run", self.name)))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(e) = self.kill() {
            eprintln!("{e}");
        }
    }
}

impl Running {
    fn family(&self) -> Vec<u32> {
        let head = self.process.id();
        [head].into_iter().chain(children(head)).collect()
    }

    /// Halts the process and then its children, whose number cannot change any more; returns them all.
    fn halt(&mut self) -> Result<Vec<u32>> {
        let head = self.process.id();
        halt(&[head])?;
        let all = self.family();
        halt(&all)?;
        // Halted children do not notice that their parent is gone.
        self.guard.hold_all(&all);
        Ok(all)
    }

    /// Returns how the process has ended, if it has. Its number may be another process's from then on.
    fn ended(&mut self) -> Option<ExitStatus> {
        let ended = self.process.try_wait().ok().flatten();
        if ended.is_some() {
            self.guard.release();
        }
        ended
    }

    fn wait(&mut self, name: &str, within: Duration) -> Result<()> {
        if eventually(within, || self.ended().is_some()) {
            return Ok(());
        }
        Err(Error::new(format!("{name} has not ended after {} s", within.as_secs())))
    }
}

/// Makes a directory and names it from the root, so that a server finds it from anywhere.
pub(crate) fn directory(dir: &Path) -> Result<PathBuf> {
    let cannot = || format!("cannot make {}", dir.display());
    fs::create_dir_all(dir).attempt(cannot)?;
    path::absolute(dir).attempt(cannot)
}

fn halt(processes: &[u32]) -> Result<()> {
    process::send(Signal::Stop, processes)?;
    if eventually(SIGNAL_MAX, || processes.iter().all(|p| is_halted(*p))) {
        Ok(())
    } else {
        Err(Error::new(format!("cannot halt {processes:?}")))
    }
}
