"""What evaluators measured of a row's model as a whole (``measured`` in a result): what a cell keeps of it, and its means.

Whatever the evaluator, its figures are told apart by their type alone: numbers and booleans, names, estimates
({"value", "low", "high"}), mappings of nothing but estimates, and the ``sentence``. Anything else, such as lists or mappings
of numbers by layer or by example, is detail that stays in the run's folder.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ftft.comparison.cells import Cell

# No blanks and not long: the text of a row is never kept, and such a string can hardly be one.
_NAME = re.compile(r"\S{1,60}")
SENTENCE, LONGEST_SENTENCE = "sentence", 300
ESTIMATE = {"value", "low", "high", "n", "level", "standard_error"}  # "value", and what may be said of it
MOST_ESTIMATES = 20  # under one figure; more of them are by layer or by example


def kept_figures(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of one evaluator as a cell keeps them."""
    return {name: value for name, value in figures.items() if _NAME.fullmatch(name) and _is_kept(name, value)}


def _is_kept(name: str, value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= LONGEST_SENTENCE if name == SENTENCE else _NAME.fullmatch(value) is not None
    if isinstance(value, Mapping):
        return _holds_estimates(value) and sum(1 for _ in _numbers(name, value)) <= MOST_ESTIMATES
    return _is_number(value)


def _is_number(value: Any) -> bool:
    """Of a figure that was not finite, its file says null."""
    return value is None or isinstance(value, (bool, int, float))


def _is_estimate(value: Any) -> bool:
    return isinstance(value, Mapping) and "value" in value and set(value) <= ESTIMATE and all(map(_is_number, value.values()))


def _holds_estimates(value: Mapping[str, Any]) -> bool:
    """Whether it is an estimate, or holds such mappings alone."""
    inner = value.values()
    return _is_estimate(value) or (
        bool(inner)
        and all(map(_NAME.fullmatch, value))
        and all(isinstance(one, Mapping) and _holds_estimates(one) for one in inner)
    )


def measured_means(cells: Sequence[Cell]) -> dict[str, dict[str, dict[str, Any]]]:
    """Evaluator -> figure -> ``mean`` over the cells that have it, and ``seeds``: its value in each, None where there is none.

    An estimate gives its value; figures within figures have names with dots ("mean.accuracy.difference"). What is no number has
    no mean and is left out; of a boolean the mean is the share of cells where it is true.
    """
    found: dict[str, dict[str, list[Any]]] = {}
    for position, cell in enumerate(cells):
        for evaluator, figures in cell.document.get("measured", {}).items():
            for name, figure in figures.items():
                for path, value in _numbers(name, figure):
                    values = found.setdefault(evaluator, {}).setdefault(path, [None] * len(cells))
                    values[position] = value
    return {
        evaluator: {path: {"mean": _mean(values), "seeds": values} for path, values in figures.items()}
        for evaluator, figures in found.items()
    }


def _numbers(path: str, figure: Any) -> Iterator[tuple[str, Any]]:
    if _is_number(figure):
        yield path, figure
    elif _is_estimate(figure):
        yield path, figure["value"]
    elif isinstance(figure, Mapping):
        for name, inner in figure.items():
            yield from _numbers(f"{path}.{name}", inner)


def _mean(values: Sequence[Any]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None
