//! Panics: caught where code of others runs, told in words, survived by locks.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;

use crate::error::HandlerError;

/// Runs a handler; a panic in it is a failure of its event or request, not of the process.
pub(crate) async fn catch_panic<T, E: From<HandlerError>>(
    handling: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    AssertUnwindSafe(handling).catch_unwind().await.unwrap_or_else(|panic| {
        Err(HandlerError::Transient(format!("panicked: {}", panic_message(&*panic))).into())
    })
}

/// The words of a panic.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

/// Locks a mutex. A poisoned one only says that a panic happened elsewhere; what these locks guard is whole at any
/// time.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
