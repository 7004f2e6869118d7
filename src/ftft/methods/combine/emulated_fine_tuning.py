"""Emulated fine-tuning (EFT): what a small model learned, added to a large one's predictions while they write; and the reverse.

    log p(v | x) = log M(v|x) + sum_k s_k (log F_k(v|x) - log N(v|x)) - log Z(x)            (ftft.nn.emulation)

N is the stage's model before training and F_1 after it; F_2, ... are the finished models of the stages in ``use_models_of``,
fine-tuned from the same N; M is the pretrained model that the recipe names in ``other_models.target``. M larger than N is
up-scaling (train the small one, write with the large one's knowledge), M smaller is down-scaling. No weights are merged: the
result is a predictor of two models and more, one forward pass of each for every token. Mitchell et al. 2023, arXiv 2310.12962,
sections 2.2 and 3; ``top_p: 0.95`` is their conservative decoding, in which the likeliest tokens are the fine-tune's (not the
base's) and the others keep the fine-tune's weight. The paper is followed; its repository holds no code. Speculative decoding,
which changes the speed and not the result, is transformers' own: ``generate`` with ``assistant_model`` and
:class:`ftft.bridges.emulation.EmulatedFineTuningProcessor`.

All models have one tokenizer (others are refused; rows of an embedding that only pad it are cut off), and write what its chat
template asks for. A product of distributions normalised at every token is not the normalised product over whole texts; that
approximation is the paper's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ftft.errors import UserError
from ftft.settings import setting

if TYPE_CHECKING:
    import torch

    from ftft.methods.contract import Artefact, Checkpoint, Validation


@dataclass(frozen=True)
class EmulatedFineTuning:
    """Decode with a pretrained model of another size, moved as this stage's fine-tuning moved its own."""

    needs: ClassVar[tuple[str, ...]] = ()
    roles: ClassVar[tuple[str, ...]] = ("target",)
    offers: ClassVar[tuple[str, ...]] = ("members",)
    tasks: ClassVar[tuple[str, ...]] = ("causal_language_modelling",)
    sharded: ClassVar[bool] = True
    artefact: ClassVar[str] = "predictor"
    needs_best: ClassVar[bool] = False
    paper: ClassVar[str] = "Mitchell et al. 2023, arXiv 2310.12962"

    shares: list[float] | None = setting(
        None, "weight of each fine-tune's change, this stage's first; by default equal weights, 1 in all", origin="paper: 1"
    )
    top_p: float = setting(
        1.0,
        "ask the target only about the fine-tune's likeliest tokens of this mass; 0.95 in the paper's conservative decoding",
        origin="paper: plain decoding",
        ge=0,
        le=1,
    )

    def combine(
        self,
        base: Callable[[], dict[str, torch.Tensor]],
        checkpoints: Sequence[Checkpoint],
        validation: Validation | None,
    ) -> Artefact:
        """The weights of the stage's model before and after training, and of the other fine-tunes; UserError for shares that
        do not fit them."""
        from ftft.methods.contract import Artefact

        own = max((one for one in checkpoints if one.stage is None), key=lambda checkpoint: checkpoint.step)
        others = [one for one in checkpoints if one.stage is not None]
        self._shares(1 + len(others))
        tuned = {_name(place): one.load() for place, one in enumerate([own, *others])}
        return Artefact("predictor", step=own.step, members={"base": base(), **tuned})

    def predictor(self, models: Mapping[str, torch.nn.Module]) -> torch.nn.Module:
        """The :class:`ftft.nn.emulation.EmulatedModel` of ``target``, ``base``, ``tuned``, ``tuned_2``, ..."""
        from ftft.nn.emulation import EmulatedModel

        tuned = [models[_name(place)] for place in range(len(models) - 2)]
        return EmulatedModel(models["target"], tuned, models["base"], self._shares(len(tuned)), self.top_p)

    def _shares(self, count: int) -> list[float]:
        if self.shares is None:
            return [1.0 / count] * count
        if len(self.shares) != count:
            raise UserError(
                f"combine.shares has {len(self.shares)} numbers and there are {count} fine-tuned models (this stage's and "
                "those in use_models_of); give one for each"
            )
        return self.shares


def _name(place: int) -> str:
    return "tuned" if place == 0 else f"tuned_{place + 1}"
