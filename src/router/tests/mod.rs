//! Tests of the parts that loom's models include, where their own tests could not run.

mod bucket;
mod sessions;
