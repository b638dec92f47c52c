//! Filters and functions.

use super::budget::Budget;
use super::operators::bounded_format;
use super::python::{self, Json};
use super::{NODE, methods, refused, time};
use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters, functions};
use std::sync::Arc;
use std::time::SystemTime;

pub(super) fn add_filters(all: &mut Environment<'static>, budget: &Arc<Budget>, mark: char) {
    // These look at no more than one place of a value.
    let length = move |v: &Value| match v.as_str() {
        Some(text) => Ok(text.chars().filter(|c| *c != mark).count()),
        None if v.is_undefined() => Ok(0),
        None => filters::length(v),
    };
    all.add_filter("length", length);
    all.add_filter("count", length);
    all.add_filter("default", filters::default);
    all.add_filter("d", filters::default);
    all.add_filter("first", filters::first);
    all.add_filter("last", filters::last);
    macro_rules! guarded {
        ($($name:ident $function:expr;)*) => {$(
            // A name with a dash cannot be written in a template.
            let raw = concat!("-", stringify!($name));
            all.add_filter(raw, $function);
            let own = Arc::clone(budget);
            all.add_filter(stringify!($name), move |state: &State<'_, '_>, all: Rest<Value>| {
                own.pay(all.iter())?;
                grows(&own, stringify!($name), &all)?;
                let result = state.apply_filter(raw, &all)?;
                own.pay([&result])?;
                Ok::<_, Error>(result)
            });
        )*};
    }
    guarded! {
        trim trim; upper filters::upper; lower filters::lower; title filters::title;
        capitalize filters::capitalize; replace replace; join join;
        string |v: Value| python::text(&v); int filters::int; float filters::float; bool filters::bool;
        abs filters::abs; round filters::round; list list; items items;
        dictsort filters::dictsort; sort filters::sort; reverse filters::reverse;
        unique filters::unique; min filters::min; max filters::max; map filters::map;
        select filters::select; reject filters::reject; selectattr filters::selectattr;
        rejectattr filters::rejectattr; indent filters::indent; sum filters::sum; attr filters::attr;
        batch filters::batch; slice filters::slice; groupby filters::groupby; format filters::format;
        safe |v: Value| v; escape filters::escape; e filters::escape;
        tojson move |v: Value, indent: Option<Value>, how: Kwargs| tojson(&v, indent, &how, mark);
    }
}

pub(super) fn add_functions(
    all: &mut Environment<'static>,
    budget: &Arc<Budget>,
    instant: Option<SystemTime>,
) {
    all.add_function("range", functions::range);
    let own = Arc::clone(budget);
    all.add_function("namespace", move |parts: Option<Value>| {
        own.pay(&parts)?;
        functions::namespace(parts)
    });
    let own = Arc::clone(budget);
    all.add_function("dict", move |parts: Rest<Value>| {
        own.text(own.pay(parts.iter())?)?;
        let mut all: Vec<(Value, Value)> = Vec::new();
        for part in parts.iter() {
            if part.kind() == ValueKind::Map {
                all.extend(python::pairs(part));
                continue;
            }
            for pair in part.try_iter()? {
                let mut pair = pair.try_iter()?;
                let (Some(key), Some(value)) = (pair.next(), pair.next()) else {
                    return Err(refused("it makes a dictionary of what are no pairs"));
                };
                all.push((key, value));
            }
        }
        Ok::<_, Error>(all.into_iter().collect::<Value>())
    });
    all.add_function("raise_exception", |text: Value| -> Result<String, _> {
        Err(Error::new(ErrorKind::InvalidOperation, python::text(&text)))
    });
    all.add_function("strftime_now", move |format: String| time::strftime(&format, instant));
}

fn trim(value: Value, chars: Option<String>) -> String {
    let text = python::text(&value);
    match chars {
        Some(chars) => text.trim_matches(|c| chars.contains(c)).to_owned(),
        None => methods::strip(&text).to_owned(),
    }
}

fn replace(value: Value, from: Value, to: Value, count: Option<usize>) -> String {
    let (text, from, to) = (python::text(&value), python::text(&from), python::text(&to));
    text.replacen(&from, &to, count.unwrap_or(usize::MAX))
}

fn join(value: Value, between: Option<Value>, how: Kwargs) -> Result<String, Error> {
    let attribute: Option<String> = how.get("attribute")?;
    let between = between.map(|b| python::text(&b)).or(how.get("d")?).unwrap_or_default();
    how.assert_all_used()?;
    let mut out = String::new();
    for (i, part) in value.try_iter()?.enumerate() {
        out.push_str(if i == 0 { "" } else { &between });
        let part = match &attribute {
            Some(name) => part.get_attr(name)?,
            None => part,
        };
        out.push_str(&python::text(&part));
    }
    Ok(out)
}

fn list(value: Value) -> Result<Value, Error> {
    Ok(value.try_iter()?.collect::<Vec<_>>().into())
}

fn items(value: Value) -> Result<Value, Error> {
    if value.is_undefined() {
        return Ok(Value::from(Vec::<Value>::new()));
    }
    filters::items(&value)
}

/// As transformers has it.
fn tojson(value: &Value, indent: Option<Value>, how: &Kwargs, mark: char) -> Result<String, Error> {
    let indent = indent.filter(|i| !i.is_none()).or(how.get("indent")?);
    let indent = indent.filter(|i| !i.is_none()).map(usize::try_from).transpose()?;
    let separators: Option<(String, String)> = match how.get::<Option<Value>>("separators")? {
        Some(pair) if !pair.is_none() => {
            let mut pair = pair.try_iter()?.map(|p| python::text(&p));
            pair.next().zip(pair.next())
        }
        _ => None,
    };
    let usual = || (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned());
    let json = Json {
        indent,
        ascii: how.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sorted: how.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        between: separators.unwrap_or_else(usual),
        mark,
    };
    how.assert_all_used()?;
    json.write(value)
}

/// Refuses what would be larger than its operands together.
pub(super) fn grows(budget: &Budget, name: &str, operands: &[Value]) -> Result<(), Error> {
    let len = |i: usize| operands.get(i).and_then(Value::as_str).map_or(0, str::len);
    match name {
        "replace" => budget.text((len(0) + 1).saturating_mul(len(2).max(1))),
        "join" => {
            let parts = operands.first().and_then(Value::len).unwrap_or(budget.value / NODE);
            let named = operands.last().filter(|v| v.is_kwargs());
            let between = named.and_then(|n| n.get_attr("d").ok());
            let between = between.as_ref().and_then(Value::as_str).map_or(0, str::len);
            budget.text(parts.saturating_mul(len(1).max(between)))
        }
        "format" => bounded_format(budget, operands),
        "batch" | "slice" => {
            let wide = |v: &Value| v.as_i64().is_some_and(|n| !(0..=1000).contains(&n));
            if operands.iter().skip(1).any(wide) {
                return Err(refused("it makes enormous lists"));
            }
            Ok(())
        }
        // Its numbers are widths, its texts stand between all entries.
        "tojson" | "indent" => {
            let named = operands.last().filter(|v| v.is_kwargs());
            let named: Vec<(Value, Value)> = named.map(python::pairs).unwrap_or_default();
            let mut all = operands.iter().skip(1).chain(named.iter().map(|(_, v)| v));
            let wide = |v: &Value| {
                v.as_i64().is_some_and(|n| !(0..=16).contains(&n))
                    || v.as_str().is_some_and(|t| t.len() > 64)
                    || matches!(v.kind(), ValueKind::Seq) && budget.weigh(v).is_ok_and(|w| w > 256)
            };
            if all.any(wide) {
                return Err(refused("it indents too far"));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}
