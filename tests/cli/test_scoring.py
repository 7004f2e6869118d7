"""`ftft score`, `select` and `export` on what other programs left: checkpoints with their ids and lengths, few epochs,
cartography's metrics."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ftft.cli.main import main
from ftft.dynamics.cartography import read_metrics
from ftft.dynamics.parquet import open_dynamics, write_dynamics
from ftft.dynamics.score_file import read_scores
from ftft.dynamics.score_names import SCORES
from ftft.dynamics.scores import compute_scores
from ftft.dynamics.table import Dynamics

ROWS = 12


def call(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Any], tiny_tokenizer: Any) -> Path:
    """train.jsonl (texts of 4 to 15 words, a unique `id`) and checkpoint-1 to -3 of a classifier that changes."""
    import torch

    folder = tmp_path_factory.mktemp("checkpoints")
    texts = [" ".join(["good", "the", "movie", "was"] + ["very"] * row) for row in range(ROWS)]
    rows = [{"text": text, "label": ("no", "yes")[row % 2], "id": f"r{row}"} for row, text in enumerate(texts)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = tiny_model("bert", labels=2)
    model.config.id2label, model.config.label2id = {0: "no", 1: "yes"}, {"no": 0, "yes": 1}
    for step in (1, 2, 3):
        with torch.no_grad():
            model.classifier.weight.mul_(-1.5)
        model.save_pretrained(folder / f"checkpoint-{step}")
        tiny_tokenizer.save_pretrained(folder / f"checkpoint-{step}")
    return folder


def recorded(path: Path, epochs: int, n: int = 8) -> Path:
    generator = np.random.default_rng(3)
    logits = generator.normal(size=(epochs, n, 2)).astype(np.float32)
    gold = np.arange(n, dtype=np.int32) % 2
    seen = np.ones((epochs, n), dtype=bool)
    write_dynamics(Dynamics(pa.array([f"e{i}" for i in range(n)]), tuple(range(epochs)), seen, gold, logits=logits), path)
    return path


# -- checkpoints ------------------------------------------------------------------------------------------------------------


def test_checkpoints_are_scored_by_the_file_s_own_ids(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "s.parquet"
    folders = [home / f"checkpoint-{step}" for step in (1, 2, 3)]
    assert call("score", "--checkpoints", *folders, "--data", home / "train.jsonl", "--out", out) == 0
    assert read_scores(out)[0].to_pylist() == [f"r{row}" for row in range(ROWS)]
    shown = capsys.readouterr()
    assert f"ids: the column id of {home / 'train.jsonl'}\n" in shown.out and shown.err == ""


def test_rows_without_a_unique_column_are_told_to_have_ids_of_their_content(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in (home / "train.jsonl").read_text().splitlines()]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({**row, "id": "same"}) + "\n" for row in rows))
    out = tmp_path / "s.parquet"
    folders = [home / f"checkpoint-{step}" for step in (1, 2, 3)]
    assert call("score", "--checkpoints", *folders, "--data", tmp_path / "train.jsonl", "--out", out) == 0
    assert all(len(name) == 16 for name in read_scores(out)[0].to_pylist())
    assert "ids: made from the content, as no column holds a unique one (name yours with --id)" in capsys.readouterr().out


def test_what_is_noticed_in_the_rows_is_told(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(
        f"r{row}\t{text}\t{label}\n" for row, (text, label) in enumerate([('"He said ""no"""', "no"), ("good", "yes")])
    )
    (tmp_path / "train.tsv").write_text("id\ttext\tlabel\n" + rows)
    arguments = ["--checkpoints", home / "checkpoint-1", "--data", tmp_path / "train.tsv", "--score", "confidence"]
    assert call("score", *arguments, "--out", tmp_path / "s.parquet") == 0
    assert "train.tsv: one text looks as if written with quoting" in capsys.readouterr().err


