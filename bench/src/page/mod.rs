//! The results as a page with charts, and the few figures that the README shows.
//!
//! Made from the JSON files alone, so that what is published is what was measured.

mod chart;
mod clock;
mod decode;
mod engine;
mod load;

use anyhow::{Context, Result};
use serde_json::Value;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Makes a page with charts from the results in a folder.
#[derive(clap::Args)]
pub struct Args {
    /// Where `engine.json`, `decode.json` and `load.json` are, and the page goes.
    #[arg(long, value_name = "FOLDER", default_value = "bench/results")]
    results: PathBuf,
    /// Put the most telling figures between the marks `<!-- bench -->` of this file.
    #[arg(long, value_name = "FILE.md")]
    readme: Option<PathBuf>,
}

/// A part of the page, and its rows for the README.
struct Section {
    text: String,
    /// What, and how much.
    figures: Vec<(String, String)>,
}

const MARKS: [&str; 2] = ["<!-- bench -->", "<!-- /bench -->"];

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let folder = args.results.as_path();
    let mut page = String::from(
        "# Benchmarks\n\nMade by `npm run bench`. Machines are noisy: compare figures of one run, \
         and ratios before milliseconds.\n",
    );
    let mut figures = Vec::new();
    type Make = fn(&Value, &Path) -> Result<Section>;
    let parts: [(&str, &str, Make); 3] = [
        ("engine.json", "The engine", engine::section),
        ("decode.json", "Decoding over a link", decode::section),
        ("load.json", "The edge under load", load::section),
    ];
    for (name, title, make) in parts {
        write!(page, "\n## {title}\n\n")?;
        let file = folder.join(name);
        if !file.exists() {
            writeln!(page, "Not measured in this run: there is no `{name}`.")?;
            continue;
        }
        let text =
            std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let json: Value = serde_json::from_slice(&text)
            .with_context(|| format!("{} is damaged; run the benchmark again", file.display()))?;
        page.push_str(&circumstances(&json));
        let section = make(&json, folder).with_context(|| format!("{}", file.display()))?;
        page.push_str(&section.text);
        figures.extend(section.figures);
    }
    std::fs::write(folder.join("README.md"), page)?;
    if let Some(readme) = &args.readme {
        let text = std::fs::read_to_string(readme)?;
        std::fs::write(readme, replace(&text, &figures).context("the README has no marks")?)?;
    }
    Ok(())
}

/// Which command, code and machine made the figures.
fn circumstances(json: &Value) -> String {
    // The engine's result has the run's fields beside its own.
    let run = if json["run"].is_object() { &json["run"] } else { json };
    let machine = &run["machine"];
    let list = |value: &Value| {
        let all = value.as_array().map(Vec::as_slice).unwrap_or_default();
        all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
    };
    format!(
        "`{}` · commit {} · {} · {}, {} cores ({})\n\n",
        run["command"].as_str().unwrap_or("?"),
        run["commit"].as_str().map_or("?", |c| c.get(..12).unwrap_or(c)),
        run["date"].as_str().unwrap_or("?"),
        machine["cpu"].as_str().unwrap_or("?"),
        machine["cores"],
        list(&machine["simd"]),
    )
}

/// The README with these figures between its marks.
fn replace(readme: &str, figures: &[(String, String)]) -> Option<String> {
    let (before, rest) = readme.split_once(MARKS[0])?;
    let (_, after) = rest.split_once(MARKS[1])?;
    let mut table = String::from("| What | Figure |\n| --- | --- |\n");
    for (what, figure) in figures {
        let _ = writeln!(table, "| {what} | {figure} |");
    }
    Some(format!("{before}{}\n\n{table}\n{}{after}", MARKS[0], MARKS[1]))
}

/// A number of a JSON object.
fn number(value: &Value, key: &str) -> Option<f64> {
    value[key].as_f64()
}

/// The objects of a list.
fn cells<'a>(json: &'a Value, key: &str) -> Result<&'a [Value]> {
    json[key].as_array().map(Vec::as_slice).with_context(|| format!("`{key}` is no list"))
}

