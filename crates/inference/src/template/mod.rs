//! A model's chat template, rendered so that a hostile one ends soon with an error.
//!
//! minijinja counts steps, but one step can be as large as what it works on: `s ~ s` doubles a text,
//! a list can hold itself twice, `"x".count("")` never ends. So every operation that may make a value
//! larger than its parts, or that walks through a whole value, becomes a call of a function here that
//! weighs its operands first and pays for them out of a budget. What templates do not need is refused.
//!
//! Templates are written for Jinja as transformers sets it up, and what they make is to be the same: see
//! [`python`] for texts of values, and [`typed`] for what becomes of what people typed.

mod budget;
mod checks;
mod filters;
mod methods;
mod operators;
mod python;
mod time;
pub(crate) mod typed;

use budget::Budget;
use minijinja::machinery::{
    CompiledTemplate, Instruction, Instructions, TemplateConfig, Token, Vm, WhitespaceConfig,
    make_string_output, tokenize,
};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Rest;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::SystemTime;

/// Bytes of a template at most; the longest of known models has 20 KiB.
const MAX_SOURCE: usize = 64 << 10;
/// Steps of a conversation without messages, and for each message. Known templates take 60 for one.
const STEPS: usize = 20_000;
const STEPS_MESSAGE: usize = 400;
/// Weight of a value at most, and for each message and byte of it (lists of messages are values too).
const MAX_VALUE: usize = 128 << 10;
const VALUE_MESSAGE: usize = 512;
const VALUE_BYTE: usize = 4;
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

/// What a template is told beside its variables.
#[derive(Clone, Copy)]
pub(crate) struct Circumstances {
    /// Messages of the conversation.
    pub(crate) messages: usize,
    /// Bytes of all their texts.
    pub(crate) bytes: usize,
    /// See [`typed`].
    pub(crate) mark: char,
    /// The time, in UTC; `None`: now, where this computer is.
    pub(crate) instant: Option<SystemTime>,
}

/// A chat template that can be compiled.
pub(crate) struct Template {
    source: String,
    /// The texts that its expressions name.
    named: Vec<String>,
}

impl Template {
    /// # Errors
    /// If it is no template, is too long, or uses what no chat template needs.
    pub(crate) fn new(source: &str) -> Result<Self, Error> {
        if source.len() > MAX_SOURCE {
            return Err(refused(&format!("it is longer than {MAX_SOURCE} bytes")));
        }
        // As Jinja reads a template's own lines, wherever they were written.
        let source = without_generation(&source.replace("\r\n", "\n").replace('\r', "\n"));
        let named = apart(|| {
            check_expressions(&source)?;
            Ok(compile(&source)?.named)
        })?;
        Ok(Self { source, named })
    }

    /// The texts that its expressions name, such as the tags that it looks for.
    pub(crate) fn named(&self) -> &[String] {
        &self.named
    }

    /// The text for a conversation.
    ///
    /// # Errors
    /// If the template fails, or does too much.
    pub(crate) fn render(&self, told: Circumstances, context: Value) -> Result<String, Error> {
        apart(|| {
            let steps = STEPS + STEPS_MESSAGE * told.messages;
            let compiled = compile(&self.source)?;
            if compiled.longest.saturating_mul(steps) > MAX_OUTPUT {
                return Err(refused("its texts are too long for so many messages"));
            }
            let environment = environment(steps, told);
            let mut text = String::new();
            Vm::new(&environment).eval(
                &compiled.template.instructions,
                context,
                &compiled.template.blocks,
                &mut make_string_output(&mut text),
                AutoEscape::None,
            )?;
            Ok(text)
        })
    }
}

