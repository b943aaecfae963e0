//! Elements of SVG by the names that a chart gives them. Charts call it; it knows no chart.
//!
//! Elements have a class, so that whoever reads a picture (a test, a style sheet) can tell what each is.

use std::fmt::Write as _;

/// After Okabe and Ito, "Color Universal Design": told apart by everybody. The two lightest are darker here,
/// so that labels in these colours can be read.
const COLOURS: [&str; 7] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#c98500", "#3d9bd6", "#5a5a5a"];
pub(crate) const INK: &str = "#222222";
pub(crate) const PALE: &str = "#dddddd";
const FONT: &str = "Helvetica, Arial, 'DejaVu Sans', sans-serif";
/// Width of a letter on average, as a share of its size.
const LETTER_WIDTH: f64 = 0.56;
/// Half of a marker.
const MARKER: f64 = 3.6;

/// A place on the canvas, in pixels from its upper left corner.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spot {
    pub(crate) x: f64,
    pub(crate) y: f64,
}

/// Where a text is, measured from its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

/// How a text looks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Font {
    pub(crate) size: f64,
    pub(crate) anchor: Anchor,
    pub(crate) colour: &'static str,
}

/// How a line looks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stroke {
    pub(crate) colour: &'static str,
    pub(crate) width: f64,
}

/// A picture that is being drawn.
#[derive(Debug)]
pub(crate) struct Canvas {
    pub(crate) width: f64,
    height: f64,
    body: String,
}

/// The colour of a series; there are seven, and then they come again with another shape of marker.
pub(crate) fn colour(series: usize) -> &'static str {
    COLOURS[series % COLOURS.len()]
}

/// About how wide a text is.
pub(crate) fn width_of(words: &str, size: f64) -> f64 {
    crate::statistics::float(words.chars().count() as u64) * size * LETTER_WIDTH
}

impl Spot {
    pub(crate) fn new(x: f64, y: f64) -> Spot {
        Spot { x, y }
    }
}

impl Font {
    pub(crate) fn new(size: f64, anchor: Anchor) -> Font {
        Font { size, anchor, colour: INK }
    }
}

impl Canvas {
    pub(crate) fn new(width: f64, height: f64) -> Canvas {
        Canvas { width, height, body: String::new() }
    }

    pub(crate) fn line(&mut self, class: &str, [from, to]: [Spot; 2], stroke: Stroke) {
        self.push(&format!(
            "<line class=\"{class}\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" \
             stroke=\"{}\" stroke-width=\"{}\"/>",
            from.x, from.y, to.x, to.y, stroke.colour, stroke.width
        ));
    }

    pub(crate) fn path(&mut self, class: &str, spots: &[Spot], stroke: Stroke) {
        let points = spots.iter().map(|spot| format!("{:.1},{:.1}", spot.x, spot.y));
        let points = points.collect::<Vec<_>>().join(" ");
        self.push(&format!(
            "<polyline class=\"{class}\" points=\"{points}\" fill=\"none\" stroke=\"{}\" \
             stroke-width=\"{}\" stroke-linejoin=\"round\"/>",
            stroke.colour, stroke.width
        ));
    }

    /// A filled rectangle between two opposite corners.
    pub(crate) fn area(&mut self, class: &str, [one, other]: [Spot; 2], colour: &str) {
        self.push(&format!(
            "<rect class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" \
             fill=\"{colour}\"/>",
            one.x.min(other.x),
            one.y.min(other.y),
            (one.x - other.x).abs(),
            (one.y - other.y).abs(),
        ));
    }

    /// A rectangle through which one sees what lies below.
    pub(crate) fn faint(
        &mut self,
        class: &str,
        [one, other]: [Spot; 2],
        colour: &str,
        opacity: f64,
    ) {
        self.area(class, [one, other], &format!("{colour}\" fill-opacity=\"{opacity}"));
    }

    /// A marker in colour and shape of its series; `words` are shown where the pointer rests on it.
    pub(crate) fn marker(&mut self, class: &str, series: usize, at: Spot, words: &str) {
        let Spot { x, y } = at;
        let m = MARKER;
        let shape = match series / COLOURS.len() % 3 {
            0 => format!(
                "M{:.1} {y:.1}a{m} {m} 0 1 0 {d} 0a{m} {m} 0 1 0 -{d} 0z",
                x - m,
                d = 2.0 * m
            ),
            1 => format!("M{:.1} {:.1}h{d}v{d}h-{d}z", x - m, y - m, d = 2.0 * m),
            _ => format!("M{x:.1} {:.1}l{m} {d}h-{d}z", y - m, d = 2.0 * m),
        };
        self.push(&format!(
            "<path class=\"{class}\" d=\"{shape}\" fill=\"{}\" fill-opacity=\"0.75\">\
             <title>{}</title></path>",
            colour(series),
            escaped(words)
        ));
    }

    pub(crate) fn text(&mut self, class: &str, at: Spot, font: Font, words: &str) {
        // What lies below a label must not run through it.
        let halo = " paint-order=\"stroke\" stroke=\"#ffffff\" stroke-width=\"2.5\"";
        let halo = if class == "label" { halo } else { "" };
        self.push(&written(class, at, font, (halo, words)));
    }

    /// A text from below to above.
    pub(crate) fn text_up(&mut self, at: Spot, font: Font, words: &str) {
        let turn = format!(" transform=\"rotate(-90 {:.1} {:.1})\"", at.x, at.y);
        self.push(&written("axis", at, font, (&turn, words)));
    }

    fn push(&mut self, element: &str) {
        writeln!(self.body, "{element}").expect("invariant: a String takes every write");
    }

    /// The picture.
    pub(crate) fn finish(self) -> String {
        let Canvas { width, height, body } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
             viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"{FONT}\">\n\
             <rect width=\"{width:.0}\" height=\"{height:.0}\" fill=\"#ffffff\"/>\n{body}</svg>\n"
        )
    }
}

fn written(class: &str, at: Spot, font: Font, (more, words): (&str, &str)) -> String {
    let anchor = match font.anchor {
        Anchor::Start => "start",
        Anchor::Middle => "middle",
        Anchor::End => "end",
    };
    format!(
        "<text class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" font-size=\"{}\" text-anchor=\"{anchor}\" \
         fill=\"{}\"{more}>{}</text>",
        at.x,
        at.y,
        font.size,
        font.colour,
        escaped(words)
    )
}

/// Text as HTML and SVG take it.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
