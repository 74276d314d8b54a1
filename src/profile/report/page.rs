//! The parts that pages are made of: escaped text, numbers for people, and colours that light and dark share.

use crate::profile::Kind;

/// Text for HTML and its attributes: nothing in it means anything to a browser.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            // What has no place in a text, and what would turn its direction.
            '\u{0}'..='\u{8}'
            | '\u{b}'..='\u{1f}'
            | '\u{7f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' => {
                safe.push('\u{fffd}');
            }
            other => safe.push(other),
        }
    }
    safe
}

/// Nanoseconds with a unit.
pub fn time(ns: f64) -> String {
    let (value, unit) = match ns {
        _ if ns < 1e3 => (ns, "ns"),
        _ if ns < 1e6 => (ns / 1e3, "µs"),
        _ if ns < 1e9 => (ns / 1e6, "ms"),
        _ => (ns / 1e9, "s"),
    };
    format!("{}&#8239;{unit}", short(value))
}

/// Bytes with a unit.
pub fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 1024.0 && unit + 1 < units.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    format!("{}&#8239;{}", short(value), units[unit])
}

/// Three digits that count.
pub fn short(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 || size == 0.0 || value.fract() == 0.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

/// A count, in groups of three digits.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push_str("&#8239;");
        }
        text.push(digit);
    }
    text
}

pub fn percent(share: f64) -> String {
    format!("{:.1}&#8239;%", share * 100.0)
}

/// The class that colours a kind of time.
pub fn class(kind: Kind) -> &'static str {
    match kind {
        Kind::Queue => "k0",
        Kind::Copy => "k1",
        Kind::Compute => "k2",
        Kind::Scatter => "k3",
        Kind::Delivery => "k4",
        Kind::Batch => "k5",
        Kind::EvictionWait => "k6",
        _ => "k7",
    }
}

/// How a kind of time is called where people read.
pub fn words(kind: Kind) -> &'static str {
    match kind {
        Kind::Admission => "submit",
        Kind::Queue => "queue",
        Kind::Batch => "held open for more rows",
        Kind::Copy => "copy in",
        Kind::Compute => "compute",
        Kind::Scatter => "hand out",
        Kind::Delivery => "wait for the host",
        Kind::EvictionWait => "wait for the model",
        Kind::Pump => "pump",
        Kind::Load => "load",
        Kind::Stage => "stage of a load",
        Kind::Evict => "evict",
        Kind::Io => "read",
    }
}

