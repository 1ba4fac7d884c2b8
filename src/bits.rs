//! Sets of numbers in the kernel's list format (cpuset(7)): `0-3,7`.

/// The words of a bit mask, the lowest bits first, or what is wrong with the list. As with runc, spaces and empty
/// elements do not matter. `limit` is one more than the highest number.
pub fn parse(list: &str, limit: usize) -> Result<Vec<u64>, &'static str> {
    let number = |text: &str| {
        let number: usize = text.trim().parse().map_err(|_| "is not a list of numbers and ranges")?;
        if number < limit { Ok(number) } else { Err("holds a number that is too large") }
    };
    let mut words = vec![0u64; limit.div_ceil(64)];
    for element in list.split(',').map(str::trim).filter(|element| !element.is_empty()) {
        let (first, last) = match element.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(element)?, number(element)?),
        };
        if first > last {
            return Err("holds a range that ends before it begins");
        }
        (first..=last).for_each(|bit| words[bit / 64] |= 1 << (bit % 64));
    }
    if words.iter().all(|word| *word == 0) { Err("holds no number") } else { Ok(words) }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn lists() {
        assert_eq!(parse("0-3,7", 64), Ok(vec![0x8f]));
        assert_eq!(parse(" 1 , ,64", 128), Ok(vec![2, 1]));
        for list in ["", ",", "a", "1-", "3-1", "64", "-1", "0-64"] {
            assert!(parse(list, 64).is_err(), "{list}");
        }
    }
}
