"""The card of a bundle of training dynamics: ``README.md`` with front matter as dataset hubs read it; no row of the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from ftft.report.figures import count, dig, whole
from ftft.report.markdown import markdown_table, safe
from ftft.run.bundles import DOCUMENT, DYNAMICS

PART_OF = {
    "validation_fraction": "held out for validation by a hash of their ids",
    "drop_duplicates_of_evaluation": "left out as duplicates of evaluation data",
    "corrections": "corrected after loading (data.corrections)",
}


def bundle_card(document: Mapping[str, Any]) -> str:
    """The card in Markdown, of a bundle's document."""
    title = f"Training dynamics of {document.get('run')}, stage {document.get('stage')}"
    blocks = [
        f"---\n{yaml.safe_dump(_front(document), sort_keys=False, allow_unicode=True)}---",
        f"# {safe(title)}",
        safe(_about(document)),
        markdown_table(["What", "Value"], _facts(document)),
        *_classes(document),
        *_use(document),
        *_settings(document),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _front(document: Mapping[str, Any]) -> dict[str, Any]:
    """``license``, ``tags`` and ``configs`` are the hub's own keys; ours stand under ``training_dynamics``."""
    front: dict[str, Any] = {}
    if document.get("licence"):
        front["license"] = document["licence"]
    front["pretty_name"] = f"Training dynamics of {document.get('run')}, stage {document.get('stage')}"
    front["tags"] = ["ftft", "training-dynamics", "dataset-cartography"]
    front["configs"] = [{"config_name": "default", "data_files": DYNAMICS}]
    front["training_dynamics"] = {
        "model": dig(document, "model", "source"),
        "lineage": dig(document, "model", "lineage"),
        "data_fingerprint": dig(document, "data", "fingerprint"),
        "dynamics_fingerprint": document.get("dynamics_fingerprint"),
        "examples": document.get("examples"),
        "classes": document.get("classes"),
        "epochs": document.get("epochs"),
        "recorded": document.get("source"),
        "settings": document.get("settings"),
    }
    return front


def _about(document: Mapping[str, Any]) -> str:
    epochs = len(document.get("epochs") or ())
    return (
        f"What a model said about each of {count(whole(document.get('examples')))} training examples in {epochs} "
        f"epoch{'s' * (epochs != 1)} of its fine-tuning, recorded with ftft. The texts of the examples are not in it: who has "
        "the data can choose from it by these dynamics, without training the reference model again."
    )


def _facts(document: Mapping[str, Any]) -> list[list[str]]:
    model, data = document.get("model") or {}, document.get("data") or {}
    layers, of = model.get("layers"), model.get("layers_of_checkpoint")
    cut = f", {layers} of {of} layers" if layers is not None and of not in (None, layers) else ""
    found = [
        ["Model", f"{model.get('source') or '-'}{cut}"],
        ["Parameters", count(whole(model.get("parameters")))],
        ["Epochs", ", ".join(map(str, document.get("epochs") or ())) or "-"],
        ["Recorded", str(document.get("source") or "-")],
        ["Licence", str(document.get("licence") or "not given")],
        ["Data fingerprint", str(data.get("fingerprint") or "-")],
        ["Dynamics fingerprint", str(document.get("dynamics_fingerprint") or "-")],
        ["Ids", _ids(data.get("id_rule") or [])],
    ]
    if data.get("part_of"):
        found.append(["Rows of the files that are not as they stand in them", "; ".join(_part(key) for key in data["part_of"])])
    return found


def _part(key: str) -> str:
    return PART_OF.get(key, key)


def _ids(rules: list[Mapping[str, Any]]) -> str:
    said = [f"the column {rule.get('column')}" if rule.get("rule") == "column" else str(rule.get("how")) for rule in rules]
    return "; ".join(dict.fromkeys(said)) or "-"


def _classes(document: Mapping[str, Any]) -> list[str]:
    classes = document.get("classes")
    if not classes:
        return []
    return ["## Classes", markdown_table(["Label", "Examples"], [[str(name), count(n)] for name, n in classes.items()])]


def _use(document: Mapping[str, Any]) -> list[str]:
    files = dig(document, "data", "files") or [{}]
    folders = [rule.get("rule") == "file_name" for rule in dig(document, "data", "id_rule") or []] or [False] * len(files)
    numbers = [""] if len(files) == 1 else map(str, range(1, len(files) + 1))
    named = " ".join(f"--data train{number}{'' if folder else '.jsonl'}" for number, folder in zip(numbers, folders))
    return [
        "## How to use it",
        "Choose the third with the highest variability, after a check that the data is the one that was recorded:",
        f"    ftft select FOLDER {named} --score variability --fraction 0.33 --out subset.parquet",
        "Or in a recipe, in the stage that learns from the subset: `use_dynamics_of: FOLDER`. Without ftft any reader of "
        f"Parquet opens `{DYNAMICS}`: a row for each example with `id`, `gold` (the index of its class) and what the model "
        f"said in each epoch; `{DOCUMENT}` says how rows get their ids.",
    ]


def _settings(document: Mapping[str, Any]) -> list[str]:
    settings = document.get("settings")
    if not settings:
        return []
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=100)
    # Indented, not fenced: no value in it can end the block.
    return ["## Settings of the recording stage", "\n".join(f"    {line}" for line in text.splitlines())]
