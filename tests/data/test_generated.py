"""The demo's data keeps the promises its report relies on."""

from collections import Counter

import pytest

from ftft.data.generated import HELD_OUT, KINDS, MARKERS, MISLABELLED_RATE, SHORTCUT_RATE, demo_sets, write_demo

SETS = demo_sets()


def agrees(row: dict[str, str]) -> bool:
    """Whether the first word goes with the row's *true* label."""
    true = (row["label"] == "follows") != (row["planted"] == "mislabelled")
    return row["hypothesis"].split()[0] == MARKERS[int(true)]


def follows(row: dict[str, str]) -> bool:
    kind = next(kind for kind, nouns in KINDS.items() if row["noun"] in nouns)
    return row["hypothesis"].endswith(f"{kind}.")


@pytest.mark.parametrize(
    "name, share", [("train", SHORTCUT_RATE), ("test", SHORTCUT_RATE), ("no_shortcut", 0.5), ("reversed_shortcut", 0.0)]
)
def test_shortcut_holds_in_the_planned_share(name, share):
    rows = SETS[name]
    assert sum(map(agrees, rows)) == round(share * len(rows))


def test_training_set_is_large_enough_and_its_shortcut_in_the_promised_band():
    assert len(SETS["train"]) >= 2000
    assert 0.90 <= SHORTCUT_RATE <= 0.95
    # With the given labels too, wrong ones included: that is what a model sees.
    given = sum((row["label"] == "follows") == (row["hypothesis"].split()[0] == MARKERS[1]) for row in SETS["train"])
    assert 0.90 <= given / len(SETS["train"]) <= 0.95


def test_labels_follow_the_meaning_except_where_planted_wrong():
    for name, rows in SETS.items():
        for row in rows:
            assert ((row["label"] == "follows") == follows(row)) == (row["planted"] != "mislabelled"), (name, row)
    planted = Counter(row["planted"] for row in SETS["train"])
    assert planted["mislabelled"] == round(MISLABELLED_RATE * len(SETS["train"]))
    assert all(row["planted"] != "mislabelled" for name, rows in SETS.items() if name != "train" for row in rows)


def test_new_words_never_occur_in_training():
    seen = {row["noun"] for row in SETS["train"]}
    held_out = {noun for nouns in KINDS.values() for noun in nouns[-HELD_OUT:]}
    assert {row["noun"] for row in SETS["new_words"]} <= held_out
    assert not seen & held_out


def test_no_pair_stands_twice_in_or_between_the_sets():
    pairs = [(row["premise"], row["hypothesis"]) for rows in SETS.values() for row in rows]
    assert len(set(pairs)) == len(pairs)


def test_writing_twice_gives_the_same_bytes(tmp_path):
    first, second = write_demo(tmp_path / "a"), write_demo(tmp_path / "b")
    assert {name: path.read_bytes() for name, path in first.items()} == {
        name: path.read_bytes() for name, path in second.items()
    }
