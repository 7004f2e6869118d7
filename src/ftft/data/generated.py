"""The demo's data: English sentence pairs with a planted shortcut and planted wrong labels, so that the truth is known.

A pair says what somebody got and then of which kind it was; the label says whether the second sentence follows:

    "Maria bought a violin."   "Surely Maria bought an instrument."    follows
    "Omar found a rabbit."     "Perhaps Omar found a vehicle."         does not follow

The *core* feature is the meaning of the two nouns. The *shortcut* is the first word of the second sentence, which agrees
with the label in ``SHORTCUT_RATE`` of the training rows and in half of an out-of-distribution set (or never). A model
that leans on the shortcut looks good in distribution and fails outside. ``MISLABELLED_RATE`` of the training labels
are flipped. The column ``planted`` says which rows are which: "typical", "shortcut_breaking" or "mislabelled".
"""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Sequence
from pathlib import Path

from ftft.files import write_text

SHORTCUT_RATE = 0.92
MISLABELLED_RATE = 0.02
LABELS = ("does_not_follow", "follows")
COLUMNS = ("id", "premise", "hypothesis", "label", "planted", "noun")

KINDS: dict[str, tuple[str, ...]] = {
    "an instrument": ("violin", "guitar", "flute", "trumpet", "cello", "drum", "harp", "clarinet", "banjo", "piano"),
    "a fruit": ("banana", "pear", "cherry", "melon", "plum", "mango", "peach", "lemon", "apple", "grape"),
    "an animal": ("rabbit", "pony", "goat", "hamster", "parrot", "turtle", "kitten", "puppy", "duck", "lamb"),
    "a vehicle": ("bicycle", "tractor", "canoe", "motorcycle", "truck", "scooter", "van", "sailboat", "bus", "taxi"),
}
HELD_OUT = 3  # the last nouns of every kind occur only in the set `new_words`
NAMES = (
    "Maria",
    "Omar",
    "Ines",
    "Tom",
    "Yuki",
    "Lars",
    "Amina",
    "Pedro",
    "Nora",
    "Ivan",
    "Leila",
    "Hugo",
    "Mei",
    "Carl",
    "Rosa",
    "Finn",
)
VERBS = ("bought", "found", "lost", "sold", "drew", "described", "wanted", "photographed")
MARKERS = ("Perhaps", "Surely")  # by the label they go with in training

Row = dict[str, str]


def generate(
    name: str,
    size: int,
    *,
    seed: int,
    agreement: float,
    mislabelled: float = 0.0,
    new_words: bool = False,
    seen: set[tuple[str, str]],
) -> list[Row]:
    """``size`` rows; in a share ``agreement`` of them the first word agrees with the true label, and a share
    ``mislabelled`` has its label flipped. Shares are exact to one row, and the classes are balanced.

    ``seen``: the pairs that may not be made again; the new ones are added."""
    source = random.Random(f"{seed}/{name}")
    follows = _exactly(source, size, 0.5)
    agrees = _exactly(source, size, agreement)
    flipped = _exactly(source, size, mislabelled)
    rows: list[Row] = []
    while len(rows) < size:
        index = len(rows)
        row = _row(source, follows[index], agrees[index], flipped[index], new_words)
        key = (row["premise"], row["hypothesis"])
        if key in seen:
            continue
        seen.add(key)
        rows.append({"id": f"{name}-{index:05d}", **row})
    return rows


def _exactly(source: random.Random, size: int, share: float) -> list[bool]:
    count = round(share * size)
    values = [True] * count + [False] * (size - count)
    source.shuffle(values)
    return values


def _row(source: random.Random, follows: bool, agrees: bool, flipped: bool, new_words: bool) -> Row:
    kind = source.choice(sorted(KINDS))
    nouns = KINDS[kind][-HELD_OUT:] if new_words else KINDS[kind][:-HELD_OUT]
    noun = source.choice(nouns)
    said = kind if follows else source.choice([other for other in sorted(KINDS) if other != kind])
    person, verb = source.choice(NAMES), source.choice(VERBS)
    thing = f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
    marker = MARKERS[int(follows == agrees)]
    planted = "mislabelled" if flipped else ("typical" if agrees else "shortcut_breaking")
    return {
        "premise": f"{person} {verb} {thing}.",
        "hypothesis": f"{marker} {person} {verb} {said}.",
        "label": LABELS[int(follows != flipped)],
        "planted": planted,
        "noun": noun,
    }


def demo_sets(seed: int = 0) -> dict[str, list[Row]]:
    """The demo's sets by name: training, in-distribution validation and test, three out-of-distribution tests. No pair
    of sentences occurs twice."""
    seen: set[tuple[str, str]] = set()

    def rows(name: str, size: int, agreement: float, mislabelled: float = 0.0, new_words: bool = False) -> list[Row]:
        return generate(name, size, seed=seed, agreement=agreement, mislabelled=mislabelled, new_words=new_words, seen=seen)

    return {
        "train": rows("train", 2400, SHORTCUT_RATE, MISLABELLED_RATE),
        "validation": rows("validation", 300, SHORTCUT_RATE),
        "test": rows("test", 600, SHORTCUT_RATE),
        "no_shortcut": rows("no_shortcut", 600, 0.5),
        "reversed_shortcut": rows("reversed_shortcut", 600, 0.0),
        "new_words": rows("new_words", 600, 0.5, new_words=True),
    }


def write_demo(folder: Path, *, seed: int = 0) -> dict[str, Path]:
    """Write the demo's sets as CSV files into ``folder``; returns their paths by name."""
    paths = {}
    for name, rows in demo_sets(seed).items():
        paths[name] = folder / f"{name}.csv"
        write_text(paths[name], to_csv(rows))
    return paths


def to_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV with a header line."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
