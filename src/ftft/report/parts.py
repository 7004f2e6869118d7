"""What a run folder holds beside ``result.json`` that a report shows: data maps, selections, groups. Ids, never texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ftft.dynamics.diagnostics import ReferenceDiagnostics, reference_diagnostics
from ftft.dynamics.parquet import read_dynamics
from ftft.errors import UserError
from ftft.methods.contract import Selection
from ftft.methods.selection import read_selection
from ftft.report.figures import dig, number, stage_names, whole
from ftft.report.learning import has_own_rows, picked_words
from ftft.report.map_values import MapValues, map_values, with_selection
from ftft.state.manifest import is_inside

DIAGNOSED_FRACTION = 0.33  # where no stage of the run says another
GROUPS_FILE = "groups.parquet"
MOST_EXPLORED = 1_000_000  # examples; a page of more would be hundreds of megabytes


@dataclass(frozen=True)
class DataMap:
    """The data map of training dynamics, those ``of`` a stage or a file: N ``ids`` and, float64 [N], ``confidence``,
    ``variability`` (population standard deviation) and ``correctness`` (epochs; None where the dynamics do not say). NaN:
    never (or hardly) seen. ``users``: the stages that selected by these dynamics. ``quantity``: what confidence is the mean
    of, in words."""

    of: str
    ids: pa.Array
    epochs: int
    confidence: np.ndarray
    variability: np.ndarray
    correctness: np.ndarray | None
    diagnostics: ReferenceDiagnostics | None
    users: tuple[str, ...]
    quantity: str


@dataclass(frozen=True)
class Parts:
    """``maps`` by stage, those of dynamics that were given by their file in the run; their ``values`` in full, for the
    explorer; ``selections`` by stage (selections that leave something out or weigh only) and the ``rules`` they follow;
    ``groups``: ids and group of every training row, or None; ``apart``: the maps of stages with rows of their own, of
    which texts and groups of the training rows say nothing; ``notes``: what could not be read, one sentence each."""

    maps: Mapping[str, DataMap] = field(default_factory=dict)
    values: Mapping[str, MapValues] = field(default_factory=dict)
    selections: Mapping[str, Selection] = field(default_factory=dict)
    rules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    groups: tuple[pa.Array, pa.Array] | None = None
    apart: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class GroupRow:
    """One planted group, or the whole pool: means are over the rows with a score. ``selected``: stage -> share of the
    group's rows that it chose (:func:`chosen`); ``enrichment``: stage -> share in what it learns from over that in the pool."""

    group: str
    count: int
    share: float
    confidence: float | None
    variability: float | None
    correctness: float | None
    selected: Mapping[str, float]
    enrichment: Mapping[str, float]


def load_parts(folder: Path, result: Mapping[str, Any]) -> Parts:
    """Read them; what is missing is left out, what is damaged is noted."""
    notes: list[str] = []
    selections, rules = {}, {}
    for name in stage_names(result):
        path = folder / "stages" / name / "selection.parquet"
        if path.is_file() and not has_own_rows(result, name):
            try:
                selections[name] = _read_selection(path)
                rules[name] = selections[name].rule or dig(result, "stages", name, "selection", "rule") or {}
            except UserError as error:
                notes.append(f"The selection of stage {name} is not shown: {_without_folder(error, folder)}.")
    maps, explored = {}, {}
    for found in (one for name in stage_names(result) for one in _recorded(folder, result, name)):
        try:
            recorded = read_dynamics(found.path)
            explorable = len(recorded) <= MOST_EXPLORED
            values = map_values(recorded, found.of, found.source, to_draw=not explorable)
        except UserError as error:
            notes.append(f"There is no data map {found.of}: {_without_folder(error, folder)}.")
            continue
        maps[found.key] = data_map(values, found.users, _diagnosis(result, found.users))
        if explorable:
            explored[found.key] = with_selections(values, found.users, selections, rules)
        else:
            notes.append(f"The map {found.of} is not in the explorer, which takes up to {MOST_EXPLORED:,} examples.")
    groups = None
    if (folder / GROUPS_FILE).is_file():
        try:
            groups = read_groups(folder / GROUPS_FILE)
        except UserError as error:
            notes.append(f"The groups are not shown: {_without_folder(error, folder)}.")
    apart = frozenset(name for name in stage_names(result) if has_own_rows(result, name))
    return Parts(maps, explored, selections, rules, groups, apart, tuple(notes))


