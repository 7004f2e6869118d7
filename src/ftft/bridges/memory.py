"""What a recorder has observed so far: filled batch by batch, saved beside the trainer's checkpoints, merged over processes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ftft.bridges.identity import KnownIds, StreamIds
from ftft.dynamics.buffer import SEEN, DynamicsBuffer
from ftft.dynamics.table import Dynamics
from ftft.errors import UserError
from ftft.files import FORMAT, VERSION, atomic_path

KIND, KIND_VERSION = "ftft/recorder", 1
NEVER = np.iinfo(np.int64).max
SMALLEST_STREAM = 1024


class Memory:
    """The observations of one process.

    Beside the dynamics it keeps, per epoch, the micro-batch in which an example was first seen (int64 [N]), so that of
    two processes that saw the same example (a distributed sampler's padding) the earlier one counts, as in one process.
    ``gold``: int32 [N] labels known beforehand (-1: unknown); the labels of the batches take their place.
    """

    def __init__(
        self, ids: KnownIds | StreamIds, gold: np.ndarray | None, *, max_classes: int, rank: int, processes: int
    ) -> None:
        self.ids, self.max_classes, self.rank, self.processes = ids, max_classes, rank, processes
        self._gold_before = gold
        self.clear()

    def clear(self) -> None:
        """Forget everything: training starts from the beginning."""
        self.buffer: DynamicsBuffer | None = None
        self.clock = 0
        self._first_seen: dict[int, np.ndarray] = {}
        self._labelled = np.zeros(0, dtype=bool)
        if isinstance(self.ids, StreamIds):
            self.ids = StreamIds()

    @property
    def epochs(self) -> tuple[int, ...]:
        return () if self.buffer is None else self.buffer.epochs

    def observe(
        self, epoch: int, keys: np.ndarray, values: Mapping[str, np.ndarray], gold: np.ndarray | None, counted: np.ndarray
    ) -> None:
        """Record one micro-batch: its keys (see ``rows.py``), what was said of each example, and which of them count."""
        rows = self.ids.rows(keys)[counted]
        buffer = self._ready(values, gold is not None)
        if gold is not None:
            assert buffer.gold is not None
            fresh = ~self._labelled[rows]
            buffer.gold[rows[fresh]] = gold[counted][fresh]
            self._labelled[rows] = True
        buffer.observe(epoch, rows, {name: array[counted] for name, array in values.items()})
        first = self._first_seen.setdefault(epoch, np.full(len(buffer), NEVER))
        first[rows] = np.minimum(first[rows], self.clock)
        self.clock += 1

    def _ready(self, values: Mapping[str, np.ndarray], has_gold: bool) -> DynamicsBuffer:
        """The buffer, made at the first observation and enlarged when a stream outgrows it."""
        if self.buffer is None:
            classes = values["logits"].shape[1] if "logits" in values else None
            self.buffer = self._new(classes, [name for name in values if name != "logits"], has_gold, self._capacity())
            self._labelled = np.zeros(len(self.buffer), dtype=bool)
        elif len(self.buffer) < len(self.ids):
            self._resize(self._capacity())
        return self.buffer

    def _capacity(self) -> int:
        if isinstance(self.ids, KnownIds):
            return len(self.ids)
        return max(SMALLEST_STREAM, 1 << (len(self.ids) - 1).bit_length()) if len(self.ids) else SMALLEST_STREAM

    def _new(self, classes: int | None, statistics: Sequence[str], has_gold: bool, capacity: int) -> DynamicsBuffer:
        ids = self.ids.ids if isinstance(self.ids, KnownIds) else pa.nulls(capacity, pa.string())
        gold = None
        if has_gold:
            before = self._gold_before
            gold = before.copy() if before is not None else np.full(capacity, -1, dtype=np.int32)
        return DynamicsBuffer(ids, gold, num_classes=classes, max_classes=self.max_classes, statistics=statistics)

    def _resize(self, capacity: int) -> None:
        """Make room for ``capacity`` examples; what was observed stays."""
        old = self.buffer
        assert old is not None

        def longer(values: np.ndarray, fill: Any = 0) -> np.ndarray:
            out = np.full((capacity, *values.shape[1:]), fill, dtype=values.dtype)
            out[: len(values)] = values
            return out

        self._labelled = longer(self._labelled)
        self.buffer = self._new(old.num_classes, old.statistics, old.gold is not None, capacity)
        if old.gold is not None:
            self.buffer.gold = longer(old.gold, -1)
        self.buffer.load_state({name: longer(values) if "." in name else values for name, values in old.state().items()})
        self._first_seen = {epoch: longer(values, NEVER) for epoch, values in self._first_seen.items()}

    def forget_epoch(self, epoch: int) -> None:
        """Drop what was observed in one epoch, to observe it anew."""
        if self.buffer is None or epoch not in self.buffer.epochs:
            return
        state = {name: values for name, values in self.buffer.state().items() if not name.startswith(f"{epoch}.")}
        state["epochs"] = np.array([other for other in self.buffer.epochs if other != epoch], dtype=np.int64)
        self.buffer.load_state(state)
        self._first_seen.pop(epoch, None)

    def dynamics(self, metadata: Mapping[str, Any]) -> Dynamics:
        """The table of what was observed; UserError when that is nothing."""
        if self.buffer is None:
            raise UserError("nothing has been recorded yet; call trainer.train() after attaching the recorder")
        table = self.buffer.dynamics()
        table.metadata = {**table.metadata, **metadata}
        if isinstance(self.ids, KnownIds):
            return table
        n = len(self.ids)

        def cut(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[:, :n]

        return dataclasses.replace(
            table,
            ids=self.ids.ids,
            seen=table.seen[:, :n],
            gold=None if table.gold is None else table.gold[:n],
            logits=cut(table.logits),
            pair_logits=cut(table.pair_logits),
            pair_probability=cut(table.pair_probability),
            statistics={name: values[:, :n] for name, values in table.statistics.items()},
        )

    # --- checkpoints ---

    def save(self, folder: Path, extra: Mapping[str, Any]) -> None:
        """Write this process' observations into ``folder``, atomically."""
        arrays: dict[str, np.ndarray] = {}
        header: dict[str, Any] = {
            "ids": self.ids.fingerprint,
            "clock": self.clock,
            "processes": self.processes,
            "extra": dict(extra),
        }
        if self.buffer is not None:
            arrays = {f"buffer.{name}": values for name, values in self.buffer.state().items()}
            arrays |= {f"first_seen.{epoch}": values for epoch, values in self._first_seen.items()}
            arrays["labelled"] = self._labelled
            if self.buffer.gold is not None:
                arrays["gold"] = self.buffer.gold
            header |= {
                "statistics": list(self.buffer.statistics),
                "num_classes": self.buffer.num_classes,
                "gold": self.buffer.gold is not None,
            }
        if isinstance(self.ids, StreamIds):
            header["stream"] = self.ids.ids.to_pylist()
        metadata = {FORMAT: KIND, VERSION: str(KIND_VERSION), "header": json.dumps(header)}
        with atomic_path(state_file(folder, self.rank)) as temporary:
            save_file({name: np.ascontiguousarray(values) for name, values in arrays.items()}, temporary, metadata=metadata)

    def load(self, folder: Path) -> dict[str, Any]:
        """Take over what was saved in ``folder``; gives the ``extra`` of the saving.

        With as many processes as then, each takes its own part; with another number, the first takes everything.
        """
        self.clear()
        first = state_file(folder, 0)
        if not first.exists():
            raise UserError(
                f"{folder} holds no recorded dynamics; resume from a checkpoint saved with the recorder attached, or train "
                "without it"
            )
        header, _ = read_state(first)
        saved = int(header["processes"])
        parts = [self.rank] if saved == self.processes else list(range(saved)) if self.rank == 0 else []
        for part in parts:
            self._absorb(*read_state(state_file(folder, part)))
        self.clock = int(header["clock"])
        return dict(header["extra"])

    def _absorb(self, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Add a saved part to what is there; of an example in both, the part that saw it first counts."""
        if header["ids"] != self.ids.fingerprint:
            raise UserError(
                "the checkpoint's dynamics are of other examples; resume with the dataset and id column it was made with"
            )
        if "statistics" not in header:
            return
        if isinstance(self.ids, StreamIds):
            self.ids.ids = pa.array(header["stream"], pa.string())
        other = self._new(header["num_classes"], header["statistics"], header["gold"], len(arrays["labelled"]))
        if "gold" in arrays:
            other.gold = np.array(arrays["gold"], dtype=np.int32)
        other.load_state(
            {name.removeprefix("buffer."): values for name, values in arrays.items() if name.startswith("buffer.")}
        )
        first_seen = {epoch: np.array(arrays[f"first_seen.{epoch}"]) for epoch in other.epochs}
        labelled = np.array(arrays["labelled"], dtype=bool)
        if self.buffer is None:
            self.buffer, self._first_seen, self._labelled = other, first_seen, labelled
        else:
            self._take_earlier(self.buffer, other, first_seen, labelled)

    def _take_earlier(
        self, mine: DynamicsBuffer, other: DynamicsBuffer, first_seen: Mapping[int, np.ndarray], labelled: np.ndarray
    ) -> None:
        theirs = other.state()
        for epoch, seen_at in first_seen.items():
            mine.start_epoch(epoch)
            here = self._first_seen.setdefault(epoch, np.full(len(mine), NEVER))
            better = seen_at < here
            for name, values in mine.state().items():
                if name.startswith(f"{epoch}."):
                    values[better] = theirs[name][better]
            here[better] = seen_at[better]
        if mine.gold is not None and other.gold is not None:
            new = labelled & ~self._labelled
            mine.gold[new] = other.gold[new]
        self._labelled |= labelled

    # --- several processes ---

    def merge(self, device: torch.device) -> None:
        """Give every process the observations of all; every process must call this at the same time.

        Per epoch each example is taken from the process that saw it first (of equals, the lowest rank), by a minimum
        over the processes and a sum in which all others are zero.
        """
        shape = None if self.buffer is None else (self.buffer.num_classes, self.buffer.statistics, self.buffer.gold is not None)
        parts: list[Any] = [None] * self.processes
        torch.distributed.all_gather_object(parts, (shape, self.epochs))
        shapes = {part[0] for part in parts if part[0] is not None}
        if not shapes:
            return
        if len(shapes) > 1:
            raise RuntimeError(f"the processes have recorded different things: {shapes}")
        if self.buffer is None:
            classes, statistics, has_gold = shapes.pop()
            self.buffer = self._new(classes, statistics, has_gold, self._capacity())
            self._labelled = np.zeros(len(self.buffer), dtype=bool)
        for epoch in sorted({epoch for part in parts for epoch in part[1]}):
            self._merge_epoch(self.buffer, epoch, device)
        if self.buffer.gold is not None:
            known = torch.from_numpy(np.where(self._labelled, self.buffer.gold, -1).astype(np.int64)).to(device)
            torch.distributed.all_reduce(known, torch.distributed.ReduceOp.MAX)
            found = known.cpu().numpy()
            self.buffer.gold[found >= 0] = found[found >= 0]
            self._labelled |= found >= 0

    def _merge_epoch(self, buffer: DynamicsBuffer, epoch: int, device: torch.device) -> None:
        buffer.start_epoch(epoch)
        mine = self._first_seen.setdefault(epoch, np.full(len(buffer), NEVER))
        claims = np.where(mine == NEVER, NEVER, mine * self.processes + self.rank)
        earliest = torch.from_numpy(claims).to(device)
        torch.distributed.all_reduce(earliest, torch.distributed.ReduceOp.MIN)
        winner = earliest.cpu().numpy()
        won = (winner == claims) & (mine != NEVER)
        for name, values in buffer.state().items():
            if not name.startswith(f"{epoch}.") or name.endswith(f".{SEEN}"):
                continue
            values[~won] = 0
            shared = torch.from_numpy(values).to(device, copy=True)
            torch.distributed.all_reduce(shared)
            values[...] = shared.cpu().numpy()
        buffer.state()[f"{epoch}.{SEEN}"][...] = winner != NEVER
        mine[...] = np.where(winner == NEVER, NEVER, winner // self.processes)


def state_file(folder: Path, rank: int) -> Path:
    """Where a process' observations lie in a checkpoint folder."""
    return folder / f"ftft_recorder_{rank}.safetensors"


def read_state(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header and arrays of a saved state; UserError where it is missing, damaged or from a newer version."""
    if not path.exists():
        raise UserError(f"{path} is missing, so the recorded dynamics cannot be taken up; resume from another checkpoint")
    try:
        with safe_open(path, framework="np") as stored:
            metadata = stored.metadata() or {}
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        header = json.loads(metadata.get("header", "null"))
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}); resume from another checkpoint") from None
    if metadata.get(FORMAT) != KIND or not isinstance(header, dict):
        raise UserError(f'{path} is not a file of the kind "{KIND}"')
    if int(metadata.get(VERSION, 0)) > KIND_VERSION:
        raise UserError(
            f"{path} has format version {metadata[VERSION]}, and this ftft reads up to {KIND_VERSION}; upgrade ftft to read it"
        )
    return header, arrays
