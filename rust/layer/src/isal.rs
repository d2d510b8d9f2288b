//! Raw deflate by Intel's ISA-L, where the system has the shared library: about a fifth less processor time
//! than zlib-rs. Found at run time, so nothing needs it to build or to run.
//!
//! What is used of its ABI (`libisal.so.2`, igzip_lib.h): three functions and the first fields of
//! `struct inflate_state`. A library that does not do with a sample what it should is not used.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ffi::{CStr, c_int, c_void};
use std::ptr::NonNull;
use std::sync::OnceLock;

use crate::error::{Error, Result};

const NAME: &CStr = c"libisal.so.2";
/// More than the structure needs (some 86 KiB), should it grow.
const STATE_SIZE: usize = 256 * 1024;
/// Compute CRC-32, expect neither header nor trailer.
const GZIP_NO_HDR: u32 = 2;
const BLOCK_FINISH: u32 = 5;

/// The beginning of `struct inflate_state`.
#[repr(C)]
struct State {
    next_out: *mut u8,
    avail_out: u32,
    total_out: u32,
    next_in: *const u8,
    read_in: u64,
    avail_in: u32,
    read_in_length: i32,
    /// Tables for literals (2¹² × 4 and 1264 × 2 bytes) and distances (2¹⁰ × 2 and 80 × 2 bytes).
    tables: [u8; 18_912 + 2_208],
    block_state: u32,
    dict_length: u32,
    bfinal: u32,
    crc_flag: u32,
    crc: u32,
}

#[derive(Clone, Copy)]
struct Library {
    init: unsafe extern "C" fn(*mut State),
    reset: unsafe extern "C" fn(*mut State),
    inflate: unsafe extern "C" fn(*mut State) -> c_int,
}

/// The library, if there is one that works.
fn library() -> Option<Library> {
    static FOUND: OnceLock<Option<Library>> = OnceLock::new();
    *FOUND.get_or_init(|| load().filter(|&library| works(library)))
}

