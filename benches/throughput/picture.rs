//! Draws the picture: for each model a panel of throughput and one of latency, both axes logarithmic. Plain SVG.

use std::fmt::Write;

/// What was measured with so many requests in flight.
pub struct Point {
    pub in_flight: usize,
    pub per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
}

pub struct Series {
    pub name: &'static str,
    pub color: &'static str,
    pub points: Vec<Point>,
}

/// The curves of one model.
pub struct Panel {
    pub model: &'static str,
    pub series: [Series; 3],
}

const WIDTH: f64 = 980.0;
const TOP: f64 = 78.0;
const ROW: f64 = 290.0;
const PLOT_WIDTH: f64 = 390.0;
const PLOT_HEIGHT: f64 = 210.0;
const LEFT: [f64; 2] = [70.0, 560.0];

pub fn draw(panels: &[Panel]) -> String {
    let height = TOP + ROW * panels.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"12\" fill=\"#1f2937\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"{}\" y=\"22\" font-size=\"16\" font-weight=\"bold\">Throughput and latency against requests in \
         flight</text>\n",
        LEFT[0]
    );
    if let Some(panel) = panels.first() {
        legend(&mut svg, panel);
    }
    for (row, panel) in panels.iter().enumerate() {
        let top = TOP + ROW * row as f64;
        let throughput = |point: &Point| vec![point.per_second];
        let latency = |point: &Point| vec![point.p50_us, point.p99_us];
        plot(&mut svg, panel, LEFT[0], top, &format!("{}: requests per second", panel.model), throughput);
        plot(&mut svg, panel, LEFT[1], top, &format!("{}: latency, µs (p50, p99)", panel.model), latency);
    }
    svg.push_str("</svg>\n");
    svg
}

fn legend(svg: &mut String, panel: &Panel) {
    let mut x = LEFT[0];
    let mut entry = |name: &str, color: &str, dash: &str| {
        let _ = writeln!(
            svg,
            "<line x1=\"{x}\" y1=\"42\" x2=\"{}\" y2=\"42\" stroke=\"{color}\" stroke-width=\"2\"{dash}/>\
             <text x=\"{}\" y=\"46\">{name}</text>",
            x + 26.0,
            x + 32.0
        );
        x += 60.0 + 6.6 * name.chars().count() as f64;
    };
    for series in &panel.series {
        entry(series.name, series.color, "");
    }
    entry("p50, throughput", "#1f2937", "");
    entry("p99", "#1f2937", DASH);
}

const DASH: &str = " stroke-dasharray=\"4 3\"";

/// One plot with a curve for each of a point's values; the second one is dashed.
fn plot(
    svg: &mut String,
    panel: &Panel,
    left: f64,
    top: f64,
    title: &str,
    values: impl Fn(&Point) -> Vec<f64>,
) {
    let points = || panel.series.iter().flat_map(|series| &series.points);
    let all: Vec<f64> = points().flat_map(&values).collect();
    let low = all.iter().copied().fold(f64::INFINITY, f64::min).log10().floor();
    let high = all.iter().copied().fold(0.0, f64::max).log10().ceil().max(low + 1.0);
    let most = points().map(|point| point.in_flight).max().unwrap_or(2).max(2) as f64;
    let x = |in_flight: f64| left + PLOT_WIDTH * in_flight.log2() / most.log2();
    let y = |value: f64| top + PLOT_HEIGHT * (high - value.log10()) / (high - low);
    let (right, bottom) = (left + PLOT_WIDTH, top + PLOT_HEIGHT);

    let _ = writeln!(svg, "<text x=\"{left}\" y=\"{}\" font-weight=\"bold\">{title}</text>", top - 8.0);
    for decade in low as i32..=high as i32 {
        let value = 10_f64.powi(decade);
        let at = y(value);
        let _ = writeln!(
            svg,
            "<line x1=\"{left}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\" stroke=\"#cbd5e1\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left - 6.0,
            at + 4.0,
            decade_label(decade)
        );
        for minor in (2..10).map(|times| y(value * f64::from(times))).filter(|at| *at > top) {
            let _ = writeln!(
                svg,
                "<line x1=\"{left}\" y1=\"{minor:.1}\" x2=\"{right}\" y2=\"{minor:.1}\" stroke=\"#f1f5f9\"/>"
            );
        }
    }
    for point in &panel.series[0].points {
        let at = x(point.in_flight as f64);
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" y1=\"{top}\" x2=\"{at:.1}\" y2=\"{}\" stroke=\"#e2e8f0\"/>\
             <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            bottom + 4.0,
            bottom + 17.0,
            point.in_flight
        );
    }
    let _ = writeln!(
        svg,
        "<rect x=\"{left}\" y=\"{top}\" width=\"{PLOT_WIDTH}\" height=\"{PLOT_HEIGHT}\" fill=\"none\" \
         stroke=\"#94a3b8\"/><text x=\"{}\" y=\"{}\" text-anchor=\"middle\">requests in flight</text>",
        left + PLOT_WIDTH / 2.0,
        bottom + 34.0
    );
    // Blaze last, so that it lies on top.
    for series in panel.series.iter().rev() {
        let curves = series.points.first().map_or(0, |point| values(point).len());
        for curve in 0..curves {
            let path: Vec<String> = series
                .points
                .iter()
                .map(|point| format!("{:.1},{:.1}", x(point.in_flight as f64), y(values(point)[curve])))
                .collect();
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"{}/>",
                path.join(" "),
                series.color,
                if curve == 1 { DASH } else { "" }
            );
            if curve == 0 {
                for (at, center) in series.points.iter().zip(&path) {
                    let (cx, cy) = center.split_once(',').unwrap_or_default();
                    let _ = writeln!(
                        svg,
                        "<circle cx=\"{cx}\" cy=\"{cy}\" r=\"2.5\" fill=\"{}\"><title>{}, {} in flight: {}</title>\
                         </circle>",
                        series.color,
                        series.name,
                        at.in_flight,
                        crate::table::short(values(at)[0])
                    );
                }
            }
        }
    }
}

/// 1, 10, 100, 1 k, …
fn decade_label(decade: i32) -> String {
    match decade {
        ..0 => format!("{}", 10_f64.powi(decade)),
        0..3 => format!("{}", 10_u64.pow(decade.unsigned_abs())),
        3..6 => format!("{} k", 10_u64.pow(decade.unsigned_abs() - 3)),
        _ => format!("{} M", 10_u64.pow(decade.unsigned_abs() - 6)),
    }
}
