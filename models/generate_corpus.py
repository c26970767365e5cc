#!/usr/bin/env python3
"""Writes the corpus of the demo models: short stories for children, made from plots, fillers and varied wording.

    python generate_corpus.py --out DIR [--stories 60000] [--seed 1]

DIR/train.txt and DIR/heldout.txt hold one story a line, DIR/*.keys its key. The trainer appends the end token.

A story's key is its plot and what the plot is filled with (objects, places, causes, ...), without names, wording, who
the hero is, and the fillers in MINOR. Stories with one key are near-duplicates. The key alone decides the split, so
that no near-duplicate of a held-out story is in training. Standard library only; the same seed gives the same bytes.
"""

import argparse
import hashlib
import pathlib
import random
import re

from plots import PLOTS, POOLS

BOYS = """Tom Ben Max Sam Leo Jack Finn Oscar Noah Hugo Theo Eli Luke Milo Adam Owen Henry Felix Ravi Omar Kenji Mateo
Jonas Emil""".split()
GIRLS = """Lily Mia Anna Emma Zoe Rosa Ella Nora Ruby Clara Lucy Maya Ivy Sara Alice Hana Ines Priya Freya Elsa Tess
Leila Amina Wendy""".split()
HE_ANIMALS = "Pip Bramble Rusty Biscuit Toby Moss Barney Chip Rufus Bobo Pepper Otto".split()
SHE_ANIMALS = "Daisy Hazel Willow Poppy Clover Penny Fern Dot Honey Tilly Misty Bella".split()
ANIMALS = """rabbit fox bear mouse squirrel hedgehog duck kitten puppy frog badger otter mole turtle beaver pony dog pig
deer lion elephant dragon robot""".split()
TRAITS = """kind brave curious cheerful quiet gentle clever shy busy friendly careful playful little
young happy funny""".split()
PRONOUNS = {
    "he": {"he": "he", "He": "He", "him": "him", "his": "his", "His": "His", "himself": "himself"},
    "she": {"he": "she", "He": "She", "him": "her", "his": "her", "His": "Her", "himself": "herself"},
}
ELDERS = ["mother", "father", "grandmother", "grandfather", "aunt", "uncle"]
HELD_OUT_PERCENT = 3
MINOR = {"elder", "weather", "daypart", "treat", "treat2"}
MIN_WORDS, MAX_WORDS = 80, 200

OPENINGS = [
    ("Once upon a time, there was {h.intro}.", 5),
    ("Once upon a time, there lived {h.intro}.", 3),
    (
        "Once upon a time, [in a small village|near a big forest|in a little house|by a quiet lake|at the foot of a"
        " hill],"
        " there lived {h.intro}.",
        5,
    ),
    ("Once upon a time, {h.intro} lived [near the sea|in a green valley|on a small farm|beside a river].", 3),
    ("There was once {h.intro}.", 2),
    ("{h} was {h.plain}.", 2),
    ("In a [quiet|sunny|little] [town|village|valley], there lived {h.intro}.", 2),
    ("This is a story about {h.intro}.", 1),
    ("Long ago, there was {h.intro}.", 1),
    ("There was a {h.kind} named {h}. {h.He} was very {h.trait}.", 2),
    ("One day, {h.intro} [woke up early|went outside to play|looked out of the window].", 3),
    ("[In the days of kings|Many years ago|Last summer], there was {h.intro}.", 2),
    ("A {h.trait} {h.kind} named {h} lived [near the sea|in a green valley|on a small farm|in a big city].", 2),
    ("{h} the {h.kind} was [very {h.trait}|known to everyone|always busy].", 1),
    ("[Far away|High in the mountains|Deep in the woods], there lived {h.intro}.", 2),
    ("Do you know {h}? {h} was {h.plain}.", 1),
    ("Every day, {h.intro} [took a long walk|played outside|looked for something new to do].", 1),
]
LIKES = [
    "{h.He} loved to [sing|paint|dance|climb|run|count the clouds|listen to stories|look at the stars].",
    "Every morning, {h.he} [sang a little song|ate a bowl of warm porridge|looked out of the window|greeted the sun].",
    "{h.He} lived with {h.his} {elder}.",
    "Everyone [liked|knew] {h.him} because {h.he} [always smiled|was so {h.trait}|told funny stories].",
]


class Character:
    """One who keeps a name, a kind and pronouns. `ambiguous`: the name stands for every pronoun."""

    def __init__(self, name, kind, pronoun, trait, ambiguous=False):
        self.name, self.kind, self.pronoun, self.trait = name, kind, pronoun, trait
        self.ambiguous = ambiguous

    def form(self, form):
        """The text of `{h}` (empty form), `{h.he}`, `{h.intro}`, ..."""
        if form == "":
            return self.name
        if form == "plain":
            return f"a {self.trait} {self.kind}"
        if form == "intro":
            return f"a {self.trait} {self.kind} named {self.name}"
        if form in ("kind", "trait"):
            return getattr(self, form)
        if self.ambiguous:
            if form == "himself":
                raise ValueError("a reflexive pronoun of a character that is always named")
            return self.name + "'s" if form in ("his", "His") else self.name
        return PRONOUNS[self.pronoun][form]


