//! Values as Python writes them: templates are written for Jinja, whose texts of values are Python's.

use super::refused;
use minijinja::value::ValueKind;
use minijinja::{Error, Value};
use std::fmt::Write;

/// What `str` gives.
pub(super) fn text(value: &Value) -> String {
    let mut out = String::new();
    match value.as_str() {
        Some(text) => out.push_str(text),
        None if value.is_undefined() => {}
        None => repr_into(&mut out, value),
    }
    out
}

/// What `repr` gives.
fn repr_into(out: &mut String, value: &Value) {
    match value.kind() {
        ValueKind::None => out.push_str("None"),
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::String => quoted(out, value.as_str().unwrap_or_default()),
        ValueKind::Number => number(out, value),
        ValueKind::Seq | ValueKind::Iterable if value.try_iter().is_ok() => {
            out.push('[');
            for (i, part) in value.try_iter().into_iter().flatten().enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                repr_into(out, &part);
            }
            out.push(']');
        }
        ValueKind::Map if value.as_object().is_some() => {
            out.push('{');
            for (i, (key, value)) in pairs(value).into_iter().enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                repr_into(out, &key);
                out.push_str(": ");
                repr_into(out, &value);
            }
            out.push('}');
        }
        _ => {
            let _ = write!(out, "{value}");
        }
    }
}

/// The entries of a map, in its order.
pub(super) fn pairs(map: &Value) -> Vec<(Value, Value)> {
    map.as_object().and_then(|m| m.try_iter_pairs()).into_iter().flatten().collect()
}

fn quoted(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if c < ' ' || ('\x7f'..='\u{a0}').contains(&c) || c == '\u{ad}' => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

fn number(out: &mut String, value: &Value) {
    if value.is_integer() {
        let _ = write!(out, "{value}");
        return;
    }
    let number = f64::try_from(value.clone()).unwrap_or(f64::NAN);
    let size = number.abs();
    if number.is_finite() && size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{number:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) =
            exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
        let _ = write!(out, "{digits}e{sign}{exponent:0>2}");
    } else if number.is_finite() {
        let _ = write!(out, "{number:?}");
    } else {
        out.push_str(&number.to_string().to_lowercase());
    }
}

/// How `json.dumps` is asked to write.
pub(super) struct Json {
    pub(super) indent: Option<usize>,
    pub(super) ascii: bool,
    pub(super) sorted: bool,
    /// Between entries, and between key and value.
    pub(super) between: (String, String),
    /// A character that is written as it is.
    pub(super) mark: char,
}

impl Json {
    /// What `json.dumps` gives, as transformers' `tojson` calls it: nothing is escaped for HTML.
    pub(super) fn write(&self, value: &Value) -> Result<String, Error> {
        let mut out = String::new();
        self.put(&mut out, value, 0)?;
        Ok(out)
    }

    fn put(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::String => self.string(out, value.as_str().unwrap_or_default()),
            ValueKind::Number => number(out, value),
            ValueKind::Seq | ValueKind::Iterable => {
                let parts: Vec<Value> = value.try_iter()?.collect();
                self.list(out, '[', ']', depth, parts.len(), |out, i| {
                    self.put(out, &parts[i], depth + 1)
                })?;
            }
            ValueKind::Map => {
                let mut pairs = pairs(value);
                if self.sorted {
                    pairs.sort_by_key(|a| text(&a.0));
                }
                self.list(out, '{', '}', depth, pairs.len(), |out, i| {
                    let (key, value) = &pairs[i];
                    self.string(out, &text(key));
                    out.push_str(&self.between.1);
                    self.put(out, value, depth + 1)
                })?;
            }
            kind => return Err(refused(&format!("it writes a value of the kind {kind} as JSON"))),
        }
        Ok(())
    }

    fn list(
        &self,
        out: &mut String,
        open: char,
        close: char,
        depth: usize,
        len: usize,
        mut part: impl FnMut(&mut String, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let line = |out: &mut String, depth: usize| {
            if let Some(indent) = self.indent {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', indent * depth));
            }
        };
        out.push(open);
        for i in 0..len {
            if i > 0 {
                out.push_str(&self.between.0);
            }
            line(out, depth + 1);
            part(out, i)?;
        }
        if len > 0 {
            line(out, depth);
        }
        out.push(close);
        Ok(())
    }

    fn string(&self, out: &mut String, text: &str) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\x08' => out.push_str("\\b"),
                '\x0c' => out.push_str("\\f"),
                c if c < ' '
                    || (self.ascii && !c.is_ascii() && c != self.mark)
                    || c == '\x7f' && self.ascii =>
                {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_python_writes_them() {
        let list = Value::from(vec![
            Value::from("it's"),
            Value::from(true),
            Value::from(()),
            Value::from(1.0),
            Value::from(1e16),
            Value::from(1e-7),
            Value::from("a\n"),
        ]);
        assert_eq!(text(&list), r#"["it's", True, None, 1.0, 1e+16, 1e-07, 'a\n']"#);
        assert_eq!(text(&Value::UNDEFINED), "");
        assert_eq!(text(&Value::from("x")), "x");
    }
}
