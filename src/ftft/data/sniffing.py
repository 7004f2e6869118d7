"""A first recipe from a look at the data: which columns are text, label and id, by their names and by what they hold."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from ftft.data.ids import can_identify, find_id_column
from ftft.data.reading import format_of, records_of
from ftft.data.sniffed_recipe import DEFAULT_PACKAGE, SniffedModel, SniffedSet, write_recipe
from ftft.errors import UserError

LOOKED_AT = 50_000
MAX_CLASSES = 50
PAIR_NAMES = (
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("sentence_1", "sentence_2"),
    ("sentence_a", "sentence_b"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("text", "text_pair"),
    ("question", "sentence"),
    ("question", "passage"),
    ("question", "context"),
    ("question", "answer"),
    ("query", "passage"),
    ("query", "document"),
    ("claim", "evidence"),
    ("context", "response"),
)
TEXT_NAMES = (
    "text",
    "sentence",
    "content",
    "comment",
    "comment_text",
    "review",
    "tweet",
    "post",
    "document",
    "body",
    "message",
)
LABEL_NAMES = ("label", "labels", "gold_label", "label_name", "label_text", "class", "target", "category", "sentiment", "y")
GENERIC = ("train", "training", "test", "dev", "val", "valid", "validation", "data", "eval", "ood")


@dataclass(frozen=True)
class _Sample:
    """The first rows of a file by column; ``header`` is set where the file has none."""

    path: Path
    columns: dict[str, list[Any]]
    header: list[str] | None

    def distinct(self, column: str) -> list[Any]:
        """The column's values that can be labels or ids, without repeats; lists, objects and nulls are left out."""
        return list(
            dict.fromkeys(value for value in self.columns[column] if isinstance(value, (str, int, float)) and value != "")
        )

    def arrow(self, column: str) -> pa.ChunkedArray | None:
        """The column's values; None where they are of several kinds."""
        try:
            return pa.chunked_array([pa.array(self.columns[column])])
        except (pa.ArrowException, OverflowError, UnicodeError, ValueError, TypeError):
            return None

    def is_text(self, column: str) -> bool:
        values = [value for value in self.columns[column] if value is not None]
        return bool(values) and all(isinstance(value, str) for value in values)

    def mean_length(self, column: str) -> float:
        return sum(len(value or "") for value in self.columns[column]) / len(self.columns[column])


def propose_recipe(train: Path, ood: Sequence[Path], model: str | None, *, folder: Path | None = None) -> str:
    """A commented recipe (YAML) for fine-tuning on ``train`` with plain fine-tuning (ERM) and FTFT, measured on ``ood``.

    ``model``: a folder, ``module:ATTRIBUTE`` of an installed package, or a hub name; None takes the demo's MiniLM.
    ``folder``: where the recipe will lie (by default the current folder); relative paths are written as seen from there, so
    that the recipe works from there and from here. Reads at most the first 50,000 rows of each file. Raises UserError where
    a file cannot be read or has no text or label.
    """
    sample = _read_sample(Path(train))
    main = _sniff(sample, name="train")
    taken: list[str] = ["validation"]
    sets = []
    for path in ood:
        name = _set_name(Path(path), taken)
        taken.append(name.casefold())
        found = _read_sample(Path(path))
        same = set(main.columns()) <= set(found.columns)
        sets.append(_described(found, main.text, main.label, main.id, name) if same else _sniff(found, name=name))
    named = _model(model)
    if folder is not None:
        main, *sets = (dataclasses.replace(one, path=_seen_from(folder, one.path)) for one in (main, *sets))
        if named.key == "path":
            named = dataclasses.replace(named, value=_seen_from(folder, named.value))
    return write_recipe(main, sets, named)


def guess_texts(path: Path) -> tuple[str, ...]:
    """The text column of a data file, or the two of a pair; UserError where none is found."""
    return _guess_text(_read_sample(Path(path)))


def _seen_from(folder: Path, path: str) -> str:
    """A path relative to the current folder as one relative to ``folder``; any other as it is."""
    if os.path.isabs(path) or path.startswith("~") or "$" in path:
        return path
    seen = os.path.relpath(path, folder)
    if os.path.exists(path) and not (os.path.exists(folder / seen) and os.path.samefile(folder / seen, path)):
        # A link on the way, or a folder still to be made: `..` leads elsewhere than its name says.
        seen = os.path.relpath(os.path.realpath(path), os.path.realpath(folder))
    return Path(seen).as_posix()


def _read_sample(path: Path) -> _Sample:
    header = _made_header(path)
    rows = [record for _, record in islice(records_of(path, header=header), LOOKED_AT)]
    if not rows:
        raise UserError(f"{path} has no rows; a data file with at least one row is needed")
    names = list(dict.fromkeys(name for row in rows for name in row))
    return _Sample(path, {name: [row.get(name) for row in rows] for name in names}, header)


def _made_header(path: Path) -> list[str] | None:
    """Names for the columns of a CSV or TSV file whose first line looks like a row: a number or a long text in it."""
    if format_of(path) not in ("csv", "tsv"):
        return None
    first = next(iter(records_of(path)), None)
    names = list(first[1]) if first else []
    if not any(re.fullmatch(r"-?\d+(\.\d+)?", name) or len(name) > 100 for name in names):
        return None
    return [f"column_{index}" for index in range(1, len(names) + 1)]


