"""What every selector shares: a pool of examples matched with their dynamics, suspects dropped, a `Selection` made.

A selector opens a :class:`Pool`, asks it for scores, lets it choose a number of rows, and lets it write down what was
chosen. The refusals that do not depend on one method live here (too few rows), in ``pool_matching`` (other data's
dynamics, evaluation data) and, for settings alone, in ``pool_checks``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ftft.dynamics.choosing import allocate, by_id, choose, rank, subset_size, whole_part
from ftft.dynamics.idhash import uniform_of_ids
from ftft.dynamics.parquet import fingerprint_dynamics
from ftft.dynamics.scores import choose_epochs, compute_score
from ftft.dynamics.table import Dynamics
from ftft.errors import UserError, did_you_mean
from ftft.methods.contract import Selection
from ftft.methods.pool_checks import Apply, Balance, SuspectScore
from ftft.methods.pool_matching import LabelledExamples, id_strings, match, refuse_evaluation


@dataclass(frozen=True)
class Ranking:
    """A score to choose by. ``values``: float64 [N] in the score's own unit, NaN where there is none; ``name`` None: random."""

    name: str | None
    values: np.ndarray
    largest: bool = True
    share: float = 1.0

    @property
    def keys(self) -> np.ndarray:
        """The values turned so that larger is chosen first."""
        return self.values if self.largest else -self.values


