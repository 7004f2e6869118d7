"""From the recipe's ``data`` section to training examples and evaluation sets, checked and counted."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftft.data.corrections import correct, read_corrections
from ftft.data.duplicates import Overlap, find_overlaps
from ftft.data.examples import EvaluationSet, Examples, LoadedData
from ftft.data.hashing import content_hashes, fingerprint_examples, hash_below, hex_strings, lowest_hashes
from ftft.data.ids import Where, column_ids, content_ids, joined, require_unique
from ftft.data.image_folders import FILE_NAME
from ftft.data.inputs import TEXTS, TaskInputs, inputs_named, read_input, refuse_absurd_lengths
from ftft.data.labels import FileLabels, merge_map, model_labels, no_labels, read_labels, to_codes
from ftft.data.reading import LINE, columns_in, describe, format_of, read_table, same_value
from ftft.data.settings import Columns, DataFile, DataSettings, EvaluationFile
from ftft.errors import UserError
from ftft.paths import expand

HELD_OUT = "validation"


@dataclass(frozen=True)
class _Part:
    """One file's rows: Arrow columns ready to be joined with other files', ``ids`` None where content gives them."""

    inputs: dict[str, pa.Array]
    labels: FileLabels
    where: Where
    ids: pa.Array | None
    groups: pa.Array | None
    clusters: pa.Array | None
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels.codes)


def load_data(
    settings: DataSettings,
    *,
    inputs: TaskInputs = TEXTS,
    progress: Callable[[str], None] | None = None,
) -> LoadedData:
    """Read, check and label everything ``settings`` names.

    ``inputs``: what the task reads of a row (:attr:`ftft.tasks.contract.Task.inputs`). ``progress`` gets a short line for
    each file and step. Raises UserError (one sentence with file and row) for bad data.
    """
    say = progress or (lambda message: None)
    files = [settings.train] if isinstance(settings.train, DataFile) else list(settings.train)
    if not files:
        raise UserError("data.train names no file; at least one is needed")
    _check_variables(files, settings.evaluation)
    refuse_training_files(files, settings.evaluation)
    corrections = None if settings.corrections is None else read_corrections(expand(settings.corrections, "data.corrections"))
    warnings: list[str] = []
    train = _training_examples(files, settings, inputs, say, warnings)
    names = train.label_names
    sets = {
        name: _evaluation_set(name, file, settings, inputs, names, train.inputs.keys(), warnings, say)
        for name, file in settings.evaluation.items()
    }
    if not any(found.role == "id" and found.split == "validation" for found in sets.values()):
        train, held_out = _hold_out(train, settings)
        sets = {HELD_OUT: held_out, **sets}
    corrected = None
    if corrections is not None:
        corrected = correct(train, corrections, {name: one.examples.ids for name, one in sets.items()})
        train = corrected.examples
        warnings.append(corrected.sentence)
    say("looking for training rows in the evaluation sets")
    overlaps = find_overlaps(train.inputs, {name: found.examples.inputs for name, found in sets.items()})
    warnings += _overlap_warnings(overlaps, sets, dropped=settings.drop_duplicates_of_evaluation)
    if settings.drop_duplicates_of_evaluation:
        train = _without_overlaps(train, overlaps)
    say("taking fingerprints")
    train = with_fingerprint(train)
    sets = {name: dataclasses.replace(found, examples=with_fingerprint(found.examples)) for name, found in sets.items()}
    report = _report(train, sets, overlaps)
    if corrected is not None:
        report["corrections"] = corrected.counts
    warnings += _empty_text_warnings(report)
    return LoadedData(train=train, evaluation=sets, warnings=tuple(warnings), report=report)


def load_examples(
    file: DataFile | Sequence[DataFile],
    columns: Columns,
    *,
    inputs: TaskInputs = TEXTS,
    label_names: list[str] | None = None,
    warnings: list[str] | None = None,
) -> Examples:
    """The labelled examples of one file, or of several after one another, without evaluation sets or a held-out part; errors
    as in :func:`load_data`, whose ``data.labels`` are ``label_names`` here. What was noticed joins the ``warnings``."""
    files = [file] if isinstance(file, DataFile) else list(file)
    settings = DataSettings(train=files, columns=columns, labels=label_names)
    return with_fingerprint(_training_examples(files, settings, inputs, lambda _: None, [] if warnings is None else warnings))


def _training_examples(
    files: Sequence[DataFile], settings: DataSettings, inputs: TaskInputs, say: Callable[[str], None], warnings: list[str]
) -> Examples:
    """The training files' examples, labelled, and twice in memory only while joined; what was noticed joins ``warnings``."""
    parts = [_read_part(file, settings, inputs, say) for file in files]
    names = model_labels([part.labels for part in parts], settings.labels, warnings) if inputs.labelled else ()
    warnings += [sentence for part in parts for sentence in part.warnings]
    return _examples(parts, names, [to_codes(part.labels, names, owner="training") for part in parts])


