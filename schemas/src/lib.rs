//! What a changelog record is: the kernel's binary layout, its text, its Avro form and its message key.
//!
//! This crate only turns bytes into values and back. It never does I/O, reads a clock, knows a broker or keeps
//! state, and it never panics on input, whatever the input is.
#![forbid(unsafe_code)]

pub mod avro;
pub mod ids;
pub mod key;
pub mod lustre;
pub mod text;
