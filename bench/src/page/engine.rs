//! The engine's part of the page.

use super::chart::{Axes, Line, draw};
use super::{Section, cells, names, number, numbers};
use anyhow::Result;
use serde_json::Value;
use std::fmt::Write;
use std::path::Path;

/// Tables and charts of one forward pass.
pub fn section(json: &Value, folder: &Path) -> Result<Section> {
    let all = cells(json, "engine")?;
    let mut text = String::from(
        "Time of one forward pass with M new rows after a context, in turns with stock candle and \
         llama.cpp. M = 1 is a plain step, small M the verification of a draft, 128 a piece of a \
         prompt. Ratios are our time by the other's: below 1 we are faster.\n\n",
    );
    let (mut figures, mut named) = (Vec::new(), Vec::new());
    for (n, model) in names(all, "model").into_iter().enumerate() {
        let of_model: Vec<Value> = all.iter().filter(|c| c["model"] == model).cloned().collect();
        let contexts = numbers(&of_model, |c| number(c, "context"));
        let line = |context: f64, key: &str| {
            let here = of_model
                .iter()
                .filter(|c| number(c, "context") == Some(context) && c["logits"] == "all");
            let points = here.filter_map(|c| Some((number(c, "rows")?, number(c, key)?)));
            Line { name: format!("{context} tokens"), points: points.collect() }
        };
        for (key, title, y) in [
            ("ratio_llama", "our time by llama.cpp's", "below 1 we are faster"),
            ("ratio_m1", "our time by our own single row", "1 is the price of one row"),
        ] {
            let lines: Vec<Line> =
                contexts.iter().map(|c| line(*c, key)).filter(|l| !l.points.is_empty()).collect();
            if lines.is_empty() {
                continue;
            }
            let name = format!("engine-{n}-{key}.svg");
            let title = format!("{model}: {title}");
            let axes = Axes { title: &title, x: "rows M", y, steps: true };
            draw(&folder.join(&name), &axes, &lines)?;
            writeln!(text, "![{title}]({name})\n")?;
        }
        writeln!(
            text,
            "| {model}, context | M | logits | ms | by llama.cpp | by candle | by M = 1 |\n\
             | ---: | ---: | --- | ---: | ---: | ---: | ---: |"
        )?;
        for c in &of_model {
            let ratio = |key| number(c, key).map_or_else(|| "–".to_owned(), |r| format!("{r:.2}"));
            writeln!(
                text,
                "| {} | {} | {} | {:.1} | {} | {} | {} |",
                c["context"],
                c["rows"],
                c["logits"].as_str().unwrap_or("?"),
                number(&c["ours_ms"], "median").unwrap_or(f64::NAN),
                ratio("ratio_llama"),
                ratio("ratio_candle"),
                ratio("ratio_m1"),
            )?;
            for (rows, key, what) in [
                (1.0, "ratio_llama", "one row, our time by llama.cpp's"),
                (5.0, "ratio_llama", "five rows, our time by llama.cpp's"),
                (5.0, "ratio_m1", "five rows by one row, ours"),
            ] {
                let first = contexts.first().copied();
                if number(c, "rows") == Some(rows)
                    && number(c, "context") == first
                    && let Some(ratio) = number(c, key)
                {
                    figures.push((format!("{model}: {what}"), format!("{ratio:.2}")));
                }
            }
        }
        text.push('\n');
        // The first model is the verifier.
        if n == 0 {
            named = steps(&of_model);
        }
    }
    Ok(Section { text, figures, named })
}

/// What the reckoning of capacity takes: a step's time by its rows, and a prompt's token.
fn steps(cells: &[Value]) -> Vec<(&'static str, String)> {
    let context = numbers(cells, |c| number(c, "context")).first().copied();
    let ms = |rows: f64, logits: &str| {
        let mut here = cells.iter().filter(|c| number(c, "context") == context);
        let cell = here.find(|c| number(c, "rows") == Some(rows) && c["logits"] == logits)?;
        number(&cell["ours_ms"], "median")
    };
    let of = numbers(cells, |c| number(c, "rows"));
    let all: Vec<(f64, f64)> = of.iter().filter_map(|m| Some((*m, ms(*m, "all")?))).collect();
    let line = |of: &dyn Fn(&(f64, f64)) -> f64| {
        all.iter().map(|cell| format!(" {:.0} |", of(cell))).collect::<String>()
    };
    let (rows, times) = (line(&|c| c.0), line(&|c| c.1));
    let dashes = " ---: |".repeat(all.len());
    let mut named =
        vec![("steps", format!("\n\n| M |{rows}\n| --- |{dashes}\n| t(M), ms |{times}\n\n"))];
    if let Some(ms) = ms(128.0, "last") {
        named.push(("prompt", format!("{ms:.0} / 128 = {:.1}", ms / 128.0)));
    }
    named
}
