//! Seats over time as an SVG: a panel for each policy, one below the other on the same axis.

use std::fmt::Write;

const WIDTH: f64 = 880.0;
const LEFT: f64 = 216.0;
const RIGHT: f64 = WIDTH - 20.0;
const PANEL: f64 = 110.0;
const GAP: f64 = 18.0;
const TOP: f64 = 62.0;

/// One policy: what it is called, and the seats from each moment (in seconds) on: used ones, and
/// all.
pub struct Panel {
    pub name: &'static str,
    pub remarks: [String; 3],
    pub seats: Vec<(f64, u32, u32)>,
}

/// The picture; `due` seats should be there at all times.
pub fn svg(title: &str, panels: &[Panel], due: u32) -> String {
    let all = || panels.iter().flat_map(|panel| &panel.seats);
    let seconds = all().map(|seat| seat.0).fold(1.0, f64::max);
    let most = all().map(|seat| seat.2).fold(due, u32::max);
    let height = TOP + panels.len() as f64 * (PANEL + GAP) + 16.0;
    let x = |at: f64| LEFT + at / seconds * (RIGHT - LEFT);
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">
<rect width="{WIDTH}" height="{height}" fill="#fff"/>
<text x="16" y="22" font-size="14" font-weight="bold">{title}</text>
"##
    );
    let mut line = |text: String| {
        svg.push_str(&text);
        svg.push('\n');
    };
    let legend = [
        ("#2f6b4a", "used"),
        ("#a8d3b9", "free"),
        ("#f0b4ab", "missing"),
    ];
    for (n, (colour, name)) in legend.iter().enumerate() {
        let at = LEFT + n as f64 * 80.0;
        line(format!(
            r##"<rect x="{at}" y="38" width="12" height="12" fill="{colour}"/><text x="{}" y="48">{name}</text>"##,
            at + 18.0
        ));
    }
    for (n, panel) in panels.iter().enumerate() {
        let top = TOP + n as f64 * (PANEL + GAP);
        let bottom = top + PANEL;
        let y = |seats: u32| bottom - f64::from(seats) / f64::from(most) * PANEL;
        line(format!(
            r##"<text x="16" y="{:.0}" font-weight="bold">{}</text>"##,
            top + 20.0,
            panel.name
        ));
        for (n, remark) in panel.remarks.iter().enumerate() {
            line(format!(
                r##"<text x="16" y="{:.0}" fill="#555" font-size="11">{remark}</text>"##,
                top + 38.0 + n as f64 * 15.0
            ));
        }
        let end = panel.seats.last().map_or(0.0, |seat| seat.0);
        line(format!(
            r##"<rect x="{LEFT}" y="{top}" width="{:.1}" height="{PANEL}" fill="#f7f7f5"/><rect x="{LEFT}" y="{:.1}" width="{:.1}" height="{:.1}" fill="#f0b4ab"/>"##,
            RIGHT - LEFT,
            y(due),
            x(end) - LEFT,
            bottom - y(due)
        ));
        for (colour, seats) in [
            ("#a8d3b9", (|seat| seat.2) as fn(&(f64, u32, u32)) -> u32),
            ("#2f6b4a", |seat| seat.1),
        ] {
            let mut path = format!("M{LEFT:.1} {bottom:.1}");
            let mut level = bottom;
            for seat in &panel.seats {
                let (at, next) = (x(seat.0), y(seats(seat)));
                if next != level {
                    write!(path, "L{at:.1} {level:.1}L{at:.1} {next:.1}")
                        .expect("writing to a string does not fail");
                    level = next;
                }
            }
            let end = x(end);
            line(format!(
                r##"<path d="{path}L{end:.1} {level:.1}L{end:.1} {bottom:.1}Z" fill="{colour}"/>"##
            ));
        }
        for seats in [0, due, most] {
            line(format!(
                r##"<text x="{:.0}" y="{:.1}" text-anchor="end" font-size="10" fill="#555">{seats}</text>"##,
                LEFT - 5.0,
                y(seats) + 3.0
            ));
        }
        line(format!(
            r##"<line x1="{LEFT}" x2="{RIGHT}" y1="{0:.1}" y2="{0:.1}" stroke="#333" stroke-width="0.8" stroke-dasharray="4 3"/>"##,
            y(due)
        ));
    }
    for tick in (0..=seconds as u32).step_by(5) {
        line(format!(
            r##"<text x="{:.1}" y="{:.0}" text-anchor="middle" font-size="10" fill="#555">{tick} s</text>"##,
            x(f64::from(tick)),
            height - 8.0
        ));
    }
    svg.push_str("</svg>\n");
    svg
}
