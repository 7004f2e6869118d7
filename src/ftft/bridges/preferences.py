"""TRL's DPO and KTO trainers as stages; they record every example's implicit-reward margin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
import torch
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

from ftft.bridges.staged import ROW, Setup, Shape, Staged, options

MULTIPLE = 8  # batch widths: few distinct shapes to count the FLOPs of


class _Observed(Staged):
    """Sums the log-probabilities that model and reference give each sequence of the training batch."""

    ref_model: Any
    beta: float

    def compute_loss(self, model: Any, inputs: Any, *others: Any, **named: Any) -> Any:
        rows = inputs.pop(ROW)
        self.seen_examples += len(rows)
        self.seen_tokens += int(inputs["attention_mask"].sum())
        sums: dict[str, torch.Tensor] = {}
        tokens = inputs["input_ids"]
        with _Watch(model, tokens, "model", sums), _Watch(self.ref_model, tokens, "reference", sums):
            loss = super().compute_loss(model, inputs, *others, **named)  # type: ignore[misc]
        ratios = sums["model"] - sums["reference"]
        margin = (self.beta * self.margin(ratios, inputs)).to("cpu", torch.float32).numpy()
        self.keeper.observe(rows.cpu().numpy(), {"margin": margin})
        return loss

    def shape_of(self, inputs: Any) -> Shape | None:
        tokens = inputs["input_ids"]
        if tokens.device.type != "cpu":
            return None  # there the head works on the completions' tokens alone
        other = inputs.get("KL_input_ids")
        return ("train" if other is None else f"train with {other.shape[1]}", *tokens.shape)

    def margin(self, ratios: torch.Tensor, inputs: Any) -> torch.Tensor:
        """The margin of every example over beta, from log p / p_reference of every sequence."""
        raise NotImplementedError


class _Watch:
    """While entered, keeps the sum over its tokens of every sequence's log-probability, from the forward pass over
    ``tokens`` (a second pass, over other sequences, is not looked at)."""

    def __init__(self, model: Any, tokens: torch.Tensor, name: str, sums: dict[str, torch.Tensor]) -> None:
        self.model, self.tokens, self.name, self.sums = model, tokens, name, sums

    def __enter__(self) -> None:
        self.handle = self.model.register_forward_hook(self._hook, with_kwargs=True)

    def __exit__(self, *raised: object) -> None:
        self.handle.remove()

    def _hook(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
        if kwargs.get("input_ids") is self.tokens:
            self.sums[self.name] = outputs.log_probs.detach().to(torch.float64).sum(dim=1)


class StagedDPO(_Observed, DPOTrainer):
    """DPO on tokens, with its margins observed."""

    def margin(self, ratios: torch.Tensor, inputs: Any) -> torch.Tensor:
        chosen, rejected = ratios.chunk(2)
        return chosen - rejected


class StagedKTO(_Observed, KTOTrainer):
    """KTO on tokens, with its margins observed."""

    def margin(self, ratios: torch.Tensor, inputs: Any) -> torch.Tensor:
        return torch.where(inputs["label"].bool(), ratios, -ratios)


def _collator(kind: Callable[..., Callable[[Any], dict[str, Any]]], setup: Setup) -> Callable[[Any], dict[str, Any]]:
    """TRL's collator, in widths as the task pads them, that keeps the numbers of the rows."""
    width = MULTIPLE if setup.task.max_length % MULTIPLE == 0 else None
    collate = kind(pad_token_id=setup.processor.pad_token_id, pad_to_multiple_of=width)

    def collated(examples: list[dict[str, Any]]) -> dict[str, Any]:
        return {**collate(examples), ROW: torch.tensor([example[ROW] for example in examples])}

    return collated


def _shared(setup: Setup) -> dict[str, Any]:
    """What both trainers are given, but for their settings, rows and collator."""
    return {
        "model": setup.model,
        "ref_model": setup.reference,
        "processing_class": setup.processor,
        "optimizers": (setup.optimizer, setup.scheduler),
    }


def start_dpo(setup: Setup, columns: dict[str, list[Any]], **settings: Any) -> StagedDPO:
    """The DPO trainer on the rows ``columns`` (prompt_ids, chosen_ids, rejected_ids, row)."""
    return StagedDPO(
        **_shared(setup),
        args=DPOConfig(**options(setup), max_length=None, **settings),
        data_collator=_collator(DataCollatorForPreference, setup),
        train_dataset=datasets.Dataset.from_dict(columns),
    )


def start_kto(setup: Setup, columns: dict[str, list[Any]], **settings: Any) -> StagedKTO:
    """The KTO trainer on the rows ``columns`` (prompt_ids, completion_ids, label, row), which it takes in their order. The
    divergence of a batch is estimated from its completions behind one another's prompts."""
    size = int(setup.arguments["per_device_train_batch_size"])
    if settings["loss_type"] == "kto":
        told = columns["completion_ids"]
        columns["KL_completion_ids"] = [
            other for start in range(0, len(told), size) for other in np.roll(_objects(told[start : start + size]), 1)
        ]
    return StagedKTO(
        **_shared(setup),
        args=KTOConfig(**options(setup), max_length=None, **settings),
        data_collator=_collator(DataCollatorForUnpairedPreference, setup),
        train_dataset=datasets.Dataset.from_dict(columns),
    )


def _objects(lists: list[Any]) -> np.ndarray:
    array = np.empty(len(lists), dtype=object)
    array[:] = lists
    return array
