//! What every store must do, as cases over any store: a store's tests name how one is made, and the
//! cases come with it. `same` compares the answers of two stores to everything that can be asked.

mod cases;
mod long;
mod same;

use std::{any::Any, sync::Arc};

use super::{Sink, Source};

pub(super) use cases::*;
pub(super) use long::*;
pub(super) use same::{Tangle, assert_same_answers};

/// An empty store. What is dropped last is last.
pub(super) struct Subject {
    pub sink: Box<dyn Sink>,
    pub source: Arc<dyn Source>,
    /// Moves the store's clock to this Unix time, if it has one.
    pub set_clock: Box<dyn Fn(u64)>,
    /// What goes with it: its directory.
    pub _kept: Box<dyn Any>,
}

/// The cases as tests of the store that `$new` makes.
macro_rules! conforms {
    ($new:path) => {
        $crate::store::conformance::conforms! { @ $new:
            entries_are_stored_once
            additions_to_a_span_add_up
            missing_additions_show
            gaps_and_accounts_move_a_run_on
            a_contradiction_stores_nothing
            ids_of_two_processes_are_two_spans
            a_process_is_matched_without_its_names
            the_edges_of_a_stretch_count_pro_rata
            a_search_finds_what_a_plain_filter_finds
            an_answer_is_of_one_state
            a_long_trace_is_cut_behind_the_process_asked_for
            a_trace_that_fits_is_whole
            hostile_sizes_and_sums_are_bounded
        }
    };
    (@ $new:path: $($case:ident)+) => {
        $(
            #[test]
            fn $case() {
                $crate::store::conformance::$case($new());
            }
        )+
    };
}

pub(super) use conforms;