def _without_folder(error: UserError, folder: Path) -> str:
    return str(error).replace(f"{folder}/", "").rstrip(".")


@dataclass(frozen=True)
class _Recorded:
    """Dynamics to be shown: their file and key, whose they are in words, what a recipe calls them, the stages that used
    them."""

    path: Path
    key: str
    of: str
    source: str
    users: tuple[str, ...]


def _recorded(folder: Path, result: Mapping[str, Any], name: str) -> Iterator[_Recorded]:
    """The dynamics to be shown with stage ``name``: its own, and those of a file that it was the first to use."""
    path, stages = folder / "stages" / name / "dynamics.parquet", stage_names(result)
    if dig(result, "stages", name, "dynamics") is not None and path.is_file():
        users = tuple(other for other in stages if dig(result, "recipe", "stages", other, "use_dynamics_of") == name)
        yield _Recorded(path, name, f"of stage {name}", name, users)
    used = dig(result, "stages", name, "dynamics_used")
    file, stage = dig(used, "file"), dig(used, "stage")
    if stage is not None or not isinstance(file, str) or not is_inside(file) or not (folder / file).is_file():
        return
    users = tuple(other for other in stages if dig(result, "stages", other, "dynamics_used", "file") == file)
    if users[0] == name:
        yield _Recorded(folder / file, file, f"in {dig(used, 'source')}", str(dig(used, "source")), users)


def _diagnosis(result: Mapping[str, Any], users: tuple[str, ...]) -> ReferenceDiagnostics | None:
    """The diagnostics that the run made for the first user of the dynamics."""
    for user in users:
        found = dig(result, "stages", user, "diagnosis")
        values = {entry.name: number(dig(found, entry.name)) for entry in fields(ReferenceDiagnostics)}
        if values["easy"] is not None:
            known: dict[str, Any] = {name: float("nan") if value is None else value for name, value in values.items()}
            counts = {name: whole(dig(found, name)) or 0 for name in ("examples", "selected")}
            return ReferenceDiagnostics(**{**known, **counts})
    return None


def data_map(values: MapValues, users: tuple[str, ...] = (), diagnostics: ReferenceDiagnostics | None = None) -> DataMap:
    """The data map that is drawn of ``values``, with these ``diagnostics``, or its own where none are given."""
    scored = ~np.isnan(values.confidence) & ~np.isnan(values.variability)
    if diagnostics is None and scored.any():
        diagnostics = reference_diagnostics(values.confidence, values.variability, values.ids, fraction=DIAGNOSED_FRACTION)
    return DataMap(
        of=values.name,
        ids=values.ids,
        epochs=len(values.epochs),
        confidence=values.confidence,
        variability=values.variability,
        correctness=values.correctness,
        diagnostics=diagnostics,
        users=users,
        quantity=values.quantity,
    )


def with_selections(
    values: MapValues, users: Sequence[str], selections: Mapping[str, Selection], rules: Mapping[str, Mapping[str, Any]]
) -> MapValues:
    """The map with what the stages that used it selected, by its words ("selected by stage main")."""
    for user in users:
        if user in selections:
            rule = rules.get(user, {})
            picked = chosen(mass(selections[user], values.ids), rule)
            values = with_selection(values, f"{picked_words(rule)} stage {user}", picked)
    return values


def _read_selection(path: Path) -> Selection:
    """The selection; the run folder holds it with or without its sidecar, and the result has the rule anyway."""
    if path.with_name(path.name + ".json").is_file():
        return read_selection(path)
    try:
        table = pq.read_table(path, columns=["id", "weight"])
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a selection with the columns id and weight: {error}") from None
    return Selection(ids=table["id"].combine_chunks(), weights=table["weight"].to_numpy(), rule={})


