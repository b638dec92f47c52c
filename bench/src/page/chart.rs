//! Line charts as SVG files, readable on light and dark pages.

use anyhow::Result;
use plotters::prelude::*;
use std::path::Path;

/// A line with its name.
pub struct Line {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// What a chart says of its axes.
pub struct Axes<'a> {
    pub title: &'a str,
    pub x: &'a str,
    pub y: &'a str,
    /// The ticks stand at equal distances in the order of the values, as for numbers of rows.
    pub steps: bool,
}

const SIZE: (u32, u32) = (900, 400);
/// Width of the plot; the names of the lines stand beside it.
const PLOT: u32 = 690;
/// Told apart by people who see few colours too (Okabe and Ito), and the black for the peer.
const COLOURS: [RGBColor; 9] = [
    RGBColor(0, 0, 0),
    RGBColor(213, 94, 0),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(120, 120, 120),
    RGBColor(190, 175, 20),
];

/// Writes the chart; a line at 1 stands where that is in sight.
pub fn draw(file: &Path, axes: &Axes<'_>, lines: &[Line]) -> Result<()> {
    let mut ticks: Vec<f64> = lines.iter().flat_map(|l| &l.points).map(|p| p.0).collect();
    ticks.sort_by(f64::total_cmp);
    ticks.dedup();
    let place = |x: f64| {
        let step = ticks.iter().position(|t| *t == x).unwrap_or_default();
        if axes.steps { step as f64 } else { x }
    };
    let right = ticks.last().map_or(1.0, |x| place(*x)).max(1e-9);
    let top = lines.iter().flat_map(|l| &l.points).map(|p| p.1).fold(0.0, f64::max) * 1.08;
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (plot, names) = root.split_horizontally(PLOT);
    let mut chart = ChartBuilder::on(&plot)
        .caption(axes.title, ("sans-serif", 17))
        .margin(12)
        .margin_right(20)
        .x_label_area_size(42)
        .y_label_area_size(52)
        .build_cartesian_2d(0.0..right, 0.0..top.max(0.1))?;
    let label = |x: &f64| {
        if !axes.steps {
            return format!("{x}");
        }
        let whole = (x - x.round()).abs() < 1e-6;
        ticks.get(x.round() as usize).filter(|_| whole).map_or_else(String::new, |t| format!("{t}"))
    };
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_labels(ticks.len().max(2))
        .x_label_formatter(&label)
        .x_desc(axes.x)
        .y_desc(axes.y)
        .label_style(("sans-serif", 13))
        .draw()?;
    if top > 1.0 {
        let one = [(0.0, 1.0), (right, 1.0)];
        chart.draw_series(LineSeries::new(one, BLACK.mix(0.35)))?;
    }
    for (i, (line, colour)) in lines.iter().zip(COLOURS.iter().cycle()).enumerate() {
        let points: Vec<_> = line.points.iter().map(|p| (place(p.0), p.1)).collect();
        let style = colour.stroke_width(2);
        chart.draw_series(LineSeries::new(points, style).point_size(3))?;
        let y = 48 + 22 * i as i32;
        names.draw(&PathElement::new([(0, y), (20, y)], style))?;
        names.draw(&Text::new(line.name.as_str(), (26, y - 6), ("sans-serif", 13)))?;
    }
    root.present()?;
    Ok(())
}
