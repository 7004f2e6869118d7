"""Measure a finished model on the recipe's evaluation sets; predictions are kept, so that nothing is computed twice."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ftft.data.examples import EvaluationSet, LoadedData
from ftft.engine import precision as precisions
from ftft.engine.flops import FlopCounter
from ftft.engine.ledger import Ledger
from ftft.engine.predict import predict
from ftft.engine.processes import ALONE, Processes
from ftft.errors import UserError
from ftft.files import atomic_path, sha256_file
from ftft.methods import registry
from ftft.models.headers import inspect
from ftft.models.known import contamination
from ftft.run.recipe import Recipe
from ftft.run.requiring import header_with_room
from ftft.state.manifest import read_manifest, write_manifest
from ftft.tasks.contract import Task, quantities_of
from ftft.tasks.metrics import merge_probabilities, normalise

FORMAT_VERSION = 1

Ready = tuple[torch.nn.Module, Any, precisions.Precision]  # a model where it computes, its processor, the precision


def ready(model: torch.nn.Module, processor: Any, precision: Any) -> Ready:
    """A model to predict with: on the accelerator where there is one, "auto" resolved for it."""
    device = precisions.device_here()
    return model.to(device), processor, precisions.resolve(precision, device)


@dataclass(frozen=True)
class Evaluation:
    """What was measured: per set the evaluator's figures, what measuring cost, and per set what the task predicts, float64
    [N, K]: of a classifier the probabilities over the set's own classes, in its order."""

    sets: Mapping[str, Mapping[str, Any]]
    ledger: Ledger
    predictions: Mapping[str, np.ndarray]

    @property
    def classes(self) -> dict[str, np.ndarray]:
        """Per set the predicted classes int [N], of a classifier."""
        return {name: values.argmax(axis=1) for name, values in self.predictions.items()}


def sets_seen(recipe: Recipe) -> dict[str, dict[str, list[str]]]:
    """Evaluation set -> stage -> the sentences that say what the stage's models know of it; only where they do."""
    found: dict[str, dict[str, list[str]]] = {}
    task = registry.build_task(recipe.task)
    for name, stage in recipe.stages.items():
        header = header_with_room(recipe, name, task)
        others = [
            inspect(one, f"stages.{name}.other_models.{role}", kind=task.model) for role, one in stage.other_models.items()
        ]
        for set_name, file in recipe.data.evaluation.items():
            if said := [sentence for one in (header, *others) for sentence in contamination(one, file, set_name)]:
                found.setdefault(set_name, {})[name] = list(dict.fromkeys(said))
    return found


def sets_searched(recipe: Recipe) -> dict[str, dict[str, list[str]]]:
    """As :func:`sets_seen`, of the OOD sets that a stage's settings are searched on: no model learns from these, and yet they
    are no measure out of distribution."""
    found: dict[str, dict[str, list[str]]] = {}
    for name, stage in recipe.stages.items():
        for set_name in stage.search.on if stage.search is not None else ():
            if recipe.data.evaluation[set_name].role == "ood":
                found.setdefault(set_name, {})[name] = [
                    f'the settings of stage {name} are searched on the evaluation set "{set_name}", which therefore is no '
                    "measure of them out of distribution and is in no OOD mean"
                ]
    return found


def said_of(*known: Mapping[str, Mapping[str, Sequence[str]]]) -> list[str]:
    """The sentences of :func:`sets_seen` and :func:`sets_searched`, each once."""
    every = (sentence for sets in known for stages in sets.values() for said in stages.values() for sentence in said)
    return list(dict.fromkeys(every))


def write_predictions(
    path: Path,
    ids: pa.Array,
    labels: np.ndarray,
    predictions: np.ndarray,
    metadata: Mapping[str, Any],
    columns: Sequence[str] = (),
) -> None:
    """Per-example predictions [N, K] as Parquet: ``id``, ``label`` (the set's own class index), ``probability`` (float32 [K]
    of one model's or set's classes); of a task that names its ``columns``, ``id`` and these (float32). Texts are never
    stored."""
    values = np.asarray(predictions, dtype=np.float32)
    kept: dict[str, Any] = {"id": ids}
    if columns:
        kept |= {name: pa.array(values[:, place]) for place, name in enumerate(columns)}
    else:
        kept["label"] = pa.array(labels.astype(np.int32))
        kept["probability"] = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    table = pa.table(kept)
    described = {"format": "ftft/predictions", "format_version": FORMAT_VERSION, **metadata}
    table = table.replace_schema_metadata({"ftft": json.dumps(described)})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)


