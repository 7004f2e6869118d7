"""Dynamics from elsewhere: long tables in every file kind, and the FTFT repository's tensor file."""

from __future__ import annotations

import gzip
import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from ftft.dynamics import long_table
from ftft.dynamics.ftft_repository import read_uid_to_logits
from ftft.dynamics.idhash import hash_of_ids
from ftft.dynamics.long_table import read_long_table
from ftft.dynamics.scores import compute_scores
from ftft.dynamics.table import Dynamics
from ftft.errors import UserError


def long_rows(dynamics: Dynamics, seed: int = 0) -> pa.Table:
    """One row per seen (id, epoch), shuffled, with every kind of value."""
    epochs, rows = np.nonzero(dynamics.seen)
    order = np.random.default_rng(seed).permutation(len(rows))
    epochs, rows = epochs[order], rows[order]
    logits = dynamics.logits[epochs, rows]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    probability = shares[np.arange(len(rows)), dynamics.gold[rows]]
    columns = {"id": dynamics.ids.take(pa.array(rows)), "epoch": epochs, "gold": dynamics.gold[rows]}
    columns |= {"probability": probability, "loss": -np.log(probability)}
    columns |= {f"logit_{index}": logits[:, index] for index in range(logits.shape[1])}
    return pa.table(columns)


def write(table: pa.Table, path) -> None:
    name = path.name
    if name.endswith(".parquet"):
        pq.write_table(table, path, row_group_size=7)
        return
    if ".jsonl" in name:
        data = "".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode()
    else:
        sink = pa.BufferOutputStream()
        options = pa.csv.WriteOptions(delimiter="\t" if ".tsv" in name else ",")
        pa.csv.write_csv(table, sink, options)
        data = sink.getvalue().to_pybytes()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)


def in_order_of(dynamics: Dynamics, ids: pa.Array) -> np.ndarray:
    return np.array([dynamics.ids.to_pylist().index(name) for name in ids.to_pylist()])


@pytest.mark.parametrize("ending", ["parquet", "csv", "csv.gz", "tsv", "jsonl", "jsonl.gz"])
def test_every_file_kind_gives_the_same_dynamics(random_dynamics, tmp_path, ending, monkeypatch):
    monkeypatch.setattr(long_table, "ROWS_AT_ONCE", 10)
    dynamics = random_dynamics(25, 4, unseen=0.3)
    table = long_rows(dynamics)
    write(table, tmp_path / f"long.{ending}")
    imported = read_long_table(tmp_path / f"long.{ending}")
    order = in_order_of(imported, dynamics.ids)
    np.testing.assert_array_equal(imported.seen[:, order], dynamics.seen)
    np.testing.assert_allclose(imported.logits[:, order], dynamics.logits, rtol=1e-6)
    np.testing.assert_array_equal(imported.gold[order], dynamics.gold)
    assert imported.ids[0].as_py() == table["id"][0].as_py()


@pytest.mark.parametrize("kind", ["string", "large_string", "dictionary", "string_view", "many per hash"])
def test_every_kind_of_id_column_gives_the_same_dynamics(random_dynamics, tmp_path, monkeypatch, kind):
    dynamics = random_dynamics(60, 4, unseen=0.3)
    table = long_rows(dynamics)
    write(table, tmp_path / "plain.parquet")
    plain = read_long_table(tmp_path / "plain.parquet")
    monkeypatch.setattr(long_table, "ROWS_AT_ONCE", 10)
    types = {"large_string": pa.large_string(), "dictionary": pa.dictionary(pa.int32(), pa.string())}
    types |= {"string_view": pa.string_view()}
    if kind == "many per hash":  # different ids of one hash: the slower way is taken, to the same table
        monkeypatch.setattr(long_table, "hash_of_ids", lambda ids: hash_of_ids(ids) % np.uint64(8))
    column = table["id"].cast(types.get(kind, pa.string()))
    write(table.set_column(0, "id", column), tmp_path / "other.parquet")
    other = read_long_table(tmp_path / "other.parquet")
    assert other.ids.to_pylist() == plain.ids.to_pylist() == list(dict.fromkeys(table["id"].to_pylist()))
    np.testing.assert_array_equal(other.seen, plain.seen)
    np.testing.assert_array_equal(other.logits, plain.logits)
    np.testing.assert_array_equal(other.gold, plain.gold)


def test_an_empty_row_group_and_epochs_with_gaps_are_read(tmp_path):
    table = pa.table({"id": ["b", "a", "b"], "epoch": [700_000, 3, 3], "logits": [[1.0, 2], [3, 4], [5, 6]], "gold": [1, 0, 1]})
    with pq.ParquetWriter(tmp_path / "t.parquet", table.schema) as writer:
        for part in (table[:0], table[:2], table[:0], table[2:]):
            writer.write_table(part)
    imported = read_long_table(tmp_path / "t.parquet")
    assert imported.ids.to_pylist() == ["b", "a"] and imported.epochs == (3, 700_000)
    assert imported.seen.tolist() == [[True, True], [True, False]] and imported.gold.tolist() == [1, 0]
    assert imported.logits.tolist() == [[[5, 6], [3, 4]], [[1, 2], [0, 0]]]


