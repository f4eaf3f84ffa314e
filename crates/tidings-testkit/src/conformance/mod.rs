//! The promises of every broker and every store, one function per promise.
//!
//! Each takes the URL of a fresh broker or store, and uses nothing of any particular one. A test binary
//! makes a test of each with [`broker_conformance!`](crate::broker_conformance) and
//! [`store_conformance!`](crate::store_conformance), on one thread and on several:
//!
//! ```
//! use tidings_testkit::Scratch;
//!
//! tidings_testkit::broker_conformance!(Scratch::new());
//! # fn main() {}
//! ```
//!
//! The argument is something whose `url()` is the URL, and which lives as long as the test.

pub mod broker;
pub mod store;

/// Makes tests of functions of a suite.
#[doc(hidden)]
#[macro_export]
macro_rules! each_promise {
    ($suite:ident, $fresh:expr, $($promise:ident)*) => {
        mod one_thread {
            #[allow(unused_imports)] // the expression may need what its caller can see
            use super::*;
            $(
                #[tokio::test]
                async fn $promise() {
                    let fresh = $fresh;
                    $crate::conformance::$suite::$promise(&fresh.url()).await;
                }
            )*
        }
        mod many_threads {
            #[allow(unused_imports)] // as above
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $promise() {
                    let fresh = $fresh;
                    $crate::conformance::$suite::$promise(&fresh.url()).await;
                }
            )*
        }
    };
}
