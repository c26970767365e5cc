//! The names that `tokenizer.ggml.pre` may have, and what each stands for.
//!
//! The names and what they share are those of llama.cpp (`llama-vocab.cpp`), which gave them; what a pattern matches
//! is what the `tokenizer.json` published with the models says. Two things are written in another way there:
//! `\s+(?!\S)|\s+` is `\s+` with a [`Split`] that gives the last space back, and a pattern that begins with
//! possessive parts is written without, where that matches the same.

/// What one name, or several, stands for.
#[derive(Debug)]
pub struct Rules {
    pub names: &'static [&'static str],
    /// Each is applied to the words of the one before.
    pub passes: &'static [Pass],
    /// A word that is a token becomes that token, whatever the merges say.
    pub ignore_merges: bool,
    /// BOS is put before a text where the file does not say.
    pub add_bos: bool,
}

/// One way of cutting a text. What lies between matches is a word too.
#[derive(Debug)]
pub struct Pass {
    /// Never matches nothing.
    pub pattern: &'static str,
    pub split: Split,
}

/// What a match becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// One word.
    Match,
    /// One word; but white space gives its last character back, where there are several and something follows.
    GiveBack,
    /// The same, but a line end is not given back.
    GiveBackInLine,
    /// No word by itself. A run of digits is cut before its last three, before the three before them, and so on.
    Thousands,
}

const fn matches(pattern: &'static str) -> Pass {
    Pass { pattern, split: Split::Match }
}

const fn in_line(pattern: &'static str) -> Pass {
    Pass { pattern, split: Split::GiveBackInLine }
}

const PLAIN: Rules = Rules { names: &[], passes: &[], ignore_merges: false, add_bos: false };

/// Every character of category N by itself.
const DIGIT: Pass = matches(r"\p{N}");
const DIGITS_BY_3: Pass = matches(r"\p{N}{1,3}");

const GPT2: Pass =
    Pass { pattern: r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+", split: Split::GiveBack };

const LLAMA3: Pass =
    in_line(r"(?i:'(?:[sdmt]|ll|ve|re))|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+");

const QWEN2: Pass =
    in_line(r"(?i:'(?:[sdmt]|ll|ve|re))|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+");

/// QWEN2 without English contractions.
const UFAKZEKA: Pass = in_line(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+");

/// QWEN2 with combining marks among the letters.
const QWEN35: Pass = in_line(
    r"(?i:'(?:[sdmt]|ll|ve|re))|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
);

/// LLAMA3 after the digits were cut.
const MINICPM5: Pass =
    in_line(r"(?i:'(?:[sdmt]|ll|ve|re))|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+");

const SEED_CODER: Pass =
    in_line(r"(?i:'(?:[sdmt]|ll|ve|re))|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+");

/// A word of letters is capitals, then small letters; letters without case and marks are both.
const TEKKEN: Pass = in_line(concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+",
));

/// TEKKEN with contractions at the end of words and digits by threes.
const GPT4O: Pass = in_line(concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'(?:[sdmt]|ll|ve|re))?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'(?:[sdmt]|ll|ve|re))?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+",
));

const LINE_END: Pass = matches(r"[\r\n]");

/// Han, kana and most scripts between U+0800 and U+4E00, and Hangul.
const DEEPSEEK_CJK: Pass = matches(r"[\x{0800}-\x{9FA5}\x{AC00}-\x{D7FF}]+");

/// The letters with case of the blocks that the published list has; it names them one by one.
const DEEPSEEK_LLM_LETTERS: Pass = matches(concat!(
    r"\s?[\p{LC}&&[\x{0}-\x{55F}\x{10A0}-\x{10C6}\x{13A0}-\x{1C7F}\x{1C90}-\x{2CFF}\x{A640}-\x{A78F}",
    r"\x{AB70}-\x{104FB}\x{10C80}-\x{10CFF}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}]]+",
));

/// ASCII punctuation, the same in full width, quotation marks. As published, `:` to `~` includes the letters.
const DEEPSEEK_LLM_SIGNS: Pass =
    matches(r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+");

const DEEPSEEK_V3: Pass = in_line(concat!(
    r"[!-/:-@\[-`{-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*",
    r"|\s*[\r\n]+|\s+",
));

/// Everything but white space, brackets and the signs that end a clause.
const BLOOM: Pass = matches(r" ?[^\s(|.,!?)\x{2026}\x{3002}\x{FF0C}\x{3001}\x{0964}\x{06D4}\x{060C}]+");

pub const TABLE: &[Rules] = &[
    Rules {
        names: &[
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "exaone4",
        ],
        passes: &[GPT2],
        ..PLAIN
    },
    Rules {
        names: &["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"],
        passes: &[DIGIT, GPT2],
        ..PLAIN
    },
    Rules {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        passes: &[LLAMA3],
        ignore_merges: true,
        add_bos: true,
    },
    Rules { names: &["dbrx", "smaug-bpe", "chatglm-bpe"], passes: &[LLAMA3], ..PLAIN },
    Rules { names: &["glm4", "glm5"], passes: &[LLAMA3], ignore_merges: true, ..PLAIN },
    Rules {
        names: &[
            "qwen2",
            "deepseek-r1-qwen",
            "megrez",
            "kormo",
            "f2llmv2",
            "stablelm2",
            "hunyuan",
            "solar-open",
            "grok-2",
        ],
        passes: &[QWEN2],
        ..PLAIN
    },
    Rules { names: &["qwen35"], passes: &[QWEN35], ..PLAIN },
    Rules { names: &["ufakzeka"], passes: &[UFAKZEKA], ..PLAIN },
    Rules { names: &["seed-coder"], passes: &[SEED_CODER], ..PLAIN },
    Rules { names: &["minicpm5"], passes: &[DIGITS_BY_3, MINICPM5], ignore_merges: true, ..PLAIN },
    Rules { names: &["tekken"], passes: &[TEKKEN], ignore_merges: true, add_bos: true },
    Rules { names: &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], passes: &[GPT4O], ..PLAIN },
    Rules {
        names: &["deepseek-llm"],
        passes: &[
            LINE_END,
            DEEPSEEK_LLM_LETTERS,
            DEEPSEEK_LLM_SIGNS,
            matches(r"\s+\z"),
            DEEPSEEK_CJK,
            matches(r"\p{N}+"),
        ],
        ..PLAIN
    },
    Rules {
        names: &["deepseek-coder"],
        passes: &[LINE_END, matches(r"\s?\p{L}+"), matches(r"\s?\p{P}+"), DEEPSEEK_CJK, DIGIT],
        ..PLAIN
    },
    Rules {
        names: &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        passes: &[DIGITS_BY_3, matches(r"[\x{4E00}-\x{9FA5}\x{3040}-\x{30FF}]+"), DEEPSEEK_V3],
        ..PLAIN
    },
    Rules { names: &["falcon"], passes: &[matches(r"[\p{P}$+<=>^~|`]+"), GPT2, matches(r"[0-9][0-9][0-9]")], ..PLAIN },
    Rules { names: &["poro-chat", "bloom", "gpt3-finnish"], passes: &[BLOOM], ..PLAIN },
    Rules { names: &["viking"], passes: &[BLOOM, DIGIT], ..PLAIN },
    Rules {
        names: &["superbpe"],
        passes: &[matches(r"\p{N}+"), Pass { pattern: r"\d+", split: Split::Thousands }],
        ..PLAIN
    },
];
