//! Operators, as functions that weigh their operands first.

use super::budget::Budget;
use super::{python, refused};
use minijinja::value::{Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value, tests as checks};
use std::sync::Arc;

pub(super) fn add_operators(all: &mut Environment<'static>, budget: &Arc<Budget>) {
    let own = Arc::clone(budget);
    all.add_filter("+", move |a: Value, b: Value| {
        own.pay([&a, &b])?;
        add(&own, &a, &b)
    });
    let own = Arc::clone(budget);
    all.add_filter("*", move |a: Value, b: Value| {
        own.pay([&a, &b])?;
        multiply(&own, &a, &b)
    });
    let own = Arc::clone(budget);
    all.add_filter("%", move |state: &State<'_, '_>, a: Value, b: Value| {
        own.pay([&a, &b])?;
        remainder(&own, state, a, b)
    });
    let own = Arc::clone(budget);
    all.add_filter("~", move |a: Value, b: Value| {
        own.text(own.pay([&a, &b])?)?;
        Ok::<_, Error>(python::text(&a) + &python::text(&b))
    });
    macro_rules! comparison {
        ($($operator:tt)*) => {$(
            let own = Arc::clone(budget);
            all.add_filter(stringify!($operator), move |a: Value, b: Value| {
                own.pay([&a, &b])?;
                Ok::<_, Error>(a $operator b)
            });
        )*};
    }
    comparison!(== != < <= > >=);
    let own = Arc::clone(budget);
    all.add_filter("in?", move |state: &State<'_, '_>, a: Value, b: Value| {
        own.pay([&a, &b])?;
        contains(state, &a, &b)
    });
    let own = Arc::clone(budget);
    all.add_filter("[]", move |whole: Value, key: Value| {
        if whole.is_undefined() {
            return Err(Error::from(ErrorKind::UndefinedError));
        }
        // Characters are counted from the start.
        own.pay(whole.as_str().map(|_| &whole).into_iter().chain([&key]))?;
        // What has no such key is undefined, whatever it is.
        Ok(whole.get_item(&key).unwrap_or_default())
    });
    let own = Arc::clone(budget);
    all.add_filter("[,]", move |parts: Rest<Value>| {
        own.text(own.pay(parts.iter())?)?;
        Ok::<_, Error>(Value::from(parts.0))
    });
    let own = Arc::clone(budget);
    all.add_filter("{:}", move |parts: Rest<Value>| {
        own.text(own.pay(parts.iter())?)?;
        Ok::<_, Error>(
            parts.chunks_exact(2).map(|p| (p[0].clone(), p[1].clone())).collect::<Value>(),
        )
    });
}

/// Whether `whole` has `part`.
pub(super) fn contains(state: &State<'_, '_>, part: &Value, whole: &Value) -> Result<bool, Error> {
    if whole.is_undefined() {
        return Ok(false);
    }
    checks::is_in(state, part, whole)
}

fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

fn add(budget: &Budget, a: &Value, b: &Value) -> Result<Value, Error> {
    if let (Some(a), Some(b)) = (a.as_str(), b.as_str()) {
        budget.text(a.len() + b.len())?;
        return Ok(Value::from([a, b].concat()));
    }
    if let (Some(a), Some(b)) = (a.as_i64(), b.as_i64())
        && let Some(sum) = a.checked_add(b)
    {
        return Ok(Value::from(sum));
    }
    if is_list(a) && is_list(b) {
        return Ok(Value::from(a.try_iter()?.chain(b.try_iter()?).collect::<Vec<_>>()));
    }
    match (f64::try_from(a.clone()), f64::try_from(b.clone())) {
        (Ok(x), Ok(y)) => Ok(Value::from(x + y)),
        _ => Err(refused(&format!("it adds a {} and a {}", a.kind(), b.kind()))),
    }
}

/// Templates draw lines and indents with it.
fn multiply(budget: &Budget, a: &Value, b: &Value) -> Result<Value, Error> {
    if let (Some(x), Some(y)) = (a.as_i64(), b.as_i64())
        && let Some(product) = x.checked_mul(y)
    {
        return Ok(Value::from(product));
    }
    let (whole, times) = if b.as_i64().is_some() { (a, b) } else { (b, a) };
    if let Some(times) = times.as_i64() {
        let times = usize::try_from(times).unwrap_or(0);
        if let Some(text) = whole.as_str() {
            budget.text(text.len().saturating_mul(times))?;
            return Ok(Value::from(text.repeat(times)));
        }
        if is_list(whole) {
            let parts: Vec<Value> = whole.try_iter()?.collect();
            budget.text(budget.weigh(whole)?.saturating_mul(times))?;
            let all = (0..times).flat_map(|_| parts.iter().cloned());
            return Ok(Value::from(all.collect::<Vec<_>>()));
        }
    }
    match (f64::try_from(a.clone()), f64::try_from(b.clone())) {
        (Ok(x), Ok(y)) => Ok(Value::from(x * y)),
        _ => Err(refused(&format!("it multiplies a {} and a {}", a.kind(), b.kind()))),
    }
}

/// A remainder, or a text with values in its places.
fn remainder(budget: &Budget, state: &State<'_, '_>, a: Value, b: Value) -> Result<Value, Error> {
    if a.as_str().is_some() {
        let values = if is_list(&b) { b.try_iter()?.collect() } else { vec![b] };
        let operands: Vec<Value> = [a].into_iter().chain(values).collect();
        bounded_format(budget, &operands)?;
        return state.apply_filter("-format", &operands);
    }
    if let (Some(x), Some(y)) = (a.as_i64(), b.as_i64())
        && y != 0
    {
        // The sign is the divisor's, in Python.
        let rest = x.checked_rem(y).unwrap_or(0);
        return Ok(Value::from(if rest != 0 && (rest < 0) != (y < 0) { rest + y } else { rest }));
    }
    match (f64::try_from(a.clone()), f64::try_from(b.clone())) {
        (Ok(x), Ok(y)) if y != 0.0 => Ok(Value::from(x - y * (x / y).floor())),
        _ => Err(refused("it divides what cannot be divided")),
    }
}

/// Refuses widths that no text has, and pays for the widths that are left.
pub(super) fn bounded_format(budget: &Budget, operands: &[Value]) -> Result<(), Error> {
    let format = operands.first().and_then(Value::as_str).unwrap_or_default();
    let mut digits = 0;
    let mut widths = 0;
    for c in format.chars() {
        digits = if c.is_ascii_digit() { digits + 1 } else { 0 };
        if digits > 3 || c == '*' {
            return Err(refused("it writes texts of enormous width"));
        }
        widths += usize::from(c == '{' || c == '%');
    }
    let weights = operands.iter().map(|o| budget.weigh(o)).sum::<Result<usize, Error>>()?;
    // A place may name the same value again.
    budget.text(widths.saturating_mul(weights.max(1000)))
}
