#!/usr/bin/env python3
"""How llama.cpp cuts texts into words, by the name of the pre-tokenizer.

Makes tests/golden/tokenizers/pre_tokenizers.json.

    make_pre_tokenizers.py            # needs llama-cpp-python 0.3.36, see llama_cpp_reference.py
    make_pre_tokenizers.py --check

The library does not tell words. A vocabulary made of the texts does: every stretch of every text is a token, and the
merges are such that a word always becomes one token. A stretch of three bytes or more is made from either of its
ends: by a first or a last byte. These merges rank before those that make two bytes out of one and one. So a pair is
made only where nothing grows, and then grows until the word has no more bytes to take.
"""

import json
import random
import tempfile
from pathlib import Path

from vocab_files import Vocabulary, byte_characters, write, write_or_check

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "tokenizers" / "pre_tokenizers.json"
VERSION = "llama.cpp of llama-cpp-python 0.3.36"

NAMES = """
    gpt-2 phi-2 mpt olmo jais trillion granite-docling gigachat a.x-4.0 mellum exaone4
    starcoder refact command-r smollm codeshell exaone minerva-7b mellum2
    llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2
    dbrx smaug-bpe chatglm-bpe glm4 glm5
    qwen2 deepseek-r1-qwen megrez kormo f2llmv2 stablelm2 hunyuan solar-open grok-2 qwen35 ufakzeka seed-coder
    minicpm5 tekken gpt-4o llama4 kanana2 talkie minimax-m2
    deepseek-llm deepseek-coder deepseek-v3 hunyuan-dense joyai-llm hy_v4
    falcon poro-chat bloom gpt3-finnish viking superbpe
""".split()

TEXTS = [
    "Hello world", "Hello, y'all! How are you 😁 ?", "I'm here, you're there, he's late, they'LL've'D won't",
    "'S'T'RE'VE'M'LL'D 's't're've'm'll'd 'x", "DON'T don'T It'S o'clock", "camelCase HTTPServer XMLHttpReq aB Ab ABc",
    "a  b   c    d", "a\tb\t\tc \t d", "line\nline\n\nline\r\nline\r\n\r\n  x", " \n \n\n  \n x \n", "\n", " ", "  ",
    "   ", "x\n", "x \n", "x  \n  y", "tail   ", "\t\n", "\r", "\r\n\t ", "a\r\r\nb", "/path/to\n//x/\n!/\n",
    "a/\n/b\r\n/", "1 12 123 1234 12345 123456 1234567 12345678", "007a12b3.1415,92", "x1y22z333 4444",
    "1,234,567.89 %", "½ ⅓ ² ٣٤٥٦ ७८९० Ⅷ", "½1234 12½345", "３３３３ １２", "\u00a0a\u00a0\u00a0b \u00a0",
    "a\u2003b\u2003\u2003c", "\u3000x\u3000\u3000。\u3000y", "a\u0085b\u0085\u0085c", "a\u2028b\u2029\u2029",
    "zero\u200bwidth\u200d\ufeffx", "a\u0000b\u0001\u0002 \u0007c", "Ünïcödé ÀÉÎ straße ŒUVRE", "Привет МИР приветМир",
    "Ελληνικά ΑΒΓαβγ", "ქართული ᲥᲐᲠ Ⴀⴀ", "Ꭰꭰ ԱՖաֆ Ａａ", "𐐀𐐨 𝐀𝐚 Ϣϣ", "Ǆǅǆ ʰʱ ªº ƻǀʔ", "中文字符 测试123。你好，世界！",
    "日本語テキスト ひらがな カタカナー", "한국어 텍스트 ㄱㄴ", "ภาษาไทย កាន់តែ", "नमस्ते दुनिया। क्या", "العربية، نص۔ ١٢٣", "עברית שלום",
    "தமிழ் తెలుగు", "e\u0301a\u0300 \u0301x n\u0303", "\u0301\u0301 \u20dd1\u20e3", "🚀🚀 👩\u200d🚀 🇩🇪 👍🏽",
    "😶\u200d🌫️ x😀y", "$5 €10 £3 a+b=c <tag> ^x~y|z`", "«q» “q” ‘q’ 'q' „q‟ …", "!!! ??? ... ,,, --- ___ ###",
    "(a) [b] {c} <d> \"e\" 'f'", "a.b,c;d:e!f?g", ".a ,b !c #d @e _f -g", "\\n \\t \\\\ \\x00",
    "foo_bar-baz qux__quux", "if (x==1) {\n    return y;\n}", "\tfor i in x:\n\t\tpass", "x=y+1;//c\n/*d*/",
    "http://a.b/c?d=e&f#g", "a@b.cd #tag $x %y ^z &w *v", "http s://  www .x", "<|im_start|>user\n", "<s> </s> <unk>",
    "ｆｕｌｌ　ｗｉｄｔｈ！？", "、。〃「x」『y』", "ー゠ヿ゛ ㄅㄆ", "ꝱꞋꞐ ꭓ Ⱡⱡ ꙀꚀ", "\u1c90\u10d0 \u1c80", "a\u00adb c\u2060d",
    "\ue000\uf8ff x", "№5 ™ © ® ° §", "x² y³ z₁ ①②", "٪٫٬ ؟؛", "a…b。c，d、e।f۔g،h", "(x|y) | (z)", "ſ 's K", "ŉa 'ŉ",
    "İI ıi", "ffi ﬁ ﬀ", "don’t I’m you’RE", "a'sb't 'llx", "''s '' ' s", "a 's b 'S c", "1's 2'S", "A'S B's AB'LLC",
    "x'\n's", "é's É'S e\u0301's", "éA Éa aÉb AéB", "naïveTÉ", "МосКва ДОМа", "aʰB Aʰb ǅa", "A中b 中Ab a中",
    "\u0301Ab a\u0301B", "अA नb",
]

