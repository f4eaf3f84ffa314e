//! The place of a file of SQLite: the check that this process may write there.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::{Access, AtFlags};

use crate::error::Error;

/// Refuses a directory, or files in it, that opening `directory/name.db` could not write. Writes nothing.
pub(super) fn check_writable(directory: &Path, name: &str) -> Result<(), Error> {
    // A path like `data` has an empty parent.
    let place =
        |path: &Path| if path.as_os_str().is_empty() { Path::new(".").to_owned() } else { path.to_owned() };
    let there = directory.ancestors().map(place).find(|path| !is_missing(path));
    if let Some(ancestor) = there.filter(|there| there != directory) {
        return may_write(&ancestor.join(".")).map_err(|e| cannot_create(directory, &e));
    }
    may_write(&directory.join(".")).map_err(|e| cannot_write(directory, &e))?;
    let files = ["db", "db-wal", "db-shm", "lock"].map(|end| directory.join(format!("{name}.{end}")));
    for file in files.iter().filter(|file| !is_missing(file)) {
        may_write(file).map_err(|e| {
            Error::config(format!(
                "cannot write to {}: {e}; make it writable, or choose another directory",
                file.display()
            ))
        })?;
    }
    Ok(())
}

fn is_missing(path: &Path) -> bool {
    fs::metadata(path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
}

/// Asks the system whether this process may write there.
fn may_write(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::accessat(rustix::fs::CWD, path, Access::WRITE_OK, AtFlags::EACCESS)?)
}

pub(super) fn cannot_create(directory: &Path, e: &io::Error) -> Error {
    Error::config(format!("cannot create data directory {}: {e}; choose a writable one", directory.display()))
}

pub(super) fn cannot_write(directory: &Path, e: &io::Error) -> Error {
    Error::config(format!(
        "cannot write to data directory {}: {e}; choose a writable one",
        directory.display()
    ))
}
