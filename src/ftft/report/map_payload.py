"""The data of an explorer as JSON inside the page: small things as they are, columns as base64 of little-endian integers.

Coordinates are rounded to 1/65534 of their axis and trajectories to 1/254, enough for a picture. Nothing is chosen by them:
every score travels as exact ranks (``levels``: equal scores have equal numbers) and ``id_order`` (the ids' order by their
bytes), both made here, so that the page and the selectors choose the same examples.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftft.dynamics.scores import SCORES
from ftft.report.map_values import REGIONS, MapValues, with_class_names
from ftft.report.markup import Markup, tag
from ftft.report.parts import positions

VERSION = 1
NONE = 65535
MOST_VARIABILITY = 0.5  # of values between 0 and 1
MOST_CHARACTERS = 2000  # of a text
DATA_ID = "ftft-map-data"


@dataclass(frozen=True)
class Texts:
    """What is shown of the rows: ``columns`` names, and by id one text per column."""

    columns: Sequence[str]
    of: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class ExplorerData:
    """``maps``: the first is shown first, the second beside it. ``groups``: ids and group. None leaves a part out."""

    maps: Sequence[MapValues]
    texts: Texts | None = None
    groups: tuple[pa.Array, pa.Array] | None = None


def payload(data: ExplorerData) -> dict[str, Any]:
    """The JSON of an explorer; the examples are those of all maps, in the order of the first."""
    maps = _with_names(data.maps)
    ids = all_ids(maps)
    names = {name: code for code, name in enumerate(dict.fromkeys(name for one in maps for name in one.label_names))}
    labels = _labels(maps, ids, names)
    texts = None
    if data.texts is not None:
        empty = [""] * len(data.texts.columns)
        texts = [[_cut(text) for text in data.texts.of.get(id_, empty)] for id_ in ids.to_pylist()]
    return {
        "version": VERSION,
        "n": len(ids),
        "ids": ids.to_pylist(),
        "id_order": _column(np.argsort(pc.sort_indices(ids).to_numpy())),
        "labels": None if labels is None else _column(labels, none=True),
        "label_names": list(names),
        "text_columns": [] if data.texts is None else list(data.texts.columns),
        "texts": texts,
        "regions": list(REGIONS),
        "groups": _groups(data.groups, ids),
        "maps": [_map(one, ids, names, labels) for one in maps],
    }


def data_block(data: ExplorerData) -> Markup:
    """The payload in a script element that is never run; no ``<`` is left in it that could end it."""
    written = json.dumps(payload(data), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    block = Markup(written.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))
    return tag("script", block, attributes={"type": "application/json", "id": DATA_ID})


def all_ids(maps: Sequence[MapValues]) -> pa.Array:
    """The ids of all maps, each once."""
    ids = maps[0].ids
    for other in maps[1:]:
        ids = pa.concat_arrays([ids, other.ids.filter(pa.array(positions(other.ids, ids) < 0))])
    return ids


def _with_names(maps: Sequence[MapValues]) -> Sequence[MapValues]:
    """The maps; what names no classes takes the names of those that do, where their examples show which is which."""
    known = next((one for one in maps if one.labels is not None and not one.classes_are_numbers), None)
    if known is None or known.labels is None or all(one is known for one in maps):
        return maps
    names = {id_: known.label_names[code] for id_, code in zip(known.ids.to_pylist(), known.labels.tolist()) if code >= 0}
    return [with_class_names(one, names) for one in maps]


def _labels(maps: Sequence[MapValues], ids: pa.Array, names: Mapping[str, int]) -> np.ndarray | None:
    """The class of every example by its place in ``names``, int [N], -1 for none, by the first map that says it."""
    found = None
    for one in maps:
        mine = _own_labels(one, ids, names)
        if mine is not None:
            found = mine if found is None else np.where(found >= 0, found, mine)
    return found


def _own_labels(one: MapValues, ids: pa.Array, names: Mapping[str, int]) -> np.ndarray | None:
    """As :func:`_labels`, by this map alone."""
    if one.labels is None:
        return None
    at = positions(ids, one.ids)
    return np.where(at >= 0, _recoded(one.labels, one, names)[at], -1)


def _recoded(codes: np.ndarray, one: MapValues, names: Mapping[str, int]) -> np.ndarray:
    """Classes of a map (int [N], -1 for none) by their places in ``names``, which are of all maps."""
    places = np.array([names[name] for name in one.label_names] + [-1], dtype=np.int64)
    return places[np.where((codes >= 0) & (codes < len(one.label_names)), codes, -1)]


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…"


def _groups(groups: tuple[pa.Array, pa.Array] | None, ids: pa.Array) -> dict[str, Any] | None:
    if groups is None:
        return None
    encoded = groups[1].dictionary_encode()
    at = positions(ids, groups[0])
    codes = np.asarray(encoded.indices).astype(np.int64)
    return {
        "names": encoded.dictionary.to_pylist(),
        "codes": _column(np.where(at >= 0, codes[at], -1), none=True),
    }


def _map(one: MapValues, ids: pa.Array, names: Mapping[str, int], labels: np.ndarray | None) -> dict[str, Any]:
    """A map with its classes by their places in ``names``. ``classes``: them in its own order, by which a rule shares out what
    is left over; ``labels``: its own, where they differ from those of the page."""
    at = positions(ids, one.ids)
    here = at >= 0

    def spread(values: np.ndarray, missing: float) -> np.ndarray:
        return np.where(here, values[at], missing)

    trajectory = [spread(values, np.nan) for values in one.trajectory]
    own = _own_labels(one, ids, names)
    preferred = None if one.preferred is None else _recoded(one.preferred, one, names)
    return {
        "name": one.name,
        "source": one.source,
        "by_recipe": one.by_recipe,
        "quantity": one.quantity,
        "epochs": list(one.epochs),
        "present": _column(here.astype(np.int64)),
        "x": _quantised(spread(one.variability, np.nan), MOST_VARIABILITY),
        "y": _quantised(spread(one.confidence, np.nan), 1.0),
        "seen": _column(spread(one.seen, 0)),
        "correctness": None if one.correctness is None else _column(_whole(spread(one.correctness, np.nan)), none=True),
        "aum": None if one.aum is None else _text(spread(one.aum, np.nan).astype("<f4")),
        "region": _column(spread(one.region, -1), none=True),
        "classes": list(range(len(names)) if own is None else dict.fromkeys(names[name] for name in one.label_names)),
        "labels": None if own is None or labels is None or (own == labels)[here].all() else _column(own, none=True),
        "preferred": None if preferred is None else _column(spread(preferred, -1), none=True),
        "trajectory": [_text(_bytes(values)) for values in trajectory],
        "scores": [_score(name, spread(values, np.nan)) for name, values in one.scores.items()],
        "selections": [{"name": name, "chosen": _column(spread(mask, 0))} for name, mask in one.selections.items()],
    }


def _score(name: str, values: np.ndarray) -> dict[str, Any]:
    known = ~np.isnan(values)
    levels = np.full(len(values), -1, dtype=np.int64)
    levels[known] = np.unique(values[known], return_inverse=True)[1]
    direction = SCORES[name].direction
    return {"name": name, "meaning": SCORES[name].meaning, "direction": direction, "levels": _column(levels, none=True)}


def _whole(values: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values), -1, np.nan_to_num(values)).astype(np.int64)


def _quantised(values: np.ndarray, most: float) -> dict[str, Any]:
    steps = np.round(np.clip(np.nan_to_num(values), 0.0, most) / most * (NONE - 1))
    return {"bits": 16, "data": _text(np.where(np.isnan(values), NONE, steps).astype("<u2"))}


def _bytes(values: np.ndarray) -> np.ndarray:
    """Probabilities as 0 to 254; 255 for none."""
    return np.where(np.isnan(values), 255, np.round(np.clip(np.nan_to_num(values), 0.0, 1.0) * 254)).astype(np.uint8)


def _column(values: np.ndarray, *, none: bool = False) -> dict[str, Any]:
    """Integers of at least 0 in the fewest bytes; with ``none``, -1 becomes the largest number of that width."""
    values = np.asarray(values).astype(np.int64)
    most = int(values.max(initial=0)) + none
    bits = next(bits for bits in (8, 16, 32) if most < 1 << bits)
    stored = np.where(values < 0, (1 << bits) - 1, values)
    return {"bits": bits, "data": _text(stored.astype(f"<u{bits // 8}"))}


def _text(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")
