"""The processes that torchrun or ``accelerate launch`` started together, seen from one of them.

All of them run the same program. What must happen once (writing a file, a measured choice) happens in the first process
and the others get its outcome, an error the user can mend included; what all compute is shared out and brought together.
Every method that talks to the others must be called by all processes, in the same order.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ftft.errors import UserError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.nn import Module

T = TypeVar("T")

# The others wait while the first process selects or writes; the backends' own limits (10 minutes on GPUs) are too short.
PATIENCE = datetime.timedelta(hours=2)


@dataclass(frozen=True)
class Processes:
    """``index`` of this process (from 0) among ``count``; ``device``: where tensors must lie to be sent."""

    index: int = 0
    count: int = 1
    device: str = "cpu"

    @property
    def is_first(self) -> bool:
        return self.index == 0

    def gather(self, value: T) -> list[T]:
        """Every process' ``value``, in the order of the processes, in every process."""
        if self.count == 1:
            return [value]
        import torch

        values: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(values, value)
        return values

    def from_first(self, value: T) -> T:
        """The first process' ``value``, in every process."""
        if self.count == 1:
            return value
        import torch

        values: list[Any] = [value if self.is_first else None]
        torch.distributed.broadcast_object_list(values, src=0)
        return values[0]

    def once(self, work: Callable[[], T]) -> T:
        """What ``work`` gives, done in the first process only; its UserError is raised in every process."""
        if self.count == 1:
            return work()
        value, sentence = None, None
        if self.is_first:
            try:
                value = work()
            except UserError as error:
                self.from_first((None, str(error)))
                raise error
        value, sentence = self.from_first((value, sentence))
        if sentence is not None:
            raise UserError(sentence)
        return value  # type: ignore[return-value]

    def in_turn(self, work: Callable[[], T]) -> T:
        """What ``work`` gives in each process, done first in the first one: it makes what the others then find."""
        done: list[T] = []
        self.once(lambda: done.append(work()))
        return done[0] if done else work()

    @contextlib.contextmanager
    def holding(self, lock: contextlib.AbstractContextManager[Any]) -> Iterator[None]:
        """Inside, the first process holds ``lock``, for all of them."""
        with contextlib.ExitStack() as held:
            # Nothing of the lock may be sent to the others.
            self.once(lambda: None if held.enter_context(lock) else None)
            yield

    def require_same(self, value: Any, what: str) -> None:
        """UserError in a process whose ``value`` is not the first one's; ``what`` it stands for is named."""
        if self.from_first(value) != value:
            raise UserError(f"process {self.index} has other {what} than the first one; give every machine the same files")

    def require_shared(self, folder: Path) -> None:
        """UserError in a process that does not see a ``folder`` that the first one has made."""
        if not folder.exists():
            raise UserError(
                f"process {self.index} does not see {folder}, which the first one has made; `output` and `store` must lie on a "
                "file system that all machines share"
            )

    def sum(self, value: float) -> float:
        """The sum of a number over the processes, in float64."""
        return float(self._summed(float(value)))

    def total(self, count: int) -> int:
        """The sum of a count over the processes, exact."""
        return int(self._summed(int(count)))

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag whether it is set in any process."""
        if self.count == 1:
            return flags
        import torch

        votes = torch.tensor(flags, dtype=torch.int32, device=self.device)
        torch.distributed.all_reduce(votes)
        return tuple(bool(vote) for vote in votes.tolist())

    def seed(self, seed: int) -> int:
        """A seed for this process' own generators: the first process keeps ``seed``, so that one process is as always; the
        others differ, or dropout would draw one mask for all."""
        if self.index == 0:
            return seed
        import numpy as np

        return int(np.random.SeedSequence([seed, self.index]).generate_state(1, np.uint64)[0] >> 1)

    def _summed(self, value: float | int) -> float | int:
        if self.count == 1:
            return value
        import torch

        # Python's int and float become int64 and float64: sums of FLOPs beyond 2**53 stay exact.
        kind = torch.int64 if isinstance(value, int) else torch.float64
        tensor = torch.tensor(value, dtype=kind, device=self.device)
        torch.distributed.all_reduce(tensor)
        return tensor.item()


ALONE = Processes()


def launched(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """(index, count) of this process as its launcher says; (0, 1) where none did. Imports nothing heavy."""
    try:
        return int(environment.get("RANK") or 0), int(environment.get("WORLD_SIZE") or 1)
    except ValueError:
        return 0, 1


def join_processes() -> Processes:
    """Meet the other processes where a launcher started several; :data:`ALONE` otherwise.

    Raises UserError where they cannot be joined on this machine's device.
    """
    count = launched()[1]
    if count == 1:
        return ALONE
    import torch
    from accelerate import Accelerator, InitProcessGroupKwargs

    here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    # accelerate joins processes on the CPU only when told to; Apple's GPUs have no way to talk to one another.
    on_cpu = here is None or here.type == "mps"
    joined = processes_of(Accelerator(cpu=on_cpu, kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)]))
    if joined.count != count:
        raise UserError(f"{count} processes were launched, and on {joined.device} accelerate joins {joined.count}; start one")
    return joined


def processes_of(accelerator: Accelerator) -> Processes:
    """The processes an Accelerator stands for.

    Raises UserError where it is configured to split the model: that is the recipe's to say (``train.sharding``), and on CPUs
    accelerate, asked for FSDP, would train whole copies and not say so.
    """
    kind = accelerator.distributed_type.value
    if kind.startswith("MULTI_") and os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true", "yes", "on"):
        kind = "FSDP"
    if kind != "NO" and not kind.startswith("MULTI_"):
        raise UserError(
            f"accelerate is configured for {kind}, and how several processes hold the model is said in the recipe; launch with "
            "torchrun, or with an accelerate configuration for plain MULTI_GPU or MULTI_CPU, and for shards instead of whole "
            "copies write train: {sharding: fsdp2}"
        )
    return Processes(accelerator.process_index, accelerator.num_processes, str(accelerator.device))


def with_copies(model: Module, accelerator: Accelerator) -> Module:
    """``model`` on its device, wrapped where there are several processes: each has a copy, and gradients are averaged (DDP).
    One in shards is left as it is."""
    from accelerate import DistributedDataParallelKwargs

    from ftft.state.shards import in_shards

    if in_shards(model):
        return model
    if accelerator.ddp_handler is None:
        # Otherwise DDP regroups the gradients after its first step, and then adds them up in another order: with three
        # processes or more a resumed run would differ in the last bits. It also allows for weights a batch does not use.
        accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=True)
    # The precision is the recipe's, whatever accelerate is configured for.
    accelerator.native_amp = False
    return accelerator.prepare_model(model)
