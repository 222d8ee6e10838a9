//! How a batch can break the protocol.

/// A batch the collector cannot follow: the agent is asked for a new epoch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Behind the end of a table.
    #[error("{table}: index {index} of {len}")]
    Index {
        /// Which table.
        table: &'static str,
        /// What was asked for.
        index: u64,
        /// How many there are.
        len: usize,
    },
    /// Columns of one table differ in length.
    #[error("{table}: column {column} has {got} rows, not {want}")]
    Column {
        /// Which table.
        table: &'static str,
        /// Which column.
        column: &'static str,
        /// Its length.
        got: usize,
        /// That of the table.
        want: usize,
    },
    /// A number that means nothing, or that no host can reach.
    #[error("{what}: {value} is out of range")]
    Number {
        /// Of what.
        what: &'static str,
        /// The number.
        value: u64,
    },
    /// The store would refuse it whenever it is tried.
    #[error("the batch contradicts itself: {0}")]
    Contradiction(&'static str),
    /// The same key twice in one row.
    #[error("{0} twice in one row")]
    Twice(&'static str),
    /// A stack above the limit.
    #[error("a stack of more than {0} frames")]
    Depth(usize),
    /// Tables or rows above the memory they may take.
    #[error("{what} take more than {limit} bytes")]
    Memory {
        /// Tables or rows.
        what: &'static str,
        /// What they may take.
        limit: usize,
    },
    /// Dictionaries of an epoch that is not known.
    #[error("epoch {got} while at {have}")]
    Epoch {
        /// Of the batch.
        got: u32,
        /// Of the decoder.
        have: u32,
    },
    /// A hole, or an overlap, in the sequences.
    #[error("sequence {got}..={to} where {want} is next")]
    Sequence {
        /// First of the frame.
        got: u64,
        /// Last of the frame.
        to: u64,
        /// What should have come.
        want: u64,
    },
}
