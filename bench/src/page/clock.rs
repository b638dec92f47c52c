//! Decoding over a link by the clock, beside its simulation.

use super::decode::id;
use super::{cells, number};
use crate::decode::schemes::Scheme;
use anyhow::Result;
use serde_json::Value;
use std::fmt::Write;

fn of(value: &Value, key: &str) -> f64 {
    number(value, key).unwrap_or(f64::NAN)
}

/// A table for each sampling, what the peers lose, and rows for the README.
pub fn section(text: &mut String, wall: &Value, figures: &mut Vec<(String, String)>) -> Result<()> {
    writeln!(
        text,
        "### By the clock\n\nReal models and real frames over an emulated link, both sides on this one \
         machine: the product's own loop and edge, and its peers (DSD, DSSD as published, greedy drafts, \
         Gumbel coupling), each with a device and an edge of its own. At temperature 0 every one but the \
         device alone wrote the text of the edge alone, or there would be no table. The first round of \
         an answer, which waits for the prompt, does not count. The last columns are the simulation \
         with the times of this machine, and its time by the measured one.\n"
    )?;
    let all = cells(wall, "cells")?;
    for machine in cells(wall, "machines")? {
        let name = machine["name"].as_str().unwrap_or("?");
        let sampling = name.split_once(", ").map_or(name, |n| n.1);
        writeln!(
            text,
            "**{sampling}**: drafting {:.1} ms, verifying {:.1} ms and {:.1} ms for each further row, \
             {:.2} times slower while both compute.\n",
            of(machine, "draft_ms"),
            of(machine, "verify_ms"),
            of(machine, "row_ms"),
            of(machine, "contention"),
        )?;
        let here: Vec<&Value> = all.iter().filter(|c| c["sampling"] == sampling).collect();
        table(text, &here)?;
        peers(text, &here, figures)?;
    }
    let near = all.iter().filter(|c| c["rtt_ms"] == 0.0 && c["sampling"] == "T=0");
    if let Some(auto) = near.into_iter().find(|c| c["scheme"] == id(Scheme::Auto)) {
        let what = "Tandem auto by the clock, both models on this processor, T=0, loopback";
        figures.push((what.into(), format!("{:.2} × the edge alone", of(auto, "speedup"))));
    }
    Ok(())
}

fn table(text: &mut String, here: &[&Value]) -> Result<()> {
    writeln!(
        text,
        "| Round trip | Mbit/s | scheme | ms a token | tokens/s | by the edge alone | acceptance | \
         bytes a token up | down | simulated: ms | acceptance | by the clock's |\n\
         | ---: | ---: | --- |{}",
        " ---: |".repeat(9)
    )?;
    let share = |c: &Value, key| number(c, key).map_or("–".into(), |a| format!("{a:.2}"));
    for c in here {
        let scheme = Scheme::ALL.into_iter().find(|s| c["scheme"] == id(*s));
        let gamma = c["gamma"].as_u64().map_or_else(String::new, |g| format!(", γ {g}"));
        let (ms, simulated) = (of(c, "ms_per_token"), of(c, "simulated_ms_per_token"));
        writeln!(
            text,
            "| {} ms | {} | {}{gamma} | {ms:.1} | {:.1} | {:.2} | {} | {:.0} | {:.0} | {simulated:.1} | {} \
             | {:.2} |",
            of(c, "rtt_ms"),
            of(c, "mbit"),
            scheme.map_or("?", Scheme::title),
            1e3 / ms,
            of(c, "speedup"),
            share(c, "acceptance"),
            of(c, "up_per_token"),
            of(c, "down_per_token"),
            share(c, "simulated_acceptance"),
            simulated / ms,
        )?;
    }
    text.push('\n');
    Ok(())
}

/// Tandem in turns against DSD and DSSD as published, with the same draft length over the same link.
fn peers(text: &mut String, here: &[&Value], figures: &mut Vec<(String, String)>) -> Result<()> {
    for ours in here.iter().filter(|c| c["scheme"] == id(Scheme::Turns) && !c["gamma"].is_null()) {
        let peer = |scheme| {
            here.iter().find(|c| {
                c["scheme"] == id(scheme)
                    && ["gamma", "rtt_ms", "mbit"].iter().all(|key| c[key] == ours[key])
            })
        };
        let (Some(dsd), Some(full)) = (peer(Scheme::Dsd), peer(Scheme::Full)) else { continue };
        let bytes = |c: &Value| of(c, "up_per_token") + of(c, "down_per_token");
        let faster = |c: &Value| of(c, "ms_per_token") / of(ours, "ms_per_token");
        let figure = format!(
            "{:.1} × the speed of DSD and {:.1} × that of DSSD as published; {:.0} bytes a token against \
             {:.0} and {:.0}",
            faster(dsd),
            faster(full),
            bytes(ours),
            bytes(dsd),
            bytes(full),
        );
        let (rtt, mbit) = (of(ours, "rtt_ms"), of(ours, "mbit"));
        writeln!(text, "Tandem in turns at {rtt} ms and {mbit} Mbit/s: {figure}.\n")?;
        if mbit <= 10.0 {
            let sampling = ours["sampling"].as_str().unwrap_or("?");
            let what = format!("Tandem in turns by the clock, {sampling}, {mbit} Mbit/s, {rtt} ms");
            figures.push((what, figure));
        }
    }
    Ok(())
}