def draw_hero(rng):
    pronoun = rng.choice(["he", "she"])
    trait = rng.choice(TRAITS)
    if rng.random() < 0.55:
        return Character(
            rng.choice(BOYS if pronoun == "he" else GIRLS), "boy" if pronoun == "he" else "girl", pronoun, trait
        )
    return Character(rng.choice(HE_ANIMALS if pronoun == "he" else SHE_ANIMALS), rng.choice(ANIMALS), pronoun, trait)


def draw_friend(rng, hero):
    """A friend of the hero's world, named at every mention where both have the same pronouns."""
    while True:
        friend = draw_hero(rng)
        same_world = (friend.kind in ANIMALS) == (hero.kind in ANIMALS)
        clash = friend.trait == hero.trait or friend.name == hero.name
        if same_world and not clash and (friend.kind != hero.kind or friend.kind not in ANIMALS):
            friend.ambiguous = friend.pronoun == hero.pronoun
            return friend


def expand_choices(rng, text):
    """Replaces each `[a|b|c]`, innermost first, by one of its parts."""
    while "[" in text:
        text = re.sub(r"\[([^\[\]]*)\]", lambda found: rng.choice(found.group(1).split("|")), text)
    return text


def fill(text, people, slots):
    def value(found):
        name, _, form = found.group(1).partition(".")
        if name in people:
            return people[name].form(form)
        entry = slots[name]
        if isinstance(entry, dict):
            entry = entry[form or "name"]
        if form == "the":
            entry = re.sub(r"^(an?|some) ", "the ", entry)
        return entry[0].upper() + entry[1:] if form == "Cap" else entry

    for _ in range(3):
        text = re.sub(r"\{([^{}]*)\}", value, text)
    text = re.sub(r"\bat the (forest|garden|meadow|orchard|park|kitchen|barn)\b", r"in the \1", text)
    text = text.replace("at the hill", "on the hill").replace("at the old oak", "under the old oak")
    return re.sub(r"\b([Aa]) (?=[aeiouAEIOU])", r"\1n ", text)


def weighted(rng, pairs):
    return rng.choices([text for text, _ in pairs], [weight for _, weight in pairs])[0]


def draw_slots(rng, plot):
    """One filler for each slot; slots of one pool get different fillers."""
    slots, used = {}, set()
    for slot, pool in plot["slots"].items():
        fillers = plot.get("pools", {}).get(pool) or POOLS[pool]
        free = [filler for filler in fillers if (pool, str(filler)) not in used]
        slots[slot] = rng.choice(free)
        used.add((pool, str(slots[slot])))
    return slots


def make_story(rng):
    """One story: its key and its text."""
    plot = rng.choice(PLOTS)
    hero = draw_hero(rng)
    people = {"h": hero, "f": draw_friend(rng, hero)}
    slots = draw_slots(rng, plot)
    slots["elder"] = rng.choice(ELDERS)
    sentences = [weighted(rng, OPENINGS)]
    if rng.random() < 0.45:
        sentences.append(rng.choice(LIKES))
    for beat in plot["beats"]:
        if beat[0] == "?":
            if rng.random() < 0.5:
                continue
            beat = beat[1:]
        sentences.append(rng.choice(beat))
    text = fill(expand_choices(rng, " ".join(sentences)), people, slots)
    return make_key(plot, slots), text


def make_key(plot, slots):
    parts = [plot["name"]]
    for slot, filler in sorted(slots.items()):
        if slot not in MINOR:
            parts.append(f"{slot}={'/'.join(filler.values()) if isinstance(filler, dict) else filler}")
    return "|".join(parts)


def is_held_out(key):
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "little") % 100 < HELD_OUT_PERCENT


def generate(count, seed):
    """`count` distinct stories as (key, text), in the order of the seed."""
    rng = random.Random(seed)
    seen, stories = set(), []
    while len(stories) < count:
        key, text = make_story(rng)
        words = len(text.split())
        if text not in seen and MIN_WORDS <= words <= MAX_WORDS:
            seen.add(text)
            stories.append((key, text))
    return stories


def write(directory, stories):
    directory.mkdir(parents=True, exist_ok=True)
    for name, wanted in (("train", False), ("heldout", True)):
        part = [(key, text) for key, text in stories if is_held_out(key) == wanted]
        (directory / f"{name}.txt").write_text("".join(text + "\n" for _, text in part))
        (directory / f"{name}.keys").write_text("".join(key + "\n" for key, _ in part))
        print(f"{name}: {len(part)} stories, {sum(len(text.split()) for _, text in part)} words")


def main():
    parser = argparse.ArgumentParser(description="Write the corpus of the demo models.")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--stories", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    write(args.out, generate(args.stories, args.seed))


if __name__ == "__main__":
    main()
