//! Python's methods of texts, lists and maps.

use super::budget::Budget;
use super::filters::grows;
use super::operators::bounded_format;
use super::python;
use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};

/// Those that the library has.
const KNOWN: [&str; 27] = [
    "startswith",
    "endswith",
    "split",
    "splitlines",
    "upper",
    "lower",
    "title",
    "capitalize",
    "replace",
    "join",
    "find",
    "rfind",
    "islower",
    "isupper",
    "isspace",
    "isdigit",
    "isnumeric",
    "isalnum",
    "isalpha",
    "isascii",
    "keys",
    "values",
    "items",
    "format",
    "strip",
    "lstrip",
    "rstrip",
];

/// Those that are here.
const OWN: [&str; 7] =
    ["rsplit", "partition", "rpartition", "removeprefix", "removesuffix", "copy", "index"];

/// Methods of maps, which a key of the same name does not hide.
pub(super) const OF_MAPS: [(&str, &str); 4] =
    [("items", ".items"), ("keys", ".keys"), ("values", ".values"), ("get", ".get")];

pub(super) fn call_method(
    budget: &Budget,
    state: &State<'_, '_>,
    value: &Value,
    method: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    match method {
        "get" => {}
        // Of nothing there is no end.
        "count" if arguments.first().is_some_and(|a| a.as_str() != Some("")) => {
            budget.pay(arguments.iter().chain([value]))?;
        }
        _ if KNOWN.contains(&method) || OWN.contains(&method) => {
            budget.pay(arguments.iter().chain([value]))?;
        }
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    }
    let argument = |i: usize| arguments.get(i).cloned().unwrap_or_default();
    match method {
        "replace" => grows(budget, "replace", &[value.clone(), argument(0), argument(1)])?,
        "join" => grows(budget, "join", &[argument(0), value.clone()])?,
        "format" => {
            let all: Vec<Value> = [value].into_iter().chain(arguments).cloned().collect();
            bounded_format(budget, &all)?;
        }
        _ => {}
    }
    let result = match value.as_str() {
        Some(text) => of_text(text, method, arguments).transpose()?,
        None if method == "copy" => Some(value.clone()),
        None => None,
    };
    let result = match result {
        Some(result) => result,
        None => {
            minijinja_contrib::pycompat::unknown_method_callback(state, value, method, arguments)?
        }
    };
    budget.pay([&result])?;
    Ok(result)
}

/// Without the spaces that Python strips.
pub(super) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// `None` if the library has the method.
fn of_text(text: &str, method: &str, arguments: &[Value]) -> Option<Result<Value, Error>> {
    let first = arguments.first().filter(|a| !a.is_none());
    let given = first.map(python::text);
    let stripped = |c: char| given.as_ref().map_or_else(|| is_space(c), |g| g.contains(c));
    let list =
        |parts: Vec<&str>| Value::from(parts.into_iter().map(Value::from).collect::<Vec<_>>());
    let sought = given.as_deref().filter(|g| !g.is_empty());
    let value = match (method, sought) {
        ("strip", _) => Value::from(text.trim_matches(stripped)),
        ("lstrip", _) => Value::from(text.trim_start_matches(stripped)),
        ("rstrip", _) => Value::from(text.trim_end_matches(stripped)),
        ("removeprefix", Some(part)) => Value::from(text.strip_prefix(part).unwrap_or(text)),
        ("removesuffix", Some(part)) => Value::from(text.strip_suffix(part).unwrap_or(text)),
        ("removeprefix" | "removesuffix", None) => Value::from(text),
        ("partition", Some(part)) => match text.split_once(part) {
            Some((a, b)) => list(vec![a, part, b]),
            None => list(vec![text, "", ""]),
        },
        ("rpartition", Some(part)) => match text.rsplit_once(part) {
            Some((a, b)) => list(vec![a, part, b]),
            None => list(vec!["", "", text]),
        },
        ("rsplit", Some(part)) => {
            let most =
                arguments.get(1).and_then(Value::as_i64).and_then(|n| usize::try_from(n).ok());
            let mut parts: Vec<&str> =
                text.rsplitn(most.map_or(usize::MAX, |n| n.saturating_add(1)), part).collect();
            parts.reverse();
            list(parts)
        }
        ("index", Some(part)) => match text.find(part) {
            Some(at) => Value::from(text[..at].chars().count()),
            None => {
                return Some(Err(Error::new(ErrorKind::InvalidOperation, "substring not found")));
            }
        },
        // In characters, where the library has bytes.
        ("find", Some(part)) => {
            Value::from(text.find(part).map_or(-1, |at| text[..at].chars().count() as i64))
        }
        ("rfind", Some(part)) => {
            Value::from(text.rfind(part).map_or(-1, |at| text[..at].chars().count() as i64))
        }
        _ => return None,
    };
    Some(Ok(value))
}

/// A method of [`OF_MAPS`].
pub(super) fn of_maps(
    budget: &Budget,
    state: &State<'_, '_>,
    method: &str,
    all: &[Value],
) -> Result<Value, Error> {
    let Some((value, arguments)) = all.split_first() else {
        return Err(Error::from(ErrorKind::UnknownMethod));
    };
    if value.kind() == ValueKind::Map {
        return call_method(budget, state, value, method, arguments);
    }
    value.call_method(state, method, arguments)
}
