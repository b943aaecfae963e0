//! Numbers of several repetitions as few numbers.

/// Average and standard deviation (of a sample; 0 for a single value).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Spread {
    pub(crate) mean: f64,
    pub(crate) deviation: f64,
}

impl Spread {
    /// That of some values; zeros for none.
    pub(crate) fn of(values: &[f64]) -> Spread {
        let count = float(values.len() as u64);
        if values.is_empty() {
            return Spread::default();
        }
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = if values.len() > 1 { (squares / (count - 1.0)).sqrt() } else { 0.0 };
        Spread { mean, deviation }
    }
}

/// Least, quarter, half, three quarters and most.
pub(crate) fn quartiles(values: &[f64]) -> Option<[f64; 5]> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = float(sorted.len().checked_sub(1)? as u64);
    let at = |share: f64| {
        let place = share * last;
        let mut pairs = sorted.windows(2).zip(0_u64..);
        let between = pairs.find(|(_, index)| float(index + 1) >= place);
        between.map_or(sorted[0], |(pair, index)| {
            pair[0] + (pair[1] - pair[0]) * (place - float(index))
        })
    };
    Some([0.0, 0.25, 0.5, 0.75, 1.0].map(at))
}

/// A count as a number to calculate with.
#[expect(clippy::cast_precision_loss, reason = "statistics need 52 bits at most")]
pub(crate) fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_that_of_a_sample() {
        let spread = Spread::of(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]);
        assert!((spread.mean - 5.0).abs() < 1e-9);
        assert!((spread.deviation - (32.0_f64 / 7.0).sqrt()).abs() < 1e-9);
        assert_eq!(Spread::of(&[3.0]), Spread { mean: 3.0, deviation: 0.0 });
        assert_eq!(Spread::of(&[]), Spread::default());
    }

    #[test]
    fn quartiles_lie_between_values_where_they_must() {
        assert_eq!(quartiles(&[4.0, 1.0, 3.0, 2.0, 5.0]), Some([1.0, 2.0, 3.0, 4.0, 5.0]));
        assert_eq!(quartiles(&[1.0, 2.0]), Some([1.0, 1.25, 1.5, 1.75, 2.0]));
        assert_eq!(quartiles(&[7.0]), Some([7.0; 5]));
        assert_eq!(quartiles(&[]), None);
    }
}
