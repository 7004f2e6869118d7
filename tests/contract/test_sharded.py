"""Methods that say they work on weights in shards: two processes with half a model each train as one with the whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sharded_script import tried
from test_contract import RATES, TRAINED, kind, named, planned, section

from ftft.engine.processes import ALONE
from ftft.methods.header import MethodHeader

SCRIPT = Path(__file__).with_name("sharded_script.py")
SAYING_YES = [one for one in TRAINED if one.sharded]


def asked(header: MethodHeader) -> dict[str, Any]:
    parts = {header.question: section(header), **({"adapt": "lora"} if "pairs" in header.needs else {})}
    return {"kind": kind(header), "parts": parts, "rate": RATES.get(header.question), "steps": planned(header, 3)}


@pytest.fixture(scope="module")
def folders(tiny_folder: Callable[..., Path]) -> dict[str, str]:
    return {architecture: str(tiny_folder(architecture)) for architecture in ("bert", "llama")}


@pytest.fixture(scope="module")
def left(folders: dict[str, str], fork_processes: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one pair of processes left of all methods."""
    folder = tmp_path_factory.mktemp("sharded")
    trials = {f"{one.question}.{one.name}": asked(one) for one in SAYING_YES}
    (folder / "asked.json").write_text(json.dumps({"folders": folders, "trials": trials}))
    child = fork_processes(str(folder), script=str(SCRIPT))
    output, _ = child.communicate(timeout=400)
    assert child.returncode == 0, output[-5000:]
    return folder


@pytest.mark.processes
@named(SAYING_YES)
def test_in_shards_it_trains_as_on_the_whole_model(header: MethodHeader, folders: dict[str, str], left: Path) -> None:
    name, how = f"{header.question}.{header.name}", asked(header)
    found = [json.loads((left / f"{name}-{rank}.json").read_text()) for rank in range(2)]
    assert not any("error" in one for one in found), found[0].get("error", found[1].get("error"))
    shares = np.array([one["shares"] for one in found])
    assert np.allclose(shares.sum(axis=0), 1.0) and (shares < 1.0).any(axis=0).mean() > 0.9, "each holds about a half"
    alone = tried(folders, how, ALONE, sharded=False)
    one = alone.train(how["steps"])
    for losses in (one_process["losses"] for one_process in found):
        np.testing.assert_allclose(losses, one.losses, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found[0]["logits"], alone.logits(one.assembled.adapted.model), rtol=0, atol=1e-9)
    merged, expected = load_file(left / f"{name}.safetensors"), one.assembled.adapted.merged()
    assert merged.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(merged[key], value, rtol=0, atol=1e-9)
    assert len(set(one.losses)) > 1, "nothing was learned"


def test_every_method_of_ours_says_whether_it_works_on_shards() -> None:
    from ftft.methods.registry import list_methods

    silent = [f"{one.question}.{one.name}" for one in list_methods() if one.package == "ftft" and one.sharded is None]
    assert not silent, f"declare `sharded: ClassVar[bool]` in {', '.join(silent)}"
    assert {one.name for one in SAYING_YES} >= {"full", "lora", "cross_entropy", "adamw", "sgd"}