def _check_variables(files: Sequence[DataFile], evaluation: Mapping[str, EvaluationFile]) -> None:
    """UserError naming the key whose path has an environment variable that is not set, before anything is read."""
    named = {f"data.train.{index}" if len(files) > 1 else "data.train": file for index, file in enumerate(files)}
    for key, file in {**named, **{f"data.evaluation.{name}": file for name, file in evaluation.items()}}.items():
        if file.path is not None:
            expand(file.path, f"{key}.path")


def refuse_training_files(
    files: Sequence[DataFile], evaluation: Mapping[str, EvaluationFile], reader: str = "data.train"
) -> None:
    """Evaluation data is never trained on: a file that ``reader`` shares needs ``where`` filters that exclude each other."""
    for name, held in evaluation.items():
        for file in files:
            if _same_source(file, held) and not _exclusive(file, held):
                raise UserError(
                    f"data.evaluation.{name} reads rows of {describe(held)} that {reader} reads too; evaluation data cannot "
                    "be trained on, so give another file, or `where` filters on one column with different values"
                )


def _same_source(one: DataFile, other: DataFile) -> bool:
    if one.path is None or other.path is None:
        return one.path == other.path and (one.hub, one.hub_config, one.hub_split) == (
            other.hub,
            other.hub_config,
            other.hub_split,
        )
    first, second = expand(one.path, "path"), expand(other.path, "path")
    if first.exists() and second.exists():
        return os.path.samefile(first, second)
    return os.path.realpath(first) == os.path.realpath(second)


def _exclusive(one: DataFile, other: DataFile) -> bool:
    first, second = one.where or {}, other.where or {}
    return any(not same_value(first[column], second[column]) for column in first.keys() & second.keys())


def _read_part(file: DataFile, settings: DataSettings, task: TaskInputs, say: Callable[[str], None]) -> _Part:
    columns = file.columns or settings.columns
    source = describe(file)
    if task.images and file.path is not None and expand(file.path, "path").is_dir():
        file = dataclasses.replace(file, format="images")
        columns = columns if columns.id is not None else dataclasses.replace(columns, id=FILE_NAME)
    named = task.columns_of(columns, source, lambda: columns_in(file))
    say(f"reading {source}")
    pictures = file.format == "images"
    table = read_table(file, [*inputs_named(columns, named, labelled=task.labelled), *([FILE_NAME] if pictures else [])])
    place = FILE_NAME if pictures else LINE
    lines = table.column(place)
    unit = "picture" if pictures else table.schema.metadata[b"ftft.unit"].decode()

    def where(row: int) -> str:
        return f"{source}, {unit} {lines[row].as_py()}"

    inputs = {name: read_input(task.kind(name), table.column(column), column, source, where) for name, column in named.items()}
    ids = None if columns.id is None else column_ids(table.column(columns.id), columns.id, where)
    for name, column in named.items():
        if task.kind(name) != "image":
            refuse_absurd_lengths(inputs[name], task.kind(name), column, ids, where)
    if file.sample is not None and file.sample < len(lines):
        keys = hex_strings(content_hashes(list(inputs.values()))) if ids is None else ids
        rows = pa.array(lowest_hashes(keys, file.sample))
        table, ids = table.take(rows), None if ids is None else ids.take(rows)
        inputs = {name: values.take(rows) for name, values in inputs.items()}
        lines = table.column(place)
    return _Part(
        inputs=inputs,
        labels=_labels(table, file, columns, settings, source, where)
        if task.labelled
        else no_labels(len(lines), source, where),
        where=where,
        ids=ids,
        groups=None if columns.group is None else _as_strings(table.column(columns.group), columns.group, source),
        clusters=None if columns.cluster is None else _as_strings(table.column(columns.cluster), columns.cluster, source),
        warnings=_quote_warnings(file, inputs, source),
    )


def _labels(table: pa.Table, file: DataFile, columns: Columns, settings: DataSettings, source: str, where: Where) -> FileLabels:
    carried = table.schema.metadata.get(f"ftft.labels.{columns.label}".encode())
    if carried is not None and file.labels is None:
        file = dataclasses.replace(file, labels=json.loads(carried))
    return read_labels(table.column(columns.label), columns.label, file, source, where, default_names=settings.labels)


