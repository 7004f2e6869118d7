"""Every format is read alike, and every way a file can be broken gives one sentence that names the file and the line."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ftft.data import reading, records, streams
from ftft.data.reading import LINE, place, read_table
from ftft.data.settings import DataFile
from ftft.errors import UserError

ROWS = [
    {"id": 1, "text": 'He said "no", twice', "label": "b", "extra": 1.5},
    {"id": 2, "text": "Ünïcödé 🙂", "label": "a", "extra": None},
    {"id": 3, "text": "", "label": "b", "extra": 2.0},
]
WANTED = ["text", "label", "id"]


def write_jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")


def write_csv(path: Path) -> None:
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)


def write_tsv(path: Path) -> None:
    lines = ["\t".join(ROWS[0]), *("\t".join("" if value is None else str(value) for value in row.values()) for row in ROWS)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), path)


WRITERS: dict[str, Callable[[Path], None]] = {
    "jsonl": write_jsonl,
    "json": write_jsonl,
    "ndjson": write_jsonl,
    "csv": write_csv,
    "tsv": write_tsv,
    "parquet": write_parquet,
}


def read(path: Path, wanted: Sequence[str] = ("text", "label"), **settings: Any) -> pa.Table:
    return read_table(DataFile(path=str(path), **settings), list(wanted))


def sentence(path: Path, wanted: Sequence[str] = ("text", "label"), **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(path, wanted=wanted, **settings)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("ending", WRITERS)
def test_all_formats_give_the_same_text_and_labels(tmp_path: Path, ending: str, zipped: bool) -> None:
    path = tmp_path / f"train.{ending}"
    WRITERS[ending](path)
    if zipped:
        packed = path.with_name(path.name + ".gz")
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path = packed
    table = read(path, WANTED)
    assert table.column_names == ["text", "label", "id", LINE]
    assert table.column("text").to_pylist() == [row["text"] for row in ROWS]
    assert table.column("label").to_pylist() == ["b", "a", "b"]
    assert [str(value) for value in table.column("id").to_pylist()] == ["1", "2", "3"]
    first = {"csv": "line 2", "tsv": "line 2", "parquet": "row 1"}.get(ending, "line 1")
    assert place(table, 0) == first


def test_lines_are_numbered_as_they_stand_in_the_file(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", 'text,label\n"two\nlines",a\n\nlast,b\n')
    assert read(path).column(LINE).to_pylist() == [2, 5]
    path = written(tmp_path / "a.jsonl", '{"text":"x","label":1}\n\n{"text":"y","label":0}')
    assert read(path).column(LINE).to_pylist() == [1, 3]


def test_many_chunks_and_growing_types_join(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CHUNK", 2)
    values = [None, None, 1, 2, 3.5, None, 4]
    path = written(tmp_path / "a.jsonl", "".join(json.dumps({"text": "t", "label": value}) + "\n" for value in values))
    assert read(path).column("label").to_pylist() == values


def test_a_key_that_some_rows_lack_is_null_there(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", '{"label":1}\n{"text":"y","label":0}\n')
    assert read(path).column("text").to_pylist() == [None, "y"]


def test_nan_is_null(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", '{"text":NaN,"label":1}\n{"text":"y","label":NaN}\n')
    table = read(path)
    assert table.column("text").to_pylist() == [None, "y"] and table.column("label").null_count == 1
    pq.write_table(pa.table({"text": ["a", "b"], "label": [1.0, float("nan")]}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet").column("label").to_pylist() == [1.0, None]


def test_byte_order_mark_and_windows_line_ends_are_no_part_of_the_data(tmp_path: Path) -> None:
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
        path = written(tmp_path / name, b"\xef\xbb\xbf" + f"text{delimiter}label\r\nhello{delimiter}1\r\n".encode())
        assert read(path).select(["text", "label"]).to_pylist() == [{"text": "hello", "label": "1"}]


def test_header_names_the_columns_of_a_headerless_file(tmp_path: Path) -> None:
    path = written(tmp_path / "cad.tsv", "0\tfirst\tu1\n1\tsecond\tu2\n")
    table = read(path, header=["label", "text", "uid"])
    assert table.column("text").to_pylist() == ["first", "second"] and table.column(LINE).to_pylist() == [1, 2]


def test_tsv_quotes_are_ordinary_characters_unless_asked_or_in_the_header(tmp_path: Path) -> None:
    body = '"He said ""no"""\t1\n'
    glue = written(tmp_path / "glue.tsv", "text\tlabel\n" + '5" nails, "cheap\t1\n' + body)
    assert read(glue).column("text").to_pylist() == ['5" nails, "cheap', '"He said ""no"""']
    plain = written(tmp_path / "plain.tsv", "text\tlabel\n" + body)
    assert read(plain, quotes=True).column("text").to_pylist() == ['He said "no"']
    quoted = written(tmp_path / "quoted.tsv", '"text"\t"label"\n' + body)
    assert read(quoted).column("text").to_pylist() == ['He said "no"']


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_where_and_limit_keep_the_first_matching_rows(tmp_path: Path, ending: str) -> None:
    rows = [{"text": f"t{i}", "label": i % 2, "fold": ("train", "dev")[i % 3 == 0], "ok": i != 2} for i in range(10)]
    path = tmp_path / f"a.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        written(path, "".join(json.dumps(row) + "\n" for row in rows))
    table = read(path, where={"fold": "train", "ok": True}, limit=3)
    assert table.column("text").to_pylist() == ["t1", "t4", "t5"]
    assert table.column(LINE).to_pylist() == [2, 5, 6]
    assert read(path, where={"label": 1}).num_rows == 5
    assert read(path, limit=4).num_rows == 4
    assert 'no row has fold = "trian" as `where` asks; did you mean "train"?' in sentence(
        path, ["text"], where={"fold": "trian"}
    )
    assert "no row fulfils all conditions" in sentence(path, ["text"], where={"fold": "dev", "ok": False})
    assert 'has no column "flod"' in sentence(path, ["text"], where={"flod": "dev"})
    assert "limit is 0; it must be at least 1" in sentence(path, ["text"], limit=0)


