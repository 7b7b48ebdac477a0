//! Names that somebody who mistyped may have meant.

/// How many are worth reading.
const MOST: usize = 3;

/// The candidates nearest to a name, nearest first; none that differs in more than a third of its characters.
pub(super) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let limit = (name.chars().count() / 3).max(1);
    let mut near: Vec<(usize, &str)> = candidates
        .into_iter()
        .map(|candidate| (if holds(candidate, name) { 1 } else { distance(name, candidate) }, candidate))
        .filter(|(distance, _)| *distance <= limit)
        .collect();
    near.sort_unstable();
    near.dedup();
    near.into_iter().take(MOST).map(|(_, candidate)| candidate).collect()
}

/// One is the beginning or the end of the other: `shop` and `shop-prod`.
fn holds(candidate: &str, name: &str) -> bool {
    name.len() >= 3 && (candidate.starts_with(name) || candidate.ends_with(name))
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, to) in row.iter_mut().skip(1).zip(&b) {
            let cost = diagonal + usize::from(from != *to);
            diagonal = *cell;
            left = cost.min(diagonal + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("shop", "shop"), 0);
    }

    #[test]
    fn near_misses_only() {
        assert_eq!(nearest("shpo", ["shop", "ledger", "ship"]), Vec::<&str>::new());
        assert_eq!(nearest("shop1", ["shop", "ledger"]), ["shop"]);
        assert_eq!(nearest("ledgr", ["shop", "ledger"]), ["ledger"]);
        assert_eq!(nearest("shop", ["shop-prod", "x"]), ["shop-prod"]);
    }
}
