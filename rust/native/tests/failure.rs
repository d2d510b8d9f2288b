//! The part of the glue that has no Python in it; a cdylib cannot be linked to a test, so its source is.

#[allow(dead_code)]
#[path = "../src/failure.rs"]
mod failure;

use failure::{Class, Failure, guard};

#[test]
fn a_panic_becomes_an_internal_error_with_its_message() {
    let failure = guard::<()>(|| panic!("broken {}", "invariant")).unwrap_err();
    assert_eq!(
        failure,
        Failure::new(Class::Internal, "panic in native code: broken invariant")
    );
    let failure = guard::<()>(|| panic!("plain")).unwrap_err();
    assert_eq!(failure.message, "panic in native code: plain");
    assert_eq!(guard(|| Ok(7)), Ok(7));
}

#[test]
fn every_error_of_the_layer_crate_has_a_class() {
    let digest = layer::Digest::of(layer::Algorithm::Sha256, b"");
    let (expected, got) = (digest.clone(), digest);
    for (error, class) in [
        (
            layer::Error::InvalidArchive("x".into()),
            Class::InvalidArgument,
        ),
        (
            layer::Error::UnexpectedEof("x".into()),
            Class::InvalidArgument,
        ),
        (layer::Error::Escape("x".into()), Class::InvalidArgument),
        (
            layer::Error::InvalidOption("x".into()),
            Class::InvalidArgument,
        ),
        (
            layer::Error::DigestMismatch {
                expected: expected.clone(),
                got: got.clone(),
            },
            Class::DigestMismatch,
        ),
        (
            layer::Error::DiffIdMismatch { expected, got },
            Class::DigestMismatch,
        ),
        (
            layer::Error::SizeMismatch {
                expected: 1,
                got: 2,
            },
            Class::SizeMismatch,
        ),
        (
            layer::Error::LimitExceeded {
                what: "entries",
                limit: 1,
            },
            Class::ResourceExhausted,
        ),
        (layer::Error::Cancelled, Class::Cancelled),
        (
            layer::Error::UnsupportedCompression("xz".into()),
            Class::Unimplemented,
        ),
        (
            layer::Error::InvalidDigest("x".into()),
            Class::InvalidDigest,
        ),
        (io(libc::ENOSPC), Class::ResourceExhausted),
        (io(libc::EDQUOT), Class::ResourceExhausted),
        (io(libc::EIO), Class::DataLoss),
        (io(libc::EACCES), Class::PermissionDenied),
    ] {
        let text = error.to_string();
        assert_eq!(Failure::from(error), Failure::new(class, text));
    }
}

fn io(errno: i32) -> layer::Error {
    layer::Error::Io {
        op: "write",
        path: "x".into(),
        source: std::io::Error::from_raw_os_error(errno),
    }
}

#[test]
fn an_undo_that_failed_has_the_class_of_the_first_failure() {
    let io = |errno| mounts::Error::Io {
        op: "mount",
        path: "/x".into(),
        error: std::io::Error::from_raw_os_error(errno),
    };
    let error = mounts::Error::Undo {
        first: Box::new(io(libc::ENOENT)),
        second: Box::new(io(libc::EBUSY)),
    };
    assert_eq!(Failure::from(error).class, Class::NotFound);
    assert_eq!(Failure::from(io(libc::EBUSY)).class, Class::Unavailable);
    let refused = mounts::Error::Refused("no".into());
    assert_eq!(Failure::from(refused).class, Class::InvalidArgument);
}

#[test]
fn what_was_being_done_stands_in_front() {
    let failure = Failure::os(std::io::Error::from_raw_os_error(libc::ENOENT), "open /x")
        .while_doing("apply");
    assert_eq!(failure.class, Class::NotFound);
    assert!(
        failure.message.starts_with("apply: open /x: No such file"),
        "{}",
        failure.message
    );
}
