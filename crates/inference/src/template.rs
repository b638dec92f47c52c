//! A model's chat template, rendered so that a hostile one ends soon with an error.
//!
//! minijinja counts steps, but one step can be as large as what it works on: `s ~ s` doubles a text,
//! a list can hold itself twice, `"x".count("")` never ends. So every operation that may make a value
//! larger than its parts, or that walks through a whole value, becomes a call of a function here that
//! weighs its operands first and pays for them out of a budget. What templates do not need is refused.

use minijinja::machinery::{
    CompiledTemplate, Instruction, Instructions, TemplateConfig, Token, Vm, WhitespaceConfig,
    make_string_output, tokenize,
};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Rest, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value, escape_formatter};
use minijinja::{filters, functions, tests as checks};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of a template at most; the longest of known models has 20 KiB.
const MAX_SOURCE: usize = 64 << 10;
/// Steps of a conversation without messages, and for each message. Known templates take 60 for one.
const STEPS: usize = 20_000;
const STEPS_MESSAGE: usize = 400;
/// Weight of a value at most, and for each message (lists of messages are values too).
const MAX_VALUE: usize = 128 << 10;
const VALUE_MESSAGE: usize = 512;
/// Weight of all operands and results together, in values of the greatest weight.
const VALUES: usize = 256;
/// Bytes of plain text that the steps could write at most.
const MAX_OUTPUT: usize = 256 << 20;
/// What a value weighs beside its text.
const NODE: usize = 32;
/// Lists in lists at most.
const MAX_DEPTH: usize = 24;
/// Words and signs of an expression or statement at most.
const MAX_EXPRESSION: usize = 2000;
/// See [`apart`].
const STACK: usize = 64 << 20;

/// A chat template that can be compiled.
pub(crate) struct Template(String);

impl Template {
    /// # Errors
    /// If it is no template, is too long, or uses what no chat template needs.
    pub(crate) fn new(source: &str) -> Result<Self, Error> {
        if source.len() > MAX_SOURCE {
            return Err(refused(&format!("it is longer than {MAX_SOURCE} bytes")));
        }
        apart(|| {
            let mut tokens = 0;
            for token in tokenize(source, false, SyntaxConfig, whitespace()) {
                match token?.0 {
                    // Constants are multiplied while the template is compiled.
                    Token::Mul | Token::Pow => return Err(refused("it multiplies")),
                    Token::VariableStart | Token::BlockStart => tokens = 0,
                    _ => tokens += 1,
                }
                // The compiler calls itself for each part of an expression.
                if tokens > MAX_EXPRESSION {
                    return Err(refused("it has an enormous expression"));
                }
            }
            compile(source).map(drop)
        })?;
        Ok(Self(source.to_owned()))
    }

    /// The text for a conversation of so many messages.
    ///
    /// # Errors
    /// If the template fails, or does too much.
    pub(crate) fn render(&self, messages: usize, context: Value) -> Result<String, Error> {
        apart(|| {
            let steps = STEPS + STEPS_MESSAGE * messages;
            let (compiled, longest) = compile(&self.0)?;
            if longest.saturating_mul(steps) > MAX_OUTPUT {
                return Err(refused("its texts are too long for so many messages"));
            }
            let environment = environment(steps, MAX_VALUE + VALUE_MESSAGE * messages);
            let mut text = String::new();
            Vm::new(&environment).eval(
                &compiled.instructions,
                context,
                &compiled.blocks,
                &mut make_string_output(&mut text),
                AutoEscape::None,
            )?;
            Ok(text)
        })
    }
}

/// Runs with a stack that is large enough for every chain of values and expressions that the limits
/// allow; only what is used of it is memory.
fn apart<T: Send>(run: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, run);
        let thread = thread.map_err(|e| refused(&format!("no thread for it ({e})")))?;
        thread.join().unwrap_or_else(|_| Err(refused("it makes no sense")))
    })
}

fn refused(reason: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("{reason}, which is not supported here"))
}

