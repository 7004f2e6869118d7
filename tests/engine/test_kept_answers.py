"""The file that answers are kept in while they are written: what was kept is read, what was damaged is not."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftft.engine.kept_answers import KeptAnswers, KeptBatch
from ftft.engine.ledger import Cost
from ftft.errors import UserError
from ftft.tasks.decoding import Written, written_to


def batch(text: str | None = "a\nb é \ud800", **changes: Any) -> KeptBatch:
    settings = {"cost": Cost(flops=7, seconds=0.1, examples=2, tokens=9), "shapes": {("prefill", 2, 5): 3}, "environment": {}}
    return KeptBatch(**{"answers": [Written(text, 4), Written(None, 5)], **settings, **changes})


def test_batches_are_read_as_they_were_kept(tmp_path: Path) -> None:
    kept = KeptAnswers(tmp_path / "a" / "answers.jsonl", pytest.fail)
    assert (kept.count, kept.cost, kept.batches) == (0, Cost(), {})
    given = {"one": batch(), "two": batch("ä", shapes={}, environment={"threads": 1})}
    for key, one in given.items():
        kept.keep(key, one)
    again = KeptAnswers(kept.path, pytest.fail)
    assert again.batches == kept.batches == given
    assert again.count == 4 and again.cost == Cost(flops=14, seconds=0.2, examples=4, tokens=18)


def test_what_a_kill_cut_off_is_removed_and_what_was_flipped_is_told_and_counts_for_nothing(tmp_path: Path) -> None:
    kept = KeptAnswers(tmp_path / "answers.jsonl", pytest.fail)
    for name in ("one", "two", "three"):
        kept.keep(name, batch(name))
    whole = kept.path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    for size in range(len(whole)):
        kept.path.write_bytes(whole[:size])
        short = KeptAnswers(kept.path, pytest.fail)
        assert len(short.batches) == sum(end <= size for end in ends)
    short.keep("three", batch("three"))  # begins a line of its own
    assert kept.path.read_bytes() == whole
    source = random.Random(0)
    for place in source.sample(range(len(whole)), 200):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << source.randrange(8)
        kept.path.write_bytes(flipped)
        told: list[str] = []
        found = KeptAnswers(kept.path, told.append)
        assert len(found.batches) < 3 and all(kept.batches[key] == one for key, one in found.batches.items())
        assert bool(told) == (place != len(whole) - 1), "a last line without its end is what a kill leaves"
        assert all("of the batches of answers kept in" in text and "are written anew" in text for text in told)


def test_a_file_of_a_newer_format_or_that_cannot_be_read_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "answers.jsonl"
    with monkeypatch.context() as newer:
        newer.setattr("ftft.engine.kept_answers.VERSION", 2)
        KeptAnswers(path, pytest.fail).keep("one", batch())
    with pytest.raises(
        UserError, match=r"answers.jsonl is of format 2, and this ftft reads 1; upgrade it, or remove the file$"
    ):
        KeptAnswers(path, pytest.fail)
    with pytest.raises(UserError, match="^cannot read .*: Is a directory$"):
        KeptAnswers(tmp_path, pytest.fail)


def test_another_prompt_limit_or_end_is_another_batch() -> None:
    keys: list[str] = []

    def known(key: str, write: Callable[[], list[Written]]) -> list[Written]:
        keys.append(key)
        return [Written("known", 1)] * 2

    usual: dict[str, Any] = {"most": 9, "room": 30, "ends": {3, 1}, "cut": "", "pad": 0}
    prompts = [[5, 6], [7]]
    others: list[dict[str, Any]] = [{"most": 8}, {"room": 10}, {"ends": {3}}, {"cut": "."}, {"pad": 1}]
    for given, asked in [*((change, prompts) for change in others), ({}, [[5, 6], [8]]), ({}, [[5], [6, 7]])]:
        written_to(None, asked, None, count=contextlib.nullcontext, batch=known, **{**usual, **given})  # type: ignore[arg-type]
    for _ in range(2):
        found = written_to(None, prompts, None, count=contextlib.nullcontext, batch=known, **usual)  # type: ignore[arg-type]
    assert len(set(keys)) == 8 and keys[-1] == keys[-2] and [one.text for one in found] == ["known"] * 2
