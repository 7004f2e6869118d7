"""allenai/cartography's files: byte for byte as pandas writes them, exact round trips, readable refusals."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pyarrow as pa
import pytest

from ftft.dynamics.cartography import pandas_floats, read_cartography, read_metrics, write_cartography, write_metrics
from ftft.dynamics.scores import compute_scores
from ftft.dynamics.table import Dynamics
from ftft.errors import UserError

pandas = pytest.importorskip("pandas")
FLOATS = [0.1, -1e-12, 3.0, 1 / 3, 12345.678901234567, 1e20, -0.0, 1e-7, 5e-11, 1.5e-10, 2**-11, -2.5, 9.99999999999, 1e16]


def lines_of(folder, epoch, rows, name=None):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (name or f"dynamics_epoch_{epoch}.jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def row(guid, epoch, logits=(0.5, -0.5), gold=0):
    return {"guid": guid, f"logits_epoch_{epoch}": list(logits), "gold": gold}


def test_floats_are_written_as_pandas_writes_them():
    values = np.concatenate([FLOATS, np.random.default_rng(0).normal(0, 10, 3000).astype(np.float32), np.linspace(0, 1, 1001)])
    theirs = pandas.DataFrame({"x": [values.tolist()]}).to_json(orient="records", lines=True)
    assert '{"x":[' + ",".join(pandas_floats(values)) + "]}\n" == theirs


@pytest.mark.parametrize("guids", [[7, 10**12, 3], ["007", "a/b", 'é"\\']])
def test_a_file_has_the_bytes_that_pandas_gives(random_dynamics, tmp_path, guids):
    dynamics = random_dynamics(3, 2)
    dynamics.ids = pa.array([str(guid) for guid in guids])
    dynamics.metadata["guid_type"] = type(guids[0]).__name__
    paths = write_cartography(dynamics, tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        f"training_dynamics/dynamics_epoch_{epoch}.jsonl" for epoch in (0, 1)
    ]
    for epoch, path in enumerate(paths):
        columns = {"guid": guids, f"logits_epoch_{epoch}": dynamics.logits[epoch].tolist(), "gold": dynamics.gold.tolist()}
        assert path.read_text() == pandas.DataFrame(columns).to_json(orient="records", lines=True)


@pytest.mark.parametrize(("ids", "guid_type"), [(["7", "-12", "0"], "int"), (["007", "8", "a b"], "str")])
def test_guids_masks_and_logits_survive_a_round_trip(random_dynamics, tmp_path, ids, guid_type):
    dynamics = random_dynamics(3, 3)
    dynamics.ids = pa.array(ids)
    dynamics.metadata["guid_type"] = guid_type
    dynamics.seen[2, 1], dynamics.logits[2, 1] = False, 0
    write_cartography(dynamics, tmp_path)
    back = read_cartography(tmp_path)
    assert back.ids.to_pylist() == ids and back.metadata["guid_type"] == guid_type
    np.testing.assert_array_equal(back.seen, dynamics.seen)
    np.testing.assert_array_equal(back.gold, dynamics.gold)
    # Ten decimals resolve float32 above 1e-3 in size; below they are the limit.
    assert np.abs(back.logits.astype(np.float64) - dynamics.logits).max() <= 0.5e-10 + 1e-12


def test_lines_in_any_order_are_joined_by_guid(random_dynamics, tmp_path):
    dynamics = random_dynamics(50, 3)
    write_cartography(dynamics, tmp_path)
    last = tmp_path / "training_dynamics" / "dynamics_epoch_2.jsonl"
    last.write_text("".join(reversed(last.read_text().splitlines(keepends=True))))
    np.testing.assert_allclose(read_cartography(tmp_path).logits, dynamics.logits, atol=1e-9)


def test_strings_that_look_like_dates_or_numbers_stay_strings(tmp_path):
    lines_of(tmp_path, 0, [row("2020-01-01", 0), row("1e5", 0)])
    assert read_cartography(tmp_path).ids.to_pylist() == ["2020-01-01", "1e5"]


def test_bad_folders_are_refused_with_what_is_wrong(tmp_path):
    good = [row("a", 0), row("b", 0, gold=1)]
    cases = {
        "missing in epoch 0": ([good, [row("a", 1), row("z", 1)]], '1 guids that are not in dynamics_epoch_0.jsonl, "z"'),
        "twice": ([[row("a", 0), row("a", 0)]], 'holds the id "a" more than once'),
        "twice later": ([good, [row("a", 1), row("a", 1)]], 'dynamics_epoch_1.jsonl holds the id "a" more than once'),
        "gold": ([good, [row("b", 1, gold=0)]], 'gold label of "b" is 0 in .* and 1 in'),
        "no gold": ([[{"guid": "a", "logits_epoch_0": [1.0, 2.0]}]], "line 1 of .* has no gold"),
        "other epoch": ([[row("a", 3)]], "has no logits_epoch_0"),
        "uneven": ([[row("a", 0), row("b", 0, (1.0, 2.0, 3.0))]], "line 2 of .* has 3 logits, and line 1 has 2"),
        "classes": ([good, [row("a", 1, (1.0, 2.0, 3.0))]], "has 3 logits per example"),
        "null": ([[row("a", 0), row("b", 0, (1.0, None))]], "line 2 of .* not a number"),
        "out of range": ([[row("a", 0, gold=2)]], "gold label 2, and there are 2 logits"),
        "mixed": ([[row(1, 0), row("b", 0)]], "with int guids"),
        "no guid": ([[{"gold": 1}]], "has no guid"),
        "empty": ([[]], "is empty"),
    }
    for number, (epochs, sentence) in enumerate(cases.values()):
        folder = tmp_path / str(number)
        for epoch, rows in enumerate(epochs):
            lines_of(folder, epoch, rows)
        with pytest.raises(UserError, match=sentence) as refused:
            read_cartography(folder)
        assert "\n" not in str(refused.value)


def test_gaps_stray_files_and_torn_lines_are_refused(tmp_path):
    for epoch in (0, 2):
        lines_of(tmp_path / "gap", epoch, [row("a", epoch)])
    with pytest.raises(UserError, match="no dynamics_epoch_1.jsonl, but later epochs"):
        read_cartography(tmp_path / "gap")
    lines_of(tmp_path / "stray", 0, [row("a", 0)])
    (tmp_path / "stray" / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="notes.txt is not a file of training dynamics"):
        read_cartography(tmp_path / "stray")
    lines_of(tmp_path / "torn", 0, [row("a", 0), row("b", 0)])
    torn = tmp_path / "torn" / "dynamics_epoch_0.jsonl"
    torn.write_text(torn.read_text()[:-15])
    with pytest.raises(UserError, match="cannot be read as training dynamics"):
        read_cartography(tmp_path / "torn")


def test_what_the_format_cannot_hold_is_refused(random_dynamics, tmp_path):
    late, bare, bad = random_dynamics(4), random_dynamics(4), random_dynamics(4)
    late.seen[0, 2] = False
    with pytest.raises(UserError, match=f'"{late.ids[2].as_py()}" was not seen in epoch 0'):
        write_cartography(late, tmp_path)
    bare.logits = None
    with pytest.raises(UserError, match="needs the logits of every class"):
        write_cartography(bare, tmp_path)
    bad.logits[1, 2, 0] = np.nan
    with pytest.raises(UserError, match=f'the logits of "{bad.ids[2].as_py()}" are not finite'):
        write_cartography(bad, tmp_path)
    assert not list(tmp_path.iterdir())
    write_cartography(random_dynamics(4, 4), tmp_path)
    with pytest.raises(UserError, match="already holds dynamics_epoch_2.jsonl"):
        write_cartography(random_dynamics(4, 2), tmp_path)


def test_the_metrics_file_has_the_bytes_of_pandas_and_the_known_scores(fixture_a, tmp_path):
    write_metrics(fixture_a.dynamics, tmp_path / "td_metrics.jsonl")
    scores = compute_scores(fixture_a.dynamics)
    columns = {
        "guid": fixture_a.ids,
        "index": range(10),
        "threshold_closeness": scores["threshold_closeness"],
        "confidence": scores["confidence"],
        "variability": scores["variability"],
        "correctness": scores["correctness"].astype(int),
        "forgetfulness": scores["forgetting"].astype(int),
    }
    text = (tmp_path / "td_metrics.jsonl").read_text()
    assert text == pandas.DataFrame(columns).to_json(orient="records", lines=True)
    back = read_metrics(tmp_path / "td_metrics.jsonl")
    assert back.ids.to_pylist() == fixture_a.ids and back.guid_type == "str"
    for name, values in back.scores.items():
        np.testing.assert_allclose(values, fixture_a.expected[name], atol=1e-6)


def test_metrics_of_a_folder_equal_a_float32_softmax_of_its_lines(random_dynamics, tmp_path):
    """As the original computes them: float32 softmax per line, then numpy's mean and population std."""
    torch = pytest.importorskip("torch")
    write_cartography(random_dynamics(30, 4), tmp_path)
    trajectories: dict[str, list[float]] = {}
    for epoch in range(4):
        for line in (tmp_path / "training_dynamics" / f"dynamics_epoch_{epoch}.jsonl").read_text().splitlines():
            record = json.loads(line)
            probabilities = torch.softmax(torch.tensor(record[f"logits_epoch_{epoch}"]), dim=-1)
            trajectories.setdefault(record["guid"], []).append(float(probabilities[record["gold"]]))
    write_metrics(read_cartography(tmp_path), tmp_path / "td_metrics.jsonl")
    ours = read_metrics(tmp_path / "td_metrics.jsonl")
    assert ours.ids.to_pylist() == list(trajectories)
    np.testing.assert_allclose(ours.scores["confidence"], [np.mean(p) for p in trajectories.values()], atol=2e-7)
    np.testing.assert_allclose(ours.scores["variability"], [np.std(p) for p in trajectories.values()], atol=2e-7)


