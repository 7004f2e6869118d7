"""What is planned from which finished cells: searches that grow, rows that wait for others, failures that are passed on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ftft.comparison.cells import Cell
from ftft.comparison.planning import Plan, Work, make_plan
from ftft.comparison.reading import read_suite
from ftft.comparison.suite import Suite


def cell_of(work: Work, *, score: float = 0.5, flops: int = 1000, steps: int = 10, before: int = 0) -> Cell:
    """What a finished cell of this work would say; ``before``: of ``flops``, what was spent before the first step."""
    figures = {"metrics": {"macro_f1": {"value": score}}}
    document = {
        "created": "now",
        "main": "main",
        "cost": {
            "flops": flops,
            "phases": {"scoring": before, "training": flops - before},
            "stages": {"main": {"key": work.key, "flops": flops}},
        },
        "training": {"steps": steps},
        "class_prior": {"selected": {"negative": 0.25, "positive": 0.75}, "training": {"negative": 0.5, "positive": 0.5}},
        "sets": {"validation": {"role": "id", "split": "validation", "figures": figures}},
    }
    return Cell(document, Path(f"{work.key}.json"), work.key)


def plans(suite: Suite, finish: Callable[[Work], Cell | str]) -> Iterator[Plan]:
    """The plans of a suite of which everything that is ready is finished each time."""
    cells: dict[str, Cell] = {}
    failures: dict[str, str] = {}
    while True:
        plan = make_plan(suite, cells, failures)
        yield plan
        if not plan.ready:
            return
        for work in plan.ready:
            outcome = finish(work)
            if isinstance(outcome, Cell):
                cells[work.key] = outcome
            else:
                failures[work.key] = outcome


def peak_at(best: float) -> Callable[[Work], Cell]:
    return lambda work: cell_of(work, score=1.0 / (1.0 + abs(work.value - best) / best) if work.value else 0.5)


@pytest.fixture
def searched(tiny_suite: Callable[..., Path]) -> Callable[..., Suite]:
    def make(**search: Any) -> Suite:
        rows = {"erm": {"change": {"stages.main.optimize": {"name": "adamw", "learning_rate": 1e-4}}}}
        return read_suite(tiny_suite(rows, search={"factor": 2.0, **search}))

    return make


@pytest.mark.parametrize(
    ("best", "grid"),
    [
        (1e-4, [5e-5, 1e-4, 2e-4]),
        (4e-4, [5e-5, 1e-4, 2e-4, 4e-4, 8e-4]),
        (2.5e-5, [1.25e-5, 2.5e-5, 5e-5, 1e-4, 2e-4]),
    ],
)
def test_the_grid_grows_until_the_best_is_interior(best: float, grid: list[float], searched: Callable[..., Suite]) -> None:
    *_, last = plans(searched(), peak_at(best))
    found = last.rows["feelings", "erm"].found
    assert found is not None and found.interior and found.chosen == best
    assert [value for value, _ in found.curve] == pytest.approx(grid)


def test_a_best_at_the_edge_of_the_largest_grid_is_marked(searched: Callable[..., Suite]) -> None:
    *_, last = plans(searched(at_most=5), peak_at(1.0))
    found = last.rows["feelings", "erm"].found
    assert found is not None and not found.interior and len(found.curve) == 5 and found.chosen == 8e-4


def test_no_cell_is_made_before_its_rate_is_chosen(searched: Callable[..., Suite]) -> None:
    first, *_, last = plans(searched(), peak_at(1e-4))
    assert all(work.trial and work.seed == 0 for work in first.ready) and first.blocked == 2
    assert last.finished == 3 + 2  # three trials, and the chosen value's cells on all the sets it may see


def test_cells_that_may_run_at_once_have_folders_of_their_own(searched: Callable[..., Suite]) -> None:
    for plan in plans(searched(), peak_at(1e-4)):
        names = [work.recipe.name for work in plan.ready]
        assert len(set(names)) == len(names)


def test_a_value_that_fails_is_worse_than_all_others(searched: Callable[..., Suite]) -> None:
    def finish(work: Work) -> Cell | str:
        return "the loss became nan" if work.value and work.value > 1e-4 else cell_of(work, score=(work.value or 0) * 1e4)

    *_, last = plans(searched(), finish)
    found = last.rows["feelings", "erm"].found
    assert found is not None and found.chosen == 1e-4 and found.interior


def test_a_row_takes_the_value_that_another_rows_search_chose(tiny_suite: Callable[..., Path]) -> None:
    rate = {"stages.main.optimize": {"name": "adamw", "learning_rate": 1e-4}}
    rows = {
        "half_way": {"like": "erm", "value_of": "erm", "change": {"stages.main.train.end_at": 0.5}},
        "erm": {"change": rate},
    }
    suite = read_suite(tiny_suite(rows, search={"factor": 2.0}))
    seen = list(plans(suite, peak_at(4e-4)))
    trials = {work.row for plan in seen for work in plan.ready if work.trial}
    assert trials == {"erm"}
    assert all(work.row == "erm" for plan in seen[:2] for work in plan.ready)
    final = [work for plan in seen for work in plan.ready if work.row == "half_way"]
    assert len(final) == len(suite.seeds) and {work.value for work in final} == {4e-4}
    main = final[0].recipe.stages["main"]
    assert (main.train.end_at, main.optimize["learning_rate"]) == (0.5, 4e-4)


def test_where_every_value_fails_the_row_says_why(searched: Callable[..., Suite]) -> None:
    *_, last = plans(searched(), lambda work: "the loss became nan")
    state = last.rows["feelings", "erm"]
    assert state.found is not None and not state.found.interior
    assert state.failed == {0: "the loss became nan", 1: "the loss became nan"}


def test_a_row_waits_for_those_it_is_made_from_and_pays_their_bill(tiny_suite: Callable[..., Path]) -> None:
    suite = read_suite(tiny_suite(["erm", "ftft", "random", "random_refunded", "random_prior"], seeds=[0]))

    def finish(work: Work) -> Cell:
        return cell_of(work, flops=1500 if work.row == "ftft" else 1000, steps=10)

    first, second, *_ = plans(suite, finish)
    assert {work.row for work in first.ready} == {"erm", "ftft", "random"}
    made = {work.row: work.recipe.stages["main"] for work in second.ready}
    assert set(made) == {"random_refunded", "random_prior"}
    assert made["random_refunded"].train.steps == 15 and made["random_refunded"].train.epochs is None
    assert made["random_prior"].select["prior"] == {"negative": 0.25, "positive": 0.75}


def test_what_a_row_spends_before_its_first_step_buys_no_steps(tiny_suite: Callable[..., Path]) -> None:
    suite = read_suite(tiny_suite(["erm", "ftft", "random", "random_refunded"], seeds=[0]))

    def finish(work: Work, budget: int) -> Cell:
        return cell_of(work, flops=budget) if work.row == "ftft" else cell_of(work, flops=1000, steps=10, before=400)

    _, second, *_ = plans(suite, lambda work: finish(work, 1600))
    assert [work.recipe.stages["main"].train.steps for work in second.ready] == [20]  # (1600 - 400) / 60
    *_, last = plans(suite, lambda work: finish(work, 400))
    why = "cost_of: row ftft cost no more than what is spent as in row random before the first step"
    assert last.rows["feelings", "random_refunded"].failed == {0: f"task feelings, row random_refunded: {why}"}
    assert not last.rows["feelings", "ftft"].failed


def test_what_the_row_it_is_like_spends_and_it_does_not_is_not_taken_off(tiny_suite: Callable[..., Path]) -> None:
    other = {"stages.main.use_dynamics_of": None, "stages.main.select": {"name": "random", "fraction": 0.5}}
    suite = read_suite(
        tiny_suite({"erm": {}, "ftft": {}, "random": {"like": "ftft", "cost_of": "ftft", "change": other}}, seeds=[0])
    )
    _, second, *_ = plans(suite, lambda work: cell_of(work, flops=1000, steps=10, before=400))
    assert [work.recipe.stages["main"].train.steps for work in second.ready] == [17]  # 1000 / 60: it selects by nothing


def test_a_row_whose_other_failed_says_so(tiny_suite: Callable[..., Path]) -> None:
    suite = read_suite(tiny_suite(["erm", "ftft", "random", "random_refunded"], seeds=[0]))
    *_, last = plans(suite, lambda work: "out of memory" if work.row == "ftft" else cell_of(work))
    assert last.rows["feelings", "random_refunded"].failed == {0: "row ftft, which it needs, failed: out of memory"}
    assert last.rows["feelings", "random"].failed == {}


def test_references_have_the_main_seed_or_the_suites(tiny_suite: Callable[..., Path]) -> None:
    for change, expected in (({}, {0: 0, 1: 1}), ({"reference_seed": 5}, {0: 5, 1: 5})):
        plan = make_plan(read_suite(tiny_suite(["erm", "ftft"], **change)), {}, {})
        recipes = {work.seed: work.recipe for work in plan.ready if work.row == "ftft"}
        seeds = {seed: one.stages["reference"].seed for seed, one in recipes.items()}
        assert {seed: own if own is not None else recipes[seed].seed for seed, own in seeds.items()} == expected
