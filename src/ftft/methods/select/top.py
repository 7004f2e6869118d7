"""The top of one score: what FTFT and dataset cartography learn from (variability: the most ambiguous third).

    k = max(1, floor(fraction * N));  chosen = the k largest (or smallest) scores, equal scores by ascending id

Sources: Swayamdipta et al. 2020 (arXiv 2009.10795, dataset cartography) and FTFT (arXiv 2310.06588). The released codes
differ from this and from each other; ``compat`` reproduces them:

    ftft          score > quantile(score, 1 - fraction), strictly, in float32; about fraction * N rows, fewer when rows
                  tie at the threshold
    cartography   sorted by the score, the first int(fraction * N) + 1 (the code takes one more than it logs); its order
                  among equal scores is undefined, here it is by id; its end of confidence and correctness is the low one:
                  give ``largest: false`` for them
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ftft.dynamics.choosing import above_quantile, rank
from ftft.dynamics.score_names import ScoreName
from ftft.dynamics.table import Dynamics
from ftft.methods.contract import Selection
from ftft.methods.pool import LabelledExamples, Pool, Ranking, rule_of
from ftft.methods.pool_checks import check_balance, check_common, check_compat, check_score, check_size
from ftft.settings import setting


@dataclass(frozen=True)
class Top:
    """The examples with the largest (or smallest) score."""

    needs: ClassVar[tuple[str, ...]] = ("dynamics",)
    tasks: ClassVar[tuple[str, ...]] = ("*",)
    sharded: ClassVar[bool] = True
    paper: ClassVar[str] = "arXiv 2310.06588; arXiv 2009.10795"
    example: ClassVar[dict[str, Any]] = {"fraction": 0.33}

    score: ScoreName = setting(
        "variability", "the score to rank by; see `ftft list scores`", origin="FTFT, section on data maps"
    )
    largest: bool = setting(True, "choose the largest scores (false: the smallest)")
    fraction: float | None = setting(None, "share of the examples to choose, above 0 and at most 1; FTFT uses 0.33", gt=0, le=1)
    count: int | None = setting(None, "number of examples to choose, instead of fraction", ge=1)
    balance: Literal["none", "class", "prior"] | dict[str, float] = setting(
        "none", "class: equally many per class, as far as it has rows; prior: the class shares of the pool; or label -> share"
    )
    ddof: Literal[0, 1] | None = setting(
        None, "variability's divisor is the number of epochs minus this; by default 0, and 1 under compat: ftft"
    )
    include_ci: bool = setting(False, "variability with cartography's confidence-interval term")
    window: int | None = setting(None, "epochs per window of DUAL and Dyn-Unc; by default the score's own", ge=2)
    epochs: list[int] | None = setting(None, "score by these epochs only, as recorded (from 0); by default all")
    drop_first_epochs: int = setting(
        0, "leave out this many of the first epochs, which mix untrained with trained logits", ge=0
    )
    drop_suspects: float = setting(0.0, "share of the examples dropped beforehand as suspected mislabelled", ge=0, lt=1)
    suspect_score: Literal["confidence", "aum"] = setting("confidence", "the score whose lowest values are suspects")
    apply: Literal["subset", "copies", "weights"] = setting(
        "subset", "learn from the chosen alone, from all with extra copies of the chosen, or from all with the chosen weighted"
    )
    copies: int = setting(1, "extra copies of each chosen example (apply: copies)", ge=1)
    weight: float = setting(2.0, "weight of a chosen example against 1, before the mean is made 1 (apply: weights)", gt=0)
    compat: Literal["ftft", "cartography"] | None = setting(None, "reproduce a released rule row for row")

    def __post_init__(self) -> None:
        check_score(self.score)
        check_size(self.fraction, self.count)
        check_balance(self.balance, "balance")
        check_common(
            drop_suspects=self.drop_suspects,
            suspect_score=self.suspect_score,
            apply=self.apply,
            copies=self.copies,
            weight=self.weight,
            epochs=self.epochs,
            drop_first_epochs=self.drop_first_epochs,
        )
        check_compat(self.compat, fraction=self.fraction, balance=self.balance, drop_suspects=self.drop_suspects)

    def select(self, examples: LabelledExamples, dynamics: Dynamics | None, *, seed: int = 0) -> Selection:
        """The chosen examples, best first. ``seed`` matters for ``score: random`` only.

        Raises UserError for dynamics of other data, evaluation data, and where too few examples have a score.
        """
        pool = Pool.of(
            examples,
            dynamics,
            seed=seed,
            epochs=self.epochs,
            drop_first_epochs=self.drop_first_epochs,
            drop_suspects=self.drop_suspects,
            suspect_score=self.suspect_score,
        )
        return self.select_from(pool, seed=seed)

    def select_from(self, pool: Pool, *, seed: int) -> Selection:
        """As :meth:`select`, from a pool that is there already."""
        ddof = self.ddof if self.ddof is not None else int(self.compat == "ftft")
        values = pool.score(self.score, ddof=ddof, window=self.window, include_ci=self.include_ci)
        ranking = Ranking(self.score, values, self.largest)
        threshold = None
        if self.compat is None:
            rows = pool.choose([ranking], fraction=self.fraction, count=self.count, balance=self.balance)
        else:
            fraction = self.fraction or 0.0
            pool.require_all_scored(ranking, self.compat)
            ranked = rank(ranking.keys, pool.ids)
            if self.compat == "cartography":
                rows = [ranked[: int(fraction * len(pool)) + 1]]
            else:
                above, limit = above_quantile(ranking.keys, fraction)
                rows = [ranked[above[ranked]]]
                threshold = limit if self.largest else -limit
        rule = rule_of(self, "top", seed=seed if self.score == "random" else None, ddof=ddof)
        return pool.selection(
            rule, [ranking], rows, apply=self.apply, copies=self.copies, weight=self.weight, threshold=threshold
        )
