"""The suite: which recipes are compared, on which tasks, under which seeds and learning rates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ftft.errors import UserError
from ftft.settings import setting

MAIN = "main"  # the stage that every row trains in the end
# What is measured of classifiers, and of language models.
METRICS = ("accuracy", "macro_f1", "auroc", "prior_corrected.accuracy", "prior_corrected.macro_f1", "ece")
OF_SEQUENCES = ("loss", "perplexity", "token_accuracy", "exact_match")


@dataclass(frozen=True)
class SuiteTask:
    """A recipe that holds the data and the stages every row is made from: ``main``, and what it may use."""

    recipe: str
    change: dict[str, Any] = setting({}, "settings of the recipe to change, as key: value", factory=dict)


@dataclass(frozen=True)
class Row:
    """A way to fine-tune: changes to the task's recipe. What depends on another row's outcome is filled in from its
    finished cell of the same task and seed."""

    about: str = setting("", "one sentence on what the row is")
    like: str | None = setting(None, "another row whose changes come first")
    change: dict[str, Any] = setting({}, "settings of the task's recipe to change, as key: value", factory=dict)
    cost_of: str | None = setting(
        None, "another row: `main` gets as many steps as its whole cost pays for (per step what the row in `like` paid)"
    )
    prior_of: str | None = setting(
        None, "another row: `stages.main.select.prior` becomes the class shares of what its `main` learnt from"
    )
    search: bool = setting(True, "whether the suite's search is made for this row")
    value_of: str | None = setting(None, "another row: what its search chose is taken here, where nothing is searched")


@dataclass(frozen=True)
class Search:
    """The learning rate's grid: centred on the row's own, spaced by a factor, extended until the best is interior."""

    key: str = setting("optimize.learning_rate", "the setting of `main` that is searched")
    points: int = setting(3, "values at the start, the row's own in the middle", ge=3)
    factor: float = setting(3.0, "the ratio of neighbours", gt=1)
    at_most: int = setting(7, "values after extensions; a best one at the edge of so many is marked", ge=3)
    seeds: list[int] | None = setting(None, "seeds of the trials; by default the suite's first")
    metric: str = setting("", "chosen by this on ID validation; by default the chief metric of the tasks")


@dataclass(frozen=True)
class Contrast:
    """A named question, decided with a p-value; all contrasts of a suite are corrected together."""

    row: str
    against: str
    on: str = setting("ood", "`id`, `ood` or `forget` for the mean over the sets of that role, or a set's name")
    metric: str = setting("", "what is compared; by default the chief metric of the tasks")
    no_worse_by: float | None = setting(
        None, "the margin of a non-inferiority test; without it the question is whether they differ", gt=0
    )
    tasks: list[str] | None = setting(None, "the tasks it is asked on; by default all")


@dataclass(frozen=True)
class Suite:
    """A grid of cells: tasks x rows x seeds, and what is asked of it."""

    tasks: dict[str, SuiteTask]
    rows: dict[str, Row]
    seeds: list[int]
    baseline: str
    name: str | None = setting(None, "the suite's name; by default the file's")
    kind: Literal["explore", "confirm"] = setting(
        "explore", "explore: validation sets alone are evaluated; confirm: frozen rows, fresh seeds, test sets opened once"
    )
    reference_seed: int | None = setting(
        None, "one seed for every stage but `main`; by default each has that of its main run", ge=0, lt=4294967296
    )
    search: Search | None = setting(None, "how learning rates are searched; null takes those of the rows")
    contrasts: list[Contrast] = setting((), "the questions that get a p-value", factory=list)
    headline: str = setting("", "the metric of the summary and the plots; by default the chief one of the tasks")
    line: list[str] = setting((), "rows (ERM on subsamples, or shorter) whose accuracies make the ERM line", factory=list)
    toy: bool = setting(False, "made-up data or models too small for a claim: what is found says how a method works at most")
    resamples: int = setting(500, "bootstrap resamples of each set", ge=100)
    level: float = setting(0.95, "coverage of the intervals", gt=0.5, lt=1)
    frozen: dict[str, str] = setting({}, "confirm: row -> the hash it must have (`ftft compare --freeze`)", factory=dict)
    output: str = setting("runs", "the folder that gets the runs' folders and the store")
    results: str = setting("results", "the folder that gets a folder with the suite's cells and tables")


def needed_by(suite: Suite, name: str) -> list[str]:
    """The rows whose finished cells a row's recipe needs, nearest last; UserError where rows need each other in a circle."""
    found: list[str] = []

    def visit(row: str, path: tuple[str, ...]) -> None:
        if row in path:
            raise UserError(f"rows.{name}: the rows {' -> '.join([*path, row])} need each other in a circle")
        settings = suite.rows[row]
        # A row like another takes only its changes; it needs its cells where it is paid by its cost per step.
        for other in (settings.like, settings.cost_of, settings.prior_of, settings.value_of):
            if other is not None:
                visit(other, (*path, row))
        cells = [settings.cost_of, settings.prior_of, settings.like if settings.cost_of else None]
        for other in cells:
            if other is not None and other not in found:
                found.append(other)

    visit(name, ())
    return found
