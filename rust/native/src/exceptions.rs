//! Failures as exceptions of `containerd_hybrid.errors`, which Python owns.

use pyo3::PyErr;
use pyo3::import_exception;

use crate::failure::{Class, Failure};

import_exception!(containerd_hybrid.errors, CallCancelledError);
import_exception!(containerd_hybrid.errors, UnknownError);
import_exception!(containerd_hybrid.errors, InvalidArgumentError);
import_exception!(containerd_hybrid.errors, InvalidDigestError);
import_exception!(containerd_hybrid.errors, NotFoundError);
import_exception!(containerd_hybrid.errors, AlreadyExistsError);
import_exception!(containerd_hybrid.errors, PermissionDeniedError);
import_exception!(containerd_hybrid.errors, ResourceExhaustedError);
import_exception!(containerd_hybrid.errors, FailedPreconditionError);
import_exception!(containerd_hybrid.errors, DigestMismatchError);
import_exception!(containerd_hybrid.errors, SizeMismatchError);
import_exception!(containerd_hybrid.errors, OutOfRangeError);
import_exception!(containerd_hybrid.errors, UnimplementedError);
import_exception!(containerd_hybrid.errors, InternalError);
import_exception!(containerd_hybrid.errors, UnavailableError);
import_exception!(containerd_hybrid.errors, DataLossError);
import_exception!(containerd_hybrid.errors, AbortedError);

impl From<Failure> for PyErr {
    fn from(Failure { class, message }: Failure) -> Self {
        match class {
            Class::Cancelled => CallCancelledError::new_err(message),
            Class::Unknown => UnknownError::new_err(message),
            Class::InvalidArgument => InvalidArgumentError::new_err(message),
            Class::InvalidDigest => InvalidDigestError::new_err(message),
            Class::NotFound => NotFoundError::new_err(message),
            Class::AlreadyExists => AlreadyExistsError::new_err(message),
            Class::PermissionDenied => PermissionDeniedError::new_err(message),
            Class::ResourceExhausted => ResourceExhaustedError::new_err(message),
            Class::FailedPrecondition => FailedPreconditionError::new_err(message),
            Class::DigestMismatch => DigestMismatchError::new_err(message),
            Class::SizeMismatch => SizeMismatchError::new_err(message),
            Class::OutOfRange => OutOfRangeError::new_err(message),
            Class::Unimplemented => UnimplementedError::new_err(message),
            Class::Internal => InternalError::new_err(message),
            Class::Unavailable => UnavailableError::new_err(message),
            Class::DataLoss => DataLossError::new_err(message),
            Class::Aborted => AbortedError::new_err(message),
        }
    }
}