def test_where_compares_csv_text_with_numbers_and_booleans(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "text,label,n,ok\na,x,1,True\nb,y,2,false\n")
    assert read(path, where={"n": 1, "ok": True}).column("text").to_pylist() == ["a"]
    assert read(path, where={"ok": False}).column("text").to_pylist() == ["b"]


def test_environment_variables_are_expanded_and_an_unset_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "a.jsonl", '{"text":"x","label":1}\n')
    monkeypatch.setenv("SOME_FOLDER", str(tmp_path))
    monkeypatch.delenv("UNSET_FOLDER", raising=False)
    for path in ("$SOME_FOLDER/a.jsonl", "${SOME_FOLDER}/a.jsonl"):
        assert read_table(DataFile(path=path), ["text"]).num_rows == 1
    with pytest.raises(UserError, match="environment variable UNSET_FOLDER .* is not set"):
        read_table(DataFile(path="${UNSET_FOLDER}/a.jsonl"), ["text", "label"])


def test_missing_file_suggests_the_nearest_name(tmp_path: Path) -> None:
    written(tmp_path / "train.jsonl", "{}")
    assert 'does not exist; did you mean "train.jsonl"?' in sentence(tmp_path / "trian.jsonl")
    assert f"of its folders only {tmp_path} exists" in sentence(tmp_path / "no" / "where" / "train.csv")
    assert "is a folder" in sentence(_made(tmp_path / "folder.jsonl"))


