"""Real data sets, where they are at hand: counts as their own documentation states them."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pyarrow.compute as pc
import pytest

from ftft.data.loading import load_data
from ftft.data.settings import Columns, DataFile, DataSettings, EvaluationFile

FOLDER = Path(os.environ.get("FTFT_DATA") or Path(__file__).resolve().parents[2].parent / "shared" / "data")
NLI = ["entailment", "neutral", "contradiction"]


def real(name: str) -> str:
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"{name} is not under FTFT_DATA or the folder shared/data beside the repository")
    return str(path)


def test_hate_speech_counts_and_its_own_duplicate_marks() -> None:
    names, columns = ["non-toxic", "toxic"], Columns(id="id", cluster="dup_train")
    train = DataFile(path=real("hsd_cad/train.jsonl.gz"), labels=names)
    sets = {
        name: EvaluationFile(path=real(f"hsd_cad/{name}.jsonl.gz"), columns=columns, labels=names) for name in ("dev", "test")
    }
    sets["dev"] = dataclasses.replace(sets["dev"], role="id", split="validation")
    loaded = load_data(DataSettings(train=train, columns=Columns(id="id"), evaluation=sets))
    assert loaded.report["train"]["n"] == 13584
    assert loaded.report["train"]["classes"] == {"non-toxic": 11171, "toxic": 2413}
    for name, found in loaded.evaluation.items():
        clusters = found.examples.clusters
        assert clusters is not None
        marked = pc.sum(pc.equal(clusters, "true")).as_py()
        # Rows without any letter count there as copies of one another, and here only where they are equal.
        bare = pc.sum(pc.invert(pc.match_substring_regex(found.examples.inputs["text"], r"[\pL\pN]"))).as_py() or 0
        assert marked - bare <= loaded.report["evaluation"][name]["duplicates"]["normalised"] <= marked


def test_three_way_labels_are_merged_for_a_two_way_set() -> None:
    rte = EvaluationFile(
        path=real("nli_small/rte_dev.jsonl.gz"),
        labels=["entailment", "not_entailment"],
        merge_labels={"entailment": ["entailment"], "not_entailment": ["neutral", "contradiction"]},
    )
    sick = EvaluationFile(path=real("nli_sick/dev.jsonl.gz"), labels=NLI, role="id", split="validation")
    train = DataFile(path=real("nli_sick/train.jsonl.gz"), labels=NLI)
    loaded = load_data(
        DataSettings(train=train, columns=Columns(text=["premise", "hypothesis"]), evaluation={"rte": rte, "sick": sick})
    )
    assert loaded.train.label_names == tuple(NLI) and len(loaded.train) == 4500
    assert loaded.report["evaluation"]["rte"]["classes"] == {"entailment": 146, "not_entailment": 131}
    assert loaded.evaluation["rte"].merge == ((0,), (1, 2))
    assert loaded.report["evaluation"]["sick"]["duplicates"]["exact"] >= 1