def _sniff(sample: _Sample, name: str) -> SniffedSet:
    text = _guess_text(sample)
    label = _guess_label(sample, text)
    return _described(sample, text, label, _guess_id(sample, [*text, label]), name)


def _guess_text(sample: _Sample) -> tuple[str, ...]:
    texts = [name for name in sample.columns if sample.is_text(name)]
    folded = {name.casefold(): name for name in reversed(texts)}
    for first, second in PAIR_NAMES:
        if first in folded and second in folded:
            return folded[first], folded[second]
    for name in TEXT_NAMES:
        if name in folded:
            return (folded[name],)
    long = [name for name in texts if sample.mean_length(name) >= 10 and _is_varied(sample, name)]
    if not long:
        raise UserError(
            f"{sample.path}: no column looks like text (it has {', '.join(sample.columns)}); "
            "a column of sentences is needed, best named text"
        )
    return (max(long, key=sample.mean_length),)


def _is_varied(sample: _Sample, column: str) -> bool:
    return len(sample.distinct(column)) > min(MAX_CLASSES, len(sample.columns[column]) // 2)


def _guess_label(sample: _Sample, text: Sequence[str]) -> str:
    others = [name for name in sample.columns if name not in text]
    folded = {name.casefold(): name for name in reversed(others)}
    named = [folded[name] for name in LABEL_NAMES if name in folded and 1 <= len(sample.distinct(folded[name])) <= MAX_CLASSES]
    if named:
        return _named_twin(sample, named)
    few = [name for name in others if 2 <= len(sample.distinct(name)) <= min(MAX_CLASSES, len(sample.columns[name]) // 2)]
    few = [name for name in few if not any(isinstance(value, float) and value % 1 for value in sample.distinct(name))]
    if not few:
        raise UserError(
            f"{sample.path}: no column looks like a label (it has {', '.join(sample.columns)}); "
            "a column of a few classes is needed, best named label"
        )
    return min(few, key=lambda name: len(sample.distinct(name)))


def _named_twin(sample: _Sample, candidates: Sequence[str]) -> str:
    """The first candidate, or the one that says the same in words where the first has integers: words need no order."""
    first = candidates[0]
    if all(str(value).lstrip("-").isdigit() for value in sample.distinct(first)):
        for other in candidates[1:]:
            pairs = set(zip(map(str, sample.columns[first]), map(str, sample.columns[other])))
            if sample.is_text(other) and len(pairs) == len(sample.distinct(first)) == len(sample.distinct(other)):
                return other
    return first


def _guess_id(sample: _Sample, used: Iterable[str]) -> str | None:
    others = [name for name in sample.columns if name not in set(used)]
    found = find_id_column(others, sample.arrow)
    if found is None and sample.header is not None:  # made-up names say nothing: a column of single words will do
        words = [name for name in others if not any(" " in str(value) for value in sample.columns[name])]
        return next((name for name in words if (values := sample.arrow(name)) is not None and can_identify(values)), None)
    return found


def _described(sample: _Sample, text: Sequence[str], label: str, id_column: str | None, name: str) -> SniffedSet:
    counts: dict[str, int] = {}
    for value in sample.columns[label]:
        if value is not None and value != "":
            counts[str(value)] = counts.get(str(value), 0) + 1
    lengths = sorted(
        sum(len(str(sample.columns[column][row] or "")) for column in text) for row in range(len(sample.columns[label]))
    )
    return SniffedSet(
        name=name,
        path=str(sample.path),
        all_columns=tuple(sample.columns),
        text=tuple(text),
        label=label,
        id=id_column,
        header=None if sample.header is None else tuple(sample.header),
        classes=dict(sorted(counts.items())),
        long_text=lengths[int(0.95 * (len(lengths) - 1))],
    )


def _set_name(path: Path, taken: Sequence[str]) -> str:
    stem = path.name.split(".")[0]
    if re.split(r"[_-]", stem.casefold())[0] in GENERIC and path.resolve().parent.name:
        stem = f"{path.resolve().parent.name}_{stem}"
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_-")[:60] or "ood"
    name, number = stem, 2
    while name.casefold() in taken:
        name, number = f"{stem}_{number}", number + 1
    return name


def _model(model: str | None) -> SniffedModel:
    if model is None:
        return SniffedModel("package", DEFAULT_PACKAGE, layers=6)
    config = Path(model).expanduser() / "config.json"
    if config.is_file():
        try:
            settings: Mapping[str, Any] = json.loads(config.read_text(encoding="utf-8"))
            layers = settings.get("num_hidden_layers")
        except (ValueError, OSError, AttributeError):
            raise UserError(f"{config} is damaged and cannot be read as JSON; copy the model's folder again") from None
        return SniffedModel("path", model, layers=layers if isinstance(layers, int) else None)
    if Path(model).expanduser().is_dir():
        raise UserError(f"{model} has no config.json, so it is not a model's folder")
    if re.fullmatch(r"[A-Za-z_][\w.]*:\w+", model):
        return SniffedModel("package", model, layers=6 if model == DEFAULT_PACKAGE else None)
    return SniffedModel("path" if "$" in model or model.startswith((".", "/", "~")) else "hub", model, layers=None)
