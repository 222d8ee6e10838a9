//! Finds spans by what they are, newest or slowest first.
//!
//! Names, services, processes and states are properties of *operations*, of which a part has few; so
//! a filter is first turned into the operations that can match, then the index is chosen that meets
//! enough matching spans soonest. A search looks at a bounded number of rows; one that would need
//! more gives what it found and says that it is not all.

use std::collections::{BinaryHeap, HashSet};

use rusqlite::{Rows, params_from_iter};

use super::{
    apply::read_span,
    error::{Damage, PartError, StoreError},
    span_row::{SpanRow, mask_of},
    view::{OfTrace, Tallies, View},
};
use crate::{
    model::{clock::UnixNs, id::TraceId},
    store::{
        Found, Sort, SpanFilter,
        account::ProcessKey,
        rules::{MAX_FOUND, Ration, key},
    },
};

/// What one search may do, in steps along an index: about 50 ms.
const MAX_STEPS: usize = 300_000;
/// What fetching a row costs of them.
const FETCH: usize = 8;
/// Up to so many rows are all looked at rather than searched for in order of wall time.
const FEW_ROWS: i64 = 3_000;
/// Up to so many operations are looked up one by one.
const FEW_OPERATIONS: usize = 256;
/// Which index to follow.
enum Plan {
    Wall,
    Start,
    /// Of these operations, merged.
    OperationStart(Vec<i64>),
}

// These read nothing but the index.
const BY_WALL: &str = "SELECT wall, id, operation FROM span INDEXED BY span_wall_operation
    WHERE wall >= ? ORDER BY wall DESC";
const BY_START: &str = "SELECT start, id, 0 FROM span INDEXED BY span_start
    WHERE start >= ? AND start <= ? ORDER BY start DESC";
const BY_OPERATION_START: &str = "SELECT start, id, operation FROM span
    INDEXED BY span_operation_start
    WHERE operation = ? AND start >= ? AND start <= ? ORDER BY start DESC";

// === impl SpanFilter ===

impl SpanFilter {
    fn names_operations(&self) -> bool {
        self.service.is_some() || self.name.is_some() || self.pid.is_some() || self.state.is_some()
    }

    /// What the operation alone does not tell.
    fn passes(&self, row: &SpanRow) -> bool {
        row.end.saturating_sub(row.start) >= self.min_ns
            && self.state.is_none_or(|state| row.states.get(state) > 0)
            && self.from_unix_ns.is_none_or(|from| row.start_unix_ns >= from)
            && self.to_unix_ns.is_none_or(|to| row.start_unix_ns < to)
    }
}

pub(super) fn search(views: &mut [View], filter: &SpanFilter) -> Result<Found, StoreError> {
    let limit = filter.limit.min(MAX_FOUND);
    let mut budget = MAX_STEPS;
    let mut found = Found::default();
    let mut candidates = Vec::new();
    let mut seen = HashSet::new();
    for view in views.iter_mut().rev() {
        let rows = Search { view, filter, limit, budget: &mut budget }
            .run()
            .map_err(|error| view.error(error))?;
        found.truncated |= rows.truncated;
        for row in rows.rows {
            let account = view.tally(row).map_err(|error| view.error(error))?.finish();
            if seen.insert(key(&account)) {
                candidates.push(account);
            }
        }
    }
    // A candidate's row in a newer part has all of its wall time, and came first.
    candidates.sort_by_key(|account| filter.rank(account));
    found.truncated |= candidates.len() > limit;
    candidates.truncate(limit);
    for candidate in candidates {
        let mut tallies = Tallies::default();
        for view in views.iter_mut() {
            let rows = view
                .spans(Some(candidate.trace_id), candidate.span_id)
                .map_err(|error| view.error(error))?;
            for (_, row) in rows {
                tallies.add(view.tally(row).map_err(|error| view.error(error))?);
            }
        }
        let whole = tallies.finish().into_iter().find(|whole| key(whole) == key(&candidate));
        found.spans.extend(whole);
    }
    found.spans.sort_by_key(|account| filter.rank(account));
    Ok(found)
}