def read_predictions(path: Path, columns: Sequence[str] = ()) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """(ids, labels int64 [N], probabilities float64 [N, C]) from a predictions file, or of one with ``columns`` these as
    float64 [N, K], and zeros as labels; UserError when it is damaged."""
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        if columns:
            values = np.stack([table.column(name).to_numpy() for name in columns], axis=1).astype(np.float64)
            return table.column("id").combine_chunks(), np.zeros(len(table), dtype=np.int64), values
        column = table.column("probability").combine_chunks()
        probabilities = column.flatten().to_numpy().reshape(len(table), column.type.list_size).astype(np.float64)
        return table.column("id").combine_chunks(), table.column("label").to_numpy().astype(np.int64), probabilities
    except (OSError, KeyError, pa.ArrowException) as error:
        raise UserError(f"{path} is not a readable predictions file: {error}") from None


def evaluate(
    folder: Path,
    data: LoadedData,
    task: Task,
    section: Mapping[str, Any],
    *,
    where: str,
    seed: int,
    training_prior: np.ndarray | None,
    load_model: Callable[[], Ready],
    notify: Callable[[dict[str, Any]], None] = lambda event: None,
    processes: Processes = ALONE,
) -> Evaluation:
    """Predict on every evaluation set whose predictions are not in ``folder`` yet, then compute the figures.

    ``training_prior``: the class shares float64 [C] of what the model learned from, which the prior correction starts
    from; None where they are not known. ``load_model`` is called at most once, and only when something has to be
    predicted; it gives (model, processor, precision).
    """
    evaluator = registry.build("evaluate", dict(section), where)
    predictions, ledger = predictions_on_all(folder, data, task, load_model, notify, processes)
    own = {
        name: predictions[name] if one.merge is None else merge_probabilities(predictions[name], one.merge)
        for name, one in data.evaluation.items()
    }
    figures = processes.once(lambda: _figures(data, predictions, own, evaluator, seed, training_prior))
    if task.inputs.labelled:
        own = {name: normalise(values) for name, values in own.items()}
    return Evaluation(figures, ledger, own)


def _figures(
    data: LoadedData,
    predictions: Mapping[str, np.ndarray],
    own: Mapping[str, np.ndarray],
    evaluator: Any,
    seed: int,
    training_prior: np.ndarray | None,
) -> dict[str, Mapping[str, Any]]:
    validation = next((name for name, one in data.evaluation.items() if one.role == "id" and one.split == "validation"), None)
    figures: dict[str, Mapping[str, Any]] = {}
    for name, one in data.evaluation.items():
        context: dict[str, Any] = {"train_prior": training_prior, "validation": None, "is_validation": name == validation}
        if validation is not None:
            context["validation"] = (data.evaluation[validation].examples.labels, predictions[validation])
        found = evaluator.evaluate(one, own[name], seed=seed, context=context)
        figures[name] = {"role": one.role, "split": one.split, **found}
    return figures


def predictions_on_all(
    folder: Path,
    data: LoadedData,
    task: Task,
    load_model: Callable[[], Ready],
    notify: Callable[[dict[str, Any]], None],
    processes: Processes,
) -> tuple[dict[str, np.ndarray], Ledger]:
    """Probabilities float64 [N, C] over the model's classes on every set, kept in ``folder``, and what they cost."""
    ledger, loaded = Ledger(), None
    result: dict[str, np.ndarray] = {}
    for name, one in data.evaluation.items():
        path = folder / f"{one.examples.fingerprint[:20]}.parquet"
        stored = processes.once(partial(_stored, path, one, task, notify))
        if stored is not None:
            result[name], cost = stored
            ledger = ledger.merge(cost)
            continue
        if loaded is None:
            loaded = load_model()
        result[name], cost = _predict_one(path, one, task, loaded, processes)
        ledger = ledger.merge(cost)
        notify({"event": "predicted", "set": name, "examples": len(one.examples)})
    return result, ledger


