//! Dates and times of day, in seconds since 1970 and without time zones.

/// Seconds of a day.
pub const DAY_SECONDS: u64 = 86_400;

/// Days of 400 years, after which the calendar repeats.
const CYCLE_DAYS: u64 = 146_097;

/// Days from 0000-03-01 to 1970-01-01.
const EPOCH_DAYS: u64 = 719_468;

/// Year, month and day of a day counted from 1970-01-01.
///
/// Years are counted from March, so that a leap day is the last day of its year.
#[must_use]
pub const fn date(day: u64) -> (u64, u64, u64) {
    let day = day + EPOCH_DAYS;
    let (cycle, day) = (day / CYCLE_DAYS, day % CYCLE_DAYS);
    // Without the leap days before it, every year has 365 days.
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - days_before(year);
    // From March on, five months have 153 days.
    let month = (5 * day + 2) / 153;
    let first = (153 * month + 2) / 5;
    let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (cycle * 400 + year + later, month, day - first + 1)
}

/// The day, counted from 1970-01-01, of a date from then on; `None` for one that does not exist.
#[must_use]
pub fn day_of(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1970..10_000).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let (from_march, year_from_march) =
        if month > 2 { (month - 3, year) } else { (month + 9, year - 1) };
    let whole = year_from_march / 400 * CYCLE_DAYS + days_before(year_from_march % 400);
    let number = (whole + (153 * from_march + 2) / 5 + day - 1).checked_sub(EPOCH_DAYS)?;
    (date(number) == (year, month, day)).then_some(number)
}

/// Days of the first `year` years of a cycle.
const fn days_before(year: u64) -> u64 {
    365 * year + year / 4 - year / 100
}

/// Day of the week, Monday being 0.
#[must_use]
pub const fn weekday(day: u64) -> u64 {
    // 1970-01-01 was a Thursday.
    (day + 3) % 7
}

/// `2026-06-01`.
#[must_use]
pub fn format_date(day: u64) -> String {
    let (year, month, day) = date(day);
    format!("{year:04}-{month:02}-{day:02}")
}

/// `2026-06-01T09:30:00Z`.
#[must_use]
pub fn format_time(seconds: u64) -> String {
    let (day, rest) = (seconds / DAY_SECONDS, seconds % DAY_SECONDS);
    format!("{}T{:02}:{:02}:{:02}Z", format_date(day), rest / 3600, rest / 60 % 60, rest % 60)
}

/// The day that [`format_date`] writes so.
#[must_use]
pub fn parse_date(text: &str) -> Option<u64> {
    let mut parts = text.splitn(3, '-').zip([4, 2, 2]).map(|(part, digits)| number(part, digits));
    day_of(parts.next()??, parts.next()??, parts.next()??)
}

/// The second that [`format_time`] writes so.
#[must_use]
pub fn parse_time(text: &str) -> Option<u64> {
    let (day, rest) = text.strip_suffix('Z')?.split_once('T')?;
    let mut parts = rest.splitn(3, ':').map(|part| number(part, 2));
    let (hours, minutes, seconds) = (parts.next()??, parts.next()??, parts.next()??);
    let legal = hours < 24 && minutes < 60 && seconds < 60;
    legal.then_some(parse_date(day)? * DAY_SECONDS + hours * 3600 + minutes * 60 + seconds)
}

/// A number of exactly `digits` decimal digits.
fn number(text: &str, digits: usize) -> Option<u64> {
    let plain = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_the_dates_of_the_calendar() {
        let known = [
            (0, (1970, 1, 1)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (11_017, (2000, 3, 1)),
            (20_605, (2026, 6, 1)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
        ];
        for (day, date_of_day) in known {
            assert_eq!(date(day), date_of_day);
            let (year, month, in_month) = date_of_day;
            assert_eq!(day_of(year, month, in_month), Some(day));
        }
        assert_eq!(weekday(20_605), 0);
        for day in 0..60_000 {
            let (year, month, in_month) = date(day);
            assert_eq!(day_of(year, month, in_month), Some(day));
        }
    }

    #[test]
    fn times_are_read_as_they_are_written_and_others_are_refused() {
        let time = 20_605 * DAY_SECONDS + 9 * 3600 + 30 * 60 + 5;
        assert_eq!(format_time(time), "2026-06-01T09:30:05Z");
        assert_eq!(parse_time("2026-06-01T09:30:05Z"), Some(time));
        for bad in [
            "",
            "2026-06-01T09:30:05",
            "2026-06-01T24:30:05Z",
            "2026-06-01T09:60:05Z",
            "2026-06-01T9:30:05Z",
            "2026-06-01T09:30:05:1Z",
            "2026-06-31T09:30:05Z",
            "2025-02-29T09:30:05Z",
            "1969-12-31T09:30:05Z",
            "+026-06-01T09:30:05Z",
        ] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
    }
}
