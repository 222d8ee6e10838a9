//! The codec that both ends of the stream share (design 3.9): batches as frames and back, against the
//! dictionaries of an epoch.

pub mod codes;
pub mod decode;
pub mod decode_account;
mod decode_dictionary;
pub mod encode;
mod encode_dictionary;
pub mod item;
pub mod size;
pub mod split;
pub mod violation;

#[cfg(any(test, fuzzing))]
mod resolved;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
#[cfg(fuzzing)]
mod made;
