"""The suites that come with the repository: every row makes a recipe on every task, and the rows are what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ftft.comparison.making import cell_recipe
from ftft.comparison.planning import make_plan
from ftft.comparison.reading import read_suite
from ftft.comparison.suite import Suite, needed_by

SUITES = Path(__file__).resolve().parents[2] / "recipes" / "suites"
DEMANDED = {
    "erm", "erm_early", "erm_same_cost", "random", "random_refunded", "random_same_prior", "cartography", "ftft",
    "ftft_published", "hard_to_learn", "ambiguous_and_easy", "copies",
}  # fmt: skip


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_row_makes_a_recipe_on_every_task(path: Path) -> None:
    suite = read_suite(path)
    plan = make_plan(suite, {}, {})
    assert {(work.task, work.row) for work in plan.ready} == {
        (task, row)
        for task in suite.tasks
        for row in suite.rows
        if not needed_by(suite, row) and suite.rows[row].value_of is None
    }
    for task in suite.tasks:
        for row in suite.rows:
            recipe = cell_recipe(suite, task, row, 0)
            assert {one.split for one in recipe.data.evaluation.values()} == {"validation"}
            assert "ood" in {one.role for one in recipe.data.evaluation.values()}


@pytest.fixture(scope="module")
def full() -> Suite:
    return read_suite(SUITES / "full.yaml")


def test_the_full_grid_has_every_demanded_row(full: Suite) -> None:
    assert set(full.rows) >= DEMANDED and len(full.tasks) == 3


def test_rows_that_are_compared_differ_in_what_they_are_named_for_alone(full: Suite) -> None:
    def main(row: str) -> dict[str, Any]:
        return vars(cell_recipe(full, "hate_speech", row, 0).stages["main"])

    def differing(one: str, other: str) -> set[str]:
        return {key for key, value in main(one).items() if value != main(other)[key]}

    assert differing("ftft", "random") == {"select", "use_dynamics_of"}
    assert differing("ftft", "hard_to_learn") == differing("ftft", "ambiguous_and_easy") == {"select"}
    assert differing("ftft", "ftft_published") == {"stop"}
    assert differing("erm", "erm_early") == {"train", "stop", "combine"}
    assert differing("random", "random_refunded") == differing("random", "random_same_prior") == set()
    assert differing("erm", "erm_half") == {"select"}


def test_subset_rows_plan_the_steps_of_plain_fine_tuning(full: Suite) -> None:
    """Nine epochs of a third and two and a quarter of four thirds are three of all rows, to within one per cent."""
    plain = cell_recipe(full, "hate_speech", "erm", 0).stages["main"].train.epochs
    for row, share in (("ftft", 0.33), ("random", 0.33), ("cartography", 0.33), ("copies", 1.33)):
        epochs = cell_recipe(full, "hate_speech", row, 0).stages["main"].train.epochs
        assert epochs is not None and plain is not None
        assert epochs * share == pytest.approx(plain, rel=0.011), row


def test_a_trial_keeps_the_validation_set_that_a_row_selects_towards() -> None:
    suite = read_suite(SUITES / "methods.yaml")
    sets = {row: set(cell_recipe(suite, "sentiment", row, 0, trial=True).data.evaluation) for row in ("erm", "got_d")}
    assert sets == {"erm": {"validation"}, "got_d": {"validation", "ood_validation"}}