fn too_much() -> Error {
    Error::new(ErrorKind::OutOfFuel, "it makes too much of the conversation; choose another model")
}

/// Templates are written for Python's Jinja with these settings.
fn whitespace() -> WhitespaceConfig {
    WhitespaceConfig { keep_trailing_newline: false, lstrip_blocks: true, trim_blocks: true }
}

/// A guarded program, and the bytes of its longest plain text.
fn compile(source: &str) -> Result<(CompiledTemplate<'_>, usize), Error> {
    let config = TemplateConfig {
        syntax_config: SyntaxConfig,
        ws_config: whitespace(),
        default_auto_escape: Arc::new(|_| AutoEscape::None),
    };
    let mut compiled = CompiledTemplate::new("chat", source, &config)?;
    if !compiled.blocks.is_empty() {
        return Err(refused("it has blocks"));
    }
    let longest = guard(&mut compiled.instructions)?;
    Ok((compiled, longest))
}

/// Puts calls of [`operators`] in the place of instructions; no template can name them.
fn guard(program: &mut Instructions<'_>) -> Result<usize, Error> {
    let call = |name, operands: usize| {
        let operands = u16::try_from(operands).map_err(|_| too_much())?;
        Ok::<_, Error>(Instruction::ApplyFilter(name, Some(operands), u8::MAX))
    };
    let mut longest = 0;
    for at in 0..program.len() as u32 {
        let Some(instruction) = program.get_mut(at) else { break };
        *instruction = match instruction {
            Instruction::Add => call("+", 2)?,
            Instruction::StringConcat => call("~", 2)?,
            Instruction::Eq => call("==", 2)?,
            Instruction::Ne => call("!=", 2)?,
            Instruction::Lt => call("<", 2)?,
            Instruction::Lte => call("<=", 2)?,
            Instruction::Gt => call(">", 2)?,
            Instruction::Gte => call(">=", 2)?,
            Instruction::In => call("in?", 2)?,
            Instruction::GetItem => call("[]", 2)?,
            Instruction::BuildList(Some(n)) => call("[,]", *n)?,
            Instruction::BuildMap(n) => call("{:}", *n * 2)?,
            Instruction::EmitRaw(text) => {
                longest = longest.max(text.len());
                continue;
            }
            Instruction::Mul
            | Instruction::Pow
            | Instruction::UnpackLists(_)
            | Instruction::MergeKwargs(_)
            | Instruction::CompareAndPreserve(_)
            | Instruction::FastSuper
            | Instruction::FastRecurse
            | Instruction::CallBlock(_)
            | Instruction::LoadBlocks
            | Instruction::Include(_)
            | Instruction::ExportLocals => return Err(refused("it uses a rare construct")),
            // Among them the list of a loop with a condition, which nothing but the loop sees.
            _ => continue,
        };
    }
    Ok(longest)
}

/// What a template may still use up.
struct Budget {
    /// Weight of one value at most.
    value: usize,
    left: AtomicUsize,
}

impl Budget {
    /// The weight of a value: its text and its parts. Walks no further than the limit.
    fn weigh(&self, value: &Value) -> Result<usize, Error> {
        let mut weight = 0;
        let mut rest = vec![(value.clone(), 0)];
        while let Some((value, depth)) = rest.pop() {
            weight += NODE + value.as_str().map_or(0, str::len);
            if weight > self.value || depth > MAX_DEPTH {
                return Err(too_much());
            }
            let Some(object) = value.as_object() else { continue };
            // One that is part of a value could come to hold that value.
            if object.type_name().ends_with("Namespace") {
                return Err(refused("it uses a namespace as a value"));
            }
            let parts: Box<dyn Iterator<Item = Value>> = match value.kind() {
                ValueKind::Seq | ValueKind::Iterable => Box::new(value.try_iter()?),
                ValueKind::Map => {
                    let pairs = object.try_iter_pairs().into_iter().flatten();
                    Box::new(pairs.flat_map(|(key, value)| [key, value]))
                }
                _ => continue,
            };
            for part in parts {
                rest.push((part, depth + 1));
                if weight + rest.len() * NODE > self.value {
                    return Err(too_much());
                }
            }
        }
        Ok(weight)
    }

