"""What a recorder writes into while training runs: one slot per example and epoch, filled by the first observation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ftft.dynamics.table import Dynamics
from ftft.errors import UserError

LOGITS, PAIR, PROBABILITY, SEEN = "logits", "pair_logits", "pair_probability", "seen"


def gold_and_largest_other(logits: np.ndarray, gold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of ``logits`` (float32 [B, C]) and ``gold`` (int [B]): the pair (gold logit, largest other logit), float32 [B, 2],
    and the softmax probability of the gold class over all C classes, float32 [B]."""
    here = np.arange(len(logits))
    others = logits.copy()
    others[here, gold] = -np.inf
    pair = np.stack([logits[here, gold], others.max(axis=1)], axis=1)
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    np.exp(wide, out=wide)
    return pair, (wide[here, gold] / wide.sum(axis=1)).astype(np.float32)


class DynamicsBuffer:
    """Collects the dynamics of N examples in memory; memory for an epoch is taken when it is first observed.

    ``ids``: N unique strings. ``gold``: int [N], index into the classes, or None. ``num_classes``: C, or None to take it
    from the first logits. With C > ``max_classes`` only the gold logit, the largest other logit and the gold
    probability are kept (this needs ``gold``). ``statistics``: names of per-example numbers that every observation
    brings. An example that is observed again in the same epoch (extra copies, a distributed sampler's padding) keeps
    its first observation. Values are stored as they come: scoring, not recording, refuses logits that are not finite.
    """

    def __init__(
        self,
        ids: pa.Array,
        gold: np.ndarray | None,
        *,
        num_classes: int | None = None,
        max_classes: int = 64,
        statistics: Sequence[str] = (),
        metadata: dict[str, Any] | None = None,
    ) -> None:
        if gold is not None and len(gold) != len(ids):
            raise ValueError(f"there are {len(ids)} ids and {len(gold)} gold labels")
        self.ids = ids
        self.gold = None if gold is None else np.asarray(gold, dtype=np.int32)
        self.num_classes = num_classes
        self.max_classes = max_classes
        self.statistics = tuple(statistics)
        self.metadata = dict(metadata or {})
        self._epochs: dict[int, dict[str, np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def epochs(self) -> tuple[int, ...]:
        """The epochs that were started, ascending."""
        return tuple(sorted(self._epochs))

    def has_epoch(self, epoch: int) -> bool:
        """Whether anything of this epoch was observed (or it was started)."""
        return epoch in self._epochs

    def start_epoch(self, epoch: int) -> None:
        """Take the memory of an epoch; :meth:`observe` does so by itself. Harmless when the epoch was started before."""
        if epoch < 0:
            raise ValueError(f"epochs count from 0, not {epoch}")
        if epoch not in self._epochs:
            n = len(self.ids)
            slots = {SEEN: np.zeros(n, dtype=bool)}
            slots |= {name: np.zeros((n, *shape), dtype=np.float32) for name, shape in self._shapes().items()}
            self._epochs[epoch] = slots

    def observe(self, epoch: int, rows: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
        """Record what the model said of the examples at ``rows`` (int64 [B], positions among the ids) in ``epoch``.

        ``values``: ``logits`` (float32 [B, C]) and every one of the statistics (float32 [B]).
        """
        rows = np.asarray(rows, dtype=np.int64)
        if rows.size == 0:
            return
        if rows.min() < 0 or rows.max() >= len(self.ids):
            raise ValueError(f"rows must lie in 0..{len(self.ids) - 1}")
        arrays = self._checked(len(rows), values)
        self.start_epoch(epoch)
        slots = self._epochs[epoch]
        rows, first = np.unique(rows, return_index=True)  # return_index gives the first of equal rows
        new = ~slots[SEEN][rows]
        rows, first = rows[new], first[new]
        if LOGITS in arrays and LOGITS not in slots:
            assert self.gold is not None
            pair, probability = gold_and_largest_other(arrays.pop(LOGITS)[first], self.gold[rows])
            slots[PAIR][rows], slots[PROBABILITY][rows] = pair, probability
        for name, array in arrays.items():
            slots[name][rows] = array[first]
        slots[SEEN][rows] = True

    def _checked(self, batch: int, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        arrays = {name: np.asarray(value, dtype=np.float32) for name, value in values.items()}
        if LOGITS in arrays and self.num_classes is None:
            if self._epochs:
                raise ValueError("logits must come with the first observation, or num_classes be given")
            self.num_classes = int(arrays[LOGITS].shape[-1])
        expected = dict.fromkeys(self.statistics, (batch,))
        if self.num_classes is not None:
            expected[LOGITS] = (batch, self.num_classes)  # type: ignore[assignment]
        if set(arrays) != set(expected):
            raise ValueError(f"an observation must bring {sorted(expected)}, and this one brings {sorted(arrays)}")
        for name, shape in expected.items():
            if arrays[name].shape != shape:
                raise ValueError(f"{name} has the shape {arrays[name].shape}, not {shape}")
        return arrays

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """The names kept per epoch and their shapes beyond [N]."""
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(self.statistics, ())
        if self.num_classes is None:
            return shapes
        if self.num_classes <= self.max_classes:
            return {LOGITS: (self.num_classes,), **shapes}
        if self.gold is None:
            raise ValueError(
                f"{self.num_classes} classes are more than max_classes = {self.max_classes}, which needs gold labels"
            )
        return {PAIR: (2,), PROBABILITY: (), **shapes}

    def state(self) -> dict[str, np.ndarray]:
        """Everything observed, for a checkpoint. The arrays are the buffer's own: save them before observing more."""
        state = {
            "epochs": np.array(self.epochs, dtype=np.int64),
            "num_classes": np.array([-1 if self.num_classes is None else self.num_classes], dtype=np.int64),
        }
        for epoch, slots in self._epochs.items():
            state |= {f"{epoch}.{name}": values for name, values in slots.items()}
        return state

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Take over what :meth:`state` gave, replacing all that was observed here; bit-exact.

        Raises UserError when the state is of other data or was recorded with other settings.
        """
        classes = int(state["num_classes"][0])
        if self.num_classes is not None and classes not in (-1, self.num_classes):
            raise UserError(f"the checkpoint's dynamics have {classes} classes, and this training has {self.num_classes}")
        if classes != -1:
            self.num_classes = classes
        shapes = {SEEN: (), **self._shapes()}
        loaded: dict[int, dict[str, np.ndarray]] = {}
        for epoch in (int(number) for number in state["epochs"]):
            slots = {}
            for name, shape in shapes.items():
                values = state.get(f"{epoch}.{name}")
                if values is None or values.shape != (len(self.ids), *shape):
                    found = "nothing" if values is None else f"the shape {list(values.shape)}"
                    raise UserError(
                        f"the checkpoint's dynamics do not fit this training: {name} of epoch {epoch} has {found}, "
                        f"not {[len(self.ids), *shape]}; resume with the data and settings the checkpoint was made with"
                    )
                slots[name] = np.array(values, dtype=bool if name == SEEN else np.float32)
            loaded[epoch] = slots
        self._epochs = loaded

    def dynamics(self) -> Dynamics:
        """The table of all epochs observed so far (a copy); a partially seen last epoch is kept, with its mask."""
        epochs = self.epochs
        n = len(self.ids)

        def stacked(name: str, shape: tuple[int, ...]) -> np.ndarray:
            dtype = bool if name == SEEN else np.float32
            out = np.zeros((len(epochs), n, *shape), dtype=dtype)
            for position, epoch in enumerate(epochs):
                out[position] = self._epochs[epoch][name]
            return out

        shapes = self._shapes()
        metadata = dict(self.metadata)
        if self.num_classes is not None:
            metadata["num_classes"] = self.num_classes
        return Dynamics(
            ids=self.ids,
            epochs=epochs,
            seen=stacked(SEEN, ()),
            gold=None if self.gold is None else self.gold.copy(),
            logits=stacked(LOGITS, shapes[LOGITS]) if LOGITS in shapes else None,
            pair_logits=stacked(PAIR, shapes[PAIR]) if PAIR in shapes else None,
            pair_probability=stacked(PROBABILITY, ()) if PROBABILITY in shapes else None,
            statistics={name: stacked(name, ()) for name in self.statistics},
            metadata=metadata,
        )
