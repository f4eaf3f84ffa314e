//! Admission: whether an event is the next of its stream, known, or comes behind one that was missed. Pure.
//!
//! Numbers in a stream come in commit order: n is given out only after n - 1 is committed. A snapshot that contains
//! event n of a stream therefore contains every earlier pending event of it. The in-memory queue of a stream starts
//! right after its last acknowledged event:
//!
//! | handed over, or found by a scan | is |
//! |---|---|
//! | a number at or below the last one in memory | known: ignored |
//! | the next number | taken |
//! | another number, or the first of an unknown stream that is not 1 | found by a scan of the whole set: taken; else left to one |

/// The place where an event was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// In the hand-over of this process.
    HandedOver,
    /// In a scan of what is behind this id.
    Behind(i64),
    /// In a scan of the whole set, in one snapshot.
    WholeSet,
}

/// The last number of a stream that this process knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    /// Of an event in memory.
    InMemory(i64),
    /// Of an event that the broker has.
    Acknowledged(i64),
    /// None lately.
    Unknown,
}

/// The verdict on an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ruling {
    /// It follows: it is sent.
    Take,
    /// It is in memory, in flight, or being deleted.
    Known,
    /// It was acknowledged, and its row not deleted after all.
    DeleteAgain,
    /// Something before it was missed: it is left to a scan of the whole set.
    Missed,
}

/// Decides about the event with a number; `is_known` says that its row is in memory, in flight or being deleted.
pub(super) fn admit(seq: i64, origin: Origin, last: Last, is_known: bool) -> Ruling {
    match last {
        Last::Acknowledged(last) if seq <= last && origin != Origin::HandedOver && !is_known => {
            Ruling::DeleteAgain
        }
        Last::InMemory(last) | Last::Acknowledged(last) if seq <= last => Ruling::Known,
        _ if is_known => Ruling::Known,
        _ if origin == Origin::WholeSet => Ruling::Take,
        Last::InMemory(last) | Last::Acknowledged(last) if seq == last + 1 => Ruling::Take,
        Last::Unknown if seq == 1 => Ruling::Take,
        _ => Ruling::Missed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_number_is_taken_and_another_one_only_from_the_whole_set() {
        use Last::{Acknowledged, InMemory, Unknown};
        use Origin::{Behind, HandedOver, WholeSet};
        use Ruling::{DeleteAgain, Known, Missed, Take};
        let table = [
            (1, HandedOver, Unknown, false, Take),
            (2, HandedOver, Unknown, false, Missed),
            (2, Behind(7), Unknown, false, Missed),
            (2, WholeSet, Unknown, false, Take),
            (5, HandedOver, InMemory(4), false, Take),
            (6, HandedOver, InMemory(4), false, Missed),
            (6, Behind(7), InMemory(4), false, Missed),
            (6, WholeSet, InMemory(4), false, Take),
            (4, HandedOver, InMemory(4), false, Known),
            (4, WholeSet, InMemory(4), false, Known),
            (3, WholeSet, InMemory(4), true, Known),
            (5, HandedOver, Acknowledged(4), false, Take),
            (6, Behind(7), Acknowledged(4), false, Missed),
            (6, WholeSet, Acknowledged(4), false, Take),
            // Handed over twice, or late: the row is on its way out.
            (4, HandedOver, Acknowledged(4), false, Known),
            (4, Behind(7), Acknowledged(4), true, Known),
            (4, Behind(7), Acknowledged(4), false, DeleteAgain),
            (3, WholeSet, Acknowledged(4), false, DeleteAgain),
            // Behind a blocked one.
            (6, WholeSet, Unknown, true, Known),
            (6, HandedOver, InMemory(4), true, Known),
        ];
        for (seq, origin, last, is_known, expected) in table {
            assert_eq!(admit(seq, origin, last, is_known), expected, "{seq} {origin:?} {last:?} {is_known}");
        }
    }
}
