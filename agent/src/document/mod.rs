//! What is shown, wherever it is shown: a span's document and what it sums.

pub mod answer;
pub mod assemble;
pub mod conservation;
mod cut;
pub mod methods;
pub mod report;
pub mod span;
