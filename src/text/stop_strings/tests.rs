use super::*;
use proptest::prelude::*;

fn stops(list: &[&str], include: bool) -> StopStrings {
    StopStrings::new(list.iter().map(|stop| (*stop).to_owned()).collect(), include).unwrap()
}

/// Pushes the deltas; all text emitted, the match, and the delta it came with.
fn run(mut stop: StopStrings, deltas: &[String]) -> (String, Option<String>) {
    let mut text = String::new();
    for delta in deltas {
        let output = stop.push(delta);
        text.push_str(&output.emit);
        if output.matched.is_some() {
            assert_eq!(stop.push("more"), StopOutput::default());
            assert_eq!(stop.finish(), "");
            return (text, output.matched);
        }
    }
    text.push_str(&stop.finish());
    (text, None)
}

/// TXT-21.
#[test]
fn holds_back_only_what_may_become_a_stop_string() {
    covers!("TXT-21");
    let mut stop = stops(&["</end>"], false);
    assert_eq!(stop.push("a<").emit, "a");
    assert_eq!(stop.push("/en").emit, "");
    assert_eq!(stop.push("ough").emit, "</enough");
    assert_eq!(stop.push("b</").emit, "b");
    assert_eq!(stop.finish(), "</");
}

/// TXT-22.
#[test]
fn a_match_over_several_deltas_cuts_before_it_or_after_it() {
    covers!("TXT-22");
    let deltas = ["x S".to_owned(), "TO".to_owned(), "P y".to_owned()];
    assert_eq!(run(stops(&["STOP"], false), &deltas), ("x ".to_owned(), Some("STOP".to_owned())));
    assert_eq!(run(stops(&["STOP"], true), &deltas), ("x STOP".to_owned(), Some("STOP".to_owned())));
}

/// TXT-20.
#[test]
fn the_match_that_ends_first_wins_and_then_the_longest() {
    covers!("TXT-20");
    assert_eq!(run(stops(&["abcd", "bc"], false), &["abcd".to_owned()]), ("a".to_owned(), Some("bc".to_owned())));
    assert_eq!(run(stops(&["c", "bc"], false), &["abcd".to_owned()]), ("a".to_owned(), Some("bc".to_owned())));
}

/// TXT-19.
#[test]
fn bad_lists_are_refused() {
    covers!("TXT-19");
    let new = |list: Vec<String>| StopStrings::new(list, false).map(|_| ());
    assert_eq!(new(vec!["a".into(), String::new()]), Err(StopStringsError::Empty { index: 1 }));
    assert_eq!(new(vec!["a".into(); 129]), Err(StopStringsError::TooMany { count: 129 }));
    assert_eq!(new(vec!["a".repeat(16 * 1024 + 1)]), Err(StopStringsError::TooLong { bytes: 16 * 1024 + 1 }));
    assert_eq!(new(Vec::new()), Ok(()));
}

/// Every end and every stop string tried in turn.
fn oracle(list: &[String], include: bool, text: &str) -> (String, Option<String>) {
    for end in 0..=text.len() {
        let found = list.iter().filter(|stop| text.as_bytes()[..end].ends_with(stop.as_bytes()));
        if let Some(stop) = found.max_by_key(|stop| stop.len()) {
            let cut = if include { end } else { end - stop.len() };
            return (text[..cut].to_owned(), Some(stop.clone()));
        }
    }
    (text.to_owned(), None)
}

/// The longest end of `text` that a stop string begins with, tried one by one.
fn longest_open_prefix(list: &[String], text: &str) -> usize {
    let open = |start: &usize| list.iter().any(|stop| stop.as_bytes().starts_with(&text.as_bytes()[*start..]));
    (0..text.len()).find(open).map_or(0, |start| text.len() - start)
}

proptest! {
    #[test]
    fn agrees_with_trying_everything(
        list in prop::collection::vec("[abé]{1,5}", 0..6),
        deltas in prop::collection::vec("[abé]{0,4}", 0..12),
        include in any::<bool>(),
    ) {
        covers!("TXT-20", "TXT-21");
        let stop = StopStrings::new(list.clone(), include).unwrap();
        prop_assert_eq!(run(stop, &deltas), oracle(&list, include, &deltas.concat()));
    }

    #[test]
    fn holds_back_exactly_the_longest_open_prefix(
        list in prop::collection::vec("[abé]{1,6}", 0..5),
        deltas in prop::collection::vec("[abé]{0,3}", 0..12),
    ) {
        covers!("TXT-21");
        let mut stop = StopStrings::new(list.clone(), false).unwrap();
        let (mut seen, mut emitted) = (String::new(), 0);
        for delta in &deltas {
            seen.push_str(delta);
            let output = stop.push(delta);
            if output.matched.is_some() {
                break;
            }
            emitted += output.emit.len();
            prop_assert_eq!(seen.len() - emitted, longest_open_prefix(&list, &seen));
        }
    }
}