@pytest.mark.parametrize("rows_at_once", [1, 2, 100])
def test_duplicates_and_changing_labels_are_found_wherever_they_stand(tmp_path, monkeypatch, rows_at_once):
    monkeypatch.setattr(long_table, "ROWS_AT_ONCE", rows_at_once)
    path = tmp_path / "t.parquet"
    ids, epochs = ["a", "b", "c", "a", "b", "c", "b"], [0, 0, 0, 1, 1, 1, 2]
    pq.write_table(pa.table({"id": ids, "epoch": epochs, "loss": [1.0] * 7, "gold": [0, 1, 2, 0, 1, 2, 1]}), path)
    assert read_long_table(path).gold.tolist() == [0, 1, 2]
    pq.write_table(pa.table({"id": ids, "epoch": epochs, "loss": [1.0] * 7, "gold": [0, 1, 2, 0, 1, 2, 0]}), path)
    with pytest.raises(UserError, match='different gold labels for "b"'):
        read_long_table(path)
    pq.write_table(pa.table({"id": ids, "epoch": [0, 0, 0, 1, 1, 1, 1], "loss": [1.0] * 7}), path)
    with pytest.raises(UserError, match='more than one row for the example "b" in epoch 1; keep one'):
        read_long_table(path)


@pytest.mark.parametrize("value", ["probability", "loss", "logits"])
def test_every_kind_of_value_gives_the_same_confidence(random_dynamics, tmp_path, value):
    dynamics = random_dynamics(25, 4, unseen=0.2)
    table = long_rows(dynamics)
    lists = pa.array(np.stack([table[f"logit_{index}"] for index in range(3)], axis=1).tolist(), pa.list_(pa.float64()))
    write(table.append_column("logits", lists), tmp_path / "long.parquet")
    imported = read_long_table(tmp_path / "long.parquet", **{value: value})
    order = in_order_of(imported, dynamics.ids)
    expected, scores = compute_scores(dynamics), compute_scores(imported)
    for name in ("confidence", "variability", "loss", "dual"):
        np.testing.assert_allclose(scores[name][order], expected[name], atol=1e-5, err_msg=name)


def test_columns_may_have_any_names_and_ids_stay_as_written(tmp_path):
    (tmp_path / "t.csv").write_text("sentence,run_epoch,p\n007,0,0.5\n7,0,0.25\n007,2,1\n2020-01-01,2,0\n")
    imported = read_long_table(tmp_path / "t.csv", id="sentence", epoch="run_epoch", probability="p", num_classes=2)
    assert imported.ids.to_pylist() == ["007", "7", "2020-01-01"] and imported.epochs == (0, 2)
    assert imported.seen.tolist() == [[True, True, False], [True, False, True]]
    assert imported.metadata["num_classes"] == 2
    (tmp_path / "t.jsonl").write_text('{"guid":"2020-01-01","epoch":0,"loss":0.5}\n')
    assert read_long_table(tmp_path / "t.jsonl").ids.to_pylist() == ["2020-01-01"]
    (tmp_path / "t.jsonl").write_text('{"guid":17,"epoch":0,"loss":0.5}\n')
    assert read_long_table(tmp_path / "t.jsonl").ids.to_pylist() == ["17"]


