"""Greedy soup: members join the mean, best first, as long as the validation score does not suffer.

    sort the members by validation score; soup = the best
    for each next member i:  candidate = (n soup + theta_i) / (n + 1);  keep it if it scores higher (ties: a setting)

Wortsman et al. 2022, arXiv 2203.05482, recipe 1. The paper's text accepts a candidate that scores as high, its code only one
that scores higher; the code's rule is the default. The soup never scores below the best member on that validation set, which is
soon overfitted where it is small: judge the soup by another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ftft.settings import setting

if TYPE_CHECKING:
    import torch

    from ftft.methods.contract import Artefact, Checkpoint, Validation


@dataclass(frozen=True)
class GreedySoup:
    """Average the members that raise the validation score, best first."""

    needs: ClassVar[tuple[str, ...]] = ("members", "validation")
    offers: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = ("*",)
    sharded: ClassVar[bool] = True
    artefact: ClassVar[str] = "weights"
    needs_best: ClassVar[bool] = False
    paper: ClassVar[str] = "Wortsman et al. 2022, arXiv 2203.05482"

    accept_ties: bool = setting(False, "a member that leaves the score as it is joins too", origin="released code: false")

    def combine(
        self,
        base: Callable[[], dict[str, torch.Tensor]],
        checkpoints: Sequence[Checkpoint],
        validation: Validation | None,
    ) -> Artefact:
        """The soup; one evaluation per member and one per candidate. Members of equal score join in the recipe's order."""
        from ftft.methods.contract import Artefact
        from ftft.methods.members import members
        from ftft.state.algebra import weighted_mean

        assert validation is not None
        scored = [(validation.score(one.load()), one) for one in members(checkpoints)]
        scored.sort(key=lambda pair: -pair[0])
        best, first = scored[0]
        soup, size = first.load(), 1
        for _, one in scored[1:]:
            candidate = weighted_mean([soup, one.load()], [size / (size + 1), 1 / (size + 1)])
            score = validation.score(candidate)
            if score > best or (self.accept_ties and score == best):
                best, soup, size = score, candidate, size + 1
        return Artefact("weights", soup)
