//! Differences between two texts.

/// The lines that one of the two texts has and the other has not, `- ` or `+ ` before each, in order; `None` if the texts are
/// equal. Equal lines are left out: the texts are lists.
#[must_use]
pub fn lines(old: &str, new: &str) -> Option<String> {
    if old == new {
        return None;
    }
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let common = common(&old, &new);
    let mut text = String::new();
    let (mut before, mut after) = (0, 0);
    for (left, right) in common.into_iter().chain([(old.len(), new.len())]) {
        text.extend(old[before..left].iter().map(|line| format!("- {line}\n")));
        text.extend(new[after..right].iter().map(|line| format!("+ {line}\n")));
        (before, after) = (left + 1, right + 1);
    }
    if text.is_empty() {
        text.push_str("the ends of lines differ\n");
    }
    Some(text)
}

/// The places in both of a longest common subsequence.
fn common(old: &[&str], new: &[&str]) -> Vec<(usize, usize)> {
    let start = old.iter().zip(new).take_while(|(left, right)| left == right).count();
    let (old_rest, new_rest) = (&old[start..], &new[start..]);
    let width = new_rest.len() + 1;
    let mut longest = vec![0_u32; (old_rest.len() + 1) * width];
    for left in (0..old_rest.len()).rev() {
        for right in (0..new_rest.len()).rev() {
            longest[left * width + right] = if old_rest[left] == new_rest[right] {
                longest[(left + 1) * width + right + 1] + 1
            } else {
                longest[(left + 1) * width + right].max(longest[left * width + right + 1])
            };
        }
    }
    let mut places: Vec<(usize, usize)> = (0..start).map(|at| (at, at)).collect();
    let (mut left, mut right) = (0, 0);
    while left < old_rest.len() && right < new_rest.len() {
        if old_rest[left] == new_rest[right] {
            places.push((start + left, start + right));
            (left, right) = (left + 1, right + 1);
        } else if longest[(left + 1) * width + right] >= longest[left * width + right + 1] {
            left += 1;
        } else {
            right += 1;
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_one_text_alone_are_shown_in_order() {
        assert_eq!(lines("a\nb\n", "a\nb\n"), None);
        assert_eq!(lines("a\nb\nc\n", "a\nx\nc\nd\n").as_deref(), Some("- b\n+ x\n+ d\n"));
        assert_eq!(lines("", "a\n").as_deref(), Some("+ a\n"));
        assert_eq!(lines("a\nb\n", "").as_deref(), Some("- a\n- b\n"));
        assert_eq!(lines("a", "a\n").as_deref(), Some("the ends of lines differ\n"));
    }
}
