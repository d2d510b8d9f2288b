//! A layer's blob without what the unpacked files have: from a *recipe* and the folder that the layer was
//! unpacked to comes the blob again, byte for byte.
//!
//! [`make`] writes a recipe only when it has just seen that the blob comes out of it. It cannot when the
//! blob is compressed in a way that no encoder here repeats, and will not when that saves less than half.
//! [`rebuild`] checks digest and size, so whatever happened to the files, wrong bytes are never taken for
//! the blob.
//!
//! The file: a page of text, see [`Header`], then one zstd frame of [segments](segments).

mod header;
mod make;
mod rebuild;
mod segments;

pub use header::{Encoding, Header};
pub use make::{Made, MakeOptions, make};
pub use rebuild::rebuild;
