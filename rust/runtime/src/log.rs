//! Warnings: what goes on in spite of a flaw.

use std::cell::RefCell;

type Sink = Box<dyn Fn(&str)>;

thread_local! {
    static SINK: RefCell<Option<Sink>> = const { RefCell::new(None) };
}

/// Sends this thread's warnings to `sink`. Without one they are dropped.
pub fn to(sink: impl Fn(&str) + 'static) {
    SINK.with(|slot| *slot.borrow_mut() = Some(Box::new(sink)));
}

pub(crate) fn warning(text: &str) {
    SINK.with(|slot| {
        if let Some(sink) = &*slot.borrow() {
            sink(text);
        }
    });
}
