//! Fields that the edge does not offer. One that would change the answer is refused by its name, unless
//! its value asks for nothing; one that only steers a server's own work is passed over. A field that is
//! not known is taken for one that changes the answer.

use super::error::ApiError;
use super::fields::{Fields, is_nothing};
use serde_json::{Value, json};

/// They change nothing in the text: notes for the maker's own service, and how a server does its work.
const HARMLESS: [&str; 31] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "parallel_tool_calls",
    "prediction",
    "cache_prompt",
    "cache_salt",
    "id_slot",
    "slot_id",
    "priority",
    "request_id",
    "keep_alive",
    "ttl",
    "draft_model",
    "n_keep",
    "timings_per_token",
    "return_progress",
    "return_tokens",
    "post_sampling_probs",
    "return_tokens_as_token_ids",
    "return_token_ids",
    "stream_include_usage",
    "chat_id",
    "session_id",
    "conversation_id",
    "min_keep",
    "include_usage",
];

/// Values at which a field does nothing, beside those of [`is_nothing`].
fn neutral(name: &str) -> Vec<Value> {
    match name {
        "n"
        | "encoder_repetition_penalty"
        | "best_of"
        | "num_beams"
        | "typical_p"
        | "typ_p"
        | "tfs_z"
        | "length_penalty"
        | "eta_scale"
        | "dynatemp_exponent"
        | "smoothing_curve" => vec![json!(1)],
        "presence_penalty"
        | "frequency_penalty"
        | "top_logprobs"
        | "n_probs"
        | "mirostat"
        | "mirostat_mode"
        | "dry_multiplier"
        | "xtc_probability"
        | "dynatemp_range"
        | "min_tokens"
        | "prompt_logprobs"
        | "top_a"
        | "epsilon_cutoff"
        | "eta_cutoff"
        | "smoothing_factor"
        | "no_repeat_ngram_size" => vec![json!(0)],
        "top_n_sigma" | "thinking_budget_tokens" | "t_max_predict_ms" => vec![json!(0), json!(-1)],
        "tool_choice" | "function_call" => vec![json!("none"), json!("auto")],
        "response_format" => vec![json!({ "type": "text" })],
        "modalities" => vec![json!(["text"])],
        "reasoning_effort" => vec![json!("none")],
        "verbosity" => vec![json!("medium")],
        "add_generation_prompt"
        | "skip_special_tokens"
        | "spaces_between_special_tokens"
        | "include_reasoning"
        | "add_special_tokens"
        | "penalize_nl" => vec![json!(true)],
        _ => Vec::new(),
    }
}

fn does_nothing(name: &str, value: &Value) -> bool {
    let same = |wanted: &Value| match (wanted.as_f64(), value.as_f64()) {
        // 1 and 1.0 are one number.
        (Some(a), Some(b)) => a == b,
        _ => wanted == value,
    };
    is_nothing_here(name, value) || neutral(name).iter().any(same)
}

/// Where false is the choice that changes something, it does not ask for nothing.
fn is_nothing_here(name: &str, value: &Value) -> bool {
    let means_false = neutral(name).contains(&json!(true));
    is_nothing(value) && !(means_false && *value == json!(false))
}

/// Refuses what is left of a request if it would change the answer.
///
/// # Errors
/// Names the first such field.
pub(super) fn check(body: Fields) -> Result<(), ApiError> {
    for (name, value) in body.left() {
        if HARMLESS.contains(&name.as_str()) || does_nothing(&name, &value) {
            continue;
        }
        if name == "n" {
            return Err(ApiError::refused("n", "this edge gives one answer: `n` must be 1"));
        }
        let shown: String = name.chars().take(60).collect();
        let text = format!(
            "this edge does not offer `{shown}`, and leaving it out could be another answer; send the \
             request without it"
        );
        return Err(ApiError::refused(&shown, text));
    }
    Ok(())
}

/// The same for a message: what else clients keep with their messages is passed over, but for what is
/// part of what was said.
///
/// # Errors
/// Names the first such field.
pub(super) fn check_message(place: &str, message: Fields) -> Result<(), ApiError> {
    const SAID: [&str; 9] = [
        "tool_calls",
        "function_call",
        "tool_call_id",
        "audio",
        "images",
        "files",
        "attachments",
        "prefix",
        "documents",
    ];
    for (name, value) in message.left() {
        if SAID.contains(&name.as_str()) && !is_nothing(&value) {
            let text =
                format!("{place}: this edge does not offer `{name}`; send the message without it");
            return Err(ApiError::invalid(Some("messages"), text));
        }
    }
    Ok(())
}
