"""Large data sets stay in Arrow: no Python object stays for a row, and one copy of the columns is kept."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from ftft.data.ids import joined
from ftft.data.loading import load_data
from ftft.data.settings import Columns, DataFile, DataSettings

TEXT = "a film that somebody saw in the evening, row "  # with its number about 50 characters


def write(path: Path, rows: int) -> DataSettings:
    """Rows as a file of its ending, and the settings that read it with ids."""
    columns = {
        "id": [f"r{row:07d}" for row in range(rows)],
        "text": [f"{TEXT}{row:07d}" for row in range(rows)],
        "label": [("no", "yes")[row % 2] for row in range(rows)],
    }
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    elif path.suffix == ".csv":
        pa.csv.write_csv(pa.table(columns), path)
    else:
        with open(path, "w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(dict(zip(columns, row))) + "\n" for row in zip(*columns.values()))
    return DataSettings(train=DataFile(path=str(path)), columns=Columns(id="id", text=["text"]))


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv"])
def test_no_python_object_is_made_for_every_row_at_once(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for chunk in ("ftft.data.hashing._BLOCK", "ftft.data.reading.CHUNK"):
        monkeypatch.setattr(chunk, 1000)

    def peak(rows: int) -> int:
        settings = write(tmp_path / f"{rows}.{ending}", rows)
        tracemalloc.start()
        try:
            load_data(settings)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1000)  # imports and caches
    # A string of 50 characters takes 99 bytes; hashes, codes and masks of numpy are counted here too.
    assert (peak(12_000) - peak(4000)) / 8000 < 64


def test_one_copy_of_the_columns_is_kept(tmp_path: Path) -> None:
    settings = write(tmp_path / "train.parquet", 50_000)
    before = pa.total_allocated_bytes()
    data = load_data(settings)
    sets = [data.train, *(one.examples for one in data.evaluation.values())]
    own = sum(one.ids.nbytes + sum(column.nbytes for column in one.inputs.values()) for one in sets)
    assert own <= pa.total_allocated_bytes() - before < 1.4 * own


def test_a_column_of_one_chunk_is_not_copied() -> None:
    whole = pa.array([f"text {row}" for row in range(100)])
    assert joined(pa.chunked_array([whole])).buffers()[2].address == whole.buffers()[2].address
    assert joined(pa.chunked_array([whole, whole])).to_pylist() == 2 * whole.to_pylist()
    part = joined(pa.chunked_array([whole[10:20]]))
    assert part.to_pylist() == [f"text {row}" for row in range(10, 20)]
