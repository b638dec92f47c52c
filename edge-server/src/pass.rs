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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tandem_inference::{KvCache, LoadOptions, Model};
    use tandem_speculation::TokenId;

    /// A token at which the computation breaks off, and one at which it says that it failed.
    const PANICS: TokenId = TokenId(7);
    const FAILS: TokenId = TokenId(8);

    fn compute(model: &Model, segments: &mut [Segment<'_>]) -> Result<Logits, Error> {
        let has = |token| segments.iter().any(|s| s.tokens.contains(&token));
        let (panics, fails) = (has(PANICS), has(FAILS));
        // As far as it may have come before it broke off: the caches have grown.
        let logits = model.forward(segments)?;
        assert!(!panics, "the computation breaks off");
        if fails { Err(Error::Usage("it fails")) } else { Ok(logits) }
    }

    #[test]
    fn what_fails_alone_fails_alone() {
        let path = made::Made::new("qwen3").write("pass");
        let model = Model::load(&path, &LoadOptions::default()).expect("a good model");
        let texts: [&[TokenId]; 5] = [
            &[TokenId(1), TokenId(2), TokenId(3)],
            &[TokenId(4), PANICS],
            &[TokenId(5)],
            &[FAILS, TokenId(6)],
            &[TokenId(9), TokenId(10)],
        ];
        let wanted = [Wanted::All, Wanted::Last, Wanted::None, Wanted::Last, Wanted::Last];
        let alone = |i: usize| {
            let mut cache = model.new_cache(32).expect("a cache");
            let mut segment = [Segment { cache: &mut cache, tokens: texts[i], logits: wanted[i] }];
            let logits = model.forward(&mut segment).expect("logits");
            (0..logits.rows()).flat_map(|row| logits.row(row).to_vec()).collect::<Vec<f32>>()
        };
        let mut caches: Vec<KvCache> =
            (0..5).map(|_| model.new_cache(32).expect("a cache")).collect();
        let mut segments: Vec<Segment<'_>> = caches
            .iter_mut()
            .zip(texts)
            .zip(wanted)
            .map(|((cache, tokens), logits)| Segment { cache, tokens, logits })
            .collect();
        let calls = AtomicUsize::new(0);
        let mut passed = forward(&mut segments, |segments| {
            calls.fetch_add(1, Ordering::Relaxed);
            compute(&model, segments)
        });
        drop(segments);
        for (i, rows) in [(0, 3), (2, 0), (4, 1)] {
            let mut own = passed.rows(i).expect("it is well");
            let given: Vec<f32> = (0..rows).flat_map(|row| own.row(row).to_vec()).collect();
            assert_eq!(given, alone(i), "sequence {i}");
        }
        assert!(passed.rows(1).err().is_some_and(|e| e.contains("broke off")));
        assert!(passed.rows(3).err().is_some_and(|e| e.contains("it fails")));
        assert!(passed.rows(5).is_err());
        assert_eq!(caches.iter().map(KvCache::len).collect::<Vec<_>>(), [3, 0, 1, 0, 2]);
        assert_eq!(calls.into_inner(), 6, "once together, then each alone");

        // What is well is computed once.
        let mut segments = [Segment { cache: &mut caches[0], tokens: texts[4], logits: wanted[4] }];
        let calls = AtomicUsize::new(0);
        let passed = forward(&mut segments, |segments| {
            calls.fetch_add(1, Ordering::Relaxed);
            compute(&model, segments)
        });
        drop(passed);
        assert_eq!(calls.into_inner(), 1);
    }
}