def test_bad_long_tables_are_refused_with_what_is_wrong(tmp_path):
    cases = [
        ({"id": ["a"], "epoch": [0]}, {}, "no column of values .*; it has id, epoch"),
        ({"name": ["a"], "epoch": [0], "loss": [1.0]}, {}, "no column of ids"),
        ({"id": ["a"], "epochs": [0], "loss": [1.0]}, {}, 'no column "epoch"; did you mean "epochs"'),
        ({"id": ["a"], "epoch": [0], "loss": [1.0]}, {"probability": "p"}, 'no column "p"'),
        (
            {"id": ["a", "b", "a"], "epoch": [0, 0, 0], "loss": [1.0] * 3},
            {},
            'more than one row for the example "a" in epoch 0',
        ),
        ({"id": ["a", None], "epoch": [0, 0], "loss": [1.0, 1.0]}, {}, "rows without id"),
        ({"id": [0.5], "epoch": [0], "loss": [1.0]}, {}, "id of .* must hold strings or integers"),
        ({"id": ["a"], "epoch": [0.5], "loss": [1.0]}, {}, "epoch of .* must hold integers"),
        ({"id": ["a"], "epoch": [-1], "loss": [1.0]}, {}, "must count from 0"),
        ({"id": ["a", "b"], "epoch": [0, 0], "probability": [0.5, 1.5]}, {}, 'probability 1.5 .* for the example "b"'),
        ({"id": ["a", "b"], "epoch": [0, 0], "probability": [0.5, None]}, {}, 'no probability for the example "b"'),
        ({"id": ["a"], "epoch": [0], "loss": [float("nan")]}, {}, 'the loss nan .* for the example "a"'),
        ({"id": ["a"], "epoch": [0], "loss": ["high"]}, {}, "loss of .* must hold numbers"),
        ({"id": ["a", "b"], "epoch": [0, 0], "logits": [[1.0, 2.0], [1.0]]}, {}, "list of another length in logits"),
        ({"id": ["a"], "epoch": [0], "logit_0": [1.0], "logit_2": [1.0]}, {}, "numbered from 0 without a gap"),
        ({"id": ["a"], "epoch": [0], "logits": [[1.0, 2.0]], "gold": [2]}, {}, "gold label 2 .* must be 0 to 1"),
        ({"id": ["a", "a"], "epoch": [0, 1], "loss": [1.0, 1.0], "gold": [0, 1]}, {}, 'different gold labels for "a"'),
        ({"id": ["a"], "epoch": [0], "loss": [1.0], "label": ["yes"]}, {}, "label of .* must hold integers"),
        ({"id": ["a"], "epoch": [0], "loss": [1.0], "p": [1.0]}, {"loss": "loss", "probability": "p"}, "name one kind"),
        (
            {"id": pa.array([], pa.string()), "epoch": pa.array([], pa.int64()), "loss": pa.array([], pa.float64())},
            {},
            "no rows",
        ),
    ]
    path = tmp_path / "long.parquet"
    for columns, parameters, sentence in cases:
        pq.write_table(pa.table(columns), path)
        with pytest.raises(UserError, match=sentence) as refused:
            read_long_table(path, **parameters)
        assert "\n" not in str(refused.value)


def test_damaged_and_foreign_files_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("")
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"id,epoch,loss\na,0,1\n" * 99)[:-20])
    (tmp_path / "c.csv").write_bytes(b"id,epoch,loss\n\xff\xfe,0,1\n")
    (tmp_path / "d.jsonl").write_text('{"id": "a", "epoch": 0, "lo')
    (tmp_path / "e.parquet").write_bytes(b"nonsense")
    (tmp_path / "f.xlsx").write_bytes(b"nonsense")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(UserError, match=path.name):
            read_long_table(path)
    with pytest.raises(UserError, match="does not exist"):
        read_long_table(tmp_path / "absent.csv")


torch = pytest.importorskip("torch")


def test_uid_to_logits_is_converted_with_gold_from_a_table(random_dynamics, tmp_path):
    dynamics = random_dynamics(6, 3)
    uids = dynamics.ids.to_pylist()
    gold = dict(zip(uids, dynamics.gold.tolist()))
    dynamics.logits[0, 1] = 0  # a real row of zeros: only the last epoch uses it as a mark
    dynamics.logits[2, 4] = 0
    torch.save({uid: torch.tensor(dynamics.logits[:, row]) for row, uid in enumerate(uids)}, tmp_path / "u.pt")
    converted = read_uid_to_logits(tmp_path / "u.pt", gold)
    np.testing.assert_array_equal(converted.logits, dynamics.logits)
    assert converted.seen[:2].all() and converted.seen[2].tolist() == [True] * 4 + [False, True]
    assert converted.gold.tolist() == dynamics.gold.tolist()
    assert read_uid_to_logits(tmp_path / "u.pt", gold, zeros_are_unseen=False).seen.all()


class Evil:
    def __reduce__(self):
        return (print, ("code from the file ran",))


def test_a_tensor_file_never_runs_code(tmp_path, capsys):
    torch.save({"a": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.pt", "plain.pt"):
        with pytest.raises(UserError, match="cannot be loaded as a file of plain tensors"):
            read_uid_to_logits(tmp_path / name, {})
    assert "ran" not in capsys.readouterr().out


def test_unfit_tensor_files_are_refused(tmp_path):
    path = tmp_path / "u.pt"
    two = torch.zeros(3, 2) + 1
    cases = [
        ([two], {}, "must hold a non-empty dict"),
        ({}, {}, "must hold a non-empty dict"),
        ({"a": torch.zeros(3)}, {"a": 0}, "'a' is not a tensor of the shape"),
        ({"a": two, "b": torch.zeros(3, 4)}, {"a": 0}, r"'b' is \[3, 4\]"),
        ({"a": two}, {}, 'none for the uid "a"'),
        ({"a": two}, {"a": 2}, 'gold label of "a" is 2'),
        ({"1": two, 1: two}, {"1": 0}, 'holds the id "1" more than once'),
    ]
    for content, gold, sentence in cases:
        torch.save(content, path)
        with pytest.raises(UserError, match=sentence):
            read_uid_to_logits(path, gold)
    with pytest.raises(UserError, match="does not exist"):
        read_uid_to_logits(tmp_path / "absent.pt", {})
