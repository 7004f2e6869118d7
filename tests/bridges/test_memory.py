"""The recorder's memory: what is saved is what is loaded, also by another number of processes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ftft.bridges.identity import KnownIds
from ftft.bridges.memory import Memory, state_file
from ftft.errors import UserError

IDS = pa.array(["a", "b", "c", "d"])


def memory(rank: int = 0, processes: int = 1, ids: pa.Array = IDS, max_classes: int = 64) -> Memory:
    return Memory(KnownIds(ids), None, max_classes=max_classes, rank=rank, processes=processes)


def observe(into: Memory, epoch: int, rows: list[int], value: float, gold: int = 1) -> None:
    logits = np.full((len(rows), 3), value, dtype=np.float32)
    into.observe(epoch, np.array(rows), {"logits": logits}, np.full(len(rows), gold), np.ones(len(rows), dtype=bool))


@pytest.mark.parametrize("max_classes", [64, 2])
def test_two_processes_saved_and_one_loaded_keep_the_earlier_pass(tmp_path, max_classes):
    parts = [memory(rank, 2, max_classes=max_classes) for rank in range(2)]
    observe(parts[0], 0, [0, 1], 1.0, gold=0)
    observe(parts[1], 0, [2], 2.0, gold=2)
    observe(parts[0], 0, [2, 0], 3.0, gold=2)  # later than the other process' pass over 2, and a repetition of 0
    observe(parts[1], 1, [3], 4.0)
    for part in parts:
        part.save(tmp_path, {"note": part.rank})
    one = memory(max_classes=max_classes)
    assert one.load(tmp_path) == {"note": 0}
    table = one.dynamics({})
    values = table.logits[:, :, 0] if max_classes == 64 else table.pair_logits[:, :, 0]
    assert table.epochs == (0, 1)
    np.testing.assert_array_equal(table.seen, [[True, True, True, False], [False, False, False, True]])
    assert values[0, :3].tolist() == [1.0, 1.0, 2.0] and values[1, 3] == 4.0
    assert table.gold.tolist() == [0, 0, 2, 1]
    second = memory(1, 3, max_classes=max_classes)
    second.load(tmp_path)
    assert second.buffer is None  # of three processes the first takes everything


def test_an_epoch_can_be_observed_anew():
    one = memory()
    observe(one, 0, [0, 1, 2, 3], 1.0)
    observe(one, 1, [0, 1], 2.0)
    one.forget_epoch(1)
    assert one.epochs == (0,)
    observe(one, 1, [0], 5.0)
    table = one.dynamics({})
    assert table.seen[1].tolist() == [True, False, False, False] and table.logits[1, 0, 0] == 5.0


def test_damaged_missing_or_newer_state_is_refused(tmp_path):
    one = memory()
    observe(one, 0, [0], 1.0)
    one.save(tmp_path, {})
    path = state_file(tmp_path, 0)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="is damaged"):
        memory().load(tmp_path)
    path.write_bytes(whole.replace(b'"format_version":"1"', b'"format_version":"9"'))
    with pytest.raises(UserError, match="format version 9"):
        memory().load(tmp_path)
    path.write_bytes(whole)
    with pytest.raises(UserError, match="other examples"):
        memory(ids=pa.array(["a", "b", "d", "c"])).load(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match="holds no recorded dynamics"):
        memory().load(tmp_path)