def read_groups(path: Path) -> tuple[pa.Array, pa.Array]:
    """(ids, groups) of the training rows; a row without a group is in the group "(none)"."""
    try:
        table = pq.read_table(path, columns=["id", "group"])
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a table with the columns id and group: {error}") from None
    groups = table["group"].combine_chunks().cast(pa.string())
    return table["id"].combine_chunks().cast(pa.string()), pc.fill_null(groups, "(none)")


def positions(wanted: pa.Array, ids: pa.Array) -> np.ndarray:
    """Where each wanted id stands in ``ids``, int64, -1 where it does not."""
    found = pc.index_in(wanted.cast(pa.large_string()), value_set=ids.cast(pa.large_string()))
    return np.asarray(found.fill_null(-1)).astype(np.int64)


def mass(selection: Selection, ids: pa.Array) -> np.ndarray:
    """How much of the training each of ``ids`` is, float64 [N]: copies times weight, 0 where it is not selected."""
    rows = positions(selection.ids, ids)
    inside = rows >= 0
    return np.bincount(rows[inside], weights=np.asarray(selection.weights, dtype=np.float64)[inside], minlength=len(ids))


def chosen(amount: np.ndarray, rule: Mapping[str, Any]) -> np.ndarray:
    """Which examples a selection chose, bool [N], from its :func:`mass`: where it keeps the rest too, those whose mass is
    other than the rest's, and all where every example has the same."""
    kept = amount > 0
    if rule.get("apply") not in ("copies", "weights") or not kept.any() or np.ptp(amount[kept]) == 0:
        return kept
    lighter = rule["apply"] == "weights" and (number(rule.get("weight")) or 1.0) < 1
    middle = (amount[kept].min() + amount[kept].max()) / 2
    return kept & (amount < middle if lighter else amount > middle)


def narrowing(parts: Parts) -> dict[str, Selection]:
    """The selections that change the mixture of the training rows: a group table says nothing about the others."""
    if parts.groups is None:
        return {}
    ids = parts.groups[0]
    return {name: one for name, one in parts.selections.items() if len(ids) and np.ptp(mass(one, ids)) > 0}


def group_rows(parts: Parts, data_map: DataMap | None) -> list[GroupRow]:
    """The table of groups, largest first, and in its last row the whole pool; empty where no groups are known."""
    if parts.groups is None or len(parts.groups[0]) == 0:
        return []
    ids, groups = parts.groups
    encoded = groups.dictionary_encode()
    names, codes = encoded.dictionary.to_pylist(), np.asarray(encoded.indices).astype(np.int64)
    scores: dict[str, np.ndarray] = {}
    if data_map is not None:
        rows = positions(ids, data_map.ids)
        for name in ("confidence", "variability", "correctness"):
            values = getattr(data_map, name)
            if values is not None:
                scores[name] = np.where(rows >= 0, values[rows], np.nan)
    amounts = {name: mass(selection, ids) for name, selection in narrowing(parts).items()}
    picked = {name: chosen(amount, parts.rules.get(name, {})) for name, amount in amounts.items()}
    order = sorted(range(len(names)), key=lambda code: (-int((codes == code).sum()), names[code]))
    members = [(names[code], codes == code) for code in order] + [("all", np.ones(len(ids), dtype=bool))]
    return [_group_row(name, inside, scores, amounts, picked) for name, inside in members]


def _group_row(
    name: str,
    inside: np.ndarray,
    scores: Mapping[str, np.ndarray],
    amounts: Mapping[str, np.ndarray],
    picked: Mapping[str, np.ndarray],
) -> GroupRow:
    share = float(inside.mean())

    def mean(score: str) -> float | None:
        values = scores.get(score)
        known = None if values is None else values[inside & ~np.isnan(values)]
        return number(float(known.mean())) if known is not None and len(known) else None

    return GroupRow(
        group=name,
        count=int(inside.sum()),
        share=share,
        confidence=mean("confidence"),
        variability=mean("variability"),
        correctness=mean("correctness"),
        selected={stage: float(one[inside].mean()) for stage, one in picked.items()},
        enrichment={stage: float(amount[inside].sum() / amount.sum()) / share for stage, amount in amounts.items()},
    )