fn load() -> Option<Library> {
    if !cfg!(all(
        target_os = "linux",
        target_pointer_width = "64",
        target_endian = "little"
    )) {
        return None;
    }
    // SAFETY: the name is a C string; the library's constructors only choose code for this processor.
    let handle = unsafe { libc::dlopen(NAME.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    let handle = NonNull::new(handle)?;
    let symbol = |name: &CStr| -> Option<NonNull<c_void>> {
        // SAFETY: the handle is open and never closed, the name a C string.
        NonNull::new(unsafe { libc::dlsym(handle.as_ptr(), name.as_ptr()) })
    };
    let (init, reset) = (
        symbol(c"isal_inflate_init")?,
        symbol(c"isal_inflate_reset")?,
    );
    let inflate = symbol(c"isal_inflate")?;
    // SAFETY: these are the signatures of igzip_lib.h for functions of these names.
    unsafe {
        Some(Library {
            init: std::mem::transmute::<NonNull<c_void>, unsafe extern "C" fn(*mut State)>(init),
            reset: std::mem::transmute::<NonNull<c_void>, unsafe extern "C" fn(*mut State)>(reset),
            inflate: std::mem::transmute::<
                NonNull<c_void>,
                unsafe extern "C" fn(*mut State) -> c_int,
            >(inflate),
        })
    }
}

/// Decompresses a sample in two pieces and looks at every field that is used.
fn works(library: Library) -> bool {
    // "hello hello hello hello\n", and a byte behind it.
    const SAMPLE: [u8; 13] = [
        0xcb, 0x48, 0xcd, 0xc9, 0xc9, 0x57, 0xc8, 0x40, 0x27, 0xb9, 0x00, 0x2a, 0x55,
    ];
    let mut inflate = Isal::with(library);
    let mut output = [0; 64];
    let Ok(first) = inflate.step(&SAMPLE[..5], &mut output) else {
        return false;
    };
    let Ok(second) = inflate.step(&SAMPLE[first.used..], &mut output[first.made..]) else {
        return false;
    };
    let made = first.made + second.made;
    let unused = SAMPLE.len() - first.used - second.used + second.held.len();
    !first.finished
        && second.finished
        && &output[..made] == b"hello hello hello hello\n"
        && inflate.crc() == zlib_rs::crc32::crc32(0, &output[..made])
        && unused == 2
}

/// What one step did.
pub(crate) struct Step {
    pub used: usize,
    pub made: usize,
    pub finished: bool,
    /// Bytes behind the end of the stream that it had taken in before this step.
    pub held: Vec<u8>,
}

/// One deflate stream after the other.
pub(crate) struct Isal {
    library: Library,
    state: NonNull<State>,
}

// SAFETY: the memory is this value's own, and the library keeps nothing of it elsewhere.
unsafe impl Send for Isal {}

impl Isal {
    /// `None` where the library is not installed.
    pub(crate) fn new() -> Option<Self> {
        library().map(Self::with)
    }

    fn with(library: Library) -> Self {
        // SAFETY: the layout has a size.
        let memory = unsafe { alloc_zeroed(layout()) };
        let Some(state) = NonNull::new(memory.cast::<State>()) else {
            handle_alloc_error(layout())
        };
        let mut isal = Self { library, state };
        // SAFETY: the memory is zeroed and larger than the library's structure.
        unsafe { (library.init)(state.as_ptr()) };
        isal.state().crc_flag = GZIP_NO_HDR;
        isal
    }

    /// Begins a new stream.
    pub(crate) fn reset(&mut self) {
        // SAFETY: the state was initialised.
        unsafe { (self.library.reset)(self.state.as_ptr()) };
        self.state().crc_flag = GZIP_NO_HDR;
    }

    /// CRC-32 of the output; whole when the stream has finished.
    pub(crate) fn crc(&mut self) -> u32 {
        self.state().crc
    }

    pub(crate) fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step> {
        let (in_len, out_len) = (clamped(input.len()), clamped(output.len()));
        let library = self.library;
        let state = self.state();
        state.next_in = input.as_ptr();
        state.avail_in = in_len;
        state.next_out = output.as_mut_ptr();
        state.avail_out = out_len;
        // SAFETY: input and output are valid for the lengths given, and outlive the call.
        let code = unsafe { (library.inflate)(self.state.as_ptr()) };
        let state = self.state();
        state.next_in = std::ptr::null();
        state.next_out = std::ptr::null_mut();
        if code < 0 {
            return Err(Error::invalid(format!("gzip: {}", reason(code))));
        }
        let mut used = (in_len - state.avail_in) as usize;
        let made = (out_len - state.avail_out) as usize;
        let finished = state.block_state == BLOCK_FINISH;
        let mut held = Vec::new();
        if finished {
            // It reads ahead, whole bytes of which are not the stream's.
            let bits = u32::try_from(state.read_in_length.clamp(0, 64)).unwrap_or(0);
            let ahead = (bits / 8) as usize;
            let back = ahead.min(used);
            used -= back;
            let bytes = state
                .read_in
                .checked_shr(bits % 8)
                .unwrap_or(0)
                .to_le_bytes();
            held.extend_from_slice(&bytes[..ahead - back]);
            state.read_in = 0;
            state.read_in_length = 0;
        }
        Ok(Step {
            used,
            made,
            finished,
            held,
        })
    }

    fn state(&mut self) -> &mut State {
        // SAFETY: the memory is this value's own, initialised, and at least as large.
        unsafe { self.state.as_mut() }
    }
}

impl Drop for Isal {
    fn drop(&mut self) {
        // SAFETY: it was allocated with the same layout.
        unsafe { dealloc(self.state.as_ptr().cast(), layout()) };
    }
}

fn layout() -> Layout {
    Layout::from_size_align(STATE_SIZE, 64).expect("a power of two, and small")
}

fn clamped(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

fn reason(code: c_int) -> &'static str {
    match code {
        -1 => "invalid deflate block",
        -2 => "invalid deflate symbol",
        -3 => "invalid distance too far back",
        _ => "invalid deflate stream",
    }
}
