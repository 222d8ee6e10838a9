//! Names of parts: `part-YYYYMMDD-NN.db`, one per UTC day and a further NN when one is full. Their
//! order is the order they were begun in.

use std::{fmt, path::PathBuf, str::FromStr};

/// One file of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PartName {
    date: u32,
    number: u32,
}

const NS_PER_DAY: u64 = 86_400_000_000_000;

// === impl PartName ===

impl PartName {
    /// The first of the day of `unix_ns`.
    pub(super) fn first_at(unix_ns: u64) -> Self {
        Self { date: date(unix_ns / NS_PER_DAY), number: 0 }
    }

    /// The one after it on the same day.
    pub(super) fn next(self) -> Self {
        Self { number: self.number + 1, ..self }
    }

    /// Whether `unix_ns` is on a later day.
    pub(super) fn is_before_day_of(self, unix_ns: u64) -> bool {
        self.date < date(unix_ns / NS_PER_DAY)
    }

    /// Its file and what SQLite keeps beside it.
    pub(super) fn files(self) -> [String; 3] {
        [format!("{self}"), format!("{self}-wal"), format!("{self}-shm")]
    }

    /// Bytes on disk.
    pub(super) fn bytes(self, dir: &std::path::Path) -> u64 {
        self.files().iter().filter_map(|file| dir.join(file).metadata().ok()).map(|m| m.len()).sum()
    }

    pub(super) fn path(self, dir: &std::path::Path) -> PathBuf {
        dir.join(self.to_string())
    }
}

impl fmt::Display for PartName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "part-{:08}-{:02}.db", self.date, self.number)
    }
}

impl FromStr for PartName {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let inner = text.strip_prefix("part-").and_then(|t| t.strip_suffix(".db")).ok_or(())?;
        let (date, number) = inner.split_once('-').ok_or(())?;
        let name =
            Self { date: date.parse().map_err(|_| ())?, number: number.parse().map_err(|_| ())? };
        // Only what we would write ourselves: no `+1`, no other count of zeros.
        if name.to_string() == text { Ok(name) } else { Err(()) }
    }
}

/// `YYYYMMDD` of a day since 1970 (the proleptic Gregorian calendar, in years that begin in March).
fn date(day: u64) -> u32 {
    let day = day + 719_468;
    let (era, day_of_era) = (day / 146_097, day % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year * 10_000 + month * 100 + day_of_month) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dates() {
        for (day, expected) in [
            (0, 19_700_101),
            (59, 19_700_301),
            (11_016, 20_000_229),
            (19_782, 20_240_229),
            (20_818, 20_261_231),
            (20_819, 20_270_101),
        ] {
            assert_eq!(date(day), expected);
        }
        let name = PartName::first_at(19_782 * NS_PER_DAY + 5);
        assert_eq!(name.to_string(), "part-20240229-00.db");
        assert_eq!("part-20240229-00.db".parse(), Ok(name));
        assert_eq!(name.next().to_string().parse(), Ok(name.next()));
        assert!(name.is_before_day_of(19_783 * NS_PER_DAY));
        for other in ["part-20240229-0.db", "part-20240229-00.db.damaged", "x", "part-1-00.db"] {
            assert!(other.parse::<PartName>().is_err());
        }
    }
}
