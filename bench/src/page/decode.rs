//! The part about decoding over a link.

use super::chart::{Axes, Line, draw};
use super::{Section, cells, clock, names, number, numbers};
use crate::decode::schemes::Scheme;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;

/// Charts of the simulated grid, and the clock beside the simulation.
pub fn section(json: &Value, folder: &Path) -> Result<Section> {
    let all = &simulated(json)?;
    let mut text = String::from(
        "**Simulated**: the loop of the device with tokens and acceptance of the two real models and \
         the times of a declared machine. Speed is by that of the edge alone over the same link, each \
         scheme with its best draft length; above 1 it is faster.\n\n",
    );
    texts(&mut text, cells(json, "texts")?)?;
    let mut figures = Vec::new();
    let rate = numbers(all, |c| number(&c["net"], "mbit"));
    let samplings = names(all, "sampling");
    for (n, machines) in names(all, "machines").into_iter().enumerate() {
        writeln!(text, "### Simulated: {machines}\n")?;
        for (s, sampling) in samplings.iter().enumerate() {
            // Slow links matter where much is sent, that is without truncation.
            let last = s + 1 == samplings.len();
            let rates = rate.iter().rev().take(1).chain(rate.iter().take(usize::from(last)));
            for mbit in rates {
                let here: Vec<&Value> = all
                    .iter()
                    .filter(|c| c["machines"] == machines && c["sampling"] == *sampling)
                    .filter(|c| number(&c["net"], "mbit") == Some(*mbit))
                    .collect();
                let lines = lines(&here);
                let title = format!("Simulated: {machines}, {sampling}, {mbit} Mbit/s");
                let name = format!("decode-{n}-{s}-{mbit}.svg");
                let axes = Axes {
                    title: &title,
                    x: "round trip, ms",
                    y: "speed by the edge alone",
                    steps: false,
                };
                draw(&folder.join(&name), &axes, &lines)?;
                writeln!(text, "![{title}]({name})\n")?;
                table(&mut text, &here)?;
                if let Some(figure) = speed(&here) {
                    let wanted = s < 2 && (n == 0 || machines.contains("70B"));
                    if wanted && Some(mbit) == rate.last() {
                        figures.push((
                            format!("Tandem auto, {machines}, {sampling} (simulated)"),
                            figure,
                        ));
                    }
                }
            }
        }
    }
    worst(&mut text, all)?;
    if json["wall"].is_object() {
        clock::section(&mut text, &json["wall"], &mut figures)?;
    }
    Ok(Section { text, figures, named: Vec::new() })
}

/// The simulated cells, each with its world, from the file's table.
fn simulated(json: &Value) -> Result<Vec<Value>> {
    let columns = cells(json, "columns")?;
    let mut all = Vec::new();
    for world in cells(json, "worlds")? {
        for row in cells(world, "rows")? {
            let row = row.as_array().filter(|row| row.len() == columns.len());
            let row = row.context("a row does not fit its columns")?;
            let mut cell = json!({
                "machines": world["machines"], "sampling": world["sampling"], "net": world["net"],
            });
            for (column, value) in columns.iter().zip(row) {
                cell[column.as_str().context("a column has no name")?] = value.clone();
            }
            all.push(cell);
        }
    }
    Ok(all)
}

fn texts(text: &mut String, texts: &[Value]) -> Result<()> {
    writeln!(
        text,
        "| Sampling | tokens | acceptance | greedy drafts | Gumbel | draft wrong, second choice right |\n\
         | --- | ---: | ---: | ---: | ---: | ---: |"
    )?;
    for t in texts {
        let of = |key| number(t, key).unwrap_or(f64::NAN);
        writeln!(
            text,
            "| {} | {} | {:.3} | {:.3} | {:.3} | {:.3} |",
            t["sampling"].as_str().unwrap_or("?"),
            t["tokens"],
            of("alpha"),
            of("greedy"),
            of("gumbel"),
            of("second"),
        )?;
    }
    text.push('\n');
    Ok(())
}

