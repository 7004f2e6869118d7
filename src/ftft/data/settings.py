"""The recipe's ``data`` section. No heavy import here: these classes are read before anything is loaded."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ftft.errors import UserError
from ftft.settings import setting


@dataclass(frozen=True)
class Columns:
    """Which columns hold what."""

    text: list[str] = setting((), "the text column, or the two columns of a pair; by default the task's own name", factory=list)
    inputs: dict[str, str] | None = setting(None, "the task's name of an input -> the column, for tasks that read other things")
    label: str = setting("label", "the label column: integers or strings")
    id: str | None = setting(None, "the column of unique ids; without one an id is made from the row's content")
    group: str | None = setting(None, "a column whose values are groups, for the worst-group metrics")
    cluster: str | None = setting(None, "a column whose values are clusters that are resampled together in the bootstrap")


@dataclass(frozen=True)
class DataFile:
    """One table of examples: a file, or a dataset on the Hugging Face hub."""

    path: str | None = setting(
        None, "JSONL, CSV, TSV or Parquet, gzip'd or not, or a folder of images; environment variables are expanded"
    )
    format: Literal["jsonl", "csv", "tsv", "parquet", "images"] | None = setting(
        None, "the file's format where the ending of its name does not tell it; images: a folder of pictures"
    )
    hub: str | None = setting(None, "a dataset name on the hub, instead of a path (downloads it)")
    hub_config: str | None = setting(None, "the hub dataset's configuration")
    hub_split: str = setting("train", "the hub dataset's split")
    columns: Columns | None = setting(None, "the file's columns where they differ; replaces data.columns as a whole")
    header: list[str] | None = setting(None, "column names for a CSV or TSV file that has no header line")
    quotes: bool | None = setting(None, "whether fields may stand in double quotes; by default in CSV yes, in TSV no")
    labels: list[str] | None = setting(None, "the label names in the order of their integers, where labels are integers")
    rename_labels: dict[str, str] | None = setting(None, "this file's label -> the training set's label")
    where: dict[str, str | int | bool] | None = setting(None, "keep only the rows whose columns have these values")
    limit: int | None = setting(None, "use only the first rows (after `where`)", ge=1)
    sample: int | None = setting(
        None, "use only so many rows (after `where` and `limit`), chosen by a hash of their id: the same in any order", ge=1
    )


@dataclass(frozen=True)
class EvaluationFile(DataFile):
    """A set to evaluate on."""

    role: Literal["id", "ood", "forget"] = setting("ood", "in distribution, out of distribution, or earlier knowledge")
    split: Literal["validation", "test"] = setting("test", "validation may steer training; test is only reported")
    merge_labels: dict[str, list[str]] | None = setting(
        None, "for a set with fewer labels than the model: its label -> the model's labels that count as it"
    )
    known_to: list[str] = setting((), "models that were trained on this data, so that it is not OOD for them", factory=list)


@dataclass(frozen=True)
class DataSettings:
    """The training examples and the sets to evaluate on."""

    train: list[DataFile] | DataFile
    columns: Columns = field(default_factory=Columns)
    labels: list[str] | None = setting(None, "the model's label names in order; by default those of the training set, sorted")
    evaluation: dict[str, EvaluationFile] = setting({}, "the evaluation sets by name", factory=dict)
    validation_fraction: float = setting(
        0.1,
        "share of the training rows, chosen by a hash of their id, held out as the set `validation` "
        "when no evaluation set has role id and split validation",
        gt=0,
        le=0.5,
    )
    corrections: str | None = setting(
        None, "a CSV file with the header id,action,label that relabels training rows or drops them (action: relabel or drop)"
    )
    drop_duplicates_of_evaluation: bool = setting(
        False, "leave training rows out whose normalised text is in an evaluation set"
    )


def require_target(name: str, validation: Sequence[str], sets: Collection[str], where: str) -> None:
    """UserError, led by ``where``, unless the set that a selector is to select towards is one of the ``validation`` sets among
    all ``sets``."""
    if name not in validation:
        what = "is a test set, and test sets are only reported" if name in sets else "is no evaluation set"
        raise UserError(f'{where}.select.target: "{name}" {what}; name a validation set ({", ".join(validation)})')
