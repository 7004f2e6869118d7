"""The model card: ``README.md`` of the model folder, with figures, recipe, data counts and cost; no row of the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from ftft.errors import UserError
from ftft.methods.registry import load_class, task_header
from ftft.models.kinds import kind_of
from ftft.report.figures import (
    ROLE_NAMES,
    count,
    decimals,
    dig,
    duration,
    evaluation_sets,
    level,
    metric,
    number,
    percent,
    positive_note,
    scientific,
    sentences,
    stage_figures,
    stage_names,
    whole,
    without_folders,
)
from ftft.report.guessing import guessing
from ftft.report.headline import headline
from ftft.report.learning import learned
from ftft.report.markdown import markdown_table, safe
from ftft.report.measures import CLASSIFICATION, compared, measure_of
from ftft.run.reading import DEFAULT_TASK

RANKING = {"auroc": "AUROC", "average_precision": "Average precision"}  # of classifiers


def model_card(result: Mapping[str, Any]) -> str:
    """The card in Markdown with its YAML front matter, of a result that may lack anything."""
    main = str(result.get("main") or "")
    several = dig(result, "stages", main, "artefact", "kind") == "predictor"
    library = "ftft" if several else "transformers"
    front: dict[str, Any] = {"library_name": library, "pipeline_tag": _pipeline(result)}
    front["tags"] = ["ftft", *(["dataset-cartography"] if dig(result, "recipe", "stages", main, "use_dynamics_of") else [])]
    base = dig(result, "recipe", "stages", main, "model", "hub")
    if isinstance(base, str):
        front["base_model"] = base
    found = headline(result)
    blocks = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---",
        f"# {safe(str(result.get('name') or 'model'))}",
        safe(f"Fine-tuned with ftft; this is the model of stage {main}." if main else "Fine-tuned with ftft."),
        "Several models that answer together: `model, tokenizer = ftft.load(folder)` loads them as one." if several else "",
        safe(found.sentence),
        safe(found.caution),
        *_labels(result),
        *_metrics(result, main),
        *_training(result, main),
        *_cost(result),
        *_notes(result),
        *_recipe(result),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _pipeline(result: Mapping[str, Any]) -> str:
    """What hubs call the use of the model, by its task; "other" for a task that is not installed here."""
    try:
        task: Any = load_class(task_header(str(dig(result, "recipe", "task", "name") or DEFAULT_TASK)))
        return kind_of(task.model).pipeline
    except UserError:
        return "other"


def _labels(result: Mapping[str, Any]) -> list[str]:
    names = dig(result, "data", "label_names")
    return [f"Labels: {', '.join(safe(str(name)) for name in names)}."] if isinstance(names, (list, tuple)) and names else []


def _metrics(result: Mapping[str, Any], main: str) -> list[str]:
    sets, baseline = evaluation_sets(result), result.get("baseline")
    if not sets:
        return ["## Metrics", "It was not measured: the recipe names no evaluation set."]
    other = str(baseline) if baseline in stage_names(result) and baseline != main else None
    told = {name: measure_of(name) for name in compared(result)}
    titles = {name: one.words[0].upper() + one.words[1:] for name, one in told.items()}
    first, ranked = compared(result)[0], RANKING if compared(result) == CLASSIFICATION else {}
    heads = ["Set", "Role", "Split", "Examples", *titles.values(), *([f"{titles[first]} of {other} (ERM)"] if other else [])]
    heads += ranked.values()
    rows = []
    for one in sets:
        figures = [(how, metric(result, main, one.name, "metrics", name)) for name, how in told.items()]
        figures += [(told[first], metric(result, other, one.name, "metrics", first))] if other else []
        role = ROLE_NAMES.get(one.role, one.role) + "".join(f" ({mark})" for mark in one.marks)
        shown = ["-" if entry is None else how.with_interval(entry) for how, entry in figures]
        ranking = [metric(result, main, one.name, "metrics", name) for name in ranked]
        shown += [decimals(entry.value if entry is not None else None) for entry in ranking]
        rows.append([one.name, role, one.split, count(one.n), *shown])
    note = f"In brackets {level(result)} bootstrap intervals over the evaluation sets."
    if any(one.seen_by for one in sets):
        note += " Seen: a model of the run was trained on this set, so it is in no OOD mean."
    if any(one.searched_by for one in sets):
        note += " Searched on: settings of a stage were chosen by this set, so it is in no OOD mean."
    return ["## Metrics", markdown_table(heads, rows), safe(f"{note} {positive_note(result)}".rstrip())]


def _training(result: Mapping[str, Any], main: str) -> list[str]:
    row, classes = stage_figures(result, main), dig(result, "data", "train", "classes")
    found, lines = learned(result, main), []
    if found is not None:
        lines.append(f"Learned from {found.words('training examples')}.")
    if row.steps is not None:
        planned = f" of {count(row.planned)} planned" if row.planned not in (None, row.steps) else ""
        lines.append(f"{count(row.steps)} optimizer steps{planned}.")
    if not isinstance(classes, Mapping) or not classes:
        return ["## Training data", " ".join(lines)] if lines else []
    selected = dig(result, "stages", main, "selection", "counts", "classes")
    word = {"copies": "Copied", "weights": "Weighted"}.get(found.apply if found is not None else "", "Selected")
    heads = ["Label", "Training examples", *([word] if isinstance(selected, Mapping) else [])]
    rows = [
        [str(label), count(whole(n)), *([count(whole(dig(selected, label, "selected")))] if len(heads) > 2 else [])]
        for label, n in classes.items()
    ]
    return ["## Training data", " ".join(lines), markdown_table(heads, rows)]


def _cost(result: Mapping[str, Any]) -> list[str]:
    rows = []
    for name in stage_names(result):
        row = stage_figures(result, name)
        share = "-" if row.fraction is None else f"{percent(row.fraction)} % ({row.cost_kind})"
        flops = scientific(number(dig(result, "stages", name, "cost", "flops")))
        rows.append([row.title, flops, share, duration(row.seconds)])
    if not rows:
        return []
    note = "Each stage with the stages it uses; the share is of plain fine-tuning's (ERM) floating-point operations."
    return ["## Cost", markdown_table(["Stage", "FLOPs", "Of ERM", "Time"], rows), note]


def _notes(result: Mapping[str, Any]) -> list[str]:
    said = (*guessing(result), *sentences(result, "stamps"), *sentences(result, "warnings"))
    lines = [f"- {safe(line)}" for line in said]
    return ["## Warnings", "\n".join(lines)] if lines else []


def _recipe(result: Mapping[str, Any]) -> list[str]:
    recipe = result.get("recipe")
    if not isinstance(recipe, Mapping) or not recipe:
        return []
    text = yaml.safe_dump(without_folders(recipe), sort_keys=False, allow_unicode=True, width=100)
    # Indented, not fenced: no value in it can end the block.
    return ["## Recipe", "\n".join(f"    {line}" for line in text.splitlines())]