/// Spans of a trace, of which there may be any number: memory and time are those of an answer.
pub(super) fn trace(
    views: &mut [View],
    trace: TraceId,
    first: Option<&ProcessKey>,
) -> Result<Found, StoreError> {
    let (mut tallies, mut ration) = (Tallies::default(), Ration::default());
    let mut truncated = false;
    let mut of_views = Vec::with_capacity(views.len());
    for view in views.iter_mut() {
        let of_trace = view.trace(trace, first).map_err(|error| view.error(error))?;
        truncated |= of_trace.truncated;
        of_views.push(of_trace);
    }
    for choose in [|of: &OfTrace| &of.first[..], |of: &OfTrace| &of.others[..]] as [Choose; 2] {
        for (view, of_trace) in views.iter_mut().zip(&of_views) {
            for &id in choose(of_trace) {
                let tally = match view.row_of(trace, id).map_err(|error| view.error(error))? {
                    Some(row) => view.tally(row).map_err(|error| view.error(error))?,
                    None => continue,
                };
                // What is known already goes on in a newer part.
                truncated |= !tallies.add_within(tally, &mut ration);
            }
        }
    }
    Ok(Found { spans: tallies.finish(), truncated })
}

/// Some of the rows of a trace.
type Choose = for<'a> fn(&'a OfTrace) -> &'a [i64];

/// In one part.
struct Search<'a> {
    view: &'a mut View,
    filter: &'a SpanFilter,
    limit: usize,
    budget: &'a mut usize,
}

#[derive(Default)]
struct Candidates {
    rows: Vec<SpanRow>,
    truncated: bool,
}

