"""The models that can be pretrained: their shapes, their training, and how many steps fit into 20 minutes. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ftft.errors import UserError, did_you_mean

Objective = Literal["causal", "masked", "replaced"]
MINUTES = 20.0  # what ``steps`` are planned for, on two idle cores
VOCABULARY = 4096  # what the shapes, and the steps, are chosen for


@dataclass(frozen=True)
class Kind:
    """A shape and how it is trained. ``block``: tokens of a training sequence, and the positions the model has.
    ``batch``: blocks a step. ``steps``: how many take at most ``MINUTES`` on two idle cores (docs/pretraining.md)."""

    objective: Objective
    hidden: int
    layers: int
    heads: int
    feed_forward: int
    block: int
    batch: int
    learning_rate: float
    steps: int
    weight_decay: float = 0.01
    key_value_heads: int | None = None  # decoders
    embedding: int | None = None  # ELECTRA: the width of the embeddings that both networks share
    generator_hidden: int | None = None  # ELECTRA

    @property
    def tokens_per_step(self) -> int:
        return self.batch * self.block

    def steps_for(self, minutes: float) -> int:
        """The planned steps of so many minutes on two idle cores: a function of the setting, not of the clock."""
        return max(1, round(self.steps * minutes / MINUTES))


# Batches are small, since so few tokens are seen: with larger ones there would be a few hundred steps only.
KINDS: dict[str, Kind] = {
    "decoder-1m": Kind("causal", 128, 3, 4, 288, 256, 8, 2e-3, 5000, weight_decay=0.1, key_value_heads=2),
    "decoder-5m": Kind("causal", 256, 6, 8, 608, 256, 4, 1e-3, 2800, weight_decay=0.1, key_value_heads=4),
    "mlm-small": Kind("masked", 128, 3, 4, 512, 128, 16, 1e-3, 9000),
    "mlm-medium": Kind("masked", 256, 4, 8, 1024, 128, 8, 7e-4, 5500),
    "mlm-large": Kind("masked", 320, 6, 10, 1280, 128, 8, 5e-4, 2600),
    "electra-small": Kind("replaced", 128, 3, 4, 512, 128, 16, 1e-3, 5500, embedding=128, generator_hidden=64),
    "electra-medium": Kind("replaced", 256, 4, 8, 1024, 128, 8, 7e-4, 4400, embedding=128, generator_hidden=64),
    "electra-large": Kind("replaced", 320, 6, 10, 1280, 128, 8, 5e-4, 2200, embedding=128, generator_hidden=96),
}


def kind_named(name: str) -> Kind:
    """The kind of that name; UserError for one that is not known."""
    if name not in KINDS:
        raise UserError(f'--kind: there is no kind "{name}"{did_you_mean(name, KINDS)}')
    return KINDS[name]
