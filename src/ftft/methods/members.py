"""The models that a soup is made of: this stage's last weights and the finished models of the stages it names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ftft.errors import UserError

if TYPE_CHECKING:
    from ftft.methods.contract import Checkpoint


def members(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """This stage's last checkpoint, then the other stages' models in the recipe's order; UserError where there are none."""
    own = [one for one in checkpoints if one.stage is None]
    others = [one for one in checkpoints if one.stage is not None]
    if not others:
        raise UserError("combine: a soup needs the models of other stages; name them in use_models_of")
    return [max(own, key=lambda checkpoint: checkpoint.step), *others]