impl Search<'_> {
    fn run(mut self) -> Result<Candidates, PartError> {
        let mut found = Candidates::default();
        let operations = self.operations()?;
        if operations.as_ref().is_some_and(HashSet::is_empty) {
            return Ok(found);
        }
        let few: Option<Vec<i64>> = (operations.as_ref())
            .filter(|operations| operations.len() <= FEW_OPERATIONS)
            .map(|operations| operations.iter().copied().collect());
        let slowest = self.filter.sort == Sort::Slowest;
        let (plan, is_in_order) =
            if self.are_few_slower()? || slowest && !self.are_few(few.as_deref())? {
                (Plan::Wall, slowest)
            } else {
                (few.map_or(Plan::Start, Plan::OperationStart), !slowest)
            };
        self.scan(&plan, operations.as_ref(), is_in_order, &mut found)?;
        Ok(found)
    }

    /// Operations whose spans can match; none when all can.
    fn operations(&mut self) -> Result<Option<HashSet<i64>>, PartError> {
        let filter = self.filter;
        if !filter.names_operations() {
            return Ok(None);
        }
        let mask = filter.state.map_or(-1, mask_of);
        let mut statement = self.view.conn.prepare_cached("SELECT id, mask FROM operation")?;
        let mut rows = statement.query([])?;
        let mut matching = HashSet::new();
        while let Some(row) = rows.next()? {
            let (id, seen): (i64, i64) = (row.get(0)?, row.get(1)?);
            if filter.state.is_some() && seen & mask == 0 {
                continue;
            }
            let operation = self.view.lexicon.operation(&self.view.conn, id)?;
            let process = &operation.process.identity;
            if filter.name.as_deref().is_none_or(|name| *name == *operation.name)
                && filter.service.as_deref().is_none_or(|service| *service == *process.service)
                && filter.pid.is_none_or(|pid| pid == process.pid)
            {
                matching.insert(id);
            }
        }
        Ok(Some(matching))
    }

    /// Whether to look at all rows of the wall time asked for.
    fn are_few_slower(&self) -> Result<bool, PartError> {
        if self.filter.min_ns == 0 {
            return Ok(false);
        }
        let sql =
            format!("SELECT count(*) FROM (SELECT 1 FROM span WHERE wall >= ? LIMIT {FEW_ROWS})");
        let count: i64 = (self.view.conn.prepare_cached(&sql)?)
            .query_row([self.min_wall()], |row| row.get(0))?;
        Ok(count < FEW_ROWS)
    }

    fn min_wall(&self) -> i64 {
        i64::try_from(self.filter.min_ns).unwrap_or(i64::MAX)
    }

    /// Whether to look at all rows of the time asked for, and of the operations.
    fn are_few(&self, operations: Option<&[i64]>) -> Result<bool, PartError> {
        let (from, to) = self.starts();
        if operations.is_none() && (from, to) == (i64::MIN, i64::MAX) {
            return Ok(false);
        }
        let mut count = 0i64;
        let probes: Vec<Option<i64>> = match operations {
            Some(operations) => operations.iter().copied().map(Some).collect(),
            None => vec![None],
        };
        for operation in probes {
            let of_operation = if operation.is_some() { "operation = ? AND" } else { "" };
            let sql = format!(
                "SELECT count(*) FROM (SELECT 1 FROM span WHERE {of_operation} start >= ? \
                 AND start < ? LIMIT {FEW_ROWS})"
            );
            let parameters = operation.into_iter().chain([from, to]);
            count += (self.view.conn.prepare_cached(&sql)?)
                .query_row(params_from_iter(parameters), |row| row.get::<_, i64>(0))?;
            if count >= FEW_ROWS {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The times asked for as the part's indexes have them.
    fn starts(&self) -> (i64, i64) {
        let created = i128::from(self.view.meta.created_unix_ns);
        let since = |at: UnixNs| {
            (i128::from(at.0) - created).clamp(i64::MIN.into(), i64::MAX.into()) as i64
        };
        (
            self.filter.from_unix_ns.map_or(i64::MIN, since),
            self.filter.to_unix_ns.map_or(i64::MAX, since),
        )
    }

    /// Rows in the order of an index, the largest first; when that is the order asked for, only as
    /// many as are wanted. Rows are fetched once the index alone does not rule them out.
    fn scan(
        &mut self,
        plan: &Plan,
        operations: Option<&HashSet<i64>>,
        is_in_order: bool,
        found: &mut Candidates,
    ) -> Result<(), PartError> {
        let (from, to) = self.starts();
        let conn = &self.view.conn;
        let (sql, parameters) = match plan {
            Plan::Wall => (BY_WALL, vec![vec![self.min_wall()]]),
            Plan::Start => (BY_START, vec![vec![from, to]]),
            Plan::OperationStart(operations) => (
                BY_OPERATION_START,
                operations.iter().map(|operation| vec![*operation, from, to]).collect(),
            ),
        };
        let mut statements = Vec::with_capacity(parameters.len());
        for _ in &parameters {
            statements.push(conn.prepare_cached(sql)?);
        }
        let mut cursors = Vec::with_capacity(parameters.len());
        for (statement, parameters) in statements.iter_mut().zip(parameters) {
            cursors.push(statement.query(params_from_iter(parameters))?);
        }
        let mut heads = BinaryHeap::new();
        for (number, cursor) in cursors.iter_mut().enumerate() {
            heads.extend(head(cursor, number)?);
        }
        let mut fetch =
            conn.prepare_cached("SELECT id, operation, start, wall, body FROM span WHERE id = ?")?;
        let mut taken = 0;
        while let Some((_, id, operation, number)) = heads.pop() {
            if *self.budget == 0 {
                found.truncated = true;
                break;
            }
            heads.extend(head(&mut cursors[number], number)?);
            let rules_out =
                |operation: i64| operations.is_some_and(|set| !set.contains(&operation));
            // Zero is no operation: the index does not have it.
            if operation != 0 && rules_out(operation) {
                *self.budget = self.budget.saturating_sub(1);
                continue;
            }
            *self.budget = self.budget.saturating_sub(FETCH);
            let mut rows = fetch.query([id])?;
            let row = rows.next()?.ok_or(Damage("an index leads nowhere"))?;
            let (_, row) = read_span(row)?;
            if !rules_out(row.operation) && self.filter.passes(&row) {
                found.rows.push(row);
                taken += 1;
                if is_in_order && taken > self.limit {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Key, id and operation of an index entry, and whose cursor's it is.
type Head = (i64, i64, i64, usize);

fn head(cursor: &mut Rows<'_>, number: usize) -> Result<Option<Head>, PartError> {
    Ok(match cursor.next()? {
        Some(row) => Some((row.get(0)?, row.get(1)?, row.get(2)?, number)),
        None => None,
    })
}
