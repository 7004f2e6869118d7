"""Record training dynamics with any ``transformers.Trainer`` or TRL's SFTTrainer:

    recorder = DynamicsRecorder()
    recorder.attach(trainer)
    trainer.train()
    dynamics = recorder.dynamics()

Online, what is kept is the training forward pass itself (dropout on, before the update on that very batch), so that it
costs nothing; ``epoch_end`` adds one evaluation-mode pass over the train dataset per epoch and reports its cost. Losses
and weights are bit for bit those of a run without the recorder: no random number is drawn, no order changed.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from ftft.bridges.forward import Call, Cost, Watch, keyed_batches, labels_in, pass_over_train_set, shifts_labels
from ftft.bridges.identity import KnownIds, StreamIds, example_ids, gold_column
from ftft.bridges.memory import Memory
from ftft.bridges.outputs import Observation
from ftft.bridges.rows import ROW_KEY, with_rows
from ftft.dynamics.parquet import write_dynamics
from ftft.dynamics.table import Dynamics
from ftft.errors import UserError, did_you_mean

MODES = ("online", "epoch_end")
# Micro-batches whose values may wait on the model's device before they are fetched together.
WAITING = 16


class DynamicsRecorder:
    """Records what a Trainer's model says about every training example in every epoch.

    ``id_column``: the column of the train dataset with unique ids; by default the one that `ftft init` and `ftft score`
    would take (the first of id, guid, uid, idx, ... that is unique: ``ftft.data.ids.find_id_column``), else the row position
    in ``trainer.train_dataset``, ``row-<i>``. ``mode``:
    ``online`` (the training forward pass) or ``epoch_end`` (an extra pass per epoch in evaluation mode). ``max_classes``:
    with more classes only the gold logit, the largest other and the gold probability are kept. ``folder``: where
    ``dynamics.parquet`` is written when training ends; None writes nothing.

    Single-label classification gives ``logits``; language models (and TRL's SFTTrainer) give per-sequence statistics
    (see ``outputs.py``). With every checkpoint of the trainer the observations are saved, and resuming takes them up.
    With several processes every one of them must call ``attach``, and all hold the whole table when training has ended.
    """

    def __init__(
        self,
        *,
        id_column: str | None = None,
        mode: Literal["online", "epoch_end"] = "online",
        max_classes: int = 64,
        folder: Path | str | None = None,
    ) -> None:
        if mode not in MODES:
            raise UserError(f'the recorder has no mode "{mode}"{did_you_mean(mode, MODES)}')
        if max_classes < 2:
            raise UserError(f"max_classes must be at least 2, not {max_classes}")
        self.id_column, self.mode, self.max_classes = id_column, mode, max_classes
        self.folder = None if folder is None else Path(folder)
        self._trainer: Any = None
        self._memory: Memory | None = None
        self._id_source = ""
        self._callback: _Callback | None = None
        self._resumed_from: str | None = None
        self._before: dict[str, Any] = {}
        self._wrapped: list[str] = []
        self._reset_run()

    def _reset_run(self) -> None:
        self._waiting: list[tuple[int, torch.Tensor, Observation]] = []
        self._epoch = 0
        self._call: Call | None = None
        self._cost = Cost()
        self._partial: set[int] = set()
        self._merged = False

    # --- public ---

    def attach(self, trainer: Any) -> DynamicsRecorder:
        """Start watching ``trainer``; call it once, before ``trainer.train()``. Gives the recorder itself.

        Raises UserError where the examples behind the trainer's rows cannot be established (packing, reordered or
        dropped rows without an id column, an iterable dataset without one) or the trainer is of an unsupported kind.
        """
        if self._trainer is not None:
            raise UserError("this recorder is attached to a trainer already; make a new DynamicsRecorder for another one")
        if isinstance(getattr(trainer, "_ftft_recorder", None), DynamicsRecorder):
            raise UserError("this trainer has a recorder already; attach one recorder to a trainer")
        ids, self._id_source = example_ids(trainer, self.id_column)
        if ids is None and self.mode == "epoch_end":
            raise UserError('mode="epoch_end" needs a train dataset of known length; use mode="online" for an iterable one')
        self._memory = Memory(
            StreamIds() if ids is None else KnownIds(ids),
            None if ids is None else gold_column(trainer.train_dataset, trainer.label_names),
            max_classes=self.max_classes,
            rank=trainer.accelerator.process_index,
            processes=trainer.accelerator.num_processes,
        )
        self._trainer = trainer
        wrappers = {"train": self._with_resume_noted, "training_step": self._with_watch}
        if self.mode == "online":
            wrappers["get_train_dataloader"] = self._with_keys
        # The user may have set some of these on the instance too; detaching gives them back.
        self._before = {name: vars(trainer)[name] for name in wrappers if name in vars(trainer)}
        self._wrapped = [*wrappers, "_ftft_recorder"]
        for name, wrapper in wrappers.items():
            setattr(trainer, name, wrapper(getattr(trainer, name)))
        trainer._ftft_recorder = self
        self._callback = _Callback(self)
        trainer.add_callback(self._callback)
        return self

    def detach(self) -> None:
        """Leave the trainer as it was before :meth:`attach`; what was recorded stays here."""
        if self._trainer is None or getattr(self._trainer, "_ftft_recorder", None) is not self:
            return
        for name in self._wrapped:
            del vars(self._trainer)[name]
        vars(self._trainer).update(self._before)
        self._trainer.remove_callback(self._callback)

    def dynamics(self) -> Dynamics:
        """The table recorded so far. ``metadata``: ``source`` (the mode), ``id_column`` (or ``row``), ``model``,
        ``label_names``, ``partial_epochs`` (epochs that were not run to their end) and, for ``epoch_end``, ``cost``
        (seconds, examples, tokens, counted forward FLOPs of the extra passes).

        Raises UserError when nothing was recorded, or with several processes before training has ended.
        """
        if self._trainer is None or self._memory is None:
            raise UserError("the recorder is not attached; call recorder.attach(trainer) before trainer.train()")
        if self._memory.processes > 1 and not self._merged:
            raise UserError("with several processes the dynamics are complete only when trainer.train() has returned")
        self._flush()
        config = getattr(self._trainer.model, "config", None)
        names = getattr(config, "id2label", None) or {}
        metadata: dict[str, Any] = {
            "source": self.mode,
            "id_column": self._id_source,
            "model": getattr(config, "_name_or_path", None) or type(self._trainer.model).__name__,
            "partial_epochs": sorted(self._partial & set(self._memory.epochs)),
        }
        buffer = self._memory.buffer
        if buffer is not None and buffer.num_classes == len(names):
            metadata["label_names"] = [str(names[index]) for index in sorted(names, key=int)]
        if self.mode == "epoch_end":
            metadata["cost"] = self._cost.as_dict()
        return self._memory.dynamics(metadata)

    # --- what is put around the trainer's own methods ---

    def _with_resume_noted(self, train: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(train)

        @functools.wraps(train)
        def noted(*args: Any, **kwargs: Any) -> Any:
            resume = signature.bind(*args, **kwargs).arguments.get("resume_from_checkpoint")
            if resume is True:
                resume = get_last_checkpoint(self._trainer.args.output_dir)
            self._resumed_from = str(resume) if resume else None
            return train(*args, **kwargs)

        return noted

    def _with_keys(self, get_train_dataloader: Callable[[], Any]) -> Callable[[], Any]:
        @functools.wraps(get_train_dataloader)
        def keyed() -> Any:
            trainer = self._trainer
            dataset = trainer.train_dataset
            with keyed_batches(trainer):
                trainer.train_dataset = with_rows(dataset, self.id_column)
                try:
                    return get_train_dataloader()
                finally:
                    trainer.train_dataset = dataset

        return keyed

    def _with_watch(self, training_step: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(training_step)
        def watched(model: torch.nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Any:
            if self.mode == "epoch_end" and self._call is not None:
                return training_step(model, inputs, num_items_in_batch)
            keys = self._take_keys(inputs)
            labels = labels_in(inputs, self._trainer.label_names)
            watch = Watch(dict(inputs), labels, None if keys is None else len(keys), shifts_labels(self._trainer))
            handle = model.register_forward_hook(watch, with_kwargs=True)
            try:
                loss = training_step(model, inputs, num_items_in_batch)
            finally:
                handle.remove()
            self._take(keys, watch)
            return loss

        return watched

    def _take_keys(self, inputs: Any) -> torch.Tensor | None:
        """The keys, taken out of the batch so that nothing of the trainer or the model meets them."""
        if self.mode == "epoch_end":
            return None
        keys = inputs.pop(ROW_KEY, None)
        if keys is None:
            raise UserError(
                "the train dataloader does not give the items of trainer.train_dataset through trainer.data_collator, so their "
                "rows are unknown; let get_train_dataloader use both as they are"
            )
        return keys

    def _take(self, keys: torch.Tensor | None, watch: Watch) -> None:
        if keys is None:
            self._call = watch.call
            return
        if watch.observation is None:
            raise UserError(
                f"no forward pass with gradients over the {len(keys)} examples of the batch was seen in the training step, so "
                "there is nothing to record; call the model given to compute_loss once with the whole batch"
            )
        self._waiting.append((self._epoch, keys, watch.observation))
        if len(self._waiting) >= WAITING:
            self._flush()

    def _flush(self) -> None:
        """Fetch what waits on the device and put it into memory, in the order it was seen."""
        waiting, self._waiting = self._waiting, []
        for epoch, keys, observation in waiting:
            self._remember(epoch, keys, observation)

    def _remember(self, epoch: int, keys: torch.Tensor, observation: Observation) -> None:
        assert self._memory is not None
        values = {name: value.cpu().numpy() for name, value in observation.values.items()}
        gold = None if observation.gold is None else observation.gold.cpu().numpy()
        self._memory.observe(epoch, keys.cpu().numpy(), values, gold, observation.counted.cpu().numpy())

    # --- what the callback calls ---

    def _start(self, state: Any) -> None:
        """Training starts: from the beginning, or from a checkpoint whose observations are taken up."""
        assert self._memory is not None
        self._reset_run()
        self._memory.clear()
        if state.global_step == 0 or self._resumed_from is None:
            return
        extra = self._memory.load(Path(self._resumed_from))
        if extra["mode"] != self.mode:
            raise UserError(
                f'the checkpoint was recorded with mode="{extra["mode"]}", and this recorder has "{self.mode}"; use the same'
            )
        self._cost.add(extra["cost"])
        self._partial = set(extra["partial"])
        self._call = None if extra["call"] is None else Call(**extra["call"])
        finished = round(state.epoch) - 1
        at_boundary = abs(state.epoch - round(state.epoch)) < 1e-9
        if self.mode == "epoch_end" and at_boundary and finished >= 0 and finished not in self._memory.epochs:
            # Saved by step count after the epoch's last update: its end was still to come, and is not called again.
            self._pass(finished)

    def _pass(self, epoch: int) -> None:
        assert self._memory is not None
        if self._call is None:
            return
        self._memory.forget_epoch(epoch)
        pass_over_train_set(
            self._trainer, self._call, self.id_column, self._cost, lambda keys, seen: self._remember(epoch, keys, seen)
        )

    def _end_epoch(self, state: Any) -> None:
        self._flush()
        (self._partial.add if state.epoch < self._epoch + 1 - 1e-9 else self._partial.discard)(self._epoch)
        if self.mode == "epoch_end":
            self._pass(self._epoch)

    def _save(self, folder: Path) -> None:
        assert self._memory is not None
        self._flush()
        call = None if self._call is None else {"inputs": self._call.inputs, "flags": self._call.flags}
        extra = {"mode": self.mode, "cost": self._cost.as_dict(), "partial": sorted(self._partial), "call": call}
        self._memory.save(folder, extra)

    def _end(self) -> None:
        """Training has ended: every process gets the whole table, and the first writes it."""
        assert self._memory is not None
        self._flush()
        if self._memory.processes > 1:
            self._memory.merge(self._trainer.accelerator.device)
            self._merge_cost()
            self._merged = True
        if self.folder is not None and self._trainer.accelerator.is_main_process and self._memory.buffer is not None:
            write_dynamics(self.dynamics(), self.folder / "dynamics.parquet")

    def _merge_cost(self) -> None:
        """Examples, tokens and operations add up over the processes; they work at the same time, so the longest counts."""
        assert self._memory is not None
        costs: list[Any] = [None] * self._memory.processes
        torch.distributed.all_gather_object(costs, self._cost.as_dict())
        self._cost = Cost(
            seconds=max(cost["seconds"] for cost in costs),
            examples=sum(cost["examples"] for cost in costs),
            tokens=sum(cost["tokens"] for cost in costs),
            flops=sum(cost["flops"] for cost in costs),
        )


class _Callback(TrainerCallback):
    """Tells the recorder where training stands."""

    def __init__(self, recorder: DynamicsRecorder) -> None:
        self._recorder = recorder
        self._begun = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._begun = False
        self._recorder._start(state)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Counted from the first one on: after a stopped epoch the state's fraction still points into it.
        self._recorder._epoch = self._recorder._epoch + 1 if self._begun else int((state.epoch or 0) + 1e-9)
        self._begun = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._recorder._end_epoch(state)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if folder.is_dir():
            self._recorder._save(folder)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._recorder._end()
