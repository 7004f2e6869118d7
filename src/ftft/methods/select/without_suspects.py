"""Everything but the examples suspected to be mislabelled.

    dropped = the floor(drop_suspects * N) lowest confidences (or AUMs), equal scores by ascending id

Sources: dataset cartography (arXiv 2009.10795: wrong labels gather at low confidence) and AUM (Pleiss et al. 2020, arXiv
2001.10528). Hard but correct examples lie there too: how many of the dropped are wrong depends on the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ftft.dynamics.choosing import by_id
from ftft.dynamics.table import Dynamics
from ftft.methods.contract import Selection
from ftft.methods.pool import LabelledExamples, Pool, Ranking, rule_of
from ftft.methods.pool_checks import check_common
from ftft.settings import setting


@dataclass(frozen=True)
class WithoutSuspects:
    """All examples but those with the lowest confidence or AUM."""

    needs: ClassVar[tuple[str, ...]] = ("dynamics",)
    tasks: ClassVar[tuple[str, ...]] = ("*",)
    sharded: ClassVar[bool] = True
    paper: ClassVar[str] = "arXiv 2009.10795; arXiv 2001.10528"

    drop_suspects: float = setting(
        0.05, "share of the examples dropped as suspected mislabelled", origin="our choice", ge=0, lt=1
    )
    suspect_score: Literal["confidence", "aum"] = setting("confidence", "the score whose lowest values are suspects")
    epochs: list[int] | None = setting(None, "score by these epochs only, as recorded (from 0); by default all")
    drop_first_epochs: int = setting(
        0, "leave out this many of the first epochs, which mix untrained with trained logits", ge=0
    )

    def __post_init__(self) -> None:
        check_common(
            drop_suspects=self.drop_suspects,
            suspect_score=self.suspect_score,
            epochs=self.epochs,
            drop_first_epochs=self.drop_first_epochs,
        )

    def select(self, examples: LabelledExamples, dynamics: Dynamics | None, *, seed: int = 0) -> Selection:
        """The examples kept, by ascending id; examples without a score are kept.

        Raises UserError for dynamics of other data and evaluation data.
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
        kept = by_id(pool.ids, np.flatnonzero(~pool.suspects))
        ranking = Ranking(self.suspect_score, pool.score(self.suspect_score))
        lowest = ranking.values[kept][~np.isnan(ranking.values[kept])]
        return pool.selection(
            rule_of(self, "without_suspects"), [ranking], [kept], threshold=float(lowest.min()) if len(lowest) else None
        )
