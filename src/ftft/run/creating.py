"""The examples that a stage makes before it learns from them: made once, kept in the store under a key of their own, so that
stages that differ in how they train share them.

While they are made, what a model has written lies with the checkpoints of that key's folder, batch by batch
(:mod:`ftft.engine.kept_answers`): an interrupted creation goes on with the batch it was at, and ends as an undisturbed one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ftft.engine.kept_answers import KeptAnswers
from ftft.engine.ledger import Ledger
from ftft.engine.provenance import provenance
from ftft.engine.writing import CountedWriting
from ftft.errors import Interrupted, UserError
from ftft.files import sha256_file
from ftft.methods import registry
from ftft.methods.contract import Created
from ftft.methods.created import FILE, read_created, write_created
from ftft.models.loading import LoadedModel, load_saved
from ftft.paths import expand
from ftft.run.store import StageFolder, stage_key
from ftft.tasks.contract import files_of

if TYPE_CHECKING:
    from ftft.run.stages import StageRun

CREATION_VERSION = 1  # raised whenever a change to the software changes what is made
ANSWERS, JOURNAL = "answers.jsonl", "ledger.jsonl"  # beside the checkpoints: removed once all is made


@dataclass(frozen=True)
class Creation:
    """What a stage learns from in place of the recipe's training examples: what was ``created``, its ``folder`` in the store,
    and what it cost when it was made. ``resume_differences``: what changed where its making was interrupted."""

    created: Created
    folder: StageFolder
    ledger: Ledger
    resume_differences: list[str] = field(default_factory=list)


def create(run: StageRun, model: LoadedModel, device: torch.device) -> Creation | None:
    """The examples of the stage's `create`, made or taken from the store; None for a stage without one. All processes
    together: the first one writes."""
    if run.stage.create is None:
        return None
    spec = _spec(run, model, str(next(model.model.parameters()).dtype))
    folder = run.store.stage_folder(stage_key(spec))
    run.processes.require_same(folder.key, f"data or model for {run.where}.create")
    with run.processes.holding(
        folder.lock(wait=lambda text: run.notify({"event": "waiting", "stage": run.name, "text": text}))
    ):
        if not run.processes.once(folder.verify):
            run.processes.once(lambda: _make(run, model, folder, spec, device))
        run.processes.once(folder.remove_checkpoints)  # a kill may have come between the record and their removal
        run.processes.require_shared(folder.folder)
        created, payload = read_created(folder.path(FILE)), folder.payload()
    told = {name: count for name, count in created.counts.items() if isinstance(count, int)}
    run.notify({"event": "created", "stage": run.name, "examples": len(created.examples), "counts": told})
    changed = payload["summary"].get("resume_differences", [])
    return Creation(created, folder, Ledger.from_json(payload["ledger"]), list(changed))


def _make(run: StageRun, model: LoadedModel, folder: StageFolder, spec: dict[str, Any], device: torch.device) -> None:
    folder.describe(spec)
    kept, used = KeptAnswers(folder.checkpoints.folder / ANSWERS, run.warn), run.stage.use_model_of
    run.notify({"event": "creating", "stage": run.name, "method": spec["create"]["name"], "kept": kept.count})
    ledger = _ledger(folder, kept)

    def load() -> tuple[torch.nn.Module, Any]:
        if used is None:
            return model.model, model.processor
        return load_saved(run.earlier[used].model_folder, run.task.model)

    def told(done: int, asked: int) -> None:
        run.notify({"event": "written", "stage": run.name, "done": done, "asked": asked})

    creator = registry.build("create", spec["create"], f"{run.where}.create")
    writer = CountedWriting(load, run.task, ledger, device, kept, folder.checkpoints.folder / JOURNAL, told)
    if writer.resume_differences:
        run.warn(
            f"{run.where}.create goes on under other conditions ({'; '.join(writer.resume_differences)}): what is written may "
            "differ from an undisturbed run, and the result is marked"
        )
    try:
        created = creator.create(run.data.train, writer)
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted while {run.where}.create was writing; {kept.count:,} answers are kept, and the same command goes on "
            "behind them"
        ) from None
    if len(created.examples) == 0:
        raise UserError(f"{run.where}.create made no example of {len(run.data.train)}")
    ledger.observe_memory("creation")
    write_created(created, folder.path(FILE))
    summary = {
        "rule": dict(created.rule),
        "counts": dict(created.counts),
        "provenance": provenance(),
        "resume_differences": writer.resume_differences,
    }
    folder.finish({"summary": summary, "ledger": ledger.to_json()})


def _ledger(folder: StageFolder, kept: KeptAnswers) -> Ledger:
    """The books with what was kept as effective, and what was spent beyond that as repeated."""
    books = Ledger()
    books.add("creation", **asdict(kept.cost))
    return Ledger.resume(books.state(), folder.checkpoints.folder / JOURNAL)


def _spec(run: StageRun, model: LoadedModel, dtype: str) -> dict[str, Any]:
    """Everything that determines what is made: its hash is the key."""
    section = run.stage.create
    assert section is not None
    method = registry.build("create", section, f"{run.where}.create")
    files = {name: sha256_file(expand(path, f"task.{name}")) for name, path in files_of(run.task).items()}
    used = run.stage.use_model_of
    return {
        "version": CREATION_VERSION,
        "create": {"name": section["name"], **asdict(method)},
        "task": {name: value for name, value in run.recipe.task.items() if name not in files},
        "task_files": files,
        "model": model.fingerprint if used is None else run.earlier[used].key,
        "dtype": dtype,
        "train": run.data.train.fingerprint,
    }
