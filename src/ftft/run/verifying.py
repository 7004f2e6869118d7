"""Replay the first steps of a finished run's stages and compare them with what the run kept, bit for bit.

Compared are what each stage learned from (ids and weights, in order), the mean loss of every step (a float64, which JSON keeps
exactly), and the hash of the trainable weights after step :data:`~ftft.engine.loop.HASHED_STEP`, or after the last one of a
shorter training. The replay takes the precision, the number of threads and, for a run on the CPU, the device from the run's
records. It writes nothing. Examples that a stage created are taken as the run kept them; no model writes them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from ftft.data.examples import LoadedData
from ftft.data.loading import load_data
from ftft.engine.assembly import needs_of
from ftft.engine.ledger import Ledger
from ftft.engine.loop import HASHED_STEP, TrainingLoop
from ftft.engine.precision import weights_in
from ftft.engine.processes import Processes, join_processes
from ftft.engine.provenance import differences, provenance
from ftft.errors import UserError
from ftft.files import fingerprint
from ftft.methods import registry
from ftft.methods.contract import Sampler, Selection
from ftft.methods.created import FILE as CREATED
from ftft.methods.created import read_created
from ftft.methods.selection import read_selection
from ftft.models.folder import CONFIG, folder_at
from ftft.models.settings import ModelSettings
from ftft.run.finished import FinishedStage, stage_event
from ftft.run.reading import check_files, recipe_from_dict
from ftft.run.recipe import Recipe
from ftft.run.runner import read_result, run_store
from ftft.run.selections import selection_and_sampler
from ftft.run.stages import StageRun
from ftft.run.store import Store, stage_key
from ftft.run.yaml_reading import read_yaml_file

DEFAULT_STEPS = HASHED_STEP

# What each part of a stage's key stands for, in the words of the sentence that says it has changed.
_PARTS = {
    "version": "this ftft computes stages in another way (version {was} then, {now} now)",
    "task": "the task's settings differ",
    "stage": "the stage's settings differ ({keys})",
    "seed": "the seed was {was} and is {now} now",
    "model": "the model's files are not those the stage began with",
    "precision": "the precision was {was} and is {now} now",
    "train": "the training data are not those of the run",
    "labels": "the label names differ",
    "steering": "the validation sets that steer the stage are not those of the run",
    "search": "the validation sets that the stage's search was scored on are not those of the run",
    "dynamics": "the dynamics the stage selected by are not those of the run",
    "target": "the validation set that the stage selects towards is not that of the run",
    "task_files": "the files that the task's settings name are not those of the run ({keys})",
    "short_batch": "the batch that holds the rest of an epoch is made in another way",
}


@dataclass(frozen=True)
class Verified:
    """What replaying a stage showed.

    ``mismatch``: what came out otherwise, or None. ``notes``: what differs here from the recorded conditions, whether or not
    it made a difference. ``steps`` were compared of ``of``; ``weights``: whether a hash of the weights was among it.
    ``left_out``: why the stage was not replayed, or None.
    """

    stage: str
    steps: int
    of: int
    weights: bool
    mismatch: str | None
    notes: tuple[str, ...]
    left_out: str | None = None


def verify_run(
    folder: Path, *, steps: int = DEFAULT_STEPS, notify: Callable[[dict[str, Any]], None] = lambda event: None
) -> Iterator[Verified]:
    """Replay ``steps`` steps of each stage of the run in ``folder``, in the order of its recipe.

    Relative paths of the run's recipe start from the current folder, as they did when it ran. Raises UserError where
    nothing can be compared: no finished run, data or a model that are gone, other processes than it was trained with.
    """
    processes = join_processes()
    result = read_result(folder)
    recipe = _recipe_of(folder)
    stages = _recorded_stages(result, recipe, folder)
    data = load_data(
        recipe.data,
        inputs=registry.build_task(recipe.task).inputs,
        progress=lambda text: notify({"event": "data", "text": text}),
    )
    store = run_store(recipe, warn=lambda sentence: None, make=False)
    earlier: dict[str, FinishedStage] = {}
    for name, recorded in stages.items():
        replay = _Replay(folder, recipe, name, recorded, data, store, earlier, processes, notify)
        if recipe.stages[name].trainer is None:
            yield replay.verify(steps)
        else:
            yield Verified(name, 0, len(recorded["training"]["losses"]), False, None, (), left_out="a trainer of TRL ran it")
        place, kept = folder / "stages" / name, _model_in(store, recorded["key"])
        earlier[name] = FinishedStage(name, recorded["key"], place, True, recorded, Ledger(), kept)


def _model_in(store: Store, key: str) -> Path | None:
    """The folder of a stage's model in the store, where the stage is still there and whole: a run's folder holds the model of
    its result alone."""
    try:
        found = store.stage_folder(key)
        return found.path("model") if found.finished else None
    except (UserError, ValueError):
        return None


def damage_to_model(folder: Path) -> str | None:
    """What is wrong with the weights in a run's ``model/``, by the SHA-256 that were kept when they were saved; None where
    nothing is, or the model was taken away."""
    path = folder / "model"
    if not path.is_dir():
        return None
    try:
        found = folder_at(path, ModelSettings(path=str(path)), "model")
        found.require_saved(found.hashes(), "model")
    except UserError as error:
        return str(error)
    return None


def _recipe_of(folder: Path) -> Recipe:
    path = folder / "recipe.yaml"
    raw = read_yaml_file(path, "the run's recipe")
    if not isinstance(raw, dict):
        raise UserError(f"{path} is no mapping; it is not the recipe that a run wrote")
    recipe = recipe_from_dict(raw)  # its paths stand as the run used them: none means a file beside this copy
    try:
        check_files(recipe)
    except UserError as error:
        raise UserError(f"{error}; verify a run in the folder it was started in, with its data and models in place") from None
    return recipe


def _recorded_stages(result: Mapping[str, Any], recipe: Recipe, folder: Path) -> dict[str, dict[str, Any]]:
    """What the result keeps of each stage, in order; UserError where it keeps too little to compare with."""
    found = result.get("stages")
    stages = found if isinstance(found, dict) else {}
    for name in recipe.stages:
        recorded = stages.get(name)
        if not isinstance(recorded, dict):
            raise UserError(f"{folder / 'result.json'} holds no stage {name}, which {folder / 'recipe.yaml'} has; run it again")
        training = recorded.get("training")
        losses = training.get("losses") if isinstance(training, dict) else None
        sound = isinstance(losses, list) and losses and all(isinstance(loss, float) for loss in losses)
        if not sound or not all(isinstance(recorded.get(key), str) for key in ("key", "precision")):
            raise UserError(f"{folder / 'result.json'} keeps no losses of stage {name} to compare a replay with")
    return {name: stages[name] for name in recipe.stages}


@dataclass
class _Replay:
    """One stage's first steps, once more."""

    folder: Path
    recipe: Recipe
    name: str
    recorded: Mapping[str, Any]
    data: LoadedData
    store: Store
    earlier: Mapping[str, FinishedStage]
    processes: Processes
    notify: Callable[[dict[str, Any]], None]

    def verify(self, steps: int) -> Verified:
        conditions = self.recorded.get("provenance")
        conditions = conditions if isinstance(conditions, dict) else {}
        self._require_like_processes(conditions)
        on_cpu = self._on_cpu(conditions)
        self.notify(stage_event(self.recipe, self.name))
        with _threads(conditions.get("threads")):
            here = {**provenance(), **({"device": "cpu"} if on_cpu else {})}
            losses, weights, notes, mismatch = self._replay(steps, Accelerator(cpu=on_cpu))
        notes += differences(conditions, here)
        notes += [f"the run itself was resumed under other conditions: {one}" for one in self._resumed()]
        kept = self.recorded["training"]
        mismatch = mismatch or _first_difference(kept, losses, weights)
        return Verified(self.name, len(losses), len(kept["losses"]), bool(weights), mismatch, tuple(notes))

    def _replay(self, steps: int, accelerator: Accelerator) -> tuple[list[float], dict[int, str], list[str], str | None]:
        """The losses and the hashes of the weights, what differs in what the stage is made of, and what is thereby known to be
        a mismatch."""
        run = StageRun(
            self.recipe, self.name, self.data, registry.build_task(self.recipe.task), self.store, self.earlier,
            self.notify, lambda sentence: self.notify({"event": "warning", "text": sentence}), self.processes,
        )  # fmt: skip
        searched = self.recorded.get("search")
        precision = self.recorded["precision"]
        model = run.load(weights_in(precision))
        if run.stage.create is not None:  # what was made is the data of what is replayed
            run.data = replace(run.data, train=read_created(self.folder / "stages" / self.name / CREATED).examples)
        dynamics, dynamics_key = run.dynamics_to_use()
        spec = run.spec(model.fingerprint, precision, dynamics_key)
        changed = self._changed_parts(spec) if stage_key(spec) != self.recorded["key"] else []
        notes = list(changed)
        try:
            if self._selects_with_a_model_gone():
                chosen: Selection | Sampler = self._kept_selection()
                notes.append(
                    f"the store holds the model of stage {run.stage.use_model_of} no longer, so what it selected was taken as "
                    "the run kept it"
                )
            else:
                chosen = self.processes.once(lambda: run.select(model, dynamics, Ledger(), accelerator.device))
            mismatch = self._selection_mismatch(selection_and_sampler(chosen)[0]) or (
                "it is another stage" if changed else None
            )
            if isinstance(searched, dict):  # the training is replayed, and not the trials before it
                run = run.with_settings(searched["settings"])
            training, _ = run.prepare(chosen, model, Ledger(), accelerator, precision, None)
        except UserError as error:
            if not changed:
                raise
            return [], {}, notes, str(error)  # dynamics of other data, and the like
        # Measuring and recording change nothing that is compared, and would take most of the time.
        training.validate, training.stopping, training.stop_score, training.dynamics = None, None, None, None
        training.keep_best = False
        loop = TrainingLoop(training)
        loop.hashed = {int(step) for step in _hashes(self.recorded["training"])}
        loop.walk.most_steps = min(steps, len(self.recorded["training"]["losses"]))
        loop.run()
        return loop.losses, loop.weights, notes, mismatch

    def _require_like_processes(self, conditions: Mapping[str, Any]) -> None:
        then = conditions.get("processes", self.processes.count)
        if then != self.processes.count:
            command = "ftft verify" if then == 1 else f"torchrun --nproc_per_node {then} -m ftft verify"
            raise UserError(f"stage {self.name} was trained by {then} process{'es' * (then != 1)}; verify it with `{command}`")

    def _on_cpu(self, conditions: Mapping[str, Any]) -> bool:
        """Whether the stage was trained on the CPU; UserError where it was not and there is nothing else here."""
        device = conditions.get("device")
        if device not in (None, "cpu") and not torch.accelerator.is_available():
            raise UserError(f"stage {self.name} was trained on {device}, and this machine has only its CPU to replay it on")
        return device == "cpu"

    def _changed_parts(self, spec: Mapping[str, Any]) -> list[str]:
        """A sentence for each part of the stage's key that is not as it was, as far as the store still knows."""
        try:
            was = self.store.stage_folder(self.recorded["key"]).spec()
        except (UserError, ValueError):
            return ["data, model or settings are not those of the run, whose store no longer says which"]
        sentences = []
        for part in sorted({*was, *spec}, key=[*_PARTS, *was, *spec].index):
            old, new = was.get(part), spec.get(part)
            if fingerprint(old) == fingerprint(new):  # a tuple of settings is a list in the file
                continue
            keys = ""
            if isinstance(old, dict) and isinstance(new, dict):
                keys = ", ".join(sorted(k for k in {*old, *new} if fingerprint(old.get(k)) != fingerprint(new.get(k))))
            sentences.append(_PARTS.get(part, f"{part} differs").format(was=old, now=new, keys=keys))
        return sentences

    def _selects_with_a_model_gone(self) -> bool:
        stage = self.recipe.stages[self.name]
        if stage.use_model_of is None or (self.earlier[stage.use_model_of].model_folder / CONFIG).exists():
            return False
        selector = registry.build("select", stage.select, f"stages.{self.name}.select")
        return "scoring_model" in needs_of(selector)  # else the model has only made the examples, which are kept

    def _kept_selection(self) -> Selection:
        return read_selection(self.folder / "stages" / self.name / "selection.parquet")

    def _selection_mismatch(self, selection: Selection) -> str | None:
        kept = self._kept_selection()
        if not kept.ids.equals(selection.ids):
            both = len(set(kept.ids.to_pylist()) & set(selection.ids.to_pylist()))
            return f"{len(kept):,} examples were selected then and {len(selection):,} now, {both:,} of them the same"
        if not np.array_equal(kept.weights, selection.weights):
            return "the examples are weighted otherwise"
        return None

    def _resumed(self) -> list[str]:
        found = self.recorded.get("resume_differences")
        return [str(one) for one in found] if isinstance(found, list) else []


def _hashes(training: Mapping[str, Any]) -> dict[int, str]:
    found = training.get("weights")
    items = found.items() if isinstance(found, dict) else ()
    return {int(step): str(digest) for step, digest in items if step.isdecimal()}


def _first_difference(kept: Mapping[str, Any], losses: list[float], weights: Mapping[int, str]) -> str | None:
    """The first thing of the trajectory that is not as it was, in the order in which a step makes it."""
    hashes = _hashes(kept)
    for step, (then, now) in enumerate(zip(kept["losses"], losses), start=1):
        if then != now:
            return f"the loss of step {step} was {then!r} and is {now!r} now"
        if step in weights and weights[step] != hashes[step]:
            return f"the weights after step {step} have other bits"
    return None


@contextmanager
def _threads(count: Any) -> Iterator[None]:
    """With so many threads as the run had; sums are added up in another order with another number."""
    before = torch.get_num_threads()
    if isinstance(count, int) and count > 0:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
