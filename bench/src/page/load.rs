//! The part about many clients.

use super::chart::{Axes, Line, draw};
use super::{Section, cells, names, number, numbers};
use anyhow::Result;
use serde_json::Value;
use std::fmt::Write;
use std::path::Path;

/// Tables and a chart of throughput by the number of clients.
pub fn section(json: &Value, folder: &Path) -> Result<Section> {
    let measured = cells(json, "cells")?;
    let mut text = format!(
        "One edge with {} on this machine's processor; clients that draft in {} ms a token (declared) \
         and play answers that the two models wrote, at temperature 0. Each number of clients with the \
         best draft length, against as many clients that stream. A processor that is busy with one row \
         has nothing left for drafts; a GPU reads its weights once for many rows, which is what the \
         simulated boxes show, also for devices that draft ahead.\n\n",
        json["verifier"].as_str().unwrap_or("?"),
        json["draft_ms"],
    );
    let line = |mode: &str, name: &str| {
        let of = measured.iter().filter(|c| c["mode"] == mode);
        let points = of.filter_map(|c| Some((number(c, "clients")?, number(c, "tokens_per_s")?)));
        Line { name: name.into(), points: points.collect() }
    };
    let title = "tokens a second of all clients together";
    let axes = Axes { title, x: "clients", y: "tokens/s", steps: true };
    draw(&folder.join("load.svg"), &axes, &[line("stream", "streams"), line("dssd", "drafts")])?;
    writeln!(text, "![{title}](load.svg)\n")?;
    table(&mut text, "Measured", measured)?;
    let simulated = cells(json, "simulated")?;
    for machines in names(simulated, "machines") {
        let here: Vec<Value> =
            simulated.iter().filter(|c| c["machines"] == machines).cloned().collect();
        table(&mut text, &format!("Simulated: {machines}"), &here)?;
    }
    let sixteen = measured.iter().find(|c| c["mode"] == "dssd" && c["clients"] == 16);
    let figures = sixteen.and_then(|c| {
        let (ratio, p95) = (number(c, "by_stream")?, number(c, "p95_ms")?);
        let what = "16 clients that draft, on this processor: tokens/s by those of streams";
        Some((what.to_owned(), format!("{ratio:.2}, p95 of a round {p95:.0} ms")))
    });
    let named = vec![("clients", clients(measured))];
    Ok(Section { text, figures: figures.into_iter().collect(), named })
}

/// Tokens a second and p95 of a round by the number of clients.
fn clients(measured: &[Value]) -> String {
    let of = |clients: f64, mode: &str| {
        let mut all = measured.iter().filter(|c| number(c, "clients") == Some(clients));
        all.find(|c| c["mode"] == mode).map_or_else(
            || "–".to_owned(),
            |c| {
                let of = |key| number(c, key).unwrap_or(f64::NAN);
                format!("{:.1}, {:.0} ms", of("tokens_per_s"), of("p95_ms"))
            },
        )
    };
    let mut text = String::from("\n\n| Clients | streams | drafts |\n| ---: | ---: | ---: |\n");
    for n in numbers(measured, |c| number(c, "clients")) {
        let _ = writeln!(text, "| {n} | {} | {} |", of(n, "stream"), of(n, "dssd"));
    }
    text.push('\n');
    text
}

fn table(text: &mut String, title: &str, cells: &[Value]) -> Result<()> {
    writeln!(
        text,
        "| {title}: clients | mode | γ | tokens/s | each | p50 ms | p95 ms | p99 ms | by streams |\n\
         | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    )?;
    for c in cells {
        let of = |key| number(c, key).unwrap_or(f64::NAN);
        writeln!(
            text,
            "| {} | {} | {} | {:.1} | {:.2} | {:.0} | {:.0} | {:.0} | {:.2} |",
            c["clients"],
            match c["mode"].as_str() {
                Some("stream") => "streams",
                Some("ahead") => "drafts ahead",
                _ => "drafts",
            },
            c["gamma"],
            of("tokens_per_s"),
            of("per_client"),
            of("p50_ms"),
            of("p95_ms"),
            of("p99_ms"),
            of("by_stream"),
        )?;
    }
    text.push('\n');
    Ok(())
}
