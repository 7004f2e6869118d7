"""Our Parquet file: exact round trips, every damage refused in one sentence, and finding it in folders."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ftft.dynamics import dynamics_file, parquet
from ftft.dynamics.cartography import write_cartography
from ftft.dynamics.dynamics_file import open_file
from ftft.dynamics.parquet import fingerprint_dynamics, gather, open_dynamics, read_dynamics, write_dynamics
from ftft.dynamics.score_file import read_scores, score_file, write_scores
from ftft.dynamics.scores import compute_scores
from ftft.dynamics.table import Dynamics
from ftft.errors import UserError


@pytest.fixture
def small_batches(monkeypatch):
    """Files of several row groups from few rows."""
    for module in (parquet, dynamics_file):
        monkeypatch.setattr(module, "ROWS_AT_ONCE", 16)


def assert_equal(left: Dynamics, right: Dynamics) -> None:
    assert left.ids.equals(right.ids) and left.epochs == right.epochs and left.metadata == right.metadata
    np.testing.assert_array_equal(left.seen, right.seen)
    for name in ("gold", "logits", "pair_logits", "pair_probability"):
        ours, theirs = getattr(left, name), getattr(right, name)
        assert (ours is None) == (theirs is None), name
        if ours is not None:
            assert ours.dtype == theirs.dtype and ours.tobytes() == theirs.tobytes(), name
    assert list(left.statistics) == list(right.statistics)
    for name, values in left.statistics.items():
        assert values.tobytes() == right.statistics[name].tobytes(), name


def pair_dynamics(random_dynamics) -> Dynamics:
    base = random_dynamics(45, 3, 2, unseen=0.3)
    probability = np.where(base.seen, np.abs(base.logits[:, :, 0]) % 1, 0).astype(np.float32)
    return Dynamics(
        base.ids,
        (1, 4, 10),
        base.seen,
        gold=base.gold,
        pair_logits=base.logits,
        pair_probability=probability,
        statistics={"token_accuracy": probability / 2, "entropy": probability * 2},
        metadata={"num_classes": 1000, "label_names": ["é", "b"], "nested": {"x": [1.5, None]}},
    )


def test_logits_round_trip_exactly(random_dynamics, tmp_path, small_batches):
    dynamics = random_dynamics(45, 4, 3, unseen=0.3)
    dynamics.logits[0, np.flatnonzero(dynamics.seen[0])[0], :2] = [np.nan, -np.inf]
    write_dynamics(dynamics, tmp_path / "d.parquet")
    assert pq.ParquetFile(tmp_path / "d.parquet").num_row_groups == 3
    assert_equal(read_dynamics(tmp_path / "d.parquet"), dynamics)


def test_pairs_and_statistics_round_trip_exactly(random_dynamics, tmp_path, small_batches):
    dynamics = pair_dynamics(random_dynamics)
    write_dynamics(dynamics, tmp_path / "d.parquet")
    assert_equal(read_dynamics(tmp_path / "d.parquet"), dynamics)


def test_statistics_without_gold_round_trip(tmp_path):
    seen = np.array([[True, False]])
    dynamics = Dynamics(pa.array(["x", "y"]), (0,), seen, statistics={"probability": np.array([[0.5, 0]], np.float32)})
    write_dynamics(dynamics, tmp_path / "d.parquet")
    assert_equal(read_dynamics(tmp_path / "d.parquet"), dynamics)


@pytest.mark.parametrize("n", [0, 1])
def test_empty_and_single_tables_round_trip(random_dynamics, tmp_path, n):
    dynamics = random_dynamics(n, 2)
    write_dynamics(dynamics, tmp_path / "d.parquet")
    assert_equal(read_dynamics(tmp_path / "d.parquet"), dynamics)


def test_an_epoch_that_no_example_was_seen_in_round_trips(random_dynamics, tmp_path):
    dynamics = random_dynamics(5, 2)
    dynamics.seen[1], dynamics.logits[1] = False, 0
    write_dynamics(dynamics, tmp_path / "d.parquet")
    assert_equal(read_dynamics(tmp_path / "d.parquet"), dynamics)


def test_unseen_entries_are_null_on_disk(random_dynamics, tmp_path):
    dynamics = random_dynamics(20, 2, unseen=0.5)
    write_dynamics(dynamics, tmp_path / "d.parquet")
    table = pq.read_table(tmp_path / "d.parquet")
    assert table.column_names == ["id", "gold", "logits_epoch_0", "logits_epoch_1"]
    assert table["logits_epoch_1"].is_null().to_pylist() == (~dynamics.seen[1]).tolist()
    header = json.loads(table.schema.metadata[b"ftft"])
    assert (header["format"], header["format_version"], header["examples"]) == ("ftft/dynamics", 1, 20)


def rewritten(path, table: pa.Table, header: dict | None = None) -> None:
    metadata = table.schema.metadata if header is None else {b"ftft": json.dumps(header).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), path)


def test_other_programs_may_reorder_columns_and_use_plain_lists(random_dynamics, tmp_path):
    dynamics = random_dynamics(20, 2, unseen=0.3)
    path = tmp_path / "d.parquet"
    write_dynamics(dynamics, path)
    table = pq.read_table(path)
    for name in ("logits_epoch_0", "logits_epoch_1"):
        plain = pa.array(table[name].to_pylist(), type=pa.list_(pa.float64()))
        table = table.set_column(table.column_names.index(name), name, plain)
    table = table.select(table.column_names[::-1]).append_column("note_epoch_7", pa.array(["x"] * 20))
    table = table.set_column(table.column_names.index("id"), "id", table["id"].dictionary_encode())
    rewritten(path, table)
    assert_equal(read_dynamics(path), dynamics)


def test_columns_may_be_dropped_and_added_but_not_renamed_by_damage(random_dynamics, tmp_path):
    path = tmp_path / "d.parquet"
    write_dynamics(random_dynamics(20, 2), path)
    table = pq.read_table(path)
    rewritten(path, table.drop_columns("gold").append_column("note", pa.array(["x"] * 20)))
    assert read_dynamics(path).gold is None
    rewritten(path, table.rename_columns({"gold": "gomd"}).replace_schema_metadata(table.schema.metadata))
    with pytest.raises(UserError, match="is damaged: it was written with a column gold, which has another name now"):
        read_dynamics(path)


def test_damage_is_refused_in_one_sentence(random_dynamics, tmp_path):
    dynamics = random_dynamics(20, 2)
    path = tmp_path / "d.parquet"
    write_dynamics(dynamics, path)
    table = pq.read_table(path)
    header = json.loads(table.schema.metadata[b"ftft"])

    def change(name, values):
        return table.set_column(table.column_names.index(name), name, values)

    twice = pa.array(["same", "same", *table["id"].to_pylist()[2:]])
    lists = pa.array([[1.0, 2.0]] + table["logits_epoch_1"].to_pylist()[1:], type=pa.list_(pa.float32()))
    some = table["logits_epoch_1"].to_pylist()[2:]
    swapped = pa.array([[1.0, 2.0], [1.0] * 4] + some, type=pa.list_(pa.float32()))  # the sum fits
    holes = pa.array([[1.0, None, 2.0]] + table["logits_epoch_1"].to_pylist()[1:], type=pa.list_(pa.float32(), 3))
    cases = [
        (table, {**header, "format_version": 2}, "format version 2, and this ftft reads up to 1; upgrade"),
        (table, {**header, "format": "ftft/scores"}, 'of the kind "ftft/scores"'),
        (table, {**header, "examples": 21}, "says it holds 21 examples, and it has 20 rows"),
        (table, {**header, "epochs": [0, 1, 2]}, "must have the column logits_epoch_2 once"),
        (table, {**header, "epochs": "many"}, "not ascending integers"),
        (table.drop_columns(["id"]), header, "must have the column id once, and has it 0 times"),
        (table.drop_columns(["logits_epoch_0", "logits_epoch_1"]), header, "holds no values"),
        (change("id", twice), header, 'holds the id "same" more than once'),
        (change("id", pa.array(range(20))), header, "column id of .* must hold strings, and holds int64"),
        (change("gold", pa.array([5] * 20)), header, r"gold labels outside 0\.\.2"),
        (change("gold", pa.array([None] * 20, pa.int32())), header, "20 examples without a gold label"),
        (change("gold", pa.array(["a"] * 20)), header, "column gold of .* must hold integers"),
        (change("logits_epoch_1", pa.array(["a"] * 20)), header, "must hold lists of floats, and holds string"),
        (change("logits_epoch_1", lists), header, "do not all hold 3 numbers"),
        (change("logits_epoch_1", swapped), header, "do not all hold 3 numbers"),
        (change("logits_epoch_1", holes), header, "do not all hold 3 numbers"),
    ]
    for wrong, its_header, sentence in cases:
        rewritten(path, wrong, its_header)
        with pytest.raises(UserError, match=sentence) as refused:
            read_dynamics(path)
        assert "\n" not in str(refused.value) and str(path) in str(refused.value)


def test_a_truncated_foreign_or_missing_file_is_refused(random_dynamics, tmp_path):
    path = tmp_path / "d.parquet"
    write_dynamics(random_dynamics(2000), path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"PAR1 nonsense PAR1", whole[:500] + bytes(1500) + whole[2000:]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="is damaged or is not a Parquet file"):
            read_dynamics(path)
    pq.write_table(pa.table({"id": ["x"]}), path)
    with pytest.raises(UserError, match="without ftft dynamics"):
        read_dynamics(path)
    with pytest.raises(UserError, match="does not exist"):
        read_dynamics(tmp_path / "absent.parquet")


def test_a_failed_write_leaves_the_old_file(random_dynamics, tmp_path):
    path = tmp_path / "d.parquet"
    write_dynamics(random_dynamics(5), path)
    before = path.read_bytes()
    broken = random_dynamics(5)
    broken.ids = pa.array(["same"] * 5)
    with pytest.raises(UserError, match="more than once"):
        write_dynamics(broken, path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["d.parquet"]


def test_the_fingerprint_sees_values_and_not_the_order_of_rows(random_dynamics, tmp_path):
    dynamics = random_dynamics(50, unseen=0.2)
    fingerprint = fingerprint_dynamics(dynamics)
    order = np.random.default_rng(1).permutation(50)
    shuffled = Dynamics(
        dynamics.ids.take(pa.array(order)),
        dynamics.epochs,
        dynamics.seen[:, order],
        gold=dynamics.gold[order],
        logits=dynamics.logits[:, order].copy(),
        metadata={"source": "elsewhere"},
    )
    assert fingerprint_dynamics(shuffled) == fingerprint
    shuffled.logits[~shuffled.seen] = 7
    assert fingerprint_dynamics(shuffled) == fingerprint
    write_dynamics(dynamics, tmp_path / "d.parquet")
    assert fingerprint_dynamics(read_dynamics(tmp_path / "d.parquet")) == fingerprint
    assert fingerprint_dynamics(dynamics.only_epochs([0, 1, 2])) != fingerprint
    row = int(np.flatnonzero(shuffled.seen[2])[0])
    shuffled.logits[2, row, 1] += 1
    assert fingerprint_dynamics(shuffled) != fingerprint
    shuffled.logits[2, row, 1] -= 1
    shuffled.gold[0] = (shuffled.gold[0] + 1) % 3
    assert fingerprint_dynamics(shuffled) != fingerprint


def test_the_fingerprint_tells_where_one_id_ends(random_dynamics):
    left, right = random_dynamics(2), random_dynamics(2)
    left.ids, right.ids = pa.array(["ab", "c"]), pa.array(["a", "bc"])
    assert fingerprint_dynamics(left) != fingerprint_dynamics(right)
    sliced = random_dynamics(2)
    sliced.ids = pa.array(["zzz", "ab", "c"])[1:]
    assert fingerprint_dynamics(sliced) == fingerprint_dynamics(left)


def test_dynamics_are_found_in_every_kind_of_place(random_dynamics, tmp_path):
    dynamics = random_dynamics(20)
    run = tmp_path / "run"
    stage = run / "stages" / "reference"
    write_dynamics(dynamics, stage / "dynamics.parquet")
    write_cartography(dynamics, tmp_path / "cartography")
    places = [run, stage, stage / "dynamics.parquet", tmp_path / "cartography", tmp_path / "cartography" / "training_dynamics"]
    places.append(tmp_path / "cartography" / "training_dynamics" / "dynamics_epoch_1.jsonl")
    for place in places:
        opened = open_dynamics(place)
        assert opened.ids.equals(dynamics.ids), place
        np.testing.assert_allclose(opened.logits, dynamics.logits, atol=1e-9, err_msg=str(place))
    long = tmp_path / "long.parquet"
    pq.write_table(pa.table({"id": ["x", "x"], "epoch": [0, 1], "probability": [0.5, 0.75]}), long)
    assert open_dynamics(long).pair_probability.tolist() == [[0.5], [0.75]]


def test_places_without_dynamics_are_refused(random_dynamics, tmp_path):
    for stage in ("one", "two"):
        write_dynamics(random_dynamics(2), tmp_path / "run" / "stages" / stage / "dynamics.parquet")
    with pytest.raises(UserError, match="dynamics of 2 stages; name one of .*one.*two"):
        open_dynamics(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no dynamics"):
        open_dynamics(tmp_path / "empty")
    with pytest.raises(UserError, match="does not exist"):
        open_dynamics(tmp_path / "absent")
    (tmp_path / "uid_to_logits.pt").write_bytes(b"x")
    with pytest.raises(UserError, match="read_uid_to_logits"):
        open_dynamics(tmp_path / "uid_to_logits.pt")


def test_scores_of_a_file_equal_scores_in_memory(random_dynamics, tmp_path, monkeypatch):
    monkeypatch.setattr("ftft.dynamics.score_file.BATCH", 16)
    dynamics = random_dynamics(70, 5, unseen=0.4)
    write_dynamics(dynamics, tmp_path / "d.parquet")
    names = score_file(tmp_path / "d.parquet", tmp_path / "s.parquet", seed=3, ddof=1, epochs=[1, 2, 3], workers=2)
    ids, scores = read_scores(tmp_path / "s.parquet")
    expected = compute_scores(dynamics, seed=3, ddof=1, epochs=[1, 2, 3])
    assert ids.equals(dynamics.ids) and list(names) == list(scores) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(scores[name], values)
    write_scores(dynamics.ids, expected, tmp_path / "t.parquet")
    for name, values in read_scores(tmp_path / "t.parquet")[1].items():
        np.testing.assert_array_equal(values, expected[name])
    dynamics.ids = dynamics.ids.cast(pa.large_string())  # as of more than 2 GiB of ids
    assert score_file(dynamics, tmp_path / "m.parquet", seed=3, ddof=1, epochs=[1, 2, 3], workers=2) == names
    assert (tmp_path / "m.parquet").read_bytes() == (tmp_path / "s.parquet").read_bytes()


def test_scores_are_written_as_text_too(tmp_path):
    ids, scores = (
        pa.array(["007", 'a "b", é']),
        {"confidence": np.array([0.1 + 0.2, np.nan]), "correctness": np.array([3.0, 0.0])},
    )
    for ending in ("csv", "jsonl", "parquet"):
        write_scores(ids, scores, tmp_path / f"s.{ending}")
    rows = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert rows[0] == {"id": "007", "confidence": 0.1 + 0.2, "correctness": 3.0}
    assert rows[1] == {"id": 'a "b", é', "confidence": None, "correctness": 0.0}
    assert (tmp_path / "s.csv").read_text().splitlines()[1] == '"007",0.30000000000000004,3'
    assert np.isnan(read_scores(tmp_path / "s.parquet")[1]["confidence"][1])
    with pytest.raises(UserError, match="must end in"):
        write_scores(ids, scores, tmp_path / "s.xlsx")


def test_a_score_file_is_not_left_where_scoring_fails(random_dynamics, tmp_path):
    write_dynamics(random_dynamics(0), tmp_path / "d.parquet")
    with pytest.raises(UserError, match="holds no examples"):
        score_file(tmp_path / "d.parquet", tmp_path / "s.parquet")
    dynamics = random_dynamics(20)
    dynamics.logits[1, 3] = np.nan
    write_dynamics(dynamics, tmp_path / "d.parquet")
    with pytest.raises(UserError, match="is not a finite number"):
        score_file(tmp_path / "d.parquet", tmp_path / "s.parquet")
    with pytest.raises(UserError, match="no score"):
        score_file(tmp_path / "d.parquet", tmp_path / "s.parquet", ["confidenze"])
    table = pq.read_table(tmp_path / "d.parquet")
    rewritten(tmp_path / "d.parquet", table.set_column(0, "id", pa.array(["same"] * 20)))
    with pytest.raises(UserError, match="more than once"):
        score_file(tmp_path / "d.parquet", tmp_path / "s.parquet", ["random"])
    assert [p.name for p in tmp_path.iterdir()] == ["d.parquet"]
    with pytest.raises(UserError, match='not a file of the kind "ftft/scores"'):
        read_scores(tmp_path / "d.parquet")


def test_no_damaged_byte_gives_other_dynamics_or_a_traceback(random_dynamics, tmp_path):
    path = tmp_path / "d.parquet"
    write_dynamics(random_dynamics(5, 2), path)
    whole = read_dynamics(path)
    expected, content, told = (fingerprint_dynamics(whole), whole.metadata), path.read_bytes(), 0
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position * 3 % 8
        path.write_bytes(damaged)
        try:
            found = read_dynamics(path)
        except UserError:
            told += 1
        else:
            assert (fingerprint_dynamics(found), found.metadata) == expected, position
    assert told > len(content) / 2


def test_a_footer_that_lies_about_its_rows_is_refused_and_fills_no_memory(random_dynamics, tmp_path):
    path = tmp_path / "d.parquet"
    write_dynamics(random_dynamics(5, 2), path)
    file = open_file(path)
    with pytest.raises(UserError, match="more than fits into memory|says it holds 1000000000000 rows, and it has 5"):
        gather(dataclasses.replace(file, parquet=_Lying(file.parquet, 10**12)))
    with pytest.raises(UserError, match="says it holds 7 rows, and it has 5"):
        gather(dataclasses.replace(file, parquet=_Lying(file.parquet, 7)))


class _Lying:
    """An opened Parquet file whose footer says another number of rows than its pages hold."""

    def __init__(self, parquet, rows):
        self.iter_batches, self.metadata = parquet.iter_batches, SimpleNamespace(num_rows=rows)
