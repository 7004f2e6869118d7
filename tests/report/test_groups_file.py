"""The groups of the training rows in the run's folder: written where there are any, removed where there are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ftft.data.examples import Examples
from ftft.report.parts import read_groups
from ftft.run.runner import write_groups


@pytest.mark.parametrize("groups", [["a", "b", None], [None, None, None]])
def test_groups_round_trip_and_go_with_the_data(groups: list[str | None], tmp_path: Path) -> None:
    path, ids = tmp_path / "groups.parquet", pa.array(["x", "y", "z"])
    labels = np.array([0, 1, 0])
    write_groups(path, Examples(ids, {"text": ids}, labels, ("n", "p"), "f", groups=pa.array(groups, type=pa.string())))
    found_ids, found = read_groups(path)
    assert found_ids.to_pylist() == ["x", "y", "z"]
    assert found.to_pylist() == [group or "(none)" for group in groups]
    write_groups(path, Examples(ids, {"text": ids}, labels, ("n", "p"), "f"))
    assert not path.exists()
