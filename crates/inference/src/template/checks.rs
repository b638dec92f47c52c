//! Tests: what stands behind `is`.

use super::budget::Budget;
use super::operators::contains;
use minijinja::value::ValueKind;
use minijinja::{Environment, Error, State, Value, tests as checks};
use std::sync::Arc;

pub(super) fn add_tests(all: &mut Environment<'static>, budget: &Arc<Budget>) {
    all.add_test("defined", checks::is_defined);
    all.add_test("undefined", checks::is_undefined);
    all.add_test("none", checks::is_none);
    all.add_test("boolean", checks::is_boolean);
    all.add_test("true", checks::is_true);
    all.add_test("false", checks::is_false);
    all.add_test("odd", checks::is_odd);
    all.add_test("even", checks::is_even);
    all.add_test("divisibleby", checks::is_divisibleby);
    // A truth value is a number, in Python.
    all.add_test("number", |v: &Value| matches!(v.kind(), ValueKind::Number | ValueKind::Bool));
    all.add_test("integer", checks::is_integer);
    all.add_test("float", checks::is_float);
    all.add_test("string", checks::is_string);
    // Whatever has a length and places: texts and maps too, in Python.
    all.add_test("sequence", |v: &Value| {
        matches!(
            v.kind(),
            ValueKind::Seq | ValueKind::String | ValueKind::Map | ValueKind::Undefined
        )
    });
    all.add_test("iterable", |v: &Value| v.is_undefined() || !v.is_none() && v.try_iter().is_ok());
    all.add_test("mapping", checks::is_mapping);
    all.add_test("callable", |v: &Value| {
        v.as_object()
            .is_some_and(|o| o.type_name().contains("Macro") || o.type_name().contains("Func"))
    });
    macro_rules! comparison {
        ($($operator:tt $($name:literal)*;)*) => {$($(
            let own = Arc::clone(budget);
            all.add_test($name, move |a: Value, b: Value| {
                own.pay([&a, &b])?;
                Ok::<_, Error>(a $operator b)
            });
        )*)*};
    }
    comparison! {
        == "eq" "equalto" "==" "sameas";
        != "ne" "!=";
        < "lt" "lessthan" "<";
        <= "le" "<=";
        > "gt" "greaterthan" ">";
        >= "ge" ">=";
    }
    let own = Arc::clone(budget);
    all.add_test("in", move |state: &State<'_, '_>, a: Value, b: Value| {
        own.pay([&a, &b])?;
        contains(state, &a, &b)
    });
    let own = Arc::clone(budget);
    all.add_test("lower", move |a: Value| {
        own.pay([&a])?;
        Ok::<_, Error>(a.as_str().is_some_and(|t| cased(t, char::is_uppercase, char::is_lowercase)))
    });
    let own = Arc::clone(budget);
    all.add_test("upper", move |a: Value| {
        own.pay([&a])?;
        Ok::<_, Error>(a.as_str().is_some_and(|t| cased(t, char::is_lowercase, char::is_uppercase)))
    });
}

fn cased(text: &str, never: fn(char) -> bool, once: fn(char) -> bool) -> bool {
    !text.contains(never) && text.contains(once)
}