    /// Weighs values and pays for them.
    fn pay<'a>(&self, values: impl IntoIterator<Item = &'a Value>) -> Result<usize, Error> {
        let mut sum = 0;
        for value in values {
            sum += self.weigh(value)?;
        }
        let paid = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(sum));
        paid.map(|_| sum).map_err(|_| too_much())
    }

    /// Pays for a text before it is made.
    fn text(&self, len: usize) -> Result<(), Error> {
        let paid = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(len));
        if len > self.value || paid.is_err() { Err(too_much()) } else { Ok(()) }
    }
}

/// All that a template may use.
fn environment(steps: usize, value: usize) -> Environment<'static> {
    let budget = Arc::new(Budget { value, left: AtomicUsize::new(value * VALUES) });
    let mut all = Environment::empty();
    all.set_fuel(Some(steps as u64));
    let own = Arc::clone(&budget);
    all.set_formatter(move |out, state, value| {
        own.pay([value])?;
        escape_formatter(out, state, value)
    });
    operators(&mut all, &budget);
    usual_filters(&mut all, &budget);
    usual_tests(&mut all, &budget);
    all.add_function("range", functions::range);
    let own = Arc::clone(&budget);
    all.add_function("namespace", move |parts: Option<Value>| {
        own.pay(&parts)?;
        functions::namespace(parts)
    });
    all.add_function("raise_exception", |text: String| -> Result<String, _> {
        Err(Error::new(ErrorKind::InvalidOperation, text))
    });
    let own = Arc::clone(&budget);
    all.set_unknown_method_callback(move |state, value, method, arguments| {
        call_method(&own, state, value, method, arguments)
    });
    all
}

