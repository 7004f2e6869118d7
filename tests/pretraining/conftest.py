"""Tiny kinds, a text with a rule that can be learned, and its tokenizers."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftft.pretraining.kinds import KINDS, Kind
from ftft.pretraining.texts import Piece
from ftft.pretraining.tokenizing import train_tokenizer

NAMES = ("dog", "cat", "king", "bird", "girl")
DOES = {"dog": "barks", "cat": "sleeps", "king": "rules", "bird": "sings", "girl": "reads"}
TINY = {
    "tiny-decoder": Kind("causal", 32, 2, 2, 64, 32, 8, 1e-2, 40, key_value_heads=1),
    "tiny-mlm": Kind("masked", 32, 2, 2, 64, 32, 8, 1e-2, 40),
    "tiny-electra": Kind("replaced", 32, 2, 2, 64, 32, 8, 5e-3, 40, embedding=16, generator_hidden=16),
}


@pytest.fixture
def tiny_kinds(monkeypatch: pytest.MonkeyPatch) -> dict[str, Kind]:
    """Kinds of a few thousand parameters, by name, besides the real ones."""
    for name, kind in TINY.items():
        monkeypatch.setitem(KINDS, name, kind)
    return TINY


def some_text(lines: int, seed: int = 0) -> str:
    """Lines such as ``the old dog barks at the red king.``: who does what is fixed."""
    source = random.Random(seed)
    made = []
    for _ in range(lines):
        who, whom = source.choice(NAMES), source.choice(NAMES)
        made.append(f"the {source.choice(('old', 'young'))} {who} {DOES[who]} at the {source.choice(('red', 'blue'))} {whom}.")
    return "\n".join(made) + "\n"


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(some_text(600), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tokenizers_of_text() -> Callable[[str], Any]:
    """``tokenizers_of_text("masked")``: the tokenizer of that objective for the generated text."""
    known: dict[str, Any] = {}

    def tokenizer(objective: Any) -> Any:
        if objective not in known:
            pieces = [Piece(some_text(300), last=True)]
            known[objective] = train_tokenizer(pieces, objective, vocabulary=300, max_length=32)
        return known[objective]

    return tokenizer