/// Constants are computed while a template is compiled, before anything is weighed: no expression may
/// multiply to more than a value may be, nor be so long that the compiler, which calls itself for each
/// part of one, has no stack left.
fn check_expressions(source: &str) -> Result<(), Error> {
    let (mut tokens, mut multiplies, mut product, mut length) = (0, false, 1usize, 0usize);
    let mut constants = 0usize;
    for token in tokenize(source, false, SyntaxConfig, whitespace()) {
        match token?.0 {
            Token::Pow => return Err(refused("it raises to a power")),
            Token::VariableStart | Token::BlockStart => {
                (tokens, multiplies, product, length) = (0, false, 1, 0);
            }
            Token::VariableEnd | Token::BlockEnd if multiplies => {
                constants = constants.saturating_add(product.saturating_mul(length.max(1)));
                if constants > MAX_VALUE {
                    return Err(refused("it multiplies to an enormous value"));
                }
            }
            token => {
                tokens += 1;
                match token {
                    Token::Mul => multiplies = true,
                    Token::Int(n) => {
                        let n = usize::try_from(n).unwrap_or(usize::MAX).max(2);
                        product = product.saturating_mul(n);
                    }
                    Token::Int128(_) => product = usize::MAX,
                    Token::Str(text) => length += text.len() + 1,
                    Token::String(text) => length += text.len() + 1,
                    // A list of constants is one.
                    Token::Comma => length += NODE,
                    _ => {}
                }
            }
        }
        if tokens > MAX_EXPRESSION {
            return Err(refused("it has an enormous expression"));
        }
    }
    Ok(())
}

/// `{% generation %}` and its end mark what training learns from; to who renders a conversation they
/// are a scope and nothing else.
fn without_generation(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, statement) = rest.split_at(at + 2);
        out.push_str(before);
        rest = statement;
        let Some(end) = statement.find("%}") else { break };
        let inside = &statement[..end];
        let word = inside.trim_matches(['-', '+']).trim();
        for (name, scope) in [("generation", "with"), ("endgeneration", "endwith")] {
            if word == name {
                out.push_str(&inside.replacen(name, scope, 1));
                rest = &statement[end..];
            }
        }
    }
    out + rest
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

/// A guarded program.
struct Compiled<'source> {
    template: CompiledTemplate<'source>,
    /// Bytes of its longest plain text.
    longest: usize,
    /// The texts among its constants.
    named: Vec<String>,
}

fn compile(source: &str) -> Result<Compiled<'_>, Error> {
    let config = TemplateConfig {
        syntax_config: SyntaxConfig,
        ws_config: whitespace(),
        default_auto_escape: Arc::new(|_| AutoEscape::None),
    };
    let mut compiled = CompiledTemplate::new("chat", source, &config)?;
    if !compiled.blocks.is_empty() {
        return Err(refused("it has blocks"));
    }
    let named = names(&compiled.instructions);
    let longest = guard(&mut compiled.instructions)?;
    Ok(Compiled { template: compiled, longest, named })
}

fn names(program: &Instructions<'_>) -> Vec<String> {
    let mut named = Vec::new();
    for at in 0..program.len() as u32 {
        let Some(Instruction::LoadConst(value)) = program.get(at) else { continue };
        match value.as_str() {
            Some(text) => named.push(text.to_owned()),
            None => {
                let parts = value.try_iter().into_iter().flatten();
                named.extend(parts.filter_map(|p| p.as_str().map(str::to_owned)));
            }
        }
    }
    named.sort_unstable();
    named.dedup();
    named
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
            Instruction::Mul => call("*", 2)?,
            Instruction::Rem => call("%", 2)?,
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
            Instruction::CallMethod(method, Some(operands)) => {
                let guarded = methods::OF_MAPS.iter().find(|(name, _)| name == method);
                let Some((_, guarded)) = guarded else { continue };
                call(guarded, usize::from(*operands))?
            }
            Instruction::Pow
            | Instruction::UnpackLists(_)
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

/// All that a template may use.
fn environment(steps: usize, told: Circumstances) -> Environment<'static> {
    let value = MAX_VALUE + VALUE_MESSAGE * told.messages + VALUE_BYTE * told.bytes;
    let budget = Arc::new(Budget { value, left: AtomicUsize::new(value * VALUES) });
    let mut all = Environment::empty();
    all.set_fuel(Some(steps as u64));
    let own = Arc::clone(&budget);
    all.set_formatter(move |out, _, value| {
        own.pay([value])?;
        Ok(out.write_str(&python::text(value))?)
    });
    operators::add_operators(&mut all, &budget);
    filters::add_filters(&mut all, &budget, told.mark);
    filters::add_functions(&mut all, &budget, told.instant);
    checks::add_tests(&mut all, &budget);
    for (method, guarded) in methods::OF_MAPS {
        let own = Arc::clone(&budget);
        all.add_filter(guarded, move |state: &State<'_, '_>, all: Rest<Value>| {
            methods::of_maps(&own, state, method, &all)
        });
    }
    let own = Arc::clone(&budget);
    all.set_unknown_method_callback(move |state, value, method, arguments| {
        methods::call_method(&own, state, value, method, arguments)
    });
    all
}
