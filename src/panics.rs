//! The panic boundary: a panic inside the library becomes an error, and prints nothing.

use crate::error::{Error, Result, Status};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    /// How many `catch`es this thread is in.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    /// Where the latest panic inside a `catch` happened.
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs `work`; a panic in it becomes an `INTERNAL` error that says what it said, and where.
pub fn catch<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(install_hook);
    DEPTH.with(|depth| depth.set(depth.get() + 1));
    let result = catch_unwind(AssertUnwindSafe(work));
    DEPTH.with(|depth| depth.set(depth.get() - 1));
    result.unwrap_or_else(|panic| {
        let place = PLACE.with(RefCell::take);
        Err(Error::new(Status::Internal, format!("a panic was caught at {place}: {}", message(&*panic))))
    })
}

/// Rust's own hook prints to stderr. Inside a `catch` the place is noted instead; elsewhere in the process,
/// which matters to a Rust host, the hook that was there before is called.
fn install_hook() {
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if DEPTH.with(Cell::get) == 0 {
            return previous(info);
        }
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        PLACE.with(|cell| cell.replace(place));
    }));
}

fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_that_names_the_place() {
        let error = catch::<()>(|| panic!("seven {}", 7)).unwrap_err();
        assert_eq!(error.status, Status::Internal);
        assert!(error.message.contains("seven 7") && error.message.contains("panics.rs"), "{error}");
        assert_eq!(catch(|| Ok(5)).unwrap(), 5);
    }
}
