//! The headers of a message, in one allocation however many there are.

use std::fmt;

use super::names::{self, Name, put_bytes, put_length, put_name};

/// The length of no value at all.
const NULL: usize = u32::MAX as usize;

/// Names and raw values, in the order they were written; names may repeat, the first counts.
///
/// ```
/// use tidings::Headers;
///
/// let mut headers = Headers::from([("ce_id", "1"), ("ce_type", "parcel.sent.v1")]);
/// headers.push("ce_id", b"2");
/// assert_eq!(headers.get("ce_id"), Some(&b"1"[..]));
/// headers.retain(|name, _| name != "ce_id");
/// assert_eq!(headers.len(), 1);
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers {
    /// One after the other: a name as [`names`] has it, the value's length and its bytes.
    encoded: Vec<u8>,
    /// The number of headers, and the bytes of their names and values: asked for more often than they change.
    count: usize,
    bytes: usize,
}

impl Headers {
    /// Makes an empty list, with room for this many bytes of names and values.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self { encoded: Vec::with_capacity(bytes), ..Self::default() }
    }

    /// Adds one after the others.
    pub fn push(&mut self, name: &str, value: &[u8]) {
        self.put(Name::of(name), value);
    }

    pub(crate) fn put(&mut self, name: Name<'_>, value: &[u8]) {
        put_name(&mut self.encoded, name);
        put_bytes(&mut self.encoded, value);
        self.count += 1;
        self.bytes += name.text().len() + value.len();
    }

    /// Adds one without a value, which is another thing than an empty one.
    pub fn push_null(&mut self, name: &str) {
        self.put_null(Name::of(name));
    }

    pub(crate) fn put_null(&mut self, name: Name<'_>) {
        put_name(&mut self.encoded, name);
        put_length(&mut self.encoded, NULL);
        self.count += 1;
        self.bytes += name.text().len();
    }

    /// Gives the last one a value, if it is of this name and has none.
    pub(crate) fn fill(&mut self, name: Name<'_>, value: &[u8]) {
        if self.entries().last() == Some((name, &[])) {
            self.encoded.pop(); // its length
            put_bytes(&mut self.encoded, value);
            self.bytes += value.len();
        }
    }

    /// The value of the first one of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// Keeps those that `keep` says yes to.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &[u8]) -> bool) {
        let mut kept = Self::with_capacity(self.encoded.len());
        for (name, value) in self.values() {
            match value {
                value if !keep(name.text(), value.unwrap_or_default()) => {}
                Some(value) => kept.put(name, value),
                None => kept.put_null(name),
            }
        }
        *self = kept;
    }

    /// All of them, in order.
    #[must_use]
    pub fn iter(&self) -> Iter<'_> {
        Iter(self.entries())
    }

    /// All of them, for a caller that compares many names.
    pub(crate) fn entries(&self) -> Entries<'_> {
        Entries { rest: &self.encoded }
    }

    /// All of them, those without a value told from empty ones.
    pub(crate) fn values(&self) -> impl Iterator<Item = (Name<'_>, Option<&[u8]>)> {
        let mut rest = &*self.encoded;
        std::iter::from_fn(move || next(&mut rest))
    }

    /// Returns the number of headers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// The bytes of their names and values.
    pub(crate) fn size(&self) -> usize {
        self.bytes
    }

    /// True if there is no header.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.encoded.is_empty()
    }
}

/// See [`Headers::iter`].
#[derive(Clone)]
pub struct Iter<'a>(Entries<'a>);

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a str, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|(name, value)| (name.text(), value))
    }
}

#[derive(Clone)]
pub(crate) struct Entries<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Entries<'a> {
    type Item = (Name<'a>, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        next(&mut self.rest).map(|(name, value)| (name, value.unwrap_or_default()))
    }
}

/// Only [`Headers`] writes what is read here, so it ends only where a header ends.
#[inline]
fn next<'a>(rest: &mut &'a [u8]) -> Option<(Name<'a>, Option<&'a [u8]>)> {
    let name = names::read_name(rest)?;
    match names::read_length(rest)? {
        NULL => Some((name, None)),
        length => Some((name, Some(names::read_exactly(rest, length)?))),
    }
}

impl<'a> IntoIterator for &'a Headers {
    type Item = (&'a str, &'a [u8]);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl<N: AsRef<str>, V: AsRef<[u8]>> Extend<(N, V)> for Headers {
    fn extend<I: IntoIterator<Item = (N, V)>>(&mut self, headers: I) {
        for (name, value) in headers {
            self.push(name.as_ref(), value.as_ref());
        }
    }
}

impl<N: AsRef<str>, V: AsRef<[u8]>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(headers: I) -> Self {
        let mut all = Self::default();
        all.extend(headers);
        all
    }
}

impl<N: AsRef<str>, V: AsRef<[u8]>, const COUNT: usize> From<[(N, V); COUNT]> for Headers {
    fn from(headers: [(N, V); COUNT]) -> Self {
        headers.into_iter().collect()
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.iter().map(|(name, value)| (name, value.escape_ascii().to_string())))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::Headers;

    #[test]
    fn they_keep_their_order_and_repeat_and_the_first_of_a_name_counts() {
        let mut headers = Headers::from([("ce_id", "1"), ("Ünïcode", ""), ("ce_id", "2")]);
        headers.push("nul", b"a\0b");
        assert_eq!((headers.len(), headers.size()), (4, 5 + 1 + 9 + 5 + 1 + 3 + 3));
        assert_eq!(headers.get("ce_id"), Some(&b"1"[..]));
        assert_eq!(headers.get("Ünïcode"), Some(&b""[..]));
        assert_eq!(headers.get("missing"), None);
        headers.retain(|_, value| value != b"1");
        headers.push_null("null");
        headers.retain(|name, _| name != "missing");
        assert_eq!(headers.get("null"), Some(&b""[..]));
        let nulls = headers.values().filter(|(_, value)| value.is_none()).map(|(name, _)| name.text());
        assert_eq!(nulls.collect::<Vec<_>>(), ["null"]);
        headers.retain(|name, _| name != "null");
        let left: Vec<_> = headers.iter().collect();
        assert_eq!((headers.len(), headers.size()), (3, 9 + 5 + 1 + 3 + 3));
        assert_eq!(left, [("Ünïcode", &b""[..]), ("ce_id", &b"2"[..]), ("nul", &b"a\0b"[..])]);
    }
}
