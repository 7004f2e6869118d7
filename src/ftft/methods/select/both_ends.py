"""Both ends of one score: mostly the hardest examples, and some of the easiest.

    k = max(1, floor(fraction * N)): the hardest 70 % of k, then the easiest of what is left

Source: the option ``--both_ends`` of dataset cartography's code (arXiv 2009.10795). ``compat: cartography`` takes its
sizes: m = int(fraction * N) in all (not the m + 1 of its plain rule), int(0.7 * m) of them from the hard end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ftft.dynamics.choosing import rank
from ftft.dynamics.score_names import ScoreName
from ftft.dynamics.scores import SCORES
from ftft.dynamics.table import Dynamics
from ftft.errors import UserError
from ftft.methods.contract import Selection
from ftft.methods.pool import LabelledExamples, Pool, Ranking, rule_of
from ftft.methods.pool_checks import check_balance, check_common, check_compat, check_score, check_size
from ftft.settings import setting


@dataclass(frozen=True)
class BothEnds:
    """The hardest and the easiest examples of one score."""

    needs: ClassVar[tuple[str, ...]] = ("dynamics",)
    tasks: ClassVar[tuple[str, ...]] = ("*",)
    sharded: ClassVar[bool] = True
    paper: ClassVar[str] = "arXiv 2009.10795"
    example: ClassVar[dict[str, Any]] = {"fraction": 0.33}

    score: ScoreName = setting("variability", "the score to rank by; see `ftft list scores`", origin="cartography code")
    fraction: float | None = setting(None, "share of the examples to choose in all, above 0 and at most 1", gt=0, le=1)
    count: int | None = setting(None, "number of examples to choose in all, instead of fraction", ge=1)
    hard_share: float = setting(0.7, "share of the chosen that comes from the hard end", origin="cartography code", gt=0, lt=1)
    hard_is_large: bool | None = setting(
        None, "whether large scores are the hard end; by default true, but for confidence, correctness and aum"
    )
    balance: Literal["none", "class", "prior"] | dict[str, float] = setting(
        "none", "class: equally many per class, as far as it has rows; prior: the class shares of the pool; or label -> share"
    )
    ddof: Literal[0, 1] = setting(0, "variability's divisor is the number of epochs minus this", origin="cartography code")
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
    compat: Literal["cartography"] | None = setting(None, "reproduce the released sizes")

    def __post_init__(self) -> None:
        check_score(self.score)
        if not 0 < self.hard_share < 1:
            raise UserError(f"hard_share is {self.hard_share}; it must be between 0 and 1 (for one end alone use top)")
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
        check_compat(
            self.compat, fraction=self.fraction, balance=self.balance, drop_suspects=self.drop_suspects, known=("cartography",)
        )

    def select(self, examples: LabelledExamples, dynamics: Dynamics | None, *, seed: int = 0) -> Selection:
        """The hard ones, hardest first, then the easy ones, easiest first. ``seed`` matters for ``score: random`` only.

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
        large = SCORES[self.score].direction == "highest" if self.hard_is_large is None else self.hard_is_large
        values = pool.score(self.score, ddof=self.ddof, window=self.window, include_ci=self.include_ci)
        hard = Ranking(self.score, values, large, self.hard_share)
        easy = Ranking(self.score, values, not large, round(1 - self.hard_share, 12))
        if self.compat is None:
            rows = pool.choose([hard, easy], fraction=self.fraction, count=self.count, balance=self.balance)
        else:
            pool.require_all_scored(hard, self.compat)
            ranked = rank(hard.keys, pool.ids)
            size = int((self.fraction or 0.0) * len(pool))
            head = int(size * self.hard_share)
            rows = [ranked[:head], ranked[len(ranked) - (size - head) :][::-1]]
        rule = rule_of(self, "both_ends", seed=seed if self.score == "random" else None, hard_is_large=large)
        return pool.selection(rule, [hard, easy], rows, apply=self.apply, copies=self.copies, weight=self.weight)
