//! Pictures as SVG: lines over time, quantiles, and requests' times side by side.

use super::page::{class, escape, time, words};
use crate::profile::Kind;
use crate::profile::recording::{Recording, Request, quantile};
use std::fmt::Write;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 190.0;
const LEFT: f64 = 58.0;
const BOTTOM: f64 = 22.0;

/// A line: its name, and its points by time in seconds.
pub struct Line {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// Lines over time, with a legend. `label` writes a value of the vertical axis, safe for HTML.
pub fn lines(lines: &[Line], label: impl Fn(f64) -> String) -> String {
    let all = || lines.iter().flat_map(|line| &line.points).filter(|(x, y)| x.is_finite() && y.is_finite());
    let (mut first, mut last, mut most) = (f64::MAX, f64::MIN, 0.0_f64);
    for (x, y) in all() {
        (first, last, most) = (first.min(*x), last.max(*x), most.max(*y));
    }
    if first > last {
        return "<p class=\"dim\">nothing was recorded</p>".into();
    }
    let (span, most) = ((last - first).max(1e-9), if most > 0.0 { nice(most) } else { 1.0 });
    let x_of = |x: f64| LEFT + (x - first) / span * (WIDTH - LEFT - 8.0);
    let y_of = |y: f64| 8.0 + (1.0 - y.clamp(0.0, most) / most) * (HEIGHT - BOTTOM - 8.0);
    let mut svg = start(HEIGHT);
    for step in 0..=4 {
        let value = most * f64::from(step) / 4.0;
        grid(&mut svg, y_of(value), &label(value));
    }
    for step in 0..=4 {
        let at = first + span * f64::from(step) / 4.0;
        let anchor = ["start", "middle", "middle", "middle", "end"][step as usize];
        text(&mut svg, x_of(at), HEIGHT - 5.0, anchor, &format!("{} s", super::page::short(at)));
    }
    for (number, line) in lines.iter().enumerate() {
        let points: Vec<String> = line
            .points
            .iter()
            .filter(|(x, y)| x.is_finite() && y.is_finite())
            .map(|(x, y)| format!("{:.1},{:.1}", x_of(*x), y_of(*y)))
            .collect();
        if points.len() == 1 {
            let (x, y) = points[0].split_once(',').unwrap_or_default();
            let _ = write!(svg, "<circle class=\"k{}\" cx=\"{x}\" cy=\"{y}\" r=\"3\"/>", number % 5);
        } else {
            let points = points.join(" ");
            let _ = write!(svg, "<polyline class=\"path s{}\" points=\"{points}\"/>", number % 5);
        }
    }
    svg.push_str("</svg>");
    let mut legend = String::from("<div class=\"legend\">");
    for (number, line) in lines.iter().enumerate() {
        let _ = write!(legend, "<span><i class=\"l{}\"></i>{}</span>", number % 5, escape(&line.name));
    }
    svg + &legend + "</div>"
}

/// The times below which shares of requests lie, on logarithmic axes: the slow few are as wide as the many.
pub fn quantiles(lines: &[(String, &[u64])]) -> String {
    const SHARES: [f64; 13] = [0.0, 0.1, 0.25, 0.5, 0.65, 0.75, 0.9, 0.95, 0.975, 0.99, 0.995, 0.999, 0.9999];
    // 0, 90 %, 99 %, 99.9 % and so on are as far from each other.
    let place = |share: f64| -(1.0 - share).log10();
    let most_values = lines.iter().map(|(_, values)| values.len()).max().unwrap_or(0);
    let shown: Vec<f64> = SHARES
        .into_iter()
        .filter(|share| *share < 0.6 || (1.0 - share) * most_values as f64 >= 1.0)
        .collect();
    let (Some(&last), true) = (shown.last(), most_values > 0) else {
        return "<p class=\"dim\">no request was recorded</p>".into();
    };
    let low =
        lines.iter().filter_map(|(_, values)| values.first()).min().map_or(1.0, |low| (*low).max(1) as f64);
    let high = lines.iter().filter_map(|(_, values)| values.last()).max().map_or(1.0, |high| *high as f64);
    let (low, high) = (low.log10().floor(), high.max(10.0).log10().ceil());
    let x_of = |share: f64| LEFT + place(share) / place(last).max(0.1) * (WIDTH - LEFT - 8.0);
    let y_of =
        |ns: f64| 8.0 + (1.0 - (ns.max(1.0).log10() - low) / (high - low).max(1.0)) * (HEIGHT - BOTTOM - 8.0);
    let mut svg = start(HEIGHT);
    for power in (low as i32)..=(high as i32) {
        let value = 10f64.powi(power);
        grid(&mut svg, y_of(value), &time(value));
    }
    for share in [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999].into_iter().filter(|share| *share <= last) {
        let anchor = if share == 0.0 { "start" } else { "middle" };
        let name = if share == 0.0 { "fastest".into() } else { format!("p{}", share * 100.0) };
        text(&mut svg, x_of(share), HEIGHT - 5.0, anchor, &name);
    }
    let mut legend = String::from("<div class=\"legend\">");
    for (number, (name, values)) in lines.iter().enumerate() {
        let points: Vec<String> = shown
            .iter()
            .filter(|_| !values.is_empty())
            .map(|&share| format!("{:.1},{:.1}", x_of(share), y_of(quantile(values, share) as f64)))
            .collect();
        let _ = write!(svg, "<polyline class=\"path s{}\" points=\"{}\"/>", number % 5, points.join(" "));
        let _ = write!(legend, "<span><i class=\"l{}\"></i>{}</span>", number % 5, escape(name));
    }
    svg + "</svg>" + &legend + "</div>"
}

/// Requests side by side, each from its submit on.
pub fn timeline(recording: &Recording, requests: &[&Request]) -> String {
    const ROW: f64 = 22.0;
    const NAMES: f64 = 170.0;
    let longest = requests.iter().map(|request| request.ns()).max().unwrap_or(0).max(1) as f64;
    let height = ROW * requests.len() as f64 + BOTTOM;
    let x_of = |ns: u64| NAMES + ns as f64 / longest * (WIDTH - NAMES - 60.0);
    let mut svg = start(height);
    for (row, request) in requests.iter().enumerate() {
        let y = ROW * row as f64;
        let mut name = recording.name(request.model);
        if name.chars().count() > 24 {
            name = name.chars().take(23).chain(['…']).collect();
        }
        text(&mut svg, 0.0, y + 15.0, "start", &escape(&name));
        for span in &request.spans {
            // Parts of the queue's time lie in the lower half of it.
            let (top, size) = if span.kind.part_of().is_some() { (12.0, 6.0) } else { (3.0, 15.0) };
            if span.kind == Kind::Admission {
                continue;
            }
            let from = x_of(span.start_ns.max(request.start_ns) - request.start_ns);
            let to = x_of(span.end_ns.max(request.start_ns) - request.start_ns);
            let _ = write!(
                svg,
                "<rect class=\"{}\" x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{size}\"><title>{}: {}</title></rect>",
                class(span.kind),
                y + top,
                (to - from).max(0.6),
                words(span.kind),
                time(span.ns() as f64),
            );
        }
        text(&mut svg, x_of(request.ns()) + 5.0, y + 15.0, "start", &time(request.ns() as f64));
    }
    let y = height - 6.0;
    text(&mut svg, NAMES, y, "start", "0");
    text(&mut svg, x_of(longest as u64), y, "end", &time(longest));
    svg + "</svg>"
}

/// The names of the colours.
pub fn legend(kinds: &[Kind]) -> String {
    let mut legend = String::from("<div class=\"legend\">");
    for kind in kinds {
        let _ = write!(legend, "<span><i class=\"{}\"></i>{}</span>", class(*kind), words(*kind));
    }
    legend + "</div>"
}

fn start(height: f64) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">")
}

fn grid(svg: &mut String, y: f64, label: &str) {
    let _ = write!(
        svg,
        "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
        LEFT - 6.0,
        y + 4.0,
    );
}

/// `what` is safe for HTML.
fn text(svg: &mut String, x: f64, y: f64, anchor: &str, what: &str) {
    let _ = write!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{what}</text>");
}

/// The next number that is easy to divide by four.
fn nice(most: f64) -> f64 {
    let unit = 10f64.powf(most.log10().floor());
    [1.0, 1.2, 1.6, 2.0, 2.4, 3.2, 4.0, 6.0, 8.0, 10.0]
        .into_iter()
        .map(|factor| factor * unit)
        .find(|bound| *bound >= most)
        .unwrap_or(most)
}