pub fn id(scheme: Scheme) -> Value {
    serde_json::to_value(scheme).unwrap_or_default()
}

/// The best of a scheme's draft lengths at each round trip.
fn best<'a>(here: &[&'a Value], scheme: Scheme) -> Vec<(f64, &'a Value)> {
    let mut best: Vec<(f64, &Value)> = Vec::new();
    for c in here.iter().filter(|c| c["scheme"] == id(scheme)) {
        let Some(rtt) = number(&c["net"], "rtt_ms") else { continue };
        match best.iter_mut().find(|b| b.0 == rtt) {
            Some(b) if number(b.1, "speedup") >= number(c, "speedup") => {}
            Some(b) => b.1 = c,
            None => best.push((rtt, c)),
        }
    }
    best
}

fn lines(here: &[&Value]) -> Vec<Line> {
    // The drafter alone writes another text, and the edge alone is the line at 1.
    let shown = Scheme::ALL.into_iter().filter(|s| !matches!(s, Scheme::Device | Scheme::Stream));
    shown
        .map(|scheme| {
            let points = best(here, scheme).into_iter();
            let points = points.filter_map(|(rtt, c)| Some((rtt, number(c, "speedup")?)));
            Line { name: scheme.title().into(), points: points.collect() }
        })
        .filter(|l| !l.points.is_empty())
        .collect()
}

fn table(text: &mut String, here: &[&Value]) -> Result<()> {
    let rtts = numbers(&here.iter().map(|c| (*c).clone()).collect::<Vec<_>>(), |c| {
        number(&c["net"], "rtt_ms")
    });
    write!(text, "| Scheme |")?;
    for rtt in &rtts {
        write!(text, " {rtt} ms |")?;
    }
    writeln!(text, " bytes a token up | down |")?;
    writeln!(text, "| --- |{}", " ---: |".repeat(rtts.len() + 2))?;
    for scheme in Scheme::ALL {
        let best = best(here, scheme);
        let Some((_, first)) = best.first() else { continue };
        write!(text, "| {} |", scheme.title())?;
        for (_, c) in &best {
            write!(text, " {:.2} |", number(c, "speedup").unwrap_or(f64::NAN))?;
        }
        let of = |key| number(first, key).unwrap_or(f64::NAN);
        writeln!(text, " {:.0} | {:.0} |", of("up_per_token"), of("down_per_token"))?;
    }
    text.push('\n');
    Ok(())
}

/// Auto's speed at the shortest round trip and at 50 ms.
fn speed(here: &[&Value]) -> Option<String> {
    let at = |scheme, rtt: f64| {
        let found = best(here, scheme).into_iter().find(|b| b.0 == rtt)?;
        number(found.1, "speedup")
    };
    let [near, far] = [0.0, 50.0].map(|rtt| at(Scheme::Auto, rtt));
    let [near_box, far_box] = [0.0, 50.0].map(|rtt| at(Scheme::AutoBox, rtt));
    Some(format!(
        "{:.2} × at 0 ms, {:.2} × at 50 ms; {:.2} × and {:.2} × if the box drafts too",
        near?, far?, near_box?, far_box?
    ))
}

/// How far auto is from the best single way.
fn worst(text: &mut String, all: &[Value]) -> Result<()> {
    let mut ratios: Vec<(f64, &Value)> =
        all.iter().filter_map(|c| Some((number(c, "by_best")?, c))).collect();
    ratios.sort_by(|a, b| b.0.total_cmp(&a.0));
    let Some((ratio, cell)) = ratios.first() else { return Ok(()) };
    let within = ratios.iter().filter(|r| r.0 <= 1.03).count();
    writeln!(
        text,
        "Auto takes at most 3 % longer than the best single way with its best draft length in {within} \
         of {} cells; the worst is {ratio:.3} ({}, {}, round trip {} ms, {} Mbit/s).\n",
        ratios.len(),
        cell["machines"].as_str().unwrap_or("?"),
        cell["sampling"].as_str().unwrap_or("?"),
        cell["net"]["rtt_ms"],
        cell["net"]["mbit"],
    )?;
    Ok(())
}
