//! Regular expressions that take time in proportion to the text, whatever the pattern.
//!
//! Patterns come from clients as filters. What Go's engine reads is translated by
//! `containerd_hybrid.model.re2`; here it is only compiled and asked.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyString;
use regex::{Regex, RegexBuilder};

/// Bytes of a compiled pattern. A search may visit each of its states at each character of the text.
const SIZE_LIMIT: usize = 1 << 20;

/// A compiled pattern.
#[pyclass(frozen, module = "containerd_hybrid._native")]
pub struct Pattern(Regex);

#[pymethods]
impl Pattern {
    #[new]
    fn new(py: Python<'_>, pattern: &str) -> PyResult<Self> {
        py.detach(|| {
            RegexBuilder::new(pattern)
                .size_limit(SIZE_LIMIT)
                .dfa_size_limit(SIZE_LIMIT)
                .build()
        })
        .map(Self)
        .map_err(|error| PyValueError::new_err(error.to_string()))
    }

    /// Whether it matches anywhere in the text. What is no Unicode text (a lone surrogate) has no match.
    fn matches(&self, py: Python<'_>, text: &Bound<'_, PyString>) -> bool {
        text.to_str()
            .is_ok_and(|text| py.detach(|| self.0.is_match(text)))
    }
}
