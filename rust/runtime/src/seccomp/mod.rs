//! Seccomp profiles, compiled to BPF.
//!
//! A profile compiles in a fraction of a millisecond (names are found by binary search, calls with
//! the same verdict become ranges of one balanced decision tree), so nothing is cached on disk: measured
//! on containerd's default profile (363 names, three architectures, 635 instructions), compiling takes
//! 0.14 ms, and reading a kept program 0.005 ms without what it takes to trust one: a digest of the
//! profile, an owner and a mode that are looked at, and files that somebody has to remove.

mod compile;
pub mod syscalls;

pub use compile::compile;

/// A filter, ready for the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// Packed `sock_filter`s: code, jt, jf, k from the low bits up.
    pub instructions: Vec<u64>,
    /// Flags of seccomp(2), with that for a listener if a rule notifies.
    pub flags: u64,
}

pub const FLAG_NEW_LISTENER: u64 = 8;

pub const ACTIONS: [&str; 9] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];
pub const OPERATORS: [&str; 7] = [
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];
pub const ARCHITECTURES: [&str; 3] = ["SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"];
pub const FLAGS: [(&str, u64); 4] = [
    ("SECCOMP_FILTER_FLAG_TSYNC", 1),
    ("SECCOMP_FILTER_FLAG_LOG", 2),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", 4),
    ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", 32),
];
