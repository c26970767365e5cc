//! What the specifications' tables say about single steps of encoding.

use super::pre_tokenizer::PreTokenizer;

#[test]
fn gpt2_emb_001_words_are_those_of_the_table() {
    covers!("GPT2-EMB-001");
    // Where a cell would not show it, a space is a dot and a line feed an arrow.
    let plain = |text: &str| text.replace('·', " ").replace('↵', "\n");
    let pre_tokenizer = PreTokenizer::from_name("gpt-2").unwrap();
    for row in crate::spec::named_table("GPT2-EMB-001", "words").rows() {
        let expected: Vec<String> = row.text("words").split('/').map(plain).collect();
        let text = plain(row.text("text"));
        assert_eq!(pre_tokenizer.words(&text), expected);
    }
}
