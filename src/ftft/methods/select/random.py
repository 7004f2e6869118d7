"""A random subset, the baseline every selection must beat.

Every id gets a number from a hash keyed by the seed, and the largest are chosen: the choice depends on ids and seed
alone, never on the order of the rows, and a smaller subset of the same seed lies inside a larger one. The number is
that of the score `random`, so that `top` by that score chooses the same examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ftft.dynamics.choosing import rank
from ftft.dynamics.idhash import uniform_of_ids
from ftft.dynamics.table import Dynamics
from ftft.methods.contract import Selection
from ftft.methods.pool import LabelledExamples, Pool, Ranking, rule_of
from ftft.methods.pool_checks import Balance, check_balance, check_common, check_compat, check_size
from ftft.settings import setting


@dataclass(frozen=True)
class Random:
    """Examples chosen at random."""

    needs: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = ("*",)
    sharded: ClassVar[bool] = True
    paper: ClassVar[str] = "baseline"
    example: ClassVar[dict[str, Any]] = {"fraction": 0.33}

    fraction: float | None = setting(None, "share of the examples to choose, above 0 and at most 1", gt=0, le=1)
    count: int | None = setting(None, "number of examples to choose, instead of fraction", ge=1)
    prior: Literal["none", "pool", "class"] | dict[str, float] = setting(
        "none", "class shares of the chosen: left to chance, those of the pool, equal as far as rows last, or label -> share"
    )
    drop_suspects: float = setting(
        0.0, "share of the examples dropped beforehand as suspected mislabelled (needs dynamics)", ge=0, lt=1
    )
    suspect_score: Literal["confidence", "aum"] = setting("confidence", "the score whose lowest values are suspects")
    apply: Literal["subset", "copies", "weights"] = setting(
        "subset", "learn from the chosen alone, from all with extra copies of the chosen, or from all with the chosen weighted"
    )
    copies: int = setting(1, "extra copies of each chosen example (apply: copies)", ge=1)
    weight: float = setting(2.0, "weight of a chosen example against 1, before the mean is made 1 (apply: weights)", gt=0)
    compat: Literal["ftft", "cartography"] | None = setting(
        None,
        "choose int(fraction * N) examples as both released codes do; their draws depend on the row order and are not kept",
    )

    def __post_init__(self) -> None:
        check_size(self.fraction, self.count)
        check_balance(self.prior, "prior", ("none", "pool", "class"))
        check_common(
            drop_suspects=self.drop_suspects,
            suspect_score=self.suspect_score,
            apply=self.apply,
            copies=self.copies,
            weight=self.weight,
        )
        check_compat(self.compat, fraction=self.fraction, balance=self._balance, drop_suspects=self.drop_suspects)

    @property
    def _balance(self) -> Balance:
        return "prior" if self.prior == "pool" else self.prior

    def select(self, examples: LabelledExamples, dynamics: Dynamics | None = None, *, seed: int = 0) -> Selection:
        """The chosen examples in random order; ``dynamics`` are read only to drop suspects.

        Raises UserError for evaluation data, more examples than there are, and a class too small for its share.
        """
        pool = Pool.of(
            examples,
            dynamics if self.drop_suspects else None,
            seed=seed,
            drop_suspects=self.drop_suspects,
            suspect_score=self.suspect_score,
        )
        ranking = Ranking(None, uniform_of_ids(pool.ids, seed))
        if self.compat is None:
            rows = pool.choose([ranking], fraction=self.fraction, count=self.count, balance=self._balance)
        else:
            rows = [rank(ranking.keys, pool.ids)[: int((self.fraction or 0.0) * len(pool))]]
        rule = rule_of(self, "random", seed=seed)
        return pool.selection(rule, [ranking], rows, apply=self.apply, copies=self.copies, weight=self.weight)