def test_texts_are_cut_at_the_length_given_and_the_number_cut_is_said(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    data = ["--data", home / "train.jsonl", "--out", tmp_path / "s.parquet", "--dynamics-out", tmp_path / "d.parquet"]
    folder = home / "checkpoint-1"
    assert call("score", "--checkpoints", folder, *data, "--max-length", "10") == 0
    # 4 + row words and two special tokens: rows 5 to 11 have more than 10.
    assert f"texts: cut after 10 tokens; 7 of {ROWS} were longer\n" in capsys.readouterr().out
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [json.loads(line)["text"] for line in (home / "train.jsonl").read_text().splitlines()]
    batch = tokenizer(texts, truncation=True, max_length=10, padding=True, return_tensors="pt")
    expected = AutoModelForSequenceClassification.from_pretrained(folder).eval()(**batch).logits.detach().numpy()
    found = open_dynamics(tmp_path / "d.parquet")
    assert found.logits is not None
    np.testing.assert_allclose(found.logits[0], expected, atol=1e-5)
    assert (found.metadata["max_length"], found.metadata["cut"]) == (10, 7)

    assert call("score", "--checkpoints", folder, *data) == 0
    assert "texts: cut after 128 tokens, the most the model takes; give" in capsys.readouterr().out
    found = open_dynamics(tmp_path / "d.parquet")
    assert (found.metadata["max_length"], found.metadata["cut"]) == (128, 0)


@pytest.mark.parametrize("length", ["2", "129"])
def test_a_length_that_the_model_cannot_take_is_refused(
    length: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "s.csv"
    arguments = ["--checkpoints", home / "checkpoint-1", "--data", home / "train.jsonl", "--out", out]
    assert call("score", *arguments, "--max-length", length) == 2
    shown = capsys.readouterr().err
    assert f"max_length is {length}; give more than the 2 special tokens" in shown and "at most the 128 tokens" in shown
    assert not out.exists()


def test_a_length_is_for_checkpoints_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("score", recorded(tmp_path / "d.parquet", 3), "--max-length", "9", "--out", tmp_path / "s.csv") == 2
    assert "--max-length is for --checkpoints" in capsys.readouterr().err


# -- scores that cannot be given ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_scores_that_few_epochs_cannot_give_are_named(ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = recorded(tmp_path / "d.parquet", 4), tmp_path / f"s{ending}"
    assert call("score", path, "--drop-first", "3", "--out", out) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("wrote 9 scores of 8 examples")
    assert shown.err == (
        "left out: variability needs at least 2 epochs, and there is 1; dyn_unc, dual need at least 3 epochs, and there is 1\n"
    )
    assert call("score", path, "--out", out) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(f"wrote {len(SCORES)} scores") and shown.err == ""


def test_scores_that_one_checkpoint_cannot_give_are_named(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--checkpoints", home / "checkpoint-2", "--data", home / "train.jsonl", "--out", tmp_path / "s.csv"]
    assert call("score", *arguments) == 0
    shown = capsys.readouterr()
    assert "wrote 9 scores" in shown.out and shown.err.startswith("left out: variability needs at least 2 epochs")


def test_scores_that_need_more_than_a_table_holds_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "long.csv"
    table.write_text("id,epoch,probability\n" + "".join(f"{i},{e},0.{i}{e}\n" for i in range(4) for e in range(3)))
    assert call("score", table, "--out", tmp_path / "s.csv") == 0
    shown = capsys.readouterr().err
    assert "correctness, forgetting need whether the gold class was predicted, which these dynamics do not hold" in shown


def test_a_score_asked_for_by_name_is_written_or_refused(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = recorded(tmp_path / "d.parquet", 4), tmp_path / "s.csv"
    for refused in (
        ["score", path, "--drop-first", "3", "--score", "variability", "--out", out],
        ["score", path, "--drop-first", "3", "--score", "variability", "--out", tmp_path / "s.parquet"],
        ["score", "--checkpoints", home / "checkpoint-1", "--data", home / "no.jsonl", "--score", "dual", "--out", out],
    ):
        assert call(*refused) == 2
        shown = capsys.readouterr()
        assert "needs at least" in shown.err and shown.err.count("\n") == 1 and shown.out == ""
    assert call("score", path, "--score", "varability", "--out", out) == 2
    assert '--score: there is no score "varability"; did you mean "variability"?' in capsys.readouterr().err
    assert not out.exists() and not (tmp_path / "s.parquet").exists()
    assert call("score", path, "--score", "variability", "--score", "aum", "--drop-first", "1", "--out", out) == 0
    assert capsys.readouterr().err == ""
    rows = list(csv.DictReader(out.read_text().splitlines()))
    expected = compute_scores(open_dynamics(path), ["variability", "aum"], epochs=[1, 2, 3])
    assert list(rows[0]) == ["id", "variability", "aum"]
    for name, values in expected.items():
        np.testing.assert_allclose([float(row[name]) for row in rows], values, rtol=1e-12)


# -- cartography's metrics ----------------------------------------------------------------------------------------------------


def test_export_writes_the_metrics_beside_the_dynamics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, folder = recorded(tmp_path / "d.parquet", 4), tmp_path / "cartography"
    assert call("export", path, "--cartography", folder) == 0
    assert sorted(one.name for one in folder.iterdir()) == ["td_metrics.jsonl", "training_dynamics"]
    assert f"wrote the metrics of 8 examples to {folder / 'td_metrics.jsonl'}\n" in capsys.readouterr().out
    metrics, expected = read_metrics(folder / "td_metrics.jsonl"), compute_scores(open_dynamics(folder))
    assert metrics.ids.to_pylist() == [f"e{i}" for i in range(8)]
    for name, values in metrics.scores.items():
        np.testing.assert_allclose(values, expected[name], atol=1e-9)
    assert call("export", folder, "--parquet", tmp_path / "back.parquet") == 0  # metrics beside them do not disturb
    assert call("export", path, "--cartography", folder) == 0  # nor does writing twice


def test_export_of_one_epoch_says_that_there_are_no_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, folder = recorded(tmp_path / "d.parquet", 1), tmp_path / "cartography"
    assert call("export", path, "--cartography", folder) == 0
    assert capsys.readouterr().err == "left out: td_metrics.jsonl, as variability needs at least 2 epochs, and there is 1\n"
    assert [one.name for one in folder.iterdir()] == ["training_dynamics"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "td_metrics.jsonl").write_text("{}\n")
    assert call("export", path, "--cartography", tmp_path / "other") == 2
    assert "is of other dynamics" in capsys.readouterr().err and not (tmp_path / "other" / "training_dynamics").exists()


def test_a_metrics_file_can_be_selected_from_and_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, folder = recorded(tmp_path / "d.parquet", 4, n=30), tmp_path / "cartography"
    assert call("export", path, "--cartography", folder) == 0
    metrics = folder / "td_metrics.jsonl"
    for options in (["--fraction", "0.3"], ["--count", "7", "--score", "confidence", "--lowest", "--drop-suspects", "0.1"]):
        chosen = []
        for number, source in enumerate((path, metrics)):
            out = tmp_path / f"{number}.csv"
            assert call("select", source, *options, "--out", out) == 0
            chosen.append([row["id"] for row in csv.DictReader(out.read_text().splitlines())])
        assert chosen[0] == chosen[1] and chosen[0]
    assert call("score", metrics, "--out", tmp_path / "s.parquet", "--score", "variability") == 0
    ids, scores = read_scores(tmp_path / "s.parquet")
    assert list(scores) == ["variability"] and ids.to_pylist() == [f"e{i}" for i in range(30)]
    capsys.readouterr()
    for refused, sentence in (
        (["select", metrics, "--fraction", "0.3", "--score", "aum"], 'the score "aum" is not among those given'),
        (["select", metrics, "--fraction", "0.3", "--compat", "ftft"], "the variability given is the population's"),
        (["select", metrics, "--fraction", "0.3", "--balance", "class"], "balancing over classes needs labels"),
        (["score", metrics, "--drop-first", "1"], "leave --ddof, --drop-first and --dynamics-out out"),
        (["score", metrics, "--score", "aum"], "holds no aum"),
        (["export", metrics, "--parquet", tmp_path / "x.parquet"], "holds metrics, a row for each example"),
    ):
        output = [] if refused[0] == "export" else ["--out", tmp_path / "refused.csv"]
        assert call(*refused, *output) == 2
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "refused.csv").exists()
