//! Numbers of several repetitions as few numbers, and numbers of a column as text.

/// Decimals that a column has at most.
const DECIMAL_COUNT_MAX: usize = 3;
/// Digits that the least and the greatest number of a column have at least.
const DIGIT_COUNTS: [i32; 2] = [2, 3];

/// What is said of repetitions: nothing that two or three values cannot tell, so neither a deviation
/// nor quartiles.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Summary {
    pub(crate) count: usize,
    pub(crate) least: f64,
    pub(crate) median: f64,
    pub(crate) most: f64,
}

impl Summary {
    /// That of some values; nothing for none.
    pub(crate) fn of(values: &[f64]) -> Option<Summary> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (count, last) = (sorted.len(), sorted.len().checked_sub(1)?);
        let median = f64::midpoint(sorted[last / 2], sorted[count / 2]);
        Some(Summary { count, least: sorted[0], median, most: sorted[last] })
    }

    /// In the form `median (least to most)`; what is always the same stands alone.
    pub(crate) fn words(&self, decimals: usize) -> String {
        let [least, median, most] =
            [self.least, self.median, self.most].map(|value| fixed(value, decimals));
        if least == most { median } else { format!("{median} ({least} to {most})") }
    }
}

/// How many decimals the numbers of one column have, so that they can be compared at a glance: enough for
/// two digits of the least and three of the greatest; none where all are whole.
pub(crate) fn decimals(values: &[f64]) -> usize {
    let sizes = || values.iter().map(|value| value.abs()).filter(|size| *size > 0.0);
    if values.iter().all(|value| (value - value.round()).abs() < 1e-9) {
        return 0;
    }
    let ends = [sizes().min_by(f64::total_cmp), sizes().max_by(f64::total_cmp)];
    let wanted = ends.into_iter().zip(DIGIT_COUNTS).filter_map(|(size, digits)| {
        let mut count: usize = 0;
        let mut limit = 10_f64.powi(digits - 1);
        while count < DECIMAL_COUNT_MAX && size? < limit {
            (count, limit) = (count + 1, limit / 10.0);
        }
        Some(count)
    });
    wanted.max().unwrap_or(0)
}

/// A number with so many decimals, and commas between groups of three digits.
pub(crate) fn fixed(value: f64, decimals: usize) -> String {
    let text = format!("{:.decimals$}", value.abs());
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut grouped = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let is_zero = !text.contains(|digit: char| digit.is_ascii_digit() && digit != '0');
    let sign = if value < 0.0 && !is_zero { "-" } else { "" };
    format!("{sign}{grouped}{rest}")
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
    fn a_summary_has_nothing_but_values_that_were_measured_and_their_middle() {
        let summary = |least, median, most, count| Some(Summary { count, least, median, most });
        assert_eq!(Summary::of(&[4.0, 1.0, 3.0]), summary(1.0, 3.0, 4.0, 3));
        assert_eq!(Summary::of(&[2.0, 1.0]), summary(1.0, 1.5, 2.0, 2));
        assert_eq!(Summary::of(&[7.0]), summary(7.0, 7.0, 7.0, 1));
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[4.0, 1.0, 3.0]).unwrap().words(1), "3.0 (1.0 to 4.0)");
        assert_eq!(Summary::of(&[7.0]).unwrap().words(0), "7", "no range of one");
    }

    #[test]
    fn a_column_has_as_many_decimals_as_its_least_number_needs() {
        for (values, count) in [
            (&[1_279.4, 45_562.1][..], 0),
            (&[0.34, 4.25], 2),
            (&[1.31, 2.4], 2),
            (&[12.2, 99.1], 1),
            (&[0.052, 0.1], 3),
            (&[0.0, 3.0, 1_000.0], 0),
            (&[0.000_1], 3),
            (&[], 0),
        ] {
            assert_eq!(decimals(values), count, "{values:?}");
        }
    }

    #[test]
    fn long_numbers_are_grouped() {
        for (value, decimals, text) in [
            (0.0, 0, "0"),
            (-0.01, 1, "0.0"),
            (999.0, 0, "999"),
            (41_344.26, 1, "41,344.3"),
            (-1_234_567.0, 0, "-1,234,567"),
        ] {
            assert_eq!(fixed(value, decimals), text);
        }
    }
}
