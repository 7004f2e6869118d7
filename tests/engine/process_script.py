"""Training runs that test_several_processes.py does in one process and in several."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from transformers import BertConfig, BertForSequenceClassification

from ftft.data.examples import Examples
from ftft.dynamics.buffer import DynamicsBuffer
from ftft.engine.assembly import assemble
from ftft.engine.batches import BatchSchedule, Schedule
from ftft.engine.calibrating import CountedCalibration
from ftft.engine.choosing import schedule_for
from ftft.engine.ledger import Ledger
from ftft.engine.loop import Training, TrainingLoop
from ftft.engine.predict import predict
from ftft.engine.processes import Processes, processes_of
from ftft.engine.settings import StopSettings, TrainSettings
from ftft.engine.sharding import Shards
from ftft.engine.stopping import EarlyStopping
from ftft.errors import Interrupted, UserError
from ftft.methods import registry
from ftft.state.shards import own_part
from ftft.tasks.contract import Prepared
from ftft.tasks.text_classification import TextClassification

N, CLASSES, BATCH = 37, 3, 7
ADAMW = {"name": "adamw", "learning_rate": 1e-2, "epsilon": 1e-3}
STEPS = 14  # two epochs and two steps


def model(dropout: float, dtype: torch.dtype) -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
        num_labels=CLASSES,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        attn_implementation="eager",
    )
    return BertForSequenceClassification(config).to(dtype)


def data(*, one_length: bool) -> Prepared:
    source = np.random.default_rng(1)
    lengths = np.full(N, 8, dtype=np.int32) if one_length else source.integers(3, 24, N).astype(np.int32)
    examples = Examples(
        ids=pa.array([f"x{i}" for i in range(N)]),
        inputs={},
        labels=source.integers(0, CLASSES, N),
        label_names=("a", "b", "c"),
        fingerprint="f",
    )
    tokens = source.integers(5, 50, lengths.sum()).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return Prepared(examples, lengths, {"input_ids": tokens, "offsets": offsets, "pad_token_id": 0})


def schedule_of(prepared: Prepared, batch_size: int, steps: int, select: Any, processes: Processes) -> Schedule:
    if select is None:
        return BatchSchedule(np.arange(N), prepared.lengths, batch_size, steps, seed=0)
    sampler = registry.build("select", select, "select").select(prepared.examples, None, seed=0)
    rows = np.array([int(one[1:]) for one in sampler.selection.ids.to_pylist()])
    train = TrainSettings(batch_size=batch_size, epochs=steps / -(-N // batch_size))
    return schedule_for(train, rows, prepared.lengths[rows], seed=0, sampler=sampler, processes=processes)


class Run:
    """One training run and what it leaves: ``results`` as JSON, ``weights`` and ``dynamics`` as tensors."""

    def __init__(
        self,
        folder: Path,
        *,
        mode: str = "online",
        dropout: float = 0.0,
        dtype: torch.dtype = torch.float64,
        one_length: bool = False,
        steps: int = STEPS,
        batch_size: int = BATCH,
        micro: int | None = None,
        patience: int = 50,
        seconds: float = 60.0,
        signal_at: tuple[int, int] | None = None,
        scores: list[float] | None = None,
        methods: dict[str, Any] | None = None,
        sharded: bool = False,
    ) -> None:
        self.folder, self.told = folder, []
        self.warnings: list[str] = []
        self.accelerator = Accelerator(cpu=True)
        processes = processes_of(self.accelerator)
        prepared, network = data(one_length=one_length), model(dropout, dtype)
        task = TextClassification(max_length=24)
        given = methods or {}
        objective = registry.build("objective", given.get("objective", "cross_entropy"), "objective")
        calibration = CountedCalibration(task, prepared, np.arange(N), 0, Ledger())
        assembled = assemble(
            network,
            registry.build("adapt", given.get("adapt", "full"), "adapt"),
            objective,
            registry.build("optimize", given.get("optimize", ADAMW), "optimize"),
            calibration,
            shard=(lambda adapted: Shards(adapted, processes)) if sharded and processes.count > 1 else None,
        )
        self.shards = assembled.shards
        torch.manual_seed(processes.seed(11))
        self.training = Training(
            models=assembled.models,
            task=task,
            data=prepared,
            schedule=schedule_of(prepared, batch_size, steps, given.get("select"), processes),
            objective=objective,
            optimizer=assembled.optimizer,
            before_step=assembled.before_step,
            settings=TrainSettings(
                batch_size=batch_size, micro_batch_size=micro, evaluate_every=3, clip=0.5, checkpoint_seconds=seconds
            ),
            precision="fp32",
            accelerator=self.accelerator,
            weights=np.linspace(0.5, 1.5, N),
            dynamics=DynamicsBuffer(prepared.examples.ids, prepared.examples.labels.astype(np.int32), num_classes=CLASSES),
            dynamics_mode=mode,
            stopping=EarlyStopping(StopSettings(patience=patience)),
            stop_score=lambda found: found["v"]["accuracy"],
            keep_best=True,
            folder=folder,
            notify=self.told.append,
            warn=self.warnings.append,
        )
        self.training.validate = lambda current: {"v": {"accuracy": self._score(current, processes, scores)}}
        self.loop = TrainingLoop(self.training, environment={"processes": processes.count})
        if signal_at is not None:
            self._send_signal_at(*signal_at)

    def _score(self, current: torch.nn.Module, processes: Processes, scores: list[float] | None) -> float:
        t = self.training
        found = predict(current, t.task, t.data, batch_size=8, flops=t.flops, processes=processes)
        if scores is not None:  # of this process' own opinion
            return scores[len(self.loop.history)]
        return float(found[np.arange(N), t.data.examples.labels].mean())

    def _send_signal_at(self, process: int, step: int) -> None:
        """Ctrl-C reaches one process only, before its step number ``step``."""
        train = self.loop._train_step

        def signalled(rows: np.ndarray, epoch: int) -> None:
            if self.loop.step == step - 1 and self.accelerator.process_index == process:
                os.kill(os.getpid(), signal.SIGINT)
            train(rows, epoch)

        self.loop._train_step = signalled

    def go(self) -> dict:
        outcome = self.loop.run()
        buffer = self.training.dynamics.dynamics()
        shapes = self.shapes() if self.shards else {}
        if self.shards:
            self.shards.leave()
        self.tensors = {name: value.clone() for name, value in self.loop.unwrapped.state_dict().items()}
        self.tensors |= {"logits": torch.from_numpy(buffer.logits), "seen": torch.from_numpy(buffer.seen)}
        self.results = {
            "losses": outcome.losses,
            "steps": outcome.steps,
            "best_step": outcome.best_step,
            "stopped_early": outcome.stopped_early,
            "history": outcome.history,
            "resumed_from": outcome.resumed_from,
            "resume_differences": outcome.resume_differences,
            "epochs": buffer.epochs,
            "ledger": self.training.ledger.to_json(),
            "told": [event["event"] for event in self.told],
            "warnings": self.warnings,
            "shapes": shapes,
            "next_random": torch.rand(3).tolist(),
        }
        return self.results

    def shapes(self) -> dict[str, list[list[int]]]:
        """What this process holds: for each parameter its whole shape and its part's, and those of the optimizer's state."""
        found = {}
        for name, parameter in self.loop.unwrapped.named_parameters():
            held = [parameter, *(v for v in self.training.optimizer.state.get(parameter, {}).values() if v.ndim)]
            found[name] = [list(parameter.shape), *(list(own_part(value).shape) for value in held)]
        return found

    def write(self, name: str, folder: Path) -> None:
        index = self.accelerator.process_index
        (folder / f"{name}-{index}.json").write_text(json.dumps(self.results))
        save_file(self.tensors, folder / f"{name}-{index}.safetensors")


METHODS = {
    "lora": {"adapt": "lora"},
    "lift": {"adapt": {"name": "lift", "interval": 4, "filter_rank": 4}},
    "s2ft": {"adapt": "s2ft"},
    "probe_then_full": {"adapt": "probe_then_full"},
    "asft": {"objective": "asft"},
    "l2_sp": {"objective": "l2_sp"},
    "mezo": {"optimize": {"name": "mezo", "learning_rate": 0.1}},
    "sam": {"optimize": {"name": "sam", "learning_rate": 1e-2, "epsilon": 1e-3}},
    "lisa": {"optimize": {"name": "lisa", "layers": 1, "interval": 3, "learning_rate": 1e-2, "epsilon": 1e-3}},
    "infobatch": {"select": {"name": "infobatch", "prune": 0.4}},
    "lora_pro": {"adapt": "lora", "optimize": {"name": "lora_pro", "learning_rate": 1e-3, "epsilon": 1e-3}},
}

# name -> settings; each is run in one process too, in the same folder layout, and compared
SAME_AS_ONE: dict[str, dict[str, Any]] = {
    **{name: {"methods": methods} for name, methods in METHODS.items()},
    "plain": {},
    "one_length": {"one_length": True},
    "accumulated": {"micro": 2},
    "fp32": {"dtype": torch.float32, "seconds": 0.0},
    "epoch_end": {"mode": "epoch_end"},
    "batch_of_one": {"batch_size": 1, "steps": 9},
    "stopping": {"patience": 1, "scores": [0.5, 0.6, 0.4, 0.9, 0.9]},
    "sharded": {"sharded": True},
    "sharded_accumulated": {"sharded": True, "micro": 2, "steps": 6},
    "sharded_fp32": {"sharded": True, "dtype": torch.float32, "steps": 6},
    "sharded_epoch_end": {"sharded": True, "mode": "epoch_end", "batch_size": 5, "steps": 16},
}
# name -> settings of a first part, which ends at step 8, and of the second: over other processes, or held by them otherwise.
CONTINUED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "copies_to_shards": ({}, {"sharded": True}),
    "shards_to_copies": ({"sharded": True}, {}),
    "one_to_copies": ({}, {}),  # the first part is done by one process before
    "one_to_shards": ({}, {"sharded": True}),
    "copies_to_one": ({}, {}),  # the second part is done by one process afterwards
    "shards_to_one": ({"sharded": True}, {}),
}


def straight_and_resumed(folder: Path, dtype: torch.dtype) -> None:
    """The same run undisturbed, and stopped twice."""
    straight = Run(folder / "straight", dropout=0.2, dtype=dtype)
    straight.go()
    straight.write("straight", folder)
    for process, step in ((1, 4), (0, 10)):
        try:
            Run(folder / "resumed", dropout=0.2, dtype=dtype, signal_at=(process, step)).go()
        except Interrupted as stop:
            index = straight.accelerator.process_index
            (folder / f"interrupted-{step}-{index}.txt").write_text(str(stop))
    resumed = Run(folder / "resumed", dropout=0.2, dtype=dtype)
    resumed.go()
    resumed.write("resumed", folder)


def first_part(folder: Path, settings: dict[str, Any]) -> None:
    with contextlib.suppress(Interrupted):
        Run(folder, **settings, signal_at=(0, 8)).go()
        raise AssertionError("it was not interrupted")


def refused(folder: Path, name: str, work) -> None:
    """Write which UserError every process gets."""
    try:
        work()
    except UserError as error:
        (folder / f"{name}-{torch.distributed.get_rank()}.txt").write_text(str(error))


def leave() -> None:
    """End together, with nothing that still holds a process group: its threads would abort in the interpreter's end."""
    gc.collect()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def main(folder: Path) -> None:
    processes = processes_of(Accelerator(cpu=True))
    for name, settings in SAME_AS_ONE.items():
        if name == "stopping" and not processes.is_first:
            settings = {**settings, "scores": [0.5, 0.4, 0.3, 0.2, 0.1]}
        run = Run(folder / name, **settings)
        run.go()
        run.write(name, folder)

    straight_and_resumed(folder, torch.float64)
    from_one = Run(folder / "from_one", dropout=0.2)
    from_one.go()
    from_one.write("from_one", folder)
    for name, (before, after) in CONTINUED.items():
        if not name.startswith("one_"):
            first_part(folder / name, before)
        if not name.endswith("_one"):
            second = Run(folder / name, **after)
            second.go()
            second.write(name, folder)

    def full_disk() -> None:
        raise UserError("the disk is full")

    refused(folder, "once", lambda: processes.once(full_disk))
    broken = Run(folder / "nan")
    with torch.no_grad():
        broken.loop.unwrapped.classifier.weight.fill_(float("nan"))
    refused(folder, "nan", broken.go)
    broken = Run(folder / "nan_shard", sharded=True)
    if not processes.is_first:
        own_part(broken.loop.unwrapped.classifier.weight.detach()).fill_(float("nan"))
    refused(folder, "nan_shard", broken.loop._require_finite_weights)
    broken = Run(folder / "unwritable")
    broken.loop.checkpoints.save = lambda *args, **kwargs: full_disk()
    refused(folder, "unwritable", broken.go)
    leave()


if __name__ == "__main__":
    if sys.argv[2:] == ["resume"]:
        straight_and_resumed(Path(sys.argv[1]), torch.float32)  # sums of three in another order show in float32
        leave()
    else:
        main(Path(sys.argv[1]))
