"""Maps of dynamics of every kind: what stands for a probability, whom the model prefers, the regions."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.special import expit, softmax
from scipy.stats import spearmanr

from ftft.dynamics.scores import compute_scores
from ftft.dynamics.table import Dynamics
from ftft.errors import UserError
from ftft.report.map_page import map_page
from ftft.report.map_payload import ExplorerData, Texts, payload
from ftft.report.map_values import DRAWN, MapValues, map_values, with_selection
from ftft.report.transfer import spearman, transfer, transfer_tables

N, E = 50, 4


def dynamics(**held: Any) -> Dynamics:
    ids = pa.array([f"r{row:02d}" for row in range(N)])
    seen = held.pop("seen", np.ones((E, N), dtype=bool))
    return Dynamics(ids, tuple(range(E)), seen, **held)


def classified(seed: int = 0, **more: Any) -> Dynamics:
    source = np.random.default_rng(seed)
    logits = source.standard_normal((E, N, 3)).astype(np.float32) * 2
    return dynamics(logits=logits, gold=np.arange(N, dtype=np.int32) % 3, **more)


def test_a_map_of_logits_is_that_of_the_scores_and_prefers_the_mean_probability() -> None:
    seen = np.ones((E, N), dtype=bool)
    seen[2, 7] = seen[:, 9] = False
    table = classified(seen=seen, metadata={"label_names": ["a", "b", "c"]})
    assert table.logits is not None and table.gold is not None
    values = map_values(table, "here", "stage")
    scores = compute_scores(table)
    assert "random" not in values.scores and values.by_recipe and values.label_names == ("a", "b", "c")
    for name, found in values.scores.items():
        np.testing.assert_array_equal(found, scores[name])
    p = softmax(table.logits.astype(np.float64), axis=2)
    expected = np.take_along_axis(p, table.gold[None, :, None].astype(np.int64), axis=2)[:, :, 0]
    np.testing.assert_allclose(values.trajectory, np.where(seen, expected, np.nan), atol=1e-6)
    mean = np.where(seen[:, :, None], p, 0).sum(axis=0)
    assert values.preferred is not None
    assert values.preferred.tolist() == [-1 if row == 9 else int(mean[row].argmax()) for row in range(N)]
    assert values.region[9] == -1 and np.isnan(values.points().correctness[9])
    np.testing.assert_allclose(values.points().correctness[7], scores["correctness"][7] / 3)


@pytest.mark.parametrize("kind", ["logits", "margin", "probability"])
def test_what_is_only_drawn_is_computed_alike_and_nothing_beyond_it(kind: str) -> None:
    margin = np.random.default_rng(1).normal(0, 3, (E, N)).astype(np.float32)
    table = {
        "logits": classified(),
        "margin": dynamics(statistics={"margin": margin}),
        "probability": dynamics(statistics={"probability": expit(margin)}),
    }[kind]
    whole, drawn = map_values(table, "here"), map_values(table, "here", to_draw=True)
    for name in ("confidence", "variability", "correctness", "seen", "labels"):
        one, other = getattr(whole, name), getattr(drawn, name)
        assert (one is None) == (other is None) == (name in ("correctness", "labels") and one is None)
        if one is not None:
            np.testing.assert_array_equal(one, other)
    assert set(drawn.scores) == set(DRAWN) & set(whole.scores)
    assert drawn.trajectory.shape == (E, 0) and drawn.region.shape == (0,) and drawn.preferred is None
    np.testing.assert_array_equal(whole.points().correctness, drawn.points().correctness)


def test_regions_are_the_ambiguous_then_the_hard_then_the_easy() -> None:
    values = map_values(classified(), "")
    k = 16  # floor(0.33 * 50)
    ambiguous = np.argsort(-values.variability)[:k]
    hard = np.setdiff1d(np.argsort(values.confidence)[:k], ambiguous)
    assert sorted(np.flatnonzero(values.region == 0)) == sorted(ambiguous)
    assert np.flatnonzero(values.region == 1).tolist() == hard.tolist()
    assert (values.region == 2).sum() == N - k - len(hard)


def test_margins_and_pass_rates_get_the_same_map() -> None:
    source = np.random.default_rng(1)
    margin = source.normal(0, 3, (E, N)).astype(np.float32)
    of_margins = map_values(dynamics(statistics={"margin": margin}), "preferences")
    np.testing.assert_allclose(of_margins.confidence, expit(margin.astype(np.float64)).mean(axis=0), atol=1e-6)
    np.testing.assert_array_equal(of_margins.correctness, (margin > 0).sum(axis=0))
    assert not of_margins.by_recipe and of_margins.labels is None and of_margins.quantity == "sigmoid of the margin"
    pairs = map_values(dynamics(pair_logits=np.stack([margin, np.zeros_like(margin)], axis=2)), "pairs")
    np.testing.assert_array_equal(pairs.confidence, of_margins.confidence)
    rate = source.integers(0, 9, (E, N)).astype(np.float32) / 8
    of_rates = map_values(dynamics(statistics={"pass_rate": rate}), "rollouts")
    np.testing.assert_allclose(of_rates.variability, rate.std(axis=0), atol=1e-6)
    assert of_rates.quantity == of_rates.points().quantity == "pass rate"
    assert "mean pass rate" in map_page([of_rates])


def test_the_other_of_two_classes_is_preferred_below_one_half() -> None:
    p = np.full((E, N), 0.4, dtype=np.float32)
    p[:, 10:] = 0.6
    gold = np.arange(N, dtype=np.int32) % 2
    values = map_values(dynamics(pair_probability=p, gold=gold, metadata={"num_classes": 2}), "")
    assert values.preferred is not None and values.preferred.tolist() == [*(1 - gold[:10]), *gold[10:]]
    assert map_values(dynamics(pair_probability=p, gold=gold), "").preferred is None


def test_what_no_map_can_be_drawn_from_is_refused_in_one_sentence() -> None:
    values = np.ones((E, N), dtype=np.float32)
    with pytest.raises(UserError, match="a margin or a pass rate, and these dynamics hold entropy$"):
        map_values(dynamics(statistics={"entropy": values}), "")
    with pytest.raises(UserError, match="pass_rate must lie between 0 and 1, and ranges from 2.0 to 2.0"):
        map_values(dynamics(statistics={"pass_rate": 2 * values}), "")
    with pytest.raises(UserError, match="at least 2 epochs, and 1 were recorded"):
        map_values(classified().only_epochs([0]), "")


def decoded(column: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(column["data"]), dtype=f"<u{column['bits'] // 8}")


def test_the_payload_keeps_ranks_exact_and_joins_maps_by_id() -> None:
    one, other = map_values(classified(0), "one"), map_values(reordered(classified(3)), "other")
    found = payload(ExplorerData([with_selection(one, "chosen", np.arange(N) < 5), other]))
    assert found["ids"] == [f"r{row:02d}" for row in range(N)] and found["n"] == N
    assert decoded(found["id_order"]).tolist() == list(range(N))
    for stored, values in zip(found["maps"], (one, other)):
        at = [values.ids.to_pylist().index(id_) if id_ in values.ids.to_pylist() else -1 for id_ in found["ids"]]
        assert decoded(stored["present"]).tolist() == [int(row >= 0) for row in at]
        for score in stored["scores"]:
            levels = decoded(score["levels"]).astype(np.int64)
            there = [index for index, row in enumerate(at) if row >= 0]
            kept = values.scores[score["name"]][[at[index] for index in there]]
            assert (np.argsort(kept, kind="stable") == np.argsort(levels[there], kind="stable")).all()
            assert (levels[[index for index, row in enumerate(at) if row < 0]] == 255).all()
        y = decoded(stored["y"])
        assert all(y[index] == 65535 for index, row in enumerate(at) if row < 0)
        np.testing.assert_allclose(y[at.index(0)] / 65534, values.confidence[0], atol=1e-5)
    assert decoded(found["maps"][0]["selections"][0]["chosen"]).sum() == 5


def in_classes(table: Dynamics, order: list[int], names: list[str]) -> Dynamics:
    """The same dynamics with the classes in another order: ``order[new]`` is the old one."""
    assert table.logits is not None and table.gold is not None
    old_to_new = np.argsort(order)
    gold = old_to_new[table.gold].astype(np.int32)
    metadata = {"label_names": names} if names else {}
    return Dynamics(table.ids, table.epochs, table.seen, gold, table.logits[:, :, order], metadata=metadata)


@pytest.mark.parametrize("named", [True, False])
def test_classes_of_two_maps_are_joined_by_name(named: bool) -> None:
    table = classified(0, metadata={"label_names": ["a", "b", "c"]})
    other = in_classes(table, [2, 0, 1], ["c", "a", "b"] if named else [])
    found = payload(ExplorerData([map_values(table, "one"), map_values(other, "two")]))
    assert found["label_names"] == ["a", "b", "c"] and decoded(found["labels"]).tolist() == [row % 3 for row in range(N)]
    first, second = found["maps"]
    assert (decoded(first["preferred"]) == decoded(second["preferred"])).all()
    assert (first["classes"], second["classes"]) == ([0, 1, 2], [2, 0, 1]) and first["labels"] is second["labels"] is None


def test_classes_of_maps_with_more_and_other_names_are_all_there() -> None:
    table = classified(0, metadata={"label_names": ["b", "c", "d"]})
    assert table.gold is not None and table.logits is not None
    two = Dynamics(
        table.ids, table.epochs, table.seen, table.gold % 2, table.logits[:, :, :2], metadata={"label_names": ["a", "b"]}
    )
    maps = [map_values(two, "two classes"), map_values(table, "three")]
    found = payload(ExplorerData(maps))
    assert found["label_names"] == ["a", "b", "c", "d"]
    assert decoded(found["labels"]).tolist() == (table.gold % 2).tolist()
    assert [one["classes"] for one in found["maps"]] == [[0, 1], [1, 2, 3]]
    assert found["maps"][0]["labels"] is None and decoded(found["maps"][1]["labels"]).tolist() == (table.gold + 1).tolist()
    assert maps[1].preferred is not None
    assert decoded(found["maps"][1]["preferred"]).tolist() == (maps[1].preferred + 1).tolist()
    swapped = payload(ExplorerData(maps[::-1]))
    assert swapped["label_names"] == ["b", "c", "d", "a"] and decoded(swapped["labels"]).tolist() == table.gold.tolist()


def test_margins_beside_logits_without_labels_give_the_map_of_the_margins() -> None:
    source = np.random.default_rng(1)
    margin = source.normal(0, 3, (E, N)).astype(np.float32)
    logits = source.standard_normal((E, N, 3)).astype(np.float32)
    values = map_values(dynamics(logits=logits, statistics={"margin": margin}), "preferences")
    alone = map_values(dynamics(statistics={"margin": margin}), "preferences")
    np.testing.assert_array_equal(values.confidence, alone.confidence)
    assert values.quantity == "sigmoid of the margin"
    assert map_page([values]).count("<canvas") == 2


def reordered(table: Dynamics) -> Dynamics:
    """The same examples in another order, less ten of them."""
    rows = np.random.default_rng(2).permutation(N)[:-10]
    assert table.logits is not None and table.gold is not None
    return Dynamics(table.ids.take(pa.array(rows)), table.epochs, table.seen[:, rows], table.gold[rows], table.logits[:, rows])


def test_hostile_strings_cannot_end_the_data_and_long_texts_are_cut() -> None:
    evil = "</script><script>alert(1)</script><!--\u2028"
    table = classified(metadata={"label_names": [evil, "b", "c"]})
    texts = Texts((evil,), {"r00": (evil,), "r01": ("x" * 5000,)})
    source = map_page([map_values(table, evil)], texts)
    assert "<script>alert" not in source and source.count("<script") == source.count("</script") == 2
    begin = source.index('id="ftft-map-data">') + len('id="ftft-map-data">')
    data = json.loads(source[begin : source.index("</script>", begin)])
    assert data["texts"][0] == [evil] and data["label_names"][0] == evil and data["texts"][2] == [""]
    assert data["texts"][1][0] == "x" * 2000 + "…"


def test_transfer_is_rank_correlation_overlap_and_moves() -> None:
    one, other = map_values(classified(0), "in one"), map_values(reordered(classified(3)), "in two")
    found = transfer(one, other)
    assert found is not None and found.shared == N - 10
    at = [one.ids.to_pylist().index(id_) for id_ in other.ids.to_pylist()]
    for name in ("confidence", "correctness", "forgetting"):
        expected = spearmanr(one.scores[name][at], other.scores[name]).statistic
        assert found.correlation[name] == pytest.approx(expected)
    k = 13  # floor(0.33 * 40)
    first = set(np.argsort(-one.variability[at])[:k].tolist())
    second = set(np.argsort(-other.variability)[:k].tolist())
    assert found.ambiguous == len(first & second) / k
    easiest = set(np.argsort(one.confidence[at])[:k].tolist()) & set(np.argsort(other.confidence)[:k].tolist())
    assert found.hard == len(easiest) / k
    assert found.regions.sum() == N - 10
    moved = np.hypot(one.variability[at] - other.variability, one.confidence[at] - other.confidence)
    assert [mover[0] for mover in found.movers] == [other.ids[int(row)].as_py() for row in np.argsort(-moved)[:10]]
    shown = str(transfer_tables(found, show_ids=True))
    assert found.movers[0][0] in shown and found.movers[0][0] not in str(transfer_tables(found))
    assert f"{found.correlation['confidence']:+.2f}" in shown


def test_a_map_transfers_to_itself_and_to_nothing_foreign() -> None:
    values: MapValues = map_values(classified(), "")
    found = transfer(values, values)
    assert found is not None and found.ambiguous == found.hard == 1.0 and found.movers == []
    assert found.correlation["variability"] == pytest.approx(1.0)
    foreign = Dynamics(
        pa.array([f"q{row}" for row in range(N)]), tuple(range(E)), np.ones((E, N), bool), None, classified(1).logits
    )
    foreign.gold = classified(1).gold
    assert transfer(values, map_values(foreign, "")) is None
    assert np.isnan(spearman(np.ones(4), np.arange(4.0)))
