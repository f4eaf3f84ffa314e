//! A file in which the book is kept: a line for each operation, written before it is answered.
//!
//! The file survives the end of the process, however it comes, but is not forced to disk: this is a sandbox.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Seek as _, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};
use tidings::Error;

use super::request::Asked;

/// An operation that was done.
#[derive(Serialize, Deserialize)]
pub struct Entry<'a> {
    pub at: i64,
    pub id: Cow<'a, str>,
    pub key: Option<Cow<'a, str>>,
    pub asked: Cow<'a, Asked>,
}

/// The file, open at its end.
#[derive(Debug)]
pub struct Journal(File);

impl Journal {
    /// Opens a journal, or begins one, and reads out what it holds.
    ///
    /// # Errors
    /// The file cannot be used, is another's, or holds something else.
    pub fn open(path: &Path, mut read_out: impl FnMut(Entry<'_>) -> bool) -> Result<Self, Error> {
        let name = path.display();
        let cannot = |e| Error::config(format!("cannot keep the book in {name}: {e}"));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(cannot)?;
        if file.try_lock().is_err() {
            return Err(Error::config(format!("{name} is in use: another psp-sandbox keeps its book there")));
        }
        let mut reader = BufReader::new(file);
        let (mut line, mut end) = (String::new(), 0);
        for number in 1.. {
            line.clear();
            let length = reader.read_line(&mut line).map_err(cannot)?;
            // A line without an end was being written when the process ended: it was not answered.
            if !line.ends_with('\n') {
                break;
            }
            let is_ours = serde_json::from_str(&line).is_ok_and(&mut read_out);
            if !is_ours {
                return Err(Error::config(format!(
                    "line {number} of {name} is not one of a psp-sandbox's book"
                )));
            }
            end += length as u64;
        }
        let mut file = reader.into_inner();
        file.set_len(end).and_then(|()| file.seek(std::io::SeekFrom::End(0))).map_err(cannot)?;
        Ok(Self(file))
    }

    /// Adds an operation.
    ///
    /// # Panics
    /// The file takes no more. A provider that cannot keep its book must not go on.
    pub fn write(&mut self, entry: &Entry<'_>) {
        let mut line = serde_json::to_vec(entry).expect("text and numbers are JSON");
        line.push(b'\n');
        if let Err(e) = self.0.write_all(&line) {
            eprintln!("the book cannot be kept: {e}");
            std::process::exit(1);
        }
    }
}
