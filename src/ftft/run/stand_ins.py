"""Examples that a stage will make, before it makes them: so many, from the same rows, but with nothing written."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from ftft.data.examples import Examples
from ftft.errors import UserError
from ftft.files import fingerprint
from ftft.methods import registry
from ftft.run.recipe import Stage

if TYPE_CHECKING:
    from ftft.methods.contract import Created


class NobodyWrites:
    """Stands in for a model before anything is computed: no answer ever ends."""

    def write(self, examples: Examples, most: int) -> list[str | None]:
        return [None] * len(examples)


def stand_in(stage: Stage, train: Examples, where: str) -> Examples:
    """The examples of a stage as they will be, but for what is written; UserError, led by ``where``, for what cannot be made.
    Their fingerprint is another one for all that makes them others."""
    if stage.create is None:
        return train
    try:
        created: Created = registry.build("create", stage.create, where).create(train, NobodyWrites())
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    # Who writes makes them others, and nothing else of the stage's: its own model is looked at only where that is the one.
    writer = asdict(stage.model) if stage.use_model_of is None else stage.use_model_of
    made_from = fingerprint([train.fingerprint, stage.create, writer])
    return replace(created.examples, fingerprint=made_from)
