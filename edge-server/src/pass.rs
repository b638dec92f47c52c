//! A forward pass of several sequences that none of them can spoil for the others.

use std::panic::{AssertUnwindSafe, catch_unwind};
use tandem_inference::{Error, Logits, Segment, Wanted};

/// The wanted logits of one sequence: row `i` of them.
pub(crate) struct Rows<'a> {
    logits: &'a mut Logits,
    first: usize,
}

impl Rows<'_> {
    /// For processing in place: each row is asked for once.
    pub(crate) fn row(&mut self, i: usize) -> &mut [f32] {
        self.logits.row_mut(self.first + i)
    }
}

/// What came of a pass.
pub(crate) struct Passed {
    logits: Vec<Logits>,
    /// For each segment in which of them its rows are, and from where on; or why it has none.
    places: Vec<Result<(usize, usize), String>>,
}

impl Passed {
    /// The logits of the segment with this number.
    ///
    /// # Errors
    /// Why there are none; its cache is then as it was.
    pub(crate) fn rows(&mut self, segment: usize) -> Result<Rows<'_>, &str> {
        match self.places.get(segment) {
            Some(Ok((which, first))) => match self.logits.get_mut(*which) {
                Some(logits) => Ok(Rows { logits, first: *first }),
                None => Err("its logits are missing"),
            },
            Some(Err(problem)) => Err(problem),
            None => Err("it was not computed"),
        }
    }
}

fn wanted(segment: &Segment<'_>) -> usize {
    match segment.logits {
        Wanted::None => 0,
        Wanted::Last => 1,
        Wanted::All => segment.tokens.len(),
        Wanted::From(first, alternatives) => segment.tokens.len() - first + alternatives.len(),
    }
}

/// Computes all segments together. When that fails or panics, each is computed again alone, from the
/// same tokens on: those that are well get the logits that they would have got, and only what fails
/// alone has failed.
pub(crate) fn forward(
    segments: &mut [Segment<'_>],
    compute: impl Fn(&mut [Segment<'_>]) -> Result<Logits, Error>,
) -> Passed {
    let attempt = |segments: &mut [Segment<'_>]| {
        let before: Vec<usize> = segments.iter().map(|s| s.cache.len()).collect();
        let rows: usize = segments.iter().map(wanted).sum();
        let problem = match catch_unwind(AssertUnwindSafe(|| compute(segments))) {
            Ok(Ok(logits)) if logits.rows() == rows => return Ok(logits),
            Ok(Ok(_)) => "the model gave another number of logits than was asked for".to_owned(),
            Ok(Err(e)) => e.to_string(),
            Err(_) => "the model's computation broke off".to_owned(),
        };
        // What was written of it lies behind the end and is written over.
        for (segment, len) in segments.iter_mut().zip(before) {
            segment.cache.truncate(len);
        }
        Err(problem)
    };
    match attempt(segments) {
        Ok(logits) => {
            let mut first = 0;
            let place = |segment: &Segment<'_>| {
                first += wanted(segment);
                Ok((0, first - wanted(segment)))
            };
            Passed { places: segments.iter().map(place).collect(), logits: vec![logits] }
        }
        Err(problem) if segments.len() < 2 => Passed {
            logits: Vec::new(),
            places: segments.iter().map(|_| Err(problem.clone())).collect(),
        },
        Err(problem) => {
            tracing::warn!("a pass failed, each of its sequences is computed alone: {problem}");
            let mut logits = Vec::new();
            let places = segments.iter_mut().map(|segment| {
                logits.push(attempt(std::slice::from_mut(segment))?);
                Ok((logits.len() - 1, 0))
            });
            Passed { places: places.collect(), logits }
        }
    }
}
