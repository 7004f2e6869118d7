"""Training dynamics: what the model said about every example in every epoch, with a mask of what was seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ftft.errors import UserError


@dataclass(repr=False)
class Dynamics:
    """N examples over E epochs.

    ``ids``: N unique strings. ``epochs``: the E epoch numbers as recorded (from 0), ascending. ``seen``: bool [E, N].

    Classification dynamics hold ``gold`` (int32 [N], index into the classes) and ``logits`` (float32 [E, N, C]), or,
    with many classes, ``pair_logits`` (float32 [E, N, 2]: the gold logit, the largest other logit) and
    ``pair_probability`` (float32 [E, N], the softmax probability of the gold class over all classes).
    Imported tables may hold the gold probability alone (``pair_probability``). Sequence dynamics hold
    ``statistics``, each float32 [E, N]: ``mean_log_probability``, ``probability`` (its exponential),
    ``token_accuracy``, ``entropy``. Values where ``seen`` is False are undefined (stored as zeros, null on disk).

    ``metadata``: JSON-like provenance: ``source`` (online, epoch_end, checkpoints, import), ``data_fingerprint``,
    ``label_names``, ``model``, ``guid_type`` and whatever the recorder knows.
    """

    ids: pa.Array
    epochs: tuple[int, ...]
    seen: np.ndarray
    gold: np.ndarray | None = None
    logits: np.ndarray | None = None
    pair_logits: np.ndarray | None = None
    pair_probability: np.ndarray | None = None
    statistics: Mapping[str, np.ndarray] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.ids, pa.ChunkedArray):
            self.ids = self.ids.combine_chunks()
        n, e = len(self.ids), len(self.epochs)
        if self.seen.shape != (e, n):
            raise ValueError(f"seen has the shape {self.seen.shape}, not {(e, n)}")
        for name in ("logits", "pair_logits", "pair_probability"):
            values = getattr(self, name)
            if values is not None and values.shape[:2] != (e, n):
                raise ValueError(f"{name} has the shape {values.shape}, not {(e, n)} in front")

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        numbers = [int(epoch) for epoch in self.epochs]
        in_a_row = len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1))
        epochs = f"{numbers[0]}-{numbers[-1]}" if in_a_row else ", ".join(map(str, numbers)) or "none"
        parts = [f"{len(self):,} examples", f"epochs {epochs}"]
        if self.num_classes is not None:
            parts.append(f"{self.num_classes} classes")
        else:
            held = [name for name in ("pair_logits", "pair_probability") if getattr(self, name) is not None]
            parts += [*held, *self.statistics]
        if self.metadata.get("source"):
            parts.append(f"source {self.metadata['source']}")
        return f"Dynamics({'; '.join(parts)})"

    @property
    def num_classes(self) -> int | None:
        return None if self.logits is None else self.logits.shape[2]

    def of_rows(self, rows: slice) -> Dynamics:
        """The dynamics of the examples in ``rows``; the arrays are views."""

        def cut(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[:, rows]

        return Dynamics(
            ids=self.ids[rows],
            epochs=self.epochs,
            seen=self.seen[:, rows],
            gold=None if self.gold is None else self.gold[rows],
            logits=cut(self.logits),
            pair_logits=cut(self.pair_logits),
            pair_probability=cut(self.pair_probability),
            statistics={name: values[:, rows] for name, values in self.statistics.items()},
            metadata=self.metadata,
        )

    def only_epochs(self, chosen: list[int]) -> Dynamics:
        """The dynamics of the chosen epoch numbers only; UserError when one was not recorded."""
        missing = sorted(set(chosen) - set(self.epochs))
        if missing or not chosen:
            raise UserError(f"epochs {missing or chosen} are not in these dynamics; they hold {list(self.epochs)}")
        rows = [self.epochs.index(epoch) for epoch in sorted(set(chosen))]

        def cut(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[rows]

        return Dynamics(
            ids=self.ids,
            epochs=tuple(self.epochs[row] for row in rows),
            seen=self.seen[rows],
            gold=self.gold,
            logits=cut(self.logits),
            pair_logits=cut(self.pair_logits),
            pair_probability=cut(self.pair_probability),
            statistics={name: values[rows] for name, values in self.statistics.items()},
            metadata=self.metadata,
        )
