//! Frozen time against size, a small chart for each shape, ours and CRIU's, both axes logarithmic.

use std::error::Error;
use std::ops::Range;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use stasis_tests::Engine;

use crate::report::Point;
use crate::shapes::Shape;

const WIDTH: u32 = 360;
const HEIGHT: u32 = 280;
const COLUMNS: usize = 3;
const OURS: RGBColor = RGBColor(0, 114, 178);
const THEIRS: RGBColor = RGBColor(213, 94, 0);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Writes the plot of all shapes that have points.
///
/// # Errors
/// That it cannot be drawn or written.
pub(crate) fn write(points: &[Point], file: &Path) -> Result<(), String> {
    draw(points, file).map_err(|error| format!("plot to {}: {error}", file.display()))?;
    println!("written: {}", file.display());
    Ok(())
}

fn draw(points: &[Point], file: &Path) -> Result<(), Box<dyn Error>> {
    let shapes: Vec<Shape> = Shape::PLOTTED
        .into_iter()
        .filter(|shape| points.iter().any(|point| point.shape == *shape))
        .collect();
    let rows = shapes.len().div_ceil(COLUMNS).max(1);
    let size = (WIDTH * u32::try_from(COLUMNS)?, HEIGHT * u32::try_from(rows)?);
    let root = SVGBackend::new(file, size).into_drawing_area();
    root.fill(&WHITE)?;
    let areas = root.split_evenly((rows, COLUMNS));
    let frozen = decades(points.iter().map(|point| point.frozen));
    for (shape, area) in shapes.iter().zip(&areas) {
        chart(*shape, points, frozen.clone(), area)?;
    }
    root.present()?;
    Ok(())
}

/// The whole decades that hold all values.
fn decades(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (mut low, mut high) = (f64::INFINITY, 0.0_f64);
    for value in values.filter(|value| *value > 0.0) {
        (low, high) = (low.min(value), high.max(value));
    }
    if low > high {
        return 1.0..10.0;
    }
    10_f64.powf(low.log10().floor())..10_f64.powf(high.log10().ceil())
}

/// A number as people write it: 0.1, 20, 5,000.
fn label(value: f64) -> String {
    if value < 1.0 {
        return format!("{value}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn chart(
    shape: Shape,
    points: &[Point],
    frozen: Range<f64>,
    area: &Area<'_>,
) -> Result<(), Box<dyn Error>> {
    let (axis, factor) = shape.axis();
    let count = |point: &Point| point.size as f64 * factor;
    let here: Vec<&Point> = points.iter().filter(|point| point.shape == shape).collect();
    let (low, high) = here.iter().fold((f64::INFINITY, 1.0_f64), |(low, high), point| {
        (low.min(count(point)), high.max(count(point)))
    });
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .caption(axis, ("sans-serif", 16))
        .x_label_area_size(34)
        .y_label_area_size(58)
        .build_cartesian_2d((low * 0.7..high * 1.5).log_scale(), frozen.log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .label_style(("sans-serif", 12))
        .x_labels(5)
        .y_labels(6)
        .x_label_formatter(&|value| label(*value))
        .y_label_formatter(&|value| label(*value))
        .y_desc("frozen, ms")
        .draw()?;
    for (engine, name, colour) in [(Engine::Criu, "CRIU", THEIRS), (Engine::Stasis, "stasis", OURS)]
    {
        let of_engine = here.iter().filter(|point| point.engine == engine);
        let line: Vec<(f64, f64)> = of_engine.map(|p| (count(p), p.frozen)).collect();
        if line.is_empty() {
            continue;
        }
        chart
            .draw_series(LineSeries::new(line.clone(), colour.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
        chart.draw_series(line.into_iter().map(|at| Circle::new(at, 3, colour.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .label_font(("sans-serif", 12))
        .draw()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_people_write_them() {
        let written: Vec<_> = [0.1, 1.0, 20.0, 5000.0, 1_234_567.0].map(label).into();
        assert_eq!(written, ["0.1", "1", "20", "5,000", "1,234,567"]);
    }

    #[test]
    fn decades_hold_all_values() {
        assert_eq!(decades([0.4, 30.0].into_iter()), 0.1..100.0);
        assert_eq!(decades(std::iter::empty()), 1.0..10.0);
    }
}