ALPHABETS = [
    "ab1 ", "aA'sS \n", " \t\n\r", "12345 a", ".,! a\n", "aB1_-/ ", "'stremvdl ", "中a1。 ", "é1 Aa\n",
    " a\u00a0\u3000\n", "!/\n\r a", "1½٣ a,", "\u0301aA ́", "क्a 1।", "$+<=>^~|` a1",
]


def texts():
    """The fixed ones, and some of each alphabet from a fixed seed. None is longer than a word may be."""
    rng = random.Random(7)
    drawn = ["".join(rng.choices(letters, k=rng.randint(6, 24))) for letters in ALPHABETS for _ in range(6)]
    return list(dict.fromkeys(TEXTS + drawn))


# No text has these letters next to each other: a token that no merge makes.
UNMERGED = "zqj"


def vocabulary(corpus):
    """Tokens and merges as said above, the spellings in byte characters."""
    letters = byte_characters()
    stretches = {}
    for text in corpus:
        spelling = "".join(letters[byte] for byte in text.encode())
        for start in range(len(spelling)):
            for end in range(start + 2, len(spelling) + 1):
                stretches.setdefault(spelling[start:end])
    grow = [s for s in stretches if len(s) > 2]
    merges = [f"{left} {right}" for s in grow for left, right in ((s[0], s[1:]), (s[:-1], s[-1]))]
    merges += [f"{s[0]} {s[1]}" for s in stretches if len(s) == 2]
    return letters + list(stretches) + [UNMERGED], merges


def measure(name, corpus, tokens, merges, folder):
    """Words of each text as their lengths in bytes, and the two properties that a name stands for."""
    path = folder / "vocabulary.gguf"
    write(path, "gpt2", tokens, {"pre": name, "bos_token_id": 0, "eos_token_id": 0}, merges=merges)
    vocab = Vocabulary(path)
    words = []
    for text in corpus:
        lengths = [len(tokens[token]) for token in vocab.encode(text)]
        if sum(lengths) != len(text.encode()):
            raise SystemExit(f"{name}: bytes of {text!r} are lost")
        words.append(" ".join(map(str, lengths)))
    group = {"ignore_merges": len(vocab.encode(UNMERGED)) == 1, "add_bos": vocab.adds_bos(), "words": words}
    vocab.close()
    return group


def make():
    corpus = texts()
    tokens, merges = vocabulary(corpus)
    groups = []
    with tempfile.TemporaryDirectory() as folder:
        for name in NAMES:
            group = measure(name, corpus, tokens, merges, Path(folder))
            same = next((g for g in groups if all(g[key] == group[key] for key in group)), None)
            if same is None:
                groups.append(same := {"names": [], **group})
            same["names"].append(name)
    lines = ['{\n"made_by": ' + json.dumps(VERSION), '"texts": ' + list_of(corpus)]
    rendered = []
    for group in groups:
        head = {key: group[key] for key in ("names", "ignore_merges", "add_bos")}
        rendered.append(json.dumps(head)[:-1] + ', "words": ' + list_of(group["words"]) + "}")
    lines.append('"groups": [\n' + ",\n".join(rendered) + "\n]\n}\n")
    return ",\n".join(lines)


def list_of(strings):
    return "[\n  " + ",\n  ".join(json.dumps(s) for s in strings) + "\n]"


if __name__ == "__main__":
    write_or_check(__doc__, GOLDEN, make)