def _quote_warnings(file: DataFile, inputs: Mapping[str, pa.Array], source: str) -> tuple[str, ...]:
    """A sentence where a TSV file, read without quoting, has texts that only a quoting writer would have written."""
    if file.path is None or file.quotes is not None or format_of(expand(file.path, "path"), file.format) != "tsv":
        return ()
    texts = [values for values in inputs.values() if pa.types.is_large_string(values.type)]
    count = sum(pc.sum(pc.match_substring_regex(one, r'^".*"".*"$')).as_py() or 0 for one in texts)
    which = "one text looks" if count == 1 else f"{count:,} texts look"
    what = f"{source}: {which} as if written with quoting, which TSV files are read without"
    return (f"{what}; set `quotes: true` (or false, to be asked no more)",) if count else ()


def _as_strings(column: pa.ChunkedArray, name: str, source: str) -> pa.Array:
    try:
        return joined(pc.fill_null(column.cast(pa.string()), ""))
    except pa.ArrowException:
        raise UserError(
            f'{source}: the column "{name}" holds {column.type} values; groups and clusters are strings or numbers'
        ) from None


def _examples(parts: Sequence[_Part], names: Sequence[str], codes: Sequence[np.ndarray]) -> Examples:
    """The parts one after the other, with ids that are unique over all of them; the fingerprint comes later."""
    if len({len(part.inputs) for part in parts}) > 1:
        raise UserError(
            "the files of data.train differ in how many text columns they have; give each one column, or each a pair"
        )
    for part in parts:
        if part.inputs.keys() != parts[0].inputs.keys():
            raise UserError(
                f"the files of data.train give {' and '.join(parts[0].inputs)} as well as {' and '.join(part.inputs)}; "
                "name the same in the `columns` of each"
            )
    inputs = {name: joined(pa.chunked_array([part.inputs[name] for part in parts])) for name in parts[0].inputs}
    starts = np.cumsum([0, *(len(part) for part in parts)])

    def where(row: int) -> str:
        index = int(np.searchsorted(starts, row, side="right")) - 1
        return parts[index].where(row - int(starts[index]))

    ids = _ids(parts)
    require_unique(ids, where)
    return Examples(
        ids=ids,
        inputs=inputs,
        labels=np.concatenate(codes),
        label_names=tuple(names),
        fingerprint="",
        groups=_concat_optional([part.groups for part in parts], [len(part) for part in parts]),
        clusters=_concat_optional([part.clusters for part in parts], [len(part) for part in parts]),
    )


def _ids(parts: Sequence[_Part]) -> pa.Array:
    without = [part for part in parts if part.ids is None]
    made = pa.array([], pa.string())
    if without:
        made = content_ids([joined(pa.chunked_array([part.inputs[name] for part in without])) for name in without[0].inputs])
    arrays, used = [], 0
    for part in parts:
        if part.ids is not None:
            arrays.append(part.ids)
        else:
            arrays.append(made.slice(used, len(part)))
            used += len(part)
    return joined(pa.chunked_array(arrays))


def _concat_optional(arrays: Sequence[pa.Array | None], sizes: Sequence[int]) -> pa.Array | None:
    if all(array is None for array in arrays):
        return None
    return pa.concat_arrays(
        [pa.array([""] * size, pa.string()) if array is None else array for array, size in zip(arrays, sizes)]
    )


def _evaluation_set(
    name: str,
    file: EvaluationFile,
    settings: DataSettings,
    inputs: TaskInputs,
    names: tuple[str, ...],
    train_inputs: Any,
    warnings: list[str],
    say: Callable[[str], None],
) -> EvaluationSet:
    part = _read_part(file, settings, inputs, say)
    warnings += part.warnings
    if set(part.inputs) != set(train_inputs):
        raise UserError(
            f"data.evaluation.{name} gives {' and '.join(part.inputs)} where training gives {' and '.join(train_inputs)}; "
            "name the same in its `columns`"
        )
    own, merge = names, None
    if file.merge_labels is not None:
        own, merge = merge_map(file, names, f"data.evaluation.{name}", warnings)
    codes = to_codes(part.labels, own, owner=f'the evaluation set "{name}"')
    return EvaluationSet(name=name, examples=_examples([part], own, [codes]), role=file.role, split=file.split, merge=merge)