def _predict_one(path: Path, one: EvaluationSet, task: Task, loaded: Ready, processes: Processes) -> tuple[np.ndarray, Ledger]:
    model, processor, precision = loaded
    started, flops, cost = time.perf_counter(), FlopCounter(), Ledger()
    prepared = task.prepare(one.examples, processor)
    predictions = predict(model, task, prepared, precision=precision, flops=flops, processes=processes)
    cost.add(
        "evaluation",
        flops=processes.total(flops.spent),
        seconds=time.perf_counter() - started,
        examples=len(one.examples),
        tokens=int(prepared.lengths.sum()),
    )

    def write() -> None:
        described = {"fingerprint": one.examples.fingerprint}
        examples, columns = one.examples, quantities_of(task).predictions
        write_predictions(path, examples.ids, examples.labels, predictions, described, columns)
        kept = {"cost": cost.to_json(), "sha256": sha256_file(path)}
        write_manifest(path.with_suffix(".json"), kept, kind="predictions-cost", version=FORMAT_VERSION)

    processes.once(write)
    return predictions.astype(np.float64), cost


def _stored(
    path: Path, one: EvaluationSet, task: Task, notify: Callable[[dict[str, Any]], None]
) -> tuple[np.ndarray, Ledger] | None:
    """The predictions that were kept and what they cost; None where there are none, or damaged ones (with a warning)."""
    cost_path = path.with_suffix(".json")
    if not (path.exists() and cost_path.exists()):
        return None
    try:
        return _aligned(path, one, quantities_of(task).predictions), _cost_of(cost_path, path)
    except (UserError, OSError, ValueError, AttributeError) as error:
        notify({"event": "warning", "text": f"stored predictions are damaged and made again: {error}"})
        return None


def _cost_of(cost_path: Path, path: Path) -> Ledger:
    """What making the predictions in ``path`` cost; UserError where either file is damaged."""
    document = json.loads(cost_path.read_text(encoding="utf-8"))
    if "effective" in document:  # as the first release wrote it
        return Ledger.from_json(document)
    kept = read_manifest(cost_path, kind="predictions-cost", version=FORMAT_VERSION)
    if kept["sha256"] != sha256_file(path):
        raise UserError(f"the content of {path} does not fit its SHA-256 in {cost_path.name}")
    return Ledger.from_json(kept["cost"])


def _aligned(path: Path, one: EvaluationSet, columns: Sequence[str]) -> np.ndarray:
    """Stored predictions in the set's present order (the fingerprint does not depend on it)."""
    import pyarrow.compute as pc

    ids, _, predictions = read_predictions(path, columns)
    positions = pc.index_in(one.examples.ids, value_set=ids)
    return predictions[positions.to_numpy(zero_copy_only=False).astype(np.int64)]


def write_named_predictions(
    folder: Path, evaluation: Evaluation, data: LoadedData, columns: Sequence[str] = ()
) -> dict[str, str]:
    """The predictions on every set as ``predictions/<set>.parquet`` in ``folder``: ``id``, ``label`` and ``probability``
    over the set's own classes, whose names the file's metadata holds, or the ``columns`` that the task names. Gives each
    set's path in the folder."""
    paths: dict[str, str] = {}
    for name, one in data.evaluation.items():
        plain = re.sub(r"[^\w.-]", "_", name).lstrip(".") or "set"
        while f"predictions/{plain}.parquet" in paths.values():
            plain += "_"
        paths[name] = f"predictions/{plain}.parquet"
        described = {
            "set": name,
            "classes": list(one.examples.label_names),
            "fingerprint": one.examples.fingerprint,
        }
        examples = one.examples
        predictions = evaluation.predictions[name]
        write_predictions(folder / paths[name], examples.ids, examples.labels, predictions, described, columns)
    return paths
