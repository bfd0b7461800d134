//! What `Accept` asks for where an answer has two forms. Pure.

use http::HeaderMap;
use http::header::ACCEPT;

const PROMETHEUS: [&str; 2] = ["text/plain", "application/openmetrics-text"];
const JSON: &str = "application/json";

/// How much a form is wanted: whether more than `*/*` speaks for it, then its quality in thousandths.
type Weight = (bool, u16);

/// Whether Prometheus' text or OpenMetrics is preferred to JSON. Scrapers do; everybody else gets the
/// JSON, and so does who names neither or both alike.
pub fn prefers_prometheus(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT).iter();
    let values = values.filter_map(|value| value.to_str().ok());
    let ranges: Vec<(&str, u16)> = values
        .flat_map(|value| value.split(','))
        .filter_map(range)
        .collect();
    let prometheus = PROMETHEUS.iter().filter_map(|form| weight(form, &ranges));
    prometheus.max() > weight(JSON, &ranges)
}

/// A range of media types and its quality; nothing where that is no number.
fn range(text: &str) -> Option<(&str, u16)> {
    let mut parts = text.split(';').map(str::trim);
    let range = parts.next()?;
    let quality = parts.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("q").then(|| value.trim())
    });
    let quality: f32 = quality.map_or(Ok(1.0), str::parse).ok()?;
    Some((range, (quality.clamp(0.0, 1.0) * 1000.0).round() as u16))
}

/// By the range that says most about a form; nothing when none does, or it says no.
fn weight(form: &str, ranges: &[(&str, u16)]) -> Option<Weight> {
    let (kind, _) = form.split_once('/')?;
    let quality = |wanted: &str| {
        let alike = ranges.iter();
        let alike = alike.filter(|(range, _)| range.eq_ignore_ascii_case(wanted));
        alike.map(|(_, quality)| *quality).max()
    };
    let named = quality(form).or_else(|| quality(&format!("{kind}/*")));
    let weight = match named {
        Some(quality) => (true, quality),
        None => (false, quality("*/*")?),
    };
    (weight.1 > 0).then_some(weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_for_those_who_prefer_it() {
        let scraper = "application/openmetrics-text;version=1.0.0;q=0.5,\
                       text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        for (accept, text) in [
            (&[][..], false),
            (&[""], false),
            (&["*/*"], false),
            (&["application/*"], false),
            (&["text/html"], false),
            (&["text/plain"], true),
            (&["TEXT/PLAIN"], true),
            (&["text/*"], true),
            (&["application/openmetrics-text; version=1.0.0"], true),
            (&[scraper], true),
            (&["text/plain, */*"], true),
            (&["text/plain;q=0.2, */*;q=0.9"], true),
            (&["text/plain;q=0"], false),
            (&["text/plain;q=0, */*"], false),
            (&["text/plain;q=0.5, application/json"], false),
            (&["text/plain; Q = 0.5, application/json;q=0.4"], true),
            (&["application/json, text/plain"], false),
            (&["application/json, text/plain, */*"], false),
            (&["application/json;q=0, */*"], true),
            (&["application/json;q=0.9", "text/plain"], true),
            (&["text/plain;q=much"], false),
            (&["text/plainer, x-text/plain"], false),
        ] {
            let mut headers = HeaderMap::new();
            for value in accept {
                headers.append(ACCEPT, value.parse().unwrap());
            }
            assert_eq!(prefers_prometheus(&headers), text, "{accept:?}");
        }
    }
}