@dataclass(frozen=True)
class Pool:
    """N examples to choose from. ``at``: int64 [N], each example's row in the dynamics (None: the same order).

    ``suspects``: bool [N], dropped as suspected mislabelled. Made by :meth:`of`.
    """

    examples: LabelledExamples
    ids: pa.Array
    dynamics: Dynamics | None
    at: np.ndarray | None
    suspects: np.ndarray
    epochs: list[int] | None
    seed: int

    @classmethod
    def of(
        cls,
        examples: LabelledExamples,
        dynamics: Dynamics | None,
        *,
        seed: int,
        epochs: Sequence[int] | None = None,
        drop_first_epochs: int = 0,
        drop_suspects: float = 0.0,
        suspect_score: SuspectScore = "confidence",
    ) -> Pool:
        """Match the examples with their dynamics and drop the suspects: the ``floor(drop_suspects * N)`` lowest scores.

        Raises UserError for evaluation data, an empty pool, dynamics of other data, and epochs that were not recorded.
        """
        refuse_evaluation(examples, dynamics)
        ids = id_strings(examples.ids)
        if len(ids) == 0:
            raise UserError("there are no examples to select from; the training set is empty")
        if dynamics is None and drop_suspects:
            raise UserError("drop_suspects needs training dynamics; name the stage that recorded them in use_dynamics_of")
        at = None if dynamics is None else match(examples, ids, dynamics)
        chosen = None if dynamics is None else choose_epochs(dynamics, drop_first=drop_first_epochs, only=epochs)
        pool = cls(examples, ids, dynamics, at, np.zeros(len(ids), dtype=bool), chosen, seed)
        if drop_suspects:
            pool.drop_suspects(drop_suspects, suspect_score)
        return pool

    def drop_suspects(self, share: float, score: SuspectScore) -> None:
        """Mark the ``floor(share * N)`` lowest scores as suspects, equal scores by ascending id."""
        lowest_first = rank(-self.score(score), self.ids)
        self.suspects[lowest_first[: whole_part(share, len(self))]] = True

    def __len__(self) -> int:
        return len(self.ids)

    def score(self, name: str, *, ddof: int = 0, window: int | None = None, include_ci: bool = False) -> np.ndarray:
        """The score of every example, float64 [N], NaN where the dynamics never saw it."""
        if self.dynamics is None:
            raise UserError(f"choosing by {name} needs training dynamics; name the stage that recorded them in use_dynamics_of")
        values = compute_score(
            self.dynamics, name, ddof=ddof, window=window, include_ci=include_ci, seed=self.seed, epochs=self.epochs
        )
        return values if self.at is None else values[self.at]

    def require_all_scored(self, ranking: Ranking, compat: str) -> None:
        """UserError where an example has no score: the released rules are defined for complete dynamics only."""
        missing = int(np.isnan(ranking.values).sum())
        if missing:
            raise UserError(
                f"compat: {compat} needs a score for every example, and {missing} of {len(self)} have no {ranking.name}; "
                "leave compat out to choose among the others"
            )

    def choose(
        self, rankings: Sequence[Ranking], *, fraction: float | None, count: int | None, balance: Balance = "none"
    ) -> list[np.ndarray]:
        """The chosen rows per ranking, best first: k in all, k = count or max(1, floor(fraction * N)).

        N counts the whole pool, suspects included, so that dropping suspects does not change the size (and the cost).
        Raises UserError where fewer than k examples have a score and are no suspects.
        """
        n = len(self)
        if count is not None and count > n:
            raise UserError(f"count is {count}, and there are only {n} examples to select from")
        k = subset_size(fraction, n) if fraction is not None else int(count or 0)
        unscored = np.zeros(n, dtype=bool)
        for ranking in rankings:
            unscored |= np.isnan(ranking.values)
        free = ~(unscored | self.suspects)
        if k > free.sum():
            raise UserError(
                f"cannot choose {k} of {n} examples: only {int(free.sum())} are left after {int(unscored.sum())} without a "
                f"score (seen in too few epochs) and {int(self.suspects.sum())} dropped as suspects; ask for fewer"
            )
        rows = np.flatnonzero(free)
        strata, quotas = [rows], [k]
        if balance != "none":
            strata, quotas = self._class_strata(rows, k, balance)
        return choose([ranking.keys for ranking in rankings], [ranking.share for ranking in rankings], self.ids, strata, quotas)

    def _class_strata(self, rows: np.ndarray, k: int, balance: Balance) -> tuple[list[np.ndarray], list[int]]:
        labels = self.examples.labels
        if labels is None or not self.examples.label_names:
            what = "these dynamics hold none" if labels is None else "these examples have none"
            raise UserError(f"balancing over classes needs labels, and {what}; leave the balance out")
        names = [str(name) for name in self.examples.label_names]
        pool = np.bincount(labels, minlength=len(names))
        room = np.bincount(labels[rows], minlength=len(names))
        if isinstance(balance, Mapping):
            quotas = _quotas_of_shares(balance, names, k, room)
        else:
            quotas = allocate(k, [1] * len(names) if balance == "class" else pool.tolist(), room)
        return [rows[labels[rows] == index] for index in range(len(names))], [int(quota) for quota in quotas]

    def selection(
        self,
        rule: Mapping[str, Any],
        rankings: Sequence[Ranking],
        rows: Sequence[np.ndarray],
        *,
        apply: Apply = "subset",
        copies: int = 1,
        weight: float = 2.0,
        threshold: float | None = None,
    ) -> Selection:
        """Write down what was chosen. ``rows``: per ranking its rows, best first. ``threshold``: a rule's own threshold.

        subset: the chosen, in the order of the rankings. copies: every example that is no suspect, by id, then the chosen
        ``copies`` times over. weights: every example that is no suspect, by id, the chosen with ``weight`` against 1,
        divided by the mean weight.
        """
        chosen = np.concatenate(list(rows)) if len(rows) else np.empty(0, dtype=np.int64)
        if len(chosen) == 0:
            raise UserError(f"the rule selects none of {len(self)} examples; ask for a larger fraction")
        scores = np.full(len(self), np.nan)
        for ranking, part in zip(rankings, rows):
            # With one ranking every example's score has one meaning; in a mixture only the chosen have theirs.
            where: Any = slice(None) if len(rankings) == 1 else part
            scores[where] = ranking.values[where]
        weights = np.ones(len(self))
        order = chosen
        if apply != "subset":
            order = by_id(self.ids, np.flatnonzero(~self.suspects))
            if apply == "copies":
                order = np.concatenate([order, np.tile(chosen, copies)])
            else:
                weights[chosen] = weight
                weights /= weights[order].mean()
        return Selection(
            ids=self.ids.take(pa.array(order)),
            weights=weights[order],
            rule=rule,
            scores=scores[order] if any(ranking.name for ranking in rankings) else None,
            counts=self._counts(rankings, rows, chosen, len(order), threshold),
            dynamics_fingerprint=None if self.dynamics is None else fingerprint_dynamics(self.dynamics),
        )

    def _counts(
        self, rankings: Sequence[Ranking], rows: Sequence[np.ndarray], chosen: np.ndarray, total: int, threshold: float | None
    ) -> dict[str, Any]:
        counts: dict[str, Any] = {
            "pool": len(self),
            "selected": len(chosen),
            "share": len(chosen) / len(self),
            "rows": total,
            "suspects_dropped": int(self.suspects.sum()),
        }
        named = [(ranking, part) for ranking, part in zip(rankings, rows) if ranking.name is not None]
        parts = [
            {
                "score": ranking.name,
                "largest": ranking.largest,
                "selected": len(part),
                "threshold_score": float(ranking.values[part[-1]]) if len(part) else None,
            }
            for ranking, part in named
        ]
        if len(parts) == 1:
            counts["threshold_score"] = parts[0]["threshold_score"] if threshold is None else threshold
        elif parts:
            counts["parts"] = parts
        if named:
            counts["without_score"] = int(np.isnan(np.stack([ranking.values for ranking, _ in named])).any(axis=0).sum())
        labels, names = self.examples.labels, self.examples.label_names
        if labels is not None:
            pool = np.bincount(labels, minlength=len(names))
            selected = np.bincount(labels[chosen], minlength=len(names))
            counts["classes"] = {
                str(name): {"pool": int(before), "selected": int(after)} for name, before, after in zip(names, pool, selected)
            }
            # Total variation distance between the class shares of the pool and of the selected: 0 to 1.
            counts["class_prior_shift"] = float(np.abs(pool / pool.sum() - selected / selected.sum()).sum() / 2)
        return counts