def _hold_out(train: Examples, settings: DataSettings) -> tuple[Examples, EvaluationSet]:
    """Training examples less those whose id's hash falls below ``validation_fraction``, and these as a validation set."""
    fraction = settings.validation_fraction
    advice = "give an evaluation set with `role: id` and `split: validation`, or change data.validation_fraction"
    if not 0 < fraction < 1:
        raise UserError(f"data.validation_fraction is {fraction}; it must be above 0 and below 1")
    if HELD_OUT in settings.evaluation:
        raise UserError(
            f'data.evaluation has a set named "{HELD_OUT}" that is not of `role: id` and `split: validation`, and that is the '
            "name of the set held out from training; rename it, or set its role and split"
        )
    held = hash_below(train.ids, fraction)
    for rows, which in ((held, "held out for validation"), (~held, "left for training")):
        if not rows.any():
            raise UserError(
                f"none of the {len(train)} training rows is {which} by data.validation_fraction {fraction}; {advice}"
            )
        for code in np.setdiff1d(train.labels, train.labels[rows]):
            raise UserError(
                f"none of the {int(rows.sum())} rows {which} at data.validation_fraction {fraction} has the label "
                f'"{train.label_names[code]}"; {advice}'
            )
    kept, taken = train.take(np.flatnonzero(~held)), train.take(np.flatnonzero(held))
    return kept, EvaluationSet(name=HELD_OUT, examples=taken, role="id", split="validation")


def _overlap_warnings(overlaps: Mapping[str, Overlap], sets: Mapping[str, EvaluationSet], *, dropped: bool) -> list[str]:
    found = []
    for name, overlap in overlaps.items():
        if overlap.normalised:
            images = any(pa.types.is_large_binary(column.type) for column in sets[name].examples.inputs.values())
            others = "in another encoding" if images else "up to case and punctuation"
            what = "were left out of training" if dropped else "are trained on; drop_duplicates_of_evaluation leaves them out"
            found.append(
                f'{overlap.normalised:,} of the {len(sets[name].examples):,} examples of the evaluation set "{name}" are also '
                f"in the training set ({overlap.exact:,} exactly, the others {others}): "
                f"{len(overlap.train_rows):,} training rows {what}"
            )
    return found


def _without_overlaps(train: Examples, overlaps: Mapping[str, Overlap]) -> Examples:
    keep = np.ones(len(train), dtype=bool)
    for overlap in overlaps.values():
        keep[overlap.train_rows] = False
    if keep.all():
        return train
    lost = np.setdiff1d(train.labels, train.labels[keep])
    if len(lost):
        raise UserError(
            f"no training row{train.labelled(lost[0])} is left after drop_duplicates_of_evaluation took "
            f"out {int((~keep).sum())} of {len(train)} rows; is an evaluation set a copy of the training set?"
        )
    return train.take(np.flatnonzero(keep))


def with_fingerprint(examples: Examples) -> Examples:
    """The examples with the fingerprint of what they are now."""
    found = fingerprint_examples(examples.ids, examples.inputs, examples.labels, examples.label_names)
    return dataclasses.replace(examples, fingerprint=found)


def _counts(examples: Examples) -> dict[str, Any]:
    rows = np.bincount(examples.labels, minlength=len(examples.label_names))
    empty = np.zeros(len(examples), dtype=bool)
    for texts in examples.inputs.values():
        if pa.types.is_large_binary(texts.type):  # an image is never empty
            continue
        empty |= pc.equal(pc.binary_length(pc.utf8_trim_whitespace(texts)), 0).to_numpy(zero_copy_only=False)
    return {
        "n": len(examples),
        "classes": dict(zip(examples.label_names, rows.tolist())),
        "empty_texts": int(empty.sum()),
        "fingerprint": examples.fingerprint,
    }


def _report(train: Examples, sets: Mapping[str, EvaluationSet], overlaps: Mapping[str, Overlap]) -> dict[str, Any]:
    evaluation = {}
    for name, found in sets.items():
        overlap = overlaps[name]
        duplicates = {"exact": overlap.exact, "normalised": overlap.normalised, "train_rows": len(overlap.train_rows)}
        evaluation[name] = {**_counts(found.examples), "role": found.role, "split": found.split, "duplicates": duplicates}
    return {"train": _counts(train), "evaluation": evaluation}


def _empty_text_warnings(report: Mapping[str, Any]) -> list[str]:
    named = {"the training set": report["train"]}
    named |= {f'the evaluation set "{name}"': counts for name, counts in report["evaluation"].items()}
    return [
        f"{name} has {counts['empty_texts']:,} row{'s' * (counts['empty_texts'] > 1)} with an empty text"
        for name, counts in named.items()
        if counts["empty_texts"]
    ]
