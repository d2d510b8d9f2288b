//! The C library's allocator, told to keep little.

use pyo3::prelude::*;

/// Makes this process give memory back: two arenas for all threads, large blocks mapped by themselves.
///
/// Without it each thread of a pull has an arena, and what was a buffer once stays for the next one.
/// Nothing happens with a C library that has no such settings.
#[pyfunction]
pub fn keep_memory_low() {
    #[cfg(target_env = "gnu")]
    {
        const ARENAS: libc::c_int = 2;
        const MAPPED: libc::c_int = 128 * 1024;
        // SAFETY: mallopt may be called at any time; setting the thresholds ends their adjusting itself.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, ARENAS);
            libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED);
            libc::mallopt(libc::M_TRIM_THRESHOLD, MAPPED);
        }
    }
}