pub const STYLE: &str = "
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--ink:#1b2430;--dim:#66717f;--line:#dfe4ea;--accent:#d9480f;
--c0:#f2a33a;--c1:#4dabf7;--c2:#2f9e5b;--c3:#9775fa;--c4:#e8659a;--c5:#c77700;--c6:#c92a2a;--c7:#868e96;--warn:#c92a2a}
@media(prefers-color-scheme:dark){:root{--bg:#12161c;--card:#1b212a;--ink:#e6eaf0;--dim:#98a4b3;--line:#2d3643;
--accent:#ff8a4c;--c0:#e8a33d;--c1:#58b2f5;--c2:#46b877;--c3:#a78bfa;--c4:#ec7aa8;--c5:#d9902b;--c6:#f06767;--c7:#8b96a3;
--warn:#ff7b7b}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}
main{max-width:1120px;margin:0 auto;padding:28px 20px 60px}
header{display:flex;align-items:baseline;gap:14px;flex-wrap:wrap;margin-bottom:18px}
h1{font-size:26px;margin:0;letter-spacing:-.02em}h1 b{color:var(--accent)}
h2{font-size:17px;margin:0 0 4px}h3{font-size:14px;margin:16px 0 6px}p.sub,.dim{color:var(--dim)}p.sub{margin:0 0 14px;font-size:13px}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:18px 20px;margin:0 0 16px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(148px,1fr));gap:12px;margin-bottom:16px}
.tile{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:12px 16px}
.tile .v{font-size:23px;font-weight:650;letter-spacing:-.02em;white-space:nowrap}.tile .n{color:var(--dim);font-size:12.5px}
.badge{border:1px solid var(--line);border-radius:99px;padding:1px 10px;font-size:12.5px;color:var(--dim);background:var(--card)}
.bar{display:flex;height:26px;border-radius:6px;overflow:hidden;background:var(--line);margin:6px 0 4px}
.bar span{display:block;min-width:1px;overflow:hidden;white-space:nowrap;color:#fff;font-size:12px;line-height:26px;
padding:0 0 0 6px;text-shadow:0 0 3px rgba(0,0,0,.45)}
.k0{background:var(--c0)}.k1{background:var(--c1)}.k2{background:var(--c2)}.k3{background:var(--c3)}.k4{background:var(--c4)}
.k5{background:var(--c5)}.k6{background:var(--c6)}.k7{background:var(--c7)}
svg .k0{fill:var(--c0)}svg .k1{fill:var(--c1)}svg .k2{fill:var(--c2)}svg .k3{fill:var(--c3)}svg .k4{fill:var(--c4)}
svg .k5{fill:var(--c5)}svg .k6{fill:var(--c6)}svg .k7{fill:var(--c7)}
svg .s0{stroke:var(--c2)}svg .s1{stroke:var(--c0)}svg .s2{stroke:var(--c1)}svg .s3{stroke:var(--c3)}svg .s4{stroke:var(--c4)}
.l0{background:var(--c2)}.l1{background:var(--c0)}.l2{background:var(--c1)}.l3{background:var(--c3)}.l4{background:var(--c4)}
svg{display:block;width:100%;height:auto;overflow:visible}svg text{fill:var(--dim);font-size:11px}
svg .grid{stroke:var(--line);stroke-width:1}svg .path{fill:none;stroke-width:2;stroke-linejoin:round}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;font-size:12.5px;color:var(--dim);margin:6px 0}
.legend i{display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:6px}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:13px}
th,td{text-align:right;padding:5px 10px;border-bottom:1px solid var(--line);white-space:nowrap}
th{color:var(--dim);font-weight:500}td:first-child,th:first-child,td.t,th.t{text-align:left}
td.t{max-width:340px;overflow:hidden;text-overflow:ellipsis}tr:last-child td{border-bottom:0}
.meter{display:inline-block;width:110px;height:8px;border-radius:4px;background:var(--line);vertical-align:middle;margin-right:8px}
.meter i{display:block;height:8px;border-radius:4px;background:var(--c2)}
ul.advice{list-style:none;margin:0;padding:0}ul.advice li{border-left:3px solid var(--accent);padding:2px 0 2px 12px;margin:10px 0}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(420px,1fr));gap:8px 28px}
@media(max-width:520px){.two{grid-template-columns:1fr}}@media print{section,.tile{break-inside:avoid}}
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_hostile_passes() {
        let safe = escape("</script><script>alert(\"x\") & 'y'\u{0}\u{202e}");
        assert_eq!(
            safe,
            "&lt;/script&gt;&lt;script&gt;alert(&quot;x&quot;) &amp; &#39;y&#39;\u{fffd}\u{fffd}"
        );
    }

    #[test]
    fn numbers_are_short() {
        let plain = |text: String| text.replace("&#8239;", " ");
        assert_eq!(plain(time(312.0)), "312 ns");
        assert_eq!(plain(time(1_250.0)), "1.25 µs");
        assert_eq!(plain(time(45_600_000.0)), "45.6 ms");
        assert_eq!(
            (plain(bytes(0)), plain(bytes(1536)), plain(bytes(1 << 40))),
            ("0 B".into(), "1.50 KiB".into(), "1 TiB".into())
        );
        assert_eq!((plain(count(7)), plain(count(1_234_567))), ("7".into(), "1 234 567".into()));
        assert_eq!(plain(percent(0.1234)), "12.3 %");
    }
}
