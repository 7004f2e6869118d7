"""One label map for all sets of a recipe.

The model's label names are ``data.labels``, or the training files' distinct labels: integers in their order (named by
the file's ``labels``, else by their digits), anything else sorted as text. Every other file's labels are matched by
*name*, so that files which number the classes differently agree once each states its ``labels``. Integers of a file
without ``labels`` index ``data.labels`` where that is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftft.data.ids import Where, joined
from ftft.data.settings import DataFile, EvaluationFile
from ftft.errors import UserError, did_you_mean

_INTEGER = r"^-?(0|[1-9][0-9]{0,17})(\.0+)?$"


@dataclass(frozen=True)
class FileLabels:
    """A file's label column: ``codes`` int64 [N] index ``names``, the names that occur (after renaming) in the file's
    own order; ``numbered`` says that integers gave the order. ``where`` words a row's place in the file ``source``.
    ``unused_renames``: what ``rename_labels`` renames and no row has."""

    codes: np.ndarray
    names: tuple[str, ...]
    numbered: bool
    source: str
    where: Where
    unused_renames: tuple[str, ...] = ()

    def first_row(self, name: str) -> int:
        return int(np.argmax(self.codes == self.names.index(name)))


def no_labels(rows: int, source: str, where: Where) -> FileLabels:
    """Of a file whose rows have no class: every code is 0, and there is no name for it."""
    return FileLabels(np.zeros(rows, dtype=np.int64), (), False, source, where)


def read_labels(
    column: pa.ChunkedArray, name: str, file: DataFile, source: str, where: Where, *, default_names: Sequence[str] | None = None
) -> FileLabels:
    """The labels of one file. ``default_names``: ``data.labels``, which integers index when the file has no ``labels``.

    Raises UserError with the row for null, NaN, empty and fractional labels, and for integers outside ``labels``.
    """
    if file.labels is not None and len(set(file.labels)) < len(file.labels):
        raise UserError(f"{source}: `labels` of this file names a label twice: {', '.join(file.labels)}")
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy()))
        raise UserError(f'{where(row)}: the label column "{name}" is null or NaN; give the row a label or leave it out')
    encoded = joined(_plain_labels(column, name, source, where)).dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    values = _integers(encoded.dictionary, [*(file.labels or ()), *(default_names or ())])
    numbered = isinstance(values[0], int)
    order = sorted(range(len(values)), key=lambda index: values[index])

    def example(value: Any) -> str:
        return where(int(np.argmax(codes == values.index(value))))

    if numbered:
        named = _name_integers([values[index] for index in order], file, default_names, example)
    else:
        named = [values[index] for index in order]
        allowed = None if file.labels is None else set(file.labels)
        for value in named:
            if value == "":
                raise UserError(f'{example("")}: the label column "{name}" is empty; give the row a label or leave it out')
            if allowed is not None and file.labels is not None and value not in allowed:
                hint = did_you_mean(value, file.labels)
                raise UserError(f'{example(value)}: the label "{value}" is not in `labels` of this file{hint}')
    renamed = [(file.rename_labels or {}).get(label, label) for label in named]
    names = tuple(dict.fromkeys(renamed))
    target = np.empty(len(values), dtype=np.int64)
    position = {label: index for index, label in enumerate(names)}
    target[order] = [position[label] for label in renamed]
    occurring = set(named)
    unused = tuple(label for label in file.rename_labels or {} if label not in occurring)
    return FileLabels(target[codes], names, numbered, source, where, unused)


def _name_integers(
    values: list[int], file: DataFile, default_names: Sequence[str] | None, example: Callable[[int], str]
) -> list[str]:
    digits = [str(value) for value in values]
    known = file.labels if file.labels is not None else default_names
    if known is None or (file.labels is None and set(digits) <= set(known)):
        return digits
    owner = "`labels` of this file" if file.labels is not None else "data.labels"
    for value in values:
        if not 0 <= value < len(known):
            what = f"{owner}, which names {_count(known)} (0 to {len(known) - 1})"
            raise UserError(f"{example(value)}: the label {value} is outside {what}")
    return [known[value] for value in values]


def _plain_labels(column: pa.ChunkedArray, name: str, source: str, where: Where) -> pa.ChunkedArray:
    """The column as int64 or strings; whole floats count as integers, booleans as "False" and "True"."""
    kind = column.type
    if pa.types.is_boolean(kind):
        return pc.if_else(column, "True", "False")
    if pa.types.is_integer(kind):
        return column.cast(pa.int64())
    if pa.types.is_floating(kind):
        values = column.to_numpy()
        wrong = ~(np.isfinite(values) & (values == np.floor(values)) & (np.abs(values) < 2**53))
        if wrong.any():
            row = int(np.argmax(wrong))
            what = f'the label column "{name}" holds {values[row]}, which is not a class'
            raise UserError(f"{where(row)}: {what}; labels are integers or strings")
        return column.cast(pa.int64())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return column.cast(pa.large_string())
    raise UserError(f'{source}: the label column "{name}" holds {kind} values; labels are integers or strings')


def _integers(values: pa.Array, known: Sequence[str]) -> list[Any]:
    """Distinct labels; strings that are all integers (as every label of a CSV file is) become integers, unless known names."""
    found = values.to_pylist()
    if not found or isinstance(found[0], int) or set(found) <= set(known):
        return found
    if not pc.all(pc.match_substring_regex(values, _INTEGER)).as_py():
        return found
    numbers = [int(value.partition(".")[0]) for value in found]
    return numbers if len(set(numbers)) == len(numbers) else found


def _count(names: Sized) -> str:
    return f"{len(names)} label" + ("" if len(names) == 1 else "s")


def model_labels(files: Sequence[FileLabels], given: Sequence[str] | None, warnings: list[str]) -> tuple[str, ...]:
    """The model's label names in order. ``given``: ``data.labels``. Raises UserError when training has one class only, has
    a label that ``given`` lacks, or when a ``rename_labels`` renames what does not occur; warns of labels without a row."""
    for labels in files:
        for old in labels.unused_renames:
            hint = did_you_mean(old, labels.names)
            raise UserError(f'{labels.source}: rename_labels renames "{old}", which no row has{hint}')
    occurring = list(dict.fromkeys(name for labels in files for name in labels.names))
    if not all(labels.numbered for labels in files):
        occurring.sort()
    elif all(name.lstrip("-").isdigit() for name in occurring):
        occurring.sort(key=int)
    if given is not None:
        if len(set(given)) < len(given):
            raise UserError(f"data.labels names a label twice: {', '.join(given)}; label names must differ")
        known = set(given)
        for labels in files:
            for name in labels.names:
                if name not in known:
                    raise UserError(
                        f'{labels.where(labels.first_row(name))}: the training label "{name}" is not in data.labels, '
                        f"which names {_count(given)}{did_you_mean(name, given)}"
                    )
        found = set(occurring)
        missing = [name for name in given if name not in found]
        for name in missing if len(occurring) > 1 else ():
            warnings.append(f'no training row has the label "{name}" that data.labels names, so the model cannot learn it')
    if len(occurring) < 2:
        source = ", ".join(dict.fromkeys(labels.source for labels in files))
        raise UserError(f'{source}: every training row has the label "{occurring[0]}"; training needs at least two classes')
    rows = sum(len(labels.codes) for labels in files)
    if given is None and len(occurring) > max(100, rows // 2):
        raise UserError(
            f"the training set has {len(occurring)} distinct labels in {rows} rows, so its label column "
            f'(for example "{occurring[0]}") is not one of classes; name the right one in `columns`'
        )
    return tuple(given) if given is not None else tuple(occurring)


def to_codes(labels: FileLabels, names: Sequence[str], *, owner: str) -> np.ndarray:
    """int64 [N]: each row's index in ``names``; UserError for a label that is not among them. ``owner`` words whose rows
    these are ("the evaluation set rte")."""
    if not (labels.names or names):
        return labels.codes
    position = {name: index for index, name in enumerate(names)}
    for name in labels.names:
        if name not in position:
            hint = did_you_mean(name, names)
            if labels.numbered and not hint.startswith("; did"):
                hint += "; name this file's integers with `labels`, or map them with `rename_labels` or `merge_labels`"
            row = labels.where(labels.first_row(name))
            raise UserError(f'{row}: {owner} has the unknown label "{name}"{hint}')
    return np.array([position[name] for name in labels.names], dtype=np.int64)[labels.codes]


Merge = tuple[tuple[int, ...], ...]


def merge_map(file: EvaluationFile, names: Sequence[str], owner: str, warnings: list[str]) -> tuple[tuple[str, ...], Merge]:
    """The evaluation set's own label names and, for each, the model's classes that count as it (``merge_labels``).

    Raises UserError for a label the model does not have, one that is listed twice, and an empty list.
    """
    merge: Mapping[str, Sequence[str]] = file.merge_labels or {}
    if len(merge) < 2:
        raise UserError(
            f"{owner}: merge_labels has {_count(merge)}; give each of the set's labels the model's labels it stands for"
        )
    used: dict[str, str] = {}
    for own, listed in merge.items():
        if not listed:
            raise UserError(f'{owner}: merge_labels lists no label of the model for "{own}"; name at least one')
        for label in listed:
            if label not in names:
                hint = did_you_mean(label, names)
                raise UserError(f'{owner}: merge_labels names "{label}", which is not a label of the model{hint}')
            if label in used:
                both = f'both "{used[label]}" and "{own}"' if used[label] != own else f'"{own}" twice'
                raise UserError(f'{owner}: merge_labels lists "{label}" under {both}; it can count only once')
            used[label] = own
    left = [label for label in names if label not in used]
    if left:
        warnings.append(f"{owner}: merge_labels leaves out the model's label{'s' * (len(left) > 1)} {', '.join(left)}")
    return tuple(merge), tuple(tuple(names.index(label) for label in listed) for listed in merge.values())
