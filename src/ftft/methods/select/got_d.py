"""GOT-D: the examples that move the pool's distribution towards a target the most, by the gradient of optimal transport.

With the pool's embeddings x_1..x_N and the target's z_1..z_M, uniform weights, and f [N] the dual potential of the entropic
optimal transport between them (:mod:`ftft.nn.optimal_transport`), C_ij = |x_i - z_j|:

    c_i = f_i - mean_{j != i} f_j          the k smallest c_i are chosen

c_i is the derivative of the transport's cost when weight is moved to example i and taken from the others alike: where it is
most negative, more of the example brings the pool nearer to the target. Tuning lightly on a subset moves what the model was
pretrained on in its direction; the pool stands in for the pretraining data, and has to resemble them: where it does not, what
is chosen is what lies nearest to the target.

The paper pretrains a language model a little more on what was chosen, without labels, and then fine-tunes it: a first stage of
language modelling that selects, and a second that begins with its model (``model: {stage: ...}``). Examples chosen for
classification are learned with their labels.

Kang et al. 2024, arXiv 2405.02774; the calibrated gradient is that of the group's LAVA (Just et al. 2023, arXiv 2305.00054), as
its code has it. Embeddings are the mean over tokens of the scoring model's last hidden states. The derivative holds for a small
k / N, and there is no term for diversity: remove duplicates first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from ftft.dynamics.choosing import rank
from ftft.dynamics.idhash import uniform_of_ids
from ftft.dynamics.table import Dynamics
from ftft.errors import UserError
from ftft.methods.contract import Selection
from ftft.methods.pool import Pool, Ranking, rule_of
from ftft.methods.pool_checks import check_balance, check_size
from ftft.settings import setting

if TYPE_CHECKING:
    from ftft.data.examples import Examples
    from ftft.methods.contract import ScoringModel


@dataclass(frozen=True)
class GOTD:
    """Examples that bring the pool nearer to a target sample, by the gradient of optimal transport between embeddings."""

    needs: ClassVar[tuple[str, ...]] = ("scoring_model",)
    tasks: ClassVar[tuple[str, ...]] = ("text_classification", "causal_language_modelling")
    sharded: ClassVar[bool] = True
    paper: ClassVar[str] = "Kang et al. 2024, arXiv 2405.02774"
    example: ClassVar[dict[str, Any]] = {"target": "validation", "fraction": 0.33}

    target: str = setting("validation", "the evaluation set, one with split validation, whose inputs are the target")
    fraction: float | None = setting(None, "share of the examples to choose, above 0 and at most 1", gt=0, le=1)
    count: int | None = setting(None, "number of examples to choose, instead of fraction", ge=1)
    balance: Literal["none", "class", "prior"] | dict[str, float] = setting(
        "none", "class: equally many per class, as far as it has rows; prior: the class shares of the pool; or label -> share"
    )
    target_size: int = setting(1000, "target examples at most; of more a sample is drawn", origin="ours", ge=1)
    regularisation: float = setting(0.05, "entropy term, as a share of the mean distance", origin="ours", gt=0)
    iterations: int = setting(1000, "Sinkhorn iterations at most", origin="ours", ge=1)
    tolerance: float = setting(1e-6, "how far the transport's row sums may be off", origin="ours", gt=0)

    def __post_init__(self) -> None:
        check_size(self.fraction, self.count)
        check_balance(self.balance, "balance")

    def select(self, examples: Examples, dynamics: Dynamics | None, *, seed: int, scoring: ScoringModel) -> Selection:
        """The k examples with the most negative gradient, most negative first. Raises UserError for evaluation data, a target
        that may not steer, and more examples than there are."""
        import torch

        from ftft.nn.optimal_transport import calibrated_gradient, sinkhorn

        pool = Pool.of(examples, None, seed=seed)
        target = scoring.target(self.target)
        if len(target) > self.target_size:
            target = target.take(rank(uniform_of_ids(target.ids, seed), target.ids)[: self.target_size])
        points = [torch.from_numpy(np.asarray(scoring.embed(one), dtype=np.float64)) for one in (examples, target)]
        try:
            found = sinkhorn(
                points[0],
                points[1],
                regularisation=self.regularisation,
                iterations=self.iterations,
                tolerance=self.tolerance,
            )
        except ValueError as error:
            raise UserError(f"got_d cannot compare the pool with {self.target}: {error}") from None
        ranking = Ranking("got_d", calibrated_gradient(found.source).numpy(), largest=False)
        rows = pool.choose([ranking], fraction=self.fraction, count=self.count, balance=self.balance)
        rule = rule_of(self, "got_d", seed=seed, target_examples=len(target), off_by=found.error)
        return pool.selection(rule, [ranking], rows)
