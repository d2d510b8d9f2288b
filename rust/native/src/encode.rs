//! Many values of one class to the bytes of a protobuf message that lists them.
//!
//! Python's messages cost several objects a value; for lists of thousands it is quicker to write what
//! they would be serialized to, straight from the values' attributes.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyMapping, PyString};

/// How a field is found and written. Fields with their default value are left out, as proto3 does it.
enum Kind {
    /// `str`, or anything whose `str()` is meant.
    Text,
    /// `int` that is not negative.
    Number,
    /// Nanoseconds since 1970 as `google.protobuf.Timestamp`.
    Time,
    /// A mapping of `str` to `str`.
    Map,
    /// A value with `type_url` and `value`, or None, as `google.protobuf.Any`.
    Any,
    /// A mapping of `str` to such values.
    Anys,
    /// Another value; its message is there even when it is empty.
    Message(Py<WirePlan>),
    /// A message of this value's own attributes.
    Part(Py<WirePlan>),
}

struct Field {
    number: u32,
    attribute: Py<PyString>,
    kind: Kind,
}

/// What the fields of a message are, of values of one class.
#[pyclass(frozen, module = "containerd_hybrid._native")]
pub struct WirePlan {
    fields: Vec<Field>,
}

#[pymethods]
impl WirePlan {
    #[new]
    fn new(
        py: Python<'_>,
        fields: Vec<(u32, String, String, Option<Py<WirePlan>>)>,
    ) -> PyResult<Self> {
        let fields = fields.into_iter().map(|(number, attribute, kind, plan)| {
            let kind = match (kind.as_str(), plan) {
                ("text", None) => Kind::Text,
                ("number", None) => Kind::Number,
                ("time", None) => Kind::Time,
                ("map", None) => Kind::Map,
                ("any", None) => Kind::Any,
                ("anys", None) => Kind::Anys,
                ("message", Some(plan)) => Kind::Message(plan),
                ("part", Some(plan)) => Kind::Part(plan),
                _ => return Err(PyValueError::new_err(format!("no kind of field: {kind}"))),
            };
            let attribute = PyString::intern(py, &attribute).unbind();
            Ok(Field {
                number,
                attribute,
                kind,
            })
        });
        Ok(Self {
            fields: fields.collect::<PyResult<_>>()?,
        })
    }

    /// A message with every item in its repeated field `number`.
    fn list<'py>(
        &self,
        py: Python<'py>,
        number: u32,
        items: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let mut out = Vec::new();
        for item in items.try_iter()? {
            let item = item?;
            nested(&mut out, number, |out| self.write(py, &item, out))?;
        }
        Ok(PyBytes::new(py, &out))
    }
}

impl WirePlan {
    fn write(&self, py: Python<'_>, item: &Bound<'_, PyAny>, out: &mut Vec<u8>) -> PyResult<()> {
        for field in &self.fields {
            if let Kind::Part(plan) = &field.kind {
                nested(out, field.number, |out| plan.get().write(py, item, out))?;
                continue;
            }
            let value = item.getattr(field.attribute.bind(py))?;
            field.write(py, &value, out)?;
        }
        Ok(())
    }
}

impl Field {
    fn write(&self, py: Python<'_>, value: &Bound<'_, PyAny>, out: &mut Vec<u8>) -> PyResult<()> {
        match &self.kind {
            Kind::Text => text(out, self.number, value),
            Kind::Number => {
                let value: u64 = value.extract()?;
                if value != 0 {
                    tag(out, self.number, VARINT);
                    varint(out, value);
                }
                Ok(())
            }
            Kind::Time => {
                let nanoseconds: i64 = value.extract()?;
                if nanoseconds != 0 {
                    nested(out, self.number, |out| {
                        time(out, nanoseconds);
                        Ok(())
                    })?;
                }
                Ok(())
            }
            Kind::Map => each(value, |key, value| {
                nested(out, self.number, |out| {
                    text(out, 1, key)?;
                    text(out, 2, value)
                })
            }),
            Kind::Any => {
                if value.is_none() {
                    return Ok(());
                }
                nested(out, self.number, |out| any(py, value, out))
            }
            Kind::Anys => each(value, |key, value| {
                nested(out, self.number, |out| {
                    text(out, 1, key)?;
                    nested(out, 2, |out| any(py, value, out))
                })
            }),
            Kind::Message(plan) => nested(out, self.number, |out| plan.get().write(py, value, out)),
            Kind::Part(_) => Ok(()), // of the item itself, and written there
        }
    }
}

const VARINT: u32 = 0;
const LENGTH: u32 = 2;

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn tag(out: &mut Vec<u8>, number: u32, kind: u32) {
    varint(out, u64::from(number << 3 | kind));
}

fn bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    if !value.is_empty() {
        tag(out, number, LENGTH);
        varint(out, value.len() as u64);
        out.extend_from_slice(value);
    }
}

fn text(out: &mut Vec<u8>, number: u32, value: &Bound<'_, PyAny>) -> PyResult<()> {
    let text = match value.cast::<PyString>() {
        Ok(text) => text.clone(),
        Err(_) => value.str()?,
    };
    bytes(out, number, text.to_str()?.as_bytes());
    Ok(())
}

fn time(out: &mut Vec<u8>, nanoseconds: i64) {
    let fields = [
        nanoseconds.div_euclid(1_000_000_000),
        nanoseconds.rem_euclid(1_000_000_000),
    ];
    for (number, value) in (1..).zip(fields) {
        if value != 0 {
            tag(out, number, VARINT);
            // A negative number is written as its two's complement of 64 bits.
            varint(out, value as u64);
        }
    }
}

fn any(py: Python<'_>, value: &Bound<'_, PyAny>, out: &mut Vec<u8>) -> PyResult<()> {
    text(out, 1, &value.getattr(pyo3::intern!(py, "type_url"))?)?;
    let content = value.getattr(pyo3::intern!(py, "value"))?;
    bytes(out, 2, content.cast::<PyBytes>()?.as_bytes());
    Ok(())
}

/// A message within the message: what `write` appends, with its length before it.
fn nested(
    out: &mut Vec<u8>,
    number: u32,
    write: impl FnOnce(&mut Vec<u8>) -> PyResult<()>,
) -> PyResult<()> {
    tag(out, number, LENGTH);
    let start = out.len();
    // Most are shorter than 128 bytes, so that their length is one byte.
    out.push(0);
    write(out)?;
    let length = out.len() - start - 1;
    if length < 0x80 {
        out[start] = length as u8;
    } else {
        let mut prefix = Vec::with_capacity(5);
        varint(&mut prefix, length as u64);
        out.splice(start..=start, prefix);
    }
    Ok(())
}

fn each(
    mapping: &Bound<'_, PyAny>,
    mut write: impl FnMut(&Bound<'_, PyAny>, &Bound<'_, PyAny>) -> PyResult<()>,
) -> PyResult<()> {
    if let Ok(dict) = mapping.cast::<PyDict>() {
        for (key, value) in dict {
            write(&key, &value)?;
        }
        return Ok(());
    }
    let mapping = mapping.cast::<PyMapping>()?;
    for item in mapping.items()?.iter() {
        let (key, value): (Bound<'_, PyAny>, Bound<'_, PyAny>) = item.extract()?;
        write(&key, &value)?;
    }
    Ok(())
}
