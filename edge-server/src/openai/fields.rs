//! The fields of a JSON object, taken out one by one: so an array is never read as an object, every
//! refusal names its field in words of ours, and what nobody asked for is left over and known.

use super::error::ApiError;
use serde_json::{Map, Value};

/// The fields of one object that were not taken yet.
#[derive(Debug)]
pub(super) struct Fields {
    map: Map<String, Value>,
    /// Where it stands in the request, for refusals: empty, or `messages[3]`.
    place: String,
    /// The request's own field to which it belongs, for programs.
    param: Option<&'static str>,
}

/// A piece of JSON, in a word.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Whether a value asks for nothing: what many clients send for fields that they do not use.
pub(super) fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) | Value::Number(_) => false,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// Values of a request at most: a few bytes of JSON may take a hundred of memory. As many as the most
/// messages with some parts each.
const MAX_PIECES: usize = 50_000;

/// At least how many values a text in JSON has, less one: what separates them outside of strings.
fn pieces(json: &[u8]) -> usize {
    let (mut count, mut inside, mut escaped) = (0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if inside => escaped = true,
            b'"' => inside = !inside,
            b',' | b'{' | b'[' if !inside => count += 1,
            _ => {}
        }
    }
    count
}

impl Fields {
    /// Those of a request's body.
    ///
    /// # Errors
    /// If the bytes are no JSON object in UTF-8. A byte order mark is passed over.
    pub(super) fn of_body(bytes: &[u8]) -> Result<Self, ApiError> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let refuse = |text: String| ApiError::invalid(None, text);
        if pieces(bytes) > MAX_PIECES {
            let text = format!("the request has more than {MAX_PIECES} values; shorten it");
            return Err(refuse(text));
        }
        let value = serde_json::from_slice(bytes).map_err(|e| {
            let at = format!("line {}, column {}", e.line(), e.column());
            refuse(format!("the request is not valid JSON in UTF-8 ({at}); send one JSON object"))
        })?;
        match value {
            Value::Object(map) => Ok(Self { map, place: String::new(), param: None }),
            other => {
                Err(refuse(format!("the request must be a JSON object, it is {}", kind(&other))))
            }
        }
    }

    /// Those of an object inside the request.
    ///
    /// # Errors
    /// If the value is no object.
    pub(super) fn of(value: Value, param: &'static str, place: String) -> Result<Self, ApiError> {
        match value {
            Value::Object(map) => Ok(Self { map, place, param: Some(param) }),
            other => {
                let text = format!("`{place}` must be an object, it is {}", kind(&other));
                Err(ApiError::invalid(Some(param), text))
            }
        }
    }

    /// The field; `None` where it is absent or null.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|value| !value.is_null())
    }

    /// What was not taken.
    pub(super) fn left(self) -> impl Iterator<Item = (String, Value)> {
        self.map.into_iter()
    }

    /// That a field is not what it must be.
    pub(super) fn wrong(&self, name: &'static str, must: &str, value: &Value) -> ApiError {
        let at = if self.place.is_empty() { String::new() } else { format!("{}: ", self.place) };
        let text = format!("{at}`{name}` must be {must}, it is {}", kind(value));
        ApiError::invalid(self.param.or(Some(name)), text)
    }

    pub(super) fn text(&mut self, name: &'static str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(name, "a string", &other)),
        }
    }

    pub(super) fn flag(&mut self, name: &'static str) -> Result<Option<bool>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(self.wrong(name, "true or false", &other)),
        }
    }

    pub(super) fn number(&mut self, name: &'static str) -> Result<Option<f64>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Number(number)) => Ok(number.as_f64()),
            Some(other) => Err(self.wrong(name, "a number", &other)),
        }
    }

    /// A whole number, also one that is written with a point (`3.0`), as some languages write all
    /// numbers. What no 64 bits hold is at the end of `i128`'s range.
    pub(super) fn whole(&mut self, name: &'static str) -> Result<Option<i128>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = match &value {
            Value::Number(number) => number
                .as_i128()
                .or_else(|| number.as_f64().filter(|v| v.fract() == 0.0).map(|v| v as i128)),
            _ => None,
        };
        number.map(Some).ok_or_else(|| self.wrong(name, "a whole number", &value))
    }

    /// A list of at most `most`.
    pub(super) fn list(
        &mut self,
        name: &'static str,
        most: usize,
    ) -> Result<Option<Vec<Value>>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(list)) if list.len() <= most => Ok(Some(list)),
            Some(Value::Array(list)) => {
                let text = format!("`{name}` has {} entries; it may have {most}", list.len());
                Err(ApiError::invalid(self.param.or(Some(name)), text))
            }
            Some(other) => Err(self.wrong(name, "a list", &other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn whole_numbers_come_in_many_forms() {
        let whole = |value: Value| {
            let map = json!({ "n": value });
            let mut fields = Fields::of(map, "n", "it".into()).expect("an object");
            fields.whole("n").ok()
        };
        assert_eq!(whole(json!(3)), Some(Some(3)));
        assert_eq!(whole(json!(3.0)), Some(Some(3)));
        assert_eq!(whole(json!(-1)), Some(Some(-1)));
        assert_eq!(whole(json!(u64::MAX)), Some(Some(i128::from(u64::MAX))));
        assert_eq!(whole(json!(null)), Some(None));
        assert_eq!(whole(json!(1e300)), Some(Some(i128::MAX)));
        for wrong in [json!(3.5), json!("3"), json!([3]), json!({}), json!(true)] {
            assert_eq!(whole(wrong.clone()), None, "{wrong}");
        }
    }

    #[test]
    fn many_small_values_are_refused_before_they_are_read() {
        let text = r#"{"messages": [{"role": "user", "content": "a, [b] {\"c\", \\"}]}"#;
        assert_eq!(pieces(text.as_bytes()), 4);
        for piece in ["{}", "0", "[]", r#"{"":0}"#] {
            let body = format!("{{\"x\": [{}0]}}", format!("{piece},").repeat(MAX_PIECES));
            let error = Fields::of_body(body.as_bytes()).expect_err(piece).json();
            assert!(error.contains("more than 50000 values"), "{error}");
        }
        let long = format!("{{\"x\": \"{}\"}}", ",[{".repeat(MAX_PIECES));
        assert!(Fields::of_body(long.as_bytes()).is_ok(), "a text is one value");
    }

    #[test]
    fn only_an_object_is_one() {
        for body in ["[]", "[1]", "null", "3", "\"x\"", "true"] {
            let error = Fields::of_body(body.as_bytes()).expect_err(body);
            assert!(error.json().contains("must be a JSON object"), "{}", error.json());
        }
        assert!(Fields::of_body(b"\xef\xbb\xbf{}").is_ok(), "a byte order mark is no matter");
        let error = Fields::of_body(b"{\"a\": 1,\n}").expect_err("no JSON").json();
        assert!(error.contains("line 2, column 1"), "{error}");
    }
}