def test_published_coordinates_are_read_with_what_they_hold(tmp_path):
    line = '{"guid":17715,"index":0,"confidence":0.89,"variability":0.19,"correctness":5}\n'
    (tmp_path / "map.jsonl.gz").write_bytes(gzip.compress(line.encode()))
    metrics = read_metrics(tmp_path / "map.jsonl.gz")
    assert metrics.ids.to_pylist() == ["17715"] and metrics.guid_type == "int"
    assert {name: values.tolist() for name, values in metrics.scores.items()} == {
        "confidence": [0.89],
        "variability": [0.19],
        "correctness": [5.0],
    }
    whole = gzip.compress(line.encode())
    for content, sentence in [
        (whole[:-12], "is damaged"),
        (line.encode() * 2, '"17715" more than once'),
        (line.encode() + b'{"guid":1}\n', "must give every example a number"),
        (b'{"guid":1,"x":2}\n', "holds none of the metrics"),
        (b"[1]\n", "is not a metrics file"),
        (b"\xff\xfe", "is damaged"),
    ]:
        (tmp_path / "map.jsonl.gz").write_bytes(content)
        with pytest.raises(UserError, match=sentence):
            read_metrics(tmp_path / "map.jsonl.gz")


def test_examples_that_were_never_seen_are_left_out_of_the_metrics(random_dynamics, tmp_path):
    dynamics: Dynamics = random_dynamics(4)
    dynamics.seen[:, 1] = False
    write_metrics(dynamics, tmp_path / "m.jsonl")
    assert read_metrics(tmp_path / "m.jsonl").ids.to_pylist() == [dynamics.ids[index].as_py() for index in (0, 2, 3)]
