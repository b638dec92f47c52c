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
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Makes a page with charts from the results in a folder.
#[derive(clap::Args)]
pub struct Args {
    /// Where `engine.json`, `decode.json` and `load.json` are, and the page goes.
    #[arg(long, value_name = "FOLDER", default_value = "bench/results")]
    results: PathBuf,
    /// Put the figures that these files ask for between their marks, `<!-- figure:NAME -->` and
    /// `<!-- /figure -->`.
    #[arg(long, value_name = "FILE.md")]
    fill: Vec<PathBuf>,
}

/// A part of the page, and what other pages show of it.
struct Section {
    text: String,
    /// What, and how much.
    figures: Vec<(String, String)>,
    /// Text of other pages by its name.
    named: Vec<(&'static str, String)>,
}

const END: &str = "<!-- /figure -->";

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let folder = args.results.as_path();
    let (page, named) = page(folder, folder)?;
    std::fs::write(folder.join("README.md"), page)?;
    for file in &args.fill {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        let filled = fill(&text, &named).with_context(|| format!("{}", file.display()))?;
        std::fs::write(file, filled)?;
    }
    Ok(())
}

/// The page of the results in a folder, whose charts go to another, and what other pages show by name.
fn page(folder: &Path, charts: &Path) -> Result<(String, BTreeMap<&'static str, String>)> {
    let mut page = String::from(
        "# Benchmarks\n\nMade by `npm run bench`. Machines are noisy: compare figures of one run, \
         and ratios before milliseconds.\n",
    );
    let (mut figures, mut named, mut commits) = (Vec::new(), BTreeMap::new(), Vec::new());
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
        commits.push((title, commit(&json)));
        let section = make(&json, charts).with_context(|| format!("{}", file.display()))?;
        page.push_str(&section.text);
        figures.extend(section.figures);
        named.extend(section.named);
    }
    // What a clock has seen comes first.
    figures.sort_by_key(|(what, _)| what.contains("simulated"));
    named.insert("bench", format!("\n\n{}\n{}", table(&figures), sources(&commits)));
    Ok((page, named))
}

/// Says which code the figures are of.
fn sources(commits: &[(&str, String)]) -> String {
    let same = commits.windows(2).all(|pair| pair[0].1 == pair[1].1);
    let all: Vec<String> = if same {
        commits.iter().take(1).map(|(_, commit)| commit.clone()).collect()
    } else {
        commits.iter().map(|(title, commit)| format!("{title}: {commit}")).collect()
    };
    let from = if same { "Of commit" } else { "Measured at different commits:" };
    format!("{from} {}.\n\n", all.join("; "))
}

fn table(figures: &[(String, String)]) -> String {
    let rows: String =
        figures.iter().map(|(what, much)| format!("| {what} | {much} |\n")).collect();
    format!("| What | Figure |\n| --- | --- |\n{rows}")
}

/// The run's facts: the engine's result has them beside its own.
fn run_of(json: &Value) -> &Value {
    if json["run"].is_object() { &json["run"] } else { json }
}

fn commit(json: &Value) -> String {
    let commit = run_of(json)["commit"].as_str().unwrap_or("?");
    let dirty = if commit.ends_with("-dirty") { " with changes" } else { "" };
    format!("{}{dirty}", commit.get(..7).unwrap_or(commit))
}

/// Which command, code and machine made the figures.
fn circumstances(json: &Value) -> String {
    let run = run_of(json);
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

/// A page with what it asks for between its marks.
fn fill(text: &str, named: &BTreeMap<&'static str, String>) -> Result<String> {
    const BEGIN: &str = "<!-- figure:";
    let mut parts = text.split(BEGIN);
    let mut filled = parts.next().unwrap_or_default().to_owned();
    let mut any = false;
    for part in parts {
        let marks =
            part.split_once(" -->").and_then(|(n, rest)| Some((n, rest.split_once(END)?.1)));
        let (name, after) = marks.context("a mark of a figure has no end")?;
        let new = named.get(name).with_context(|| format!("there is no figure `{name}`"))?;
        filled.push_str(&format!("{BEGIN}{name} -->{new}{END}{after}"));
        any = true;
    }
    anyhow::ensure!(any, "it has no marks for figures");
    Ok(filled)
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
        std::fs::write(&readme, "a\n<!-- figure:bench -->old<!-- /figure -->\nb").unwrap();
        run(&Args { results: folder.path().into(), fill: vec![readme.clone()] }).unwrap();
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

    /// The pages that people read say what the results say.
    #[test]
    fn the_documents_have_the_figures_of_the_results() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let charts = tempfile::tempdir().unwrap();
        let (page, named) = page(&root.join("bench/results"), charts.path()).unwrap();
        let read = |file: &str| std::fs::read_to_string(root.join(file)).unwrap();
        assert_eq!(read("bench/results/README.md"), page, "`tandem-bench page` makes it again");
        for file in ["README.md", "docs/capacity.md"] {
            let text = read(file);
            assert_eq!(
                text,
                fill(&text, &named).unwrap(),
                "{file}: `tandem-bench page --fill {file}`"
            );
        }
    }

    #[test]
    fn marks_ask_for_figures_that_there_are() {
        let named = BTreeMap::from([("a", "1".to_owned()), ("b", "2".to_owned())]);
        let text = "x <!-- figure:a -->0<!-- /figure --> y <!-- figure:b --><!-- /figure -->";
        let filled = fill(text, &named).unwrap();
        let wanted = "x <!-- figure:a -->1<!-- /figure --> y <!-- figure:b -->2<!-- /figure -->";
        assert_eq!(filled, wanted);
        assert_eq!(fill(&filled, &named).unwrap(), filled);
        for wrong in ["no marks", "<!-- figure:c --><!-- /figure -->", "<!-- figure:a -->"] {
            assert!(fill(wrong, &named).is_err(), "{wrong}");
        }
    }

    #[test]
    fn figures_of_different_commits_say_so() {
        let of = |commit: &str| json!({ "run": { "commit": commit } });
        let (a, b) = (commit(&of("0123456789")), commit(&of("fedcba9876-dirty")));
        assert_eq!(sources(&[("x", a.clone()), ("y", a.clone())]), "Of commit 0123456.\n\n");
        let two = sources(&[("x", a), ("y", b)]);
        assert!(two.contains("different") && two.contains("y: fedcba9 with changes"), "{two}");
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