def _made(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv", "parquet"])
def test_empty_file(tmp_path: Path, ending: str) -> None:
    assert "is empty" in sentence(written(tmp_path / f"a.{ending}", b""))
    if ending != "parquet":
        assert "is empty" in sentence(written(tmp_path / f"a.{ending}.gz", gzip.compress(b"")))


def test_file_without_rows(tmp_path: Path) -> None:
    assert "has no rows" in sentence(written(tmp_path / "a.csv", "text,label,id\n"))
    assert "has no rows" in sentence(written(tmp_path / "a.jsonl", "\n\n"))
    pq.write_table(pa.table({"text": pa.array([], pa.string()), "label": pa.array([], pa.int64())}), tmp_path / "a.parquet")
    assert "has no rows" in sentence(tmp_path / "a.parquet", wanted=["text"])


def test_truncated_last_json_line_and_other_bad_json(tmp_path: Path) -> None:
    good = '{"text":"x","label":1}\n'
    assert "is truncated: its last line (2)" in sentence(written(tmp_path / "a.jsonl", good + '{"text":"y","lab'))
    assert "line 2 is not valid JSON" in sentence(written(tmp_path / "b.jsonl", good + '{"text":"y" "label"}\n' + good))
    assert "line 2 is an array, not a JSON object" in sentence(written(tmp_path / "c.jsonl", good + '["y", 1]\n'))
    assert "line 1 is a number, not a JSON object" in sentence(written(tmp_path / "d.jsonl", "12\n"))
    assert "line 1 opens JSON that goes on over several lines" in sentence(written(tmp_path / "e.json", '[\n{"text":"x"}\n]'))
    assert "line 1 cannot be read as JSON" in sentence(written(tmp_path / "f.jsonl", "[" * 100_000 + "\n"))


def test_damaged_gzip(tmp_path: Path) -> None:
    packed = gzip.compress("".join(json.dumps({"text": f"text {i * 7919}", "label": i}) + "\n" for i in range(5000)).encode())
    assert "is not a gzip file although its name ends in .gz" in sentence(written(tmp_path / "a.jsonl.gz", '{"text":"x"}\n'))
    assert "is a truncated gzip file" in sentence(written(tmp_path / "b.jsonl.gz", packed[: len(packed) // 2]))
    broken = bytearray(packed)
    broken[len(packed) // 2 : len(packed) // 2 + 64] = b"\xff" * 64
    message = sentence(written(tmp_path / "c.jsonl.gz", bytes(broken)))
    assert "is a damaged gzip file" in message or "is not valid" in message
    checksum = bytearray(packed)
    checksum[-8] ^= 255
    assert "is a damaged gzip file" in sentence(written(tmp_path / "d.jsonl.gz", bytes(checksum)), wanted=["text"])
    assert "rename it to e.jsonl.gz" in sentence(written(tmp_path / "e.jsonl", packed))


def test_invalid_utf8_names_the_line(tmp_path: Path) -> None:
    bad = b'{"text":"x","label":1}\n{"text":"caf\xe9","label":1}\n'
    assert "line 2 is not valid UTF-8 (byte 0xe9 at position 13)" in sentence(written(tmp_path / "a.jsonl", bad))
    assert "line 3 is not valid UTF-8" in sentence(written(tmp_path / "a.csv", b"text,label\nx,1\n\xe9,1\n"), wanted=["text"])
    assert "is UTF-16 text" in sentence(written(tmp_path / "b.csv", "text,label\n".encode("utf-16")))
    assert 'line 1: the column "text" holds half a surrogate pair' in sentence(
        written(tmp_path / "c.jsonl", '{"text":"\\ud800"}\n'), wanted=["text"]
    )


def test_wrong_number_of_fields(tmp_path: Path) -> None:
    assert "line 3 has 3 fields where the header has 2" in sentence(
        written(tmp_path / "a.csv", "text,label\nx,1\ny,1,2\n"), ["text"]
    )
    message = sentence(written(tmp_path / "a.tsv", 'text\tlabel\n"x\ty"\t1\n'), ["text"])
    assert "line 2 has 3 fields" in message and "set `quotes: true`" in message
    assert "line 1 has 2 fields where `header:` has 3" in sentence(
        written(tmp_path / "b.tsv", "x\t1\n"), ["text"], header=["text", "label", "id"]
    )
    assert 'names the column "text" twice' in sentence(written(tmp_path / "c.csv", "text,text\nx,1\n"), ["text"])


def test_broken_quotes(tmp_path: Path) -> None:
    assert "a quote opened in the row at line 3 is never closed" in sentence(
        written(tmp_path / "a.csv", 'text,label\nx,1\n"y,1\nz,1\n'), ["text"]
    )
    assert "line 2 has text after a closing quote" in sentence(written(tmp_path / "b.csv", 'text,label\n"x"y,1\n'), ["text"])


def test_the_process_wide_field_limit_is_put_back(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    long = "x" * (before + 10)
    assert read(written(tmp_path / "a.csv", f"text,label\n{long},1\n")).column("text")[0].as_py() == long
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_missing_column_lists_those_that_exist(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    WRITERS[ending](path)
    message = sentence(path, ["txet", "label"])
    assert 'has no column "txet"; it has id, text, label, extra; did you mean "text"?' in message


@pytest.mark.parametrize("name", ["a.pkl", "a.pt", "a.pickle", "a.pth", "a.bin", "a.pkl.gz"])
def test_pickles_are_refused_by_name(tmp_path: Path, name: str) -> None:
    assert "ftft never unpickles" in sentence(written(tmp_path / name, b"x"))


def test_unknown_ending_and_misplaced_header(tmp_path: Path) -> None:
    assert 'has the unknown ending ".xlsx"; ftft reads .jsonl' in sentence(written(tmp_path / "a.xlsx", b"x"))
    assert "`header:` is for CSV and TSV" in sentence(written(tmp_path / "a.jsonl", "{}"), header=["a"])
    with pytest.raises(UserError, match="either `path` or `hub`"):
        read_table(DataFile(), ["text", "label"])


def test_absurdly_long_line_is_refused_without_reading_it_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_LINE_BYTES", 2**20)
    sizes: list[int] = []

    class Endless:
        def readline(self, size: int) -> bytes:
            sizes.append(size)
            return b"x" * size

    with pytest.raises(UserError, match="line 1 is longer than 1 MiB"):
        list(records.json_records(Endless(), tmp_path / "a.jsonl"))  # type: ignore[arg-type]
    assert sizes == [2**20 + 1]


def test_damaged_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path)
    content = path.read_bytes()
    assert "is damaged and cannot be read as Parquet" in sentence(written(tmp_path / "b.parquet", content[:-20]))
    assert "is damaged and cannot be read as Parquet" in sentence(written(tmp_path / "c.parquet", b"not parquet at all"))
    big = pa.table({"text": [f"text {i * 7919}" for i in range(1000)], "label": [1] * 1000})
    pq.write_table(big, path, compression="snappy")
    broken = bytearray(path.read_bytes())
    broken[4:400] = b"\xff" * 396
    assert "is damaged and cannot be read as Parquet" in sentence(written(tmp_path / "d.parquet", bytes(broken)), ["text"])
    binary = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"]).buffers())
    pq.write_table(pa.table({"text": binary, "label": [1]}), path)
    assert "is damaged and cannot be read as Parquet" in sentence(path, ["text"])


def test_mixed_kinds_in_a_column_are_refused_with_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.jsonl", '{"text":"x"}\n{"text":null}\n{"text":5}\n')
    expected = 'line 3: the column "text" holds numbers where the rows before hold text'
    assert expected in sentence(path, ["text"])
    monkeypatch.setattr(reading, "CHUNK", 1)
    assert expected in sentence(path, ["text"])
    assert "holds a number beyond 64 bits" in sentence(written(tmp_path / "b.jsonl", '{"id":' + "9" * 30 + "}\n"), ["id"])


def test_categorical_parquet_columns_become_plain(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a", "b"], "label": pa.array(["x", None]).dictionary_encode()}), tmp_path / "a.parquet")
    table = read(tmp_path / "a.parquet", where={"text": "a"})
    assert table.schema.field("label").type == pa.string() and table.column("label").to_pylist() == ["x"]


def test_hub_dataset_gives_rows_and_class_names(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    dataset = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, 1]}, features=features)
    asked: list[tuple[Any, ...]] = []

    def load_dataset(name: str, config: str | None, *, split: str) -> Any:
        asked.append((name, config, split))
        if name == "gone":
            raise FileNotFoundError("no such dataset\nat all")
        return dataset.select([2, 0])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    table = read_table(DataFile(hub="some/set", hub_split="dev"), ["text", "label"])
    assert asked == [("some/set", None, "dev")]
    assert table.column("text").to_pylist() == ["c", "a"] and place(table, 1) == "row 2"
    assert json.loads(table.schema.metadata[b"ftft.labels.label"]) == ["neg", "pos"]
    with pytest.raises(UserError, match="hub dataset gone, split train cannot be loaded: no such dataset at all"):
        read_table(DataFile(hub="gone"), ["text", "label"])
