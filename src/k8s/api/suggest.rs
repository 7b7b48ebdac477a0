//! Names that somebody who mistyped may have meant.

/// How many are worth reading.
const MOST_SUGGESTIONS: usize = 3;

/// The candidates nearest to a name, nearest first; none that differs in more than a third of its characters.
pub(in crate::k8s) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let limit = (name.chars().count() / 3).max(1);
    let mut near: Vec<(usize, &str)> = candidates
        .into_iter()
        .map(|candidate| (if holds(candidate, name) { 1 } else { strsim::osa_distance(name, candidate) }, candidate))
        .filter(|(distance, _)| *distance <= limit)
        .collect();
    near.sort_unstable();
    near.dedup();
    near.into_iter().take(MOST_SUGGESTIONS).map(|(_, candidate)| candidate).collect()
}

/// One is the beginning or the end of the other: `shop` and `shop-prod`.
fn holds(candidate: &str, name: &str) -> bool {
    name.len() >= 3 && (candidate.starts_with(name) || candidate.ends_with(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_only() {
        assert_eq!(nearest("shpo", ["shop", "ledger", "ship"]), ["shop"]);
        assert_eq!(nearest("other", ["shop", "ledger"]), Vec::<&str>::new());
        assert_eq!(nearest("shop1", ["shop", "ledger"]), ["shop"]);
        assert_eq!(nearest("ledgr", ["shop", "ledger"]), ["ledger"]);
        assert_eq!(nearest("shop", ["shop-prod", "x"]), ["shop-prod"]);
    }
}
