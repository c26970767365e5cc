#!/usr/bin/env python3
"""Reference logits of a model that is not in the tree, for one run of the tests.

    live_golden.py MODEL.gguf OUT.json [POSITIONS]

The prompt is NumPy's own greedy continuation for its first part and arbitrary tokens after that, long enough (300) to
leave the first chunk of attention. Tests read OUT.json through LLORCH_LIVE_REFERENCE.
"""

import pathlib
import sys

import forward_f64
import make_golden


def main():
    path, out = sys.argv[1:3]
    positions = int(sys.argv[3]) if len(sys.argv) > 3 else 300
    model = forward_f64.Model(path)
    prompt = [1] + forward_f64.greedy(model, [1], 40)
    prompt += [(17 + 53 * i * i + 7 * i) % model.vocab for i in range(positions - len(prompt))]
    values = {
        "prompt": prompt,
        "logits": forward_f64.forward(model, prompt),
        "logits_f16_kv": forward_f64.forward(model, prompt, kv="f16"),
    }
    pathlib.Path(out).write_text(make_golden.dump(values))
    print(f"wrote {positions} rows of logits")


if __name__ == "__main__":
    main()
