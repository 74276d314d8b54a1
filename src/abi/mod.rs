//! C's structs and numbers that backends need as well as the boundary. Plugins are compiled with the same files: they name
//! nothing of the crate but each other.
#![allow(non_camel_case_types)]

pub mod backend;
pub mod status;
pub mod tensor;