/// The different texts of a key, in the order of the file.
fn names<'a>(cells: &'a [Value], key: &str) -> Vec<&'a str> {
    let mut names = Vec::new();
    for name in cells.iter().filter_map(|c| c[key].as_str()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The different numbers of a key, in order of size.
fn numbers(cells: &[Value], of: impl Fn(&Value) -> Option<f64>) -> Vec<f64> {
    let mut all: Vec<f64> = cells.iter().filter_map(of).collect();
    all.sort_by(f64::total_cmp);
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run_in(files: &[(&str, Value)]) -> (String, String) {
        let folder = tempfile::tempdir().unwrap();
        for (name, value) in files {
            std::fs::write(folder.path().join(name), value.to_string()).unwrap();
        }
        let readme = folder.path().join("TOP.md");
        std::fs::write(&readme, "a\n<!-- bench -->old<!-- /bench -->\nb").unwrap();
        run(&Args { results: folder.path().into(), readme: Some(readme.clone()) }).unwrap();
        let page = std::fs::read_to_string(folder.path().join("README.md")).unwrap();
        for chart in page.split("](").skip(1).filter_map(|p| p.split(')').next()) {
            assert!(folder.path().join(chart).exists(), "{chart}");
        }
        (page, std::fs::read_to_string(readme).unwrap())
    }

    fn engine() -> Value {
        let cell = |rows: u32, ours: f64| {
            json!({ "model": "m-1.5b", "context": 64, "rows": rows, "logits": "all",
                "ours_ms": { "median": ours, "min": ours }, "ratio_llama": 0.5, "ratio_candle": 0.25,
                "ratio_m1": ours / 60.0 })
        };
        json!({ "engine": [cell(1, 60.0), cell(5, 123.0)], "command": "c", "commit": "0123456789abcdef",
            "date": "d", "machine": { "cpu": "x", "cores": 2, "simd": ["avx2"] } })
    }

    #[test]
    fn every_figure_is_on_the_page_and_what_is_missing_is_said() {
        let (page, readme) = run_in(&[("engine.json", engine())]);
        for part in ["m-1.5b", "123.0", "0.50", "2.05", "0123456789ab", "avx2", "no `load.json`"] {
            assert!(page.contains(part), "{part}: {page}");
        }
        assert!(!readme.contains("old") && readme.contains("0.50") && readme.ends_with("\nb"));
    }

    #[test]
    fn peers_stand_beside_tandem_by_the_clock() {
        let row = |scheme: &str, speed: f64| json!([scheme, 4, 50.0, 0.8, 10.0, 20.0, speed, null]);
        let cell = |scheme: &str, ms: f64, up: f64| {
            json!({ "sampling": "T=1", "rtt_ms": 50.0, "mbit": 10.0, "scheme": scheme, "gamma": 4,
                "tokens": 30, "ms_per_token": ms, "speedup": 100.0 / ms, "acceptance": 0.75,
                "up_per_token": up, "down_per_token": 2.0, "simulated_ms_per_token": ms * 1.25,
                "simulated_acceptance": 0.5 })
        };
        let decode = json!({ "run": {}, "texts": [],
            "columns": crate::decode::COLUMNS,
            "worlds": [{ "machines": "gpu", "sampling": "T=1", "net": { "rtt_ms": 0.0, "mbit": 10.0 },
                "rows": [row("stream", 1.0), row("dsd", 0.375), row("turns", 2.125)] }],
            "wall": { "machines": [{ "name": "this machine, T=1", "draft_ms": 1.0, "verify_ms": 2.0,
                "row_ms": 3.0, "contention": 1.0 }],
                "cells": [cell("dsd", 500.0, 400_000.0), cell("full", 120.0, 14.0),
                    cell("turns", 40.0, 13.0)] } });
        let (page, readme) = run_in(&[("decode.json", decode)]);
        // 500 and 120 ms by 40 ms; the bytes of both directions; the simulation by the clock.
        for part in ["0.38", "2.12", "12.5 × the speed of DSD", "3.0 × that of", "400002", "1.25"]
        {
            assert!(page.contains(part), "{part}: {page}");
        }
        assert!(readme.contains("12.5 × the speed of DSD"), "{readme}");
    }

    #[test]
    fn load_stands_beside_its_simulation() {
        let cell = |mode: &str, rate: f64, machines: Option<&str>| {
            json!({ "machines": machines, "clients": 16, "mode": mode, "gamma": 2, "tokens_per_s": rate,
                "per_client": rate / 16.0, "p50_ms": 1.0, "p95_ms": 2.0, "p99_ms": 777.0,
                "by_stream": rate / 20.0 })
        };
        let load = json!({ "run": {}, "verifier": "v", "draft_ms": 20.0,
            "cells": [cell("stream", 20.0, None), cell("dssd", 31.0, None)],
            "simulated": [cell("stream", 20.0, Some("gpu")), cell("dssd", 44.0, Some("gpu"))] });
        let (page, readme) = run_in(&[("load.json", load)]);
        for part in ["31.0", "1.55", "777", "gpu", "2.20", "imulated"] {
            assert!(page.contains(part), "{part}: {page}");
        }
        assert!(readme.contains("1.55"), "{readme}");
    }
}