@dataclass(frozen=True)
class ScoredPool(Pool):
    """A pool whose scores are ``given`` by name (float64 [N] each), as a metrics file has them, without dynamics."""

    given: Mapping[str, np.ndarray] = field(default_factory=dict)

    def score(self, name: str, *, ddof: int = 0, window: int | None = None, include_ci: bool = False) -> np.ndarray:
        """The score as given; UserError where it is not, or where another definition of it is asked for."""
        if name == "random":
            return uniform_of_ids(self.ids, self.seed)
        if name not in self.given:
            raise UserError(f'the score "{name}" is not among those given, {", ".join(self.given)}; choose one of these')
        if name == "variability" and (ddof or include_ci):
            raise UserError(
                "the variability given is the population's, and without dynamics no other can be computed; use ddof 0"
            )
        return self.given[name]


def rule_of(method: Any, name: str, *, seed: int | None = None, **resolved: Any) -> dict[str, Any]:
    """A method's settings as a rule that determines its selection: its name, every field, and what was ``resolved``."""
    rule = {"name": name, **asdict(method), **resolved}
    return rule if seed is None else {**rule, "seed": seed}


def _quotas_of_shares(shares: Mapping[str, float], names: list[str], k: int, room: np.ndarray) -> np.ndarray:
    shares = {str(name): share for name, share in shares.items()}
    for name in shares:
        if name not in names:
            raise UserError(f'there is no label "{name}" to give a share to{did_you_mean(name, names)}')
    wanted = allocate(k, [shares.get(name, 0) for name in names], np.full(len(names), k))
    for name, quota, available in zip(names, wanted, room):
        if quota > available:
            raise UserError(
                f'the share of label "{name}" asks for {quota} of {k} examples, and only {available} can be chosen; '
                "ask for fewer examples or a smaller share"
            )
    return wanted
