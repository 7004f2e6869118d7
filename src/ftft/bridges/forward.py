"""Watching the forward pass that a Trainer trains on, and repeating it in evaluation mode over the train dataset."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ftft.bridges.outputs import Observation, observe_outputs
from ftft.bridges.randomness import randomness_kept
from ftft.bridges.rows import ROW_KEY, KeyCollator, with_rows
from ftft.errors import UserError


@contextlib.contextmanager
def keyed_batches(trainer: Any) -> Iterator[None]:
    """While inside, the dataloaders that the trainer builds from items with a key give batches with the keys."""
    trainer._set_signature_columns_if_needed()
    collator, columns = trainer.data_collator, trainer._signature_columns
    trainer.data_collator = KeyCollator(collator)
    # What stands here survives `remove_unused_columns`, which would drop any column the model does not take.
    trainer._signature_columns = None if columns is None else [*columns, ROW_KEY]
    try:
        yield
    finally:
        trainer.data_collator, trainer._signature_columns = collator, columns


def labels_in(batch: Mapping[str, Any], label_names: list[str]) -> torch.Tensor | None:
    """The labels of a batch under the names the trainer knows, or None."""
    for name in (*label_names, "labels", "label"):
        if torch.is_tensor(batch.get(name)):
            return batch[name]
    return None


def shifts_labels(trainer: Any) -> bool:
    """Whether the model predicts the label at position t + 1 from position t (a causal language model)."""
    known = getattr(trainer, "_loss_shifts_labels", None)
    if known is not None:
        return bool(known)
    model = trainer.accelerator.unwrap_model(trainer.model)
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "ForCausalLM" in type(model).__name__ or "LMHeadModel" in type(model).__name__


@dataclass(frozen=True)
class Call:
    """How the trainer calls the model in training: with which parts of the batch, and which plain settings beside them."""

    inputs: list[str]
    flags: dict[str, Any]

    @staticmethod
    def of(args: tuple[Any, ...], kwargs: Mapping[str, Any], batch: Mapping[str, Any]) -> Call:
        """The call seen in a training step; UserError where it cannot be repeated from a batch."""
        known = [name for name in kwargs if name in batch]
        others = {name: value for name, value in kwargs.items() if name not in batch and name != "num_items_in_batch"}
        strange = [name for name, value in others.items() if not isinstance(value, (bool, int, float, str, type(None)))]
        if args or strange or not known:
            what = f"with {strange[0]}" if strange else "with positional arguments" if args else "with nothing of the batch"
            raise UserError(f'the custom loss calls the model {what}, which mode="epoch_end" cannot repeat; use mode="online"')
        return Call(known, others)


@dataclass
class Watch:
    """A forward hook for one training step: keeps what the first forward pass with gradients says about the batch of
    ``size`` examples, or, where ``size`` is None, only how the model was called.

    Later ones (a second pass of a custom loss, metrics without gradient) and passes over another number of examples are
    not the training forward and are left alone.
    """

    batch: Mapping[str, Any]
    labels: torch.Tensor | None
    size: int | None
    shifts: bool
    observation: Observation | None = None
    call: Call | None = None
    done: bool = False

    def __call__(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
        if self.done or not torch.is_grad_enabled():
            return
        if self.size is None:
            self.call = Call.of(args, kwargs, self.batch)
        else:
            self.observation = observe_outputs(outputs, self.labels, size=self.size, shifts=self.shifts)
        self.done = self.call is not None or self.observation is not None


@dataclass
class Cost:
    """What the extra passes cost: forward passes only, this process' share until merged."""

    seconds: float = 0.0
    examples: int = 0
    tokens: int = 0
    flops: int = 0
    shapes: dict[tuple[Any, ...], int] = field(default_factory=dict, repr=False)

    def as_dict(self) -> dict[str, float]:
        return {name: value for name, value in asdict(self).items() if name != "shapes"}

    def add(self, other: Mapping[str, float]) -> None:
        self.seconds += float(other["seconds"])
        self.examples += int(other["examples"])
        self.tokens += int(other["tokens"])
        self.flops += int(other["flops"])

    def counted(self, inputs: Mapping[str, Any], forward: Callable[[], Any]) -> Any:
        """The forward pass' outputs; its operations are counted the first time a batch of this shape comes."""
        shape = tuple((name, tuple(value.shape)) for name, value in inputs.items() if torch.is_tensor(value))
        if shape in self.shapes:
            outputs = forward()
        else:
            with FlopCounterMode(display=False) as counter:
                outputs = forward()
            self.shapes[shape] = counter.get_total_flops()
        self.flops += self.shapes[shape]
        return outputs

    def count_batch(self, inputs: Mapping[str, Any], size: int) -> None:
        """Add a batch's examples and real tokens (without padding where there is an attention mask)."""
        self.examples += size
        mask, ids = inputs.get("attention_mask"), inputs.get("input_ids")
        if torch.is_tensor(mask) and mask.ndim == 2:
            self.tokens += int(mask.sum())
        elif torch.is_tensor(ids):
            self.tokens += ids.numel()


def pass_over_train_set(
    trainer: Any, call: Call, id_column: str | None, cost: Cost, observe: Callable[[torch.Tensor, Observation], None]
) -> None:
    """Evaluation-mode forward passes over the train dataset, this process' share of it, as the trainer's own evaluation
    shares it; ``observe`` gets each batch's keys and what was said. Leaves every random generator and every module's
    training flag as they were, so that training goes on bit for bit as without.
    """
    started = time.perf_counter()
    model = trainer.model
    flags = [(module, module.training) for module in model.modules()]
    shifts = shifts_labels(trainer)
    try:
        with randomness_kept(), torch.no_grad():
            with keyed_batches(trainer):
                # The test dataloader: the one for evaluation would be kept and reused under persistent workers.
                loader = trainer.get_test_dataloader(with_rows(trainer.train_dataset, id_column))
            model.eval()
            for batch in loader:
                batch = trainer._prepare_inputs(batch)
                keys = batch.pop(ROW_KEY)
                inputs = {name: batch[name] for name in call.inputs} | call.flags
                with trainer.compute_loss_context_manager():
                    outputs = cost.counted(inputs, functools.partial(model, **inputs))
                seen = observe_outputs(outputs, labels_in(batch, trainer.label_names), size=len(keys), shifts=shifts)
                if seen is None:
                    raise UserError(
                        f"a batch of {len(keys)} examples gave outputs of another number of rows, so they cannot be told apart"
                    )
                cost.count_batch(batch, len(keys))
                observe(keys, seen)
    finally:
        for module, training in flags:
            module.training = training
    cost.seconds += time.perf_counter() - started