fn operators(all: &mut Environment<'static>, budget: &Arc<Budget>) {
    let own = Arc::clone(budget);
    all.add_filter("+", move |a: Value, b: Value| {
        own.pay([&a, &b])?;
        add(&own, &a, &b)
    });
    let own = Arc::clone(budget);
    all.add_filter("~", move |a: Value, b: Value| {
        own.text(own.pay([&a, &b])?)?;
        Ok::<_, Error>(format!("{a}{b}"))
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
        checks::is_in(state, &a, &b)
    });
    let own = Arc::clone(budget);
    all.add_filter("[]", move |whole: Value, key: Value| {
        if whole.is_undefined() {
            return Err(Error::from(ErrorKind::UndefinedError));
        }
        // Characters are counted from the start.
        own.pay(whole.as_str().map(|_| &whole).into_iter().chain([&key]))?;
        whole.get_item(&key)
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
    let list = |v: &Value| matches!(v.kind(), ValueKind::Seq | ValueKind::Iterable);
    if list(a) && list(b) {
        return Ok(Value::from(a.try_iter()?.chain(b.try_iter()?).collect::<Vec<_>>()));
    }
    match (f64::try_from(a.clone()), f64::try_from(b.clone())) {
        (Ok(x), Ok(y)) => Ok(Value::from(x + y)),
        _ => Err(refused(&format!("it adds a {} and a {}", a.kind(), b.kind()))),
    }
}

fn usual_filters(all: &mut Environment<'static>, budget: &Arc<Budget>) {
    // These look at no more than one place of a value.
    all.add_filter("length", filters::length);
    all.add_filter("count", filters::length);
    all.add_filter("default", filters::default);
    all.add_filter("d", filters::default);
    all.add_filter("first", filters::first);
    all.add_filter("last", filters::last);
    macro_rules! guarded {
        ($($name:ident $function:path;)*) => {$(
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
        trim filters::trim; upper filters::upper; lower filters::lower; title filters::title;
        capitalize filters::capitalize; replace filters::replace; join filters::join;
        string filters::string; int filters::int; float filters::float; bool filters::bool;
        abs filters::abs; round filters::round; list filters::list; items filters::items;
        dictsort filters::dictsort; sort filters::sort; reverse filters::reverse;
        unique filters::unique; min filters::min; max filters::max; map filters::map;
        select filters::select; reject filters::reject; selectattr filters::selectattr;
        rejectattr filters::rejectattr; tojson filters::tojson; indent filters::indent;
        safe filters::safe; escape filters::escape; e filters::escape;
    }
}

/// Refuses what would be larger than its operands together.
fn grows(budget: &Budget, name: &str, operands: &[Value]) -> Result<(), Error> {
    let len = |i: usize| operands.get(i).and_then(Value::as_str).map_or(0, str::len);
    match name {
        "replace" => budget.text((len(0) + 1).saturating_mul(len(2).max(1))),
        "join" => {
            let parts = operands.first().and_then(Value::len).unwrap_or(budget.value / NODE);
            budget.text(parts.saturating_mul(len(1)))
        }
        // Its numbers are widths.
        "tojson" | "indent" => {
            let named = operands.last().filter(|v| v.is_kwargs()).and_then(Value::as_object);
            let named = named.and_then(|named| named.try_iter_pairs()).into_iter().flatten();
            let wide = |v: &Value| v.as_i64().is_some_and(|n| !(0..=16).contains(&n));
            if operands.iter().skip(1).any(wide) || named.into_iter().any(|(_, v)| wide(&v)) {
                return Err(refused("it indents too far"));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn usual_tests(all: &mut Environment<'static>, budget: &Arc<Budget>) {
    all.add_test("defined", checks::is_defined);
    all.add_test("undefined", checks::is_undefined);
    all.add_test("none", checks::is_none);
    all.add_test("boolean", checks::is_boolean);
    all.add_test("true", checks::is_true);
    all.add_test("false", checks::is_false);
    all.add_test("odd", checks::is_odd);
    all.add_test("even", checks::is_even);
    all.add_test("divisibleby", checks::is_divisibleby);
    all.add_test("number", checks::is_number);
    all.add_test("integer", checks::is_integer);
    all.add_test("float", checks::is_float);
    all.add_test("string", checks::is_string);
    all.add_test("sequence", checks::is_sequence);
    all.add_test("iterable", checks::is_iterable);
    all.add_test("mapping", checks::is_mapping);
    for name in ["eq", "equalto", "=="] {
        let own = Arc::clone(budget);
        all.add_test(name, move |a: Value, b: Value| {
            own.pay([&a, &b])?;
            Ok::<_, Error>(a == b)
        });
    }
    for name in ["ne", "!="] {
        let own = Arc::clone(budget);
        all.add_test(name, move |a: Value, b: Value| {
            own.pay([&a, &b])?;
            Ok::<_, Error>(a != b)
        });
    }
    let own = Arc::clone(budget);
    all.add_test("in", move |state: &State<'_, '_>, a: Value, b: Value| {
        own.pay([&a, &b])?;
        checks::is_in(state, &a, &b)
    });
}

/// Python's methods of texts, lists and maps.
fn call_method(
    budget: &Budget,
    state: &State<'_, '_>,
    value: &Value,
    method: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    const KNOWN: [&str; 26] = [
        "strip",
        "lstrip",
        "rstrip",
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
    ];
    match method {
        "get" => {}
        // Of nothing there is no end.
        "count" if arguments.first().is_some_and(|a| a.as_str() != Some("")) => {
            budget.pay(arguments.iter().chain([value]))?;
        }
        _ if KNOWN.contains(&method) => {
            budget.pay(arguments.iter().chain([value]))?;
        }
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    }
    let argument = |i: usize| arguments.get(i).cloned().unwrap_or_default();
    match method {
        "replace" => {
            grows(budget, "replace", &[value.clone(), argument(0), argument(1)])?;
        }
        "join" => grows(budget, "join", &[argument(0), value.clone()])?,
        _ => {}
    }
    let result =
        minijinja_contrib::pycompat::unknown_method_callback(state, value, method, arguments)?;
    budget.pay([&result])?;
    Ok(result)
}
