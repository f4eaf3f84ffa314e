//! Files that the operator names, `-` for standard input.

use std::io::Read as _;
use std::path::Path;

use serde_json::value::RawValue;
use tidings_client::Error;

/// All of a file.
pub(crate) fn read(file: &Path) -> Result<Vec<u8>, Error> {
    let mut text = Vec::new();
    let read = match file.to_str() {
        Some("-") => std::io::stdin().read_to_end(&mut text),
        _ => std::fs::File::open(file).and_then(|mut file| file.read_to_end(&mut text)),
    };
    read.map_err(|e| Error::new(format!("cannot read {}: {e}", file.display())))?;
    Ok(text)
}

/// All of a file that is JSON, number for number as it stands there.
pub(crate) fn json(file: &Path) -> Result<Box<RawValue>, Error> {
    let text = read(file)?;
    serde_json::from_slice(&text)
        .map_err(|error| Error::new(format!("{} is no JSON: {error}", file.display())))
}
