"""Checks the corpus: `python -m pytest test_corpus.py` (a sample), CORPUS_STORIES=60000 for all of it."""

import os
import random
import re

import generate_corpus as generator

COUNT = int(os.environ.get("CORPUS_STORIES", "4000"))
SEED = int(os.environ.get("CORPUS_SEED", "1"))
STORIES = generator.generate(COUNT, SEED)
TEXTS = [text for _, text in STORIES]
TRAIN = [(key, text) for key, text in STORIES if not generator.is_held_out(key)]
HELD_OUT = [(key, text) for key, text in STORIES if generator.is_held_out(key)]
HE = set(generator.BOYS + generator.HE_ANIMALS)
SHE = set(generator.GIRLS + generator.SHE_ANIMALS)


def sentences(text):
    """The sentences of a text, with every name masked."""
    masked = re.sub(r"\b(" + "|".join(sorted(HE | SHE)) + r")\b", "NAME", text)
    masked = re.sub(r"\b([Hh])er\b|\b[Hh]i[ms]\b", "PRONOUN", masked)
    return frozenset(re.split(r"(?<=[.!?]) ", masked))


def pronoun_errors(text):
    """What is wrong with the pronouns of a story, as a list of the passages."""
    errors = []
    names = set(re.findall(r"\b[A-Z][a-z]+\b", text))
    if not names & SHE:
        errors += re.findall(r"\b(?:she|her|hers|herself)\b", text, re.IGNORECASE)
    if not names & HE:
        errors += re.findall(r"\b(?:he|him|his|himself)\b", text, re.IGNORECASE)
    for passage, name, pronoun in re.findall(r"((\w+),? (?:and )?(his|her) friend\b)", text):
        # "Tom and his friend Anna": the owner's pronoun; "Anna, his friend,": the hero's, checked above.
        if " and " in passage and (name in HE and pronoun == "her" or name in SHE and pronoun == "his"):
            errors.append(passage)
    for passage, kind, name in re.findall(r"(\b(boy|girl) named (\w+))", text):
        if (name in HE) != (kind == "boy"):
            errors.append(passage)
    return errors


def test_stories_are_distinct():
    assert len(set(TEXTS)) == len(TEXTS) == COUNT


def test_a_story_drawn_twice_is_kept_once(monkeypatch):
    drawn = iter([STORIES[0], STORIES[1], STORIES[0], STORIES[1], STORIES[2]])
    monkeypatch.setattr(generator, "make_story", lambda rng: next(drawn))
    assert generator.generate(3, SEED) == STORIES[:3]


def test_seed_decides_every_byte():
    assert generator.generate(200, SEED) == STORIES[:200]
    assert generator.generate(200, SEED + 1) != STORIES[:200]


def test_no_key_is_in_both_splits():
    assert TRAIN and HELD_OUT
    assert not {key for key, _ in TRAIN} & {key for key, _ in HELD_OUT}
    assert 0.5 < len(HELD_OUT) / COUNT * 100 / generator.HELD_OUT_PERCENT < 1.5


def test_the_key_alone_decides_the_split():
    """Keys that occur twice are there to test with, and an equal key made anew decides the same."""
    assert len({key for key, _ in STORIES}) < COUNT
    assert 0 < sum(generator.is_held_out(f"{i}") for i in range(1000)) < 100
    assert all(generator.is_held_out(key) == generator.is_held_out("".join(list(key))) for key, _ in STORIES)


def test_no_held_out_story_is_a_training_story_with_other_names():
    """Independent of the keys: whole texts with names masked."""
    training = {sentences(text) for _, text in TRAIN}
    assert not [text for _, text in HELD_OUT if sentences(text) in training]


def test_lengths():
    lengths = [len(text.split()) for text in TEXTS]
    assert min(lengths) >= 80 and max(lengths) <= 200
    assert 120 < sum(lengths) / COUNT < 180


def test_openings_vary():
    share = sum(text.startswith("Once upon a time") for text in TEXTS) / COUNT
    assert 0.4 < share < 0.8


def test_every_plot_and_name_occurs():
    assert {key.split("|")[0] for key, _ in STORIES} == {plot["name"] for plot in generator.PLOTS}
    words = set(re.findall(r"\w+", " ".join(TEXTS)))
    assert HE | SHE <= words


def test_nothing_of_the_templates_is_left():
    for text in TEXTS:
        assert not re.search(r"[{}\[\]|_\n]|  |None|False|\.\.|,,| [.,!?]", text), text
        assert text[-1] in '.!?"' and text.count('"') % 2 == 0, text
        assert re.match(r"[A-Z]", text), text
        assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou]|\b(\w+) \1\b", text), text
        assert not re.search(r'(?<!")[.!?] "?[a-z]', text), text


def test_pronouns_belong_to_the_names():
    for text in TEXTS:
        assert not pronoun_errors(text), (pronoun_errors(text), text)


def test_pronoun_check_sees_errors():
    assert pronoun_errors("Tom was sad. She cried.") == ["She"]
    assert pronoun_errors("Lily and his friend Tom played.") == ["Lily and his friend"]
    assert pronoun_errors("There was a kind boy named Lily. She sang.") == ["boy named Lily"]
    assert not pronoun_errors("Lily and her friend Tom played. He laughed.")


def test_hero_and_friend_never_share_a_pronoun_that_is_used():
    rng = random.Random(SEED)
    for _ in range(2000):
        hero = generator.draw_hero(rng)
        friend = generator.draw_friend(rng, hero)
        assert friend.name != hero.name
        for form in ("he", "him", "his"):
            assert friend.form(form) != hero.form(form)
            if friend.pronoun == hero.pronoun:
                assert friend.name in friend.form(form)


def test_objects_stay_the_same():
    """The colour and the object of the key are the only ones of their pools in the story."""
    for key, text in STORIES:
        slots = dict(part.split("=", 1) for part in key.split("|")[1:])
        toys = {slots[slot] for slot in ("o", "prize") if slot in slots}
        if key.split("|")[0] in ("lost", "share", "rescue", "race", "newcomer"):
            found = {toy for toy in generator.POOLS["toy"] if re.search(rf"\b{toy}\b", text)}
            assert toys <= found, (toys, found, text)
            extra = found - toys - {"basket", "bell"}
            assert not extra, (extra, text)
