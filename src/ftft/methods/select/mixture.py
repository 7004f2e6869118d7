"""A mixture of several scores' ends, for instance 30 % easiest with 70 % most ambiguous.

    k = max(1, floor(fraction * N)), split over the parts by their shares (largest remainder);
    the parts take in the order given, each the best of what the earlier ones left

Dataset cartography (arXiv 2009.10795, section on the role of easy-to-learn examples) reports that small subsets of
ambiguous examples alone fail to train, and that some easy ones mixed in mend it. With ``balance`` the split over the
classes comes first and the split over the parts is made inside every class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ftft.dynamics.score_names import ScoreName
from ftft.dynamics.table import Dynamics
from ftft.errors import UserError, did_you_mean
from ftft.methods.contract import Selection
from ftft.methods.pool import LabelledExamples, Pool, Ranking, rule_of
from ftft.methods.pool_checks import check_balance, check_common, check_score, check_size
from ftft.settings import setting

PART = ("score", "share", "largest")


@dataclass(frozen=True)
class Mixture:
    """Examples from several scores, without overlap."""

    needs: ClassVar[tuple[str, ...]] = ("dynamics",)
    tasks: ClassVar[tuple[str, ...]] = ("*",)
    sharded: ClassVar[bool] = True
    paper: ClassVar[str] = "arXiv 2009.10795"
    example: ClassVar[dict[str, Any]] = {
        "parts": [{"score": "variability", "share": 0.7}, {"score": "confidence", "share": 0.3}],
        "fraction": 0.33,
    }

    parts: list[dict[str, ScoreName | float | bool]] = setting(
        (),
        "the parts in the order they take: [{score: confidence, share: 0.3}, {score: variability, share: 0.7}]",
        factory=list,
    )
    fraction: float | None = setting(None, "share of the examples to choose in all, above 0 and at most 1", gt=0, le=1)
    count: int | None = setting(None, "number of examples to choose in all, instead of fraction", ge=1)
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

    def __post_init__(self) -> None:
        if not self.parts:
            raise UserError(
                "parts is empty, and a mixture needs parts, for instance "
                "[{score: confidence, share: 0.3}, {score: variability, share: 0.7}]"
            )
        shares = [_part(part, f"parts.{index}")[1] for index, part in enumerate(self.parts)]
        if any(not share > 0 for share in shares) or abs(sum(shares) - 1) > 1e-6:
            raise UserError(f"parts: their shares must be above 0 and sum to 1, and they sum to {sum(shares):g}")
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

    def select(self, examples: LabelledExamples, dynamics: Dynamics | None, *, seed: int = 0) -> Selection:
        """The chosen examples, part after part, each best first. ``seed`` matters for ``score: random`` only.

        Raises UserError for dynamics of other data, evaluation data, and where too few examples have every part's score.
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
        parts = [_part(part) for part in self.parts]
        rankings = [
            Ranking(score, pool.score(score, ddof=self.ddof, window=self.window, include_ci=self.include_ci), largest, share)
            for score, share, largest in parts
        ]
        rows = pool.choose(rankings, fraction=self.fraction, count=self.count, balance=self.balance)
        random = any(score == "random" for score, _, _ in parts)
        rule = rule_of(self, "mixture", seed=seed if random else None)
        return pool.selection(rule, rankings, rows, apply=self.apply, copies=self.copies, weight=self.weight)


def _part(part: Mapping[str, Any], where: str = "parts") -> tuple[str, float, bool]:
    """Score, share and whether its largest values are meant; UserError, led by ``where``, for anything else in a part."""
    for key in part:
        if key not in PART:
            raise UserError(f'{where}.{key}: a part of a mixture has no "{key}"{did_you_mean(key, PART)}')
    score, share, largest = part.get("score", "variability"), part.get("share"), part.get("largest", True)
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not isinstance(largest, bool):
        raise UserError(
            f"{where}: a part of a mixture is {{score: name, share: number, largest: true or false}}, and this is {dict(part)}"
        )
    check_score(score, f"{where}.score")
    return score, float(share), largest
