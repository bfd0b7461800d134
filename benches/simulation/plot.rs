//! Seats over time as an SVG: one panel for each policy, so that no line hides another.

use std::fmt::Write;

const WIDTH: f64 = 880.0;
const LEFT: f64 = 236.0;
const PANEL: f64 = 56.0;
const GAP: f64 = 14.0;
const TOP: f64 = 40.0;

/// One policy: a name, a remark, and the share of the seats from each moment (in seconds) on. All
/// of them are there at first.
pub struct Panel {
    pub name: String,
    pub remark: String,
    pub seats: Vec<(f64, f64)>,
}

/// The picture of all panels over `seconds`.
pub fn svg(title: &str, panels: &[Panel], seconds: f64) -> String {
    let height = TOP + panels.len() as f64 * (PANEL + GAP) + 24.0;
    let right = WIDTH - 22.0;
    let x = |at: f64| LEFT + at.min(seconds) / seconds * (right - LEFT);
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
    for (n, panel) in panels.iter().enumerate() {
        let top = TOP + n as f64 * (PANEL + GAP);
        let bottom = top + PANEL;
        let y = |share: f64| bottom - share * PANEL;
        let mut path = format!("M{LEFT:.1} {bottom:.1}L{LEFT:.1} {top:.1}");
        let mut level = 1.0;
        for &(at, share) in panel.seats.iter().take_while(|(at, _)| *at <= seconds) {
            write!(
                path,
                "L{:.1} {:.1}L{:.1} {:.1}",
                x(at),
                y(level),
                x(at),
                y(share)
            )
            .expect("writing to a string does not fail");
            level = share;
        }
        write!(path, "L{right:.1} {:.1}L{right:.1} {bottom:.1}Z", y(level))
            .expect("writing to a string does not fail");
        let (name, remark) = (&panel.name, &panel.remark);
        line(format!(
            r##"<text x="16" y="{:.0}">{name}</text><text x="16" y="{:.0}" fill="#666" font-size="11">{remark}</text>"##,
            top + 22.0,
            top + 38.0
        ));
        line(format!(
            r##"<rect x="{LEFT}" y="{top}" width="{}" height="{PANEL}" fill="#f4d9d6"/><path d="{path}" fill="#3b7a57"/>"##,
            right - LEFT
        ));
        line(format!(
            r##"<text x="{0}" y="{1:.0}" text-anchor="end" font-size="10" fill="#666">100 %</text><text x="{0}" y="{bottom:.0}" text-anchor="end" font-size="10" fill="#666">0</text>"##,
            LEFT - 4.0,
            top + 9.0
        ));
    }
    let foot = height - 8.0;
    for tick in 0..=(seconds / 60.0) as u32 {
        let at = f64::from(tick) * 60.0;
        line(format!(
            r##"<text x="{:.1}" y="{foot}" text-anchor="middle" font-size="10" fill="#666">{tick} min</text>"##,
            x(at)
        ));
    }
    svg.push_str("</svg>\n");
    svg
}
