"""`ftft verify`: a finished run's first steps come out again bit by bit, and whatever differs is said."""

from __future__ import annotations

import copy
import json
import math
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ftft.cli.main import main
from ftft.run.recipe import Recipe
from ftft.run.runner import run_recipe

STAGES = {
    "erm": {},
    "reference": {"dynamics": {"mode": "online"}, "adapt": {"name": "lora", "rank": 2}},
    "main": {
        "use_dynamics_of": "reference",
        "select": {"name": "top", "score": "variability", "fraction": 0.5},
        "stop": {"patience": 2, "metric": "loss"},
        "combine": "best",
    },
}


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe]
) -> tuple[Path, Path]:
    """(the user's folder, a run in it); not to be changed."""
    home = tmp_path_factory.mktemp("home")
    model = home / "model"
    shutil.copytree(tiny_bert_folder, model)
    optimize = {"name": "adamw", "learning_rate": 1e-3}
    folder = run_recipe(tiny_recipe(home, model, {name: {"optimize": optimize, **stage} for name, stage in STAGES.items()}))
    return home, folder


@pytest.fixture
def moved(finished: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """A copy to damage; its recipe names its own data and model."""
    home, folder = finished
    copied = shutil.copytree(home, tmp_path / "home")
    recipe = copied / folder.relative_to(home) / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(home), str(copied)))
    return copied, recipe.parent


def tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files} | {
        str(path): (b"", path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_dir()
    }


def verify(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(["verify", *map(str, arguments)])
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    return int(caught.value.code or 0), shown.out, shown.err.strip().splitlines()[-1] if shown.err.strip() else ""


def edit_result(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "result.json"
    document = json.loads(path.read_text())
    del document["payload_sha256"]
    edit(document)
    path.write_text(json.dumps(document))


def test_an_untouched_run_is_verified_and_nothing_is_changed(
    finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    home, folder = finished
    before = tree(home)
    code, out, _ = verify(capsys, folder)
    assert (code, out.splitlines()) == (
        0,
        [*(f"{name}: 5 of 24 steps match in losses and weights" for name in STAGES), "verified, bit for bit: 3 stages"],
    )
    assert tree(home) == before
    code, out, _ = verify(capsys, folder, "--steps", "3")
    assert code == 0 and "erm: 3 of 24 steps match in losses\n" in out
    code, out, _ = verify(capsys, folder, "--steps", "1000")
    assert code == 0 and "main: 24 of 24 steps match in losses and weights\n" in out
    assert tree(home) == before


def test_all_steps_of_a_sampler_are_replayed_however_many_were_planned(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe], capsys: pytest.CaptureFixture[str]
) -> None:
    sampled = {
        "train": {"epochs": 3, "batch_size": 8, "precision": "fp32"},
        "optimize": {"name": "adamw", "learning_rate": 1e-3},
        "select": {"name": "infobatch", "prune": 0.9, "delta": 0.9},
    }
    folder = run_recipe(tiny_recipe(tmp_path, tiny_bert_folder, {"main": sampled}))
    taken = len(json.loads((folder / "result.json").read_text())["stages"]["main"]["training"]["losses"])
    assert 12 < taken < 33
    code, out, _ = verify(capsys, folder, "--steps", "1000")
    assert code == 0 and f"main: {taken} of {taken} steps match in losses and weights\n" in out


def test_the_recorded_number_of_threads_is_taken_and_put_back(
    finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = finished
    before = torch.get_num_threads()
    seen: list[int] = []
    real = torch.set_num_threads
    monkeypatch.setattr(torch, "set_num_threads", lambda count: (seen.append(count), real(count))[1])
    real(before + 1)
    try:
        code, out, _ = verify(capsys, folder, "--steps", "1")
        assert code == 0 and "different here" not in out
        assert seen == [before, before + 1] * 3 and torch.get_num_threads() == before + 1
    finally:
        real(before)


def test_the_store_is_not_needed(moved: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    _, folder = moved
    shutil.rmtree(folder.parent / ".store")
    before = tree(folder.parent)
    assert verify(capsys, folder)[0] == 0
    assert tree(folder.parent) == before


def test_a_stage_that_selects_with_an_earlier_stages_model(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe], capsys: pytest.CaptureFixture[str]
) -> None:
    got_d = {"name": "got_d", "target": "ood_validation", "fraction": 0.25}
    train = {"steps": 6, "batch_size": 8, "precision": "fp32"}
    stages = {"reference": {"train": train}, "main": {"train": train, "select": got_d, "use_model_of": "reference"}}
    folder = run_recipe(tiny_recipe(tmp_path, tiny_bert_folder, stages, main="main"))
    code, out, _ = verify(capsys, folder)
    assert code == 0 and "different here" not in out and out.splitlines()[-1] == "verified, bit for bit: 2 stages"
    target = tmp_path / "ood_validation.csv"
    text = target.read_text()
    target.write_text(text + "one-more,the dog,positive,1\n")
    code, out, _ = verify(capsys, folder, "--steps", "1")
    assert code == 1 and "the validation set that the stage selects towards is not that of the run" in out
    target.write_text(text)
    reference = json.loads((folder / "result.json").read_text())["stages"]["reference"]["key"][:20]
    (folder.parent / ".store" / reference / "finished.json").unlink()  # its model may be half there
    code, out, _ = verify(capsys, folder)
    assert code == 0 and "main: 5 of 6 steps match in losses and weights" in out
    assert "  different here: the store holds the model of stage reference no longer, so what it selected was taken as" in out
    shutil.rmtree(folder.parent / ".store")
    assert verify(capsys, folder)[0] == 0


def test_the_last_bit_of_a_loss_or_of_the_weights_is_found(
    moved: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = moved
    text = (folder / "result.json").read_text()

    def loss(document: dict[str, Any]) -> None:
        losses = document["stages"]["reference"]["training"]["losses"]
        losses[3] = math.nextafter(losses[3], 9.0)

    edit_result(folder, loss)
    code, out, _ = verify(capsys, folder)
    assert code == 1 and out.splitlines()[-1] == "the run does not replay"
    assert "reference: 5 of 24 steps DIFFER: the loss of step 4 was " in out and "erm: 5 of 24 steps match" in out
    (folder / "result.json").write_text(text)
    edit_result(folder, lambda document: document["stages"]["main"]["training"]["weights"].update({"5": "0" * 64}))
    code, out, _ = verify(capsys, folder)
    assert code == 1 and "main: 5 of 24 steps DIFFER: the weights after step 5 have other bits" in out


def test_a_flipped_bit_of_the_saved_model_is_found(moved: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    _, folder = moved
    weights = folder / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    code, out, _ = verify(capsys, folder, "--steps", "1")
    first, *rest = out.splitlines()
    assert code == 1 and first.startswith(f"model: {weights} is damaged: its content does not fit the SHA-256")
    assert rest == [f"{name}: 1 of 24 steps match in losses" for name in STAGES]
    with pytest.raises(SystemExit) as caught:
        main(["eval", str(folder / "model"), str(folder / "recipe.yaml")])
    assert caught.value.code == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith(f"error: model: {weights} is damaged")


def test_other_versions_and_another_processor_are_named(moved: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    _, folder = moved

    def older(document: dict[str, Any]) -> None:
        stage = document["stages"]["erm"]
        stage["provenance"]["versions"]["torch"] = "1.0"
        stage["provenance"]["processor"] = "an abacus"
        stage["resume_differences"] = ["tokenizers was 1 and is 2 now"]
        stage["training"]["losses"][0] += 1e-9

    edit_result(folder, older)
    code, out, _ = verify(capsys, folder)
    assert code == 1
    assert "  different here: torch was 1.0 and is " in out and "the processor was an abacus and is " in out
    assert "the run itself was resumed under other conditions: tokenizers was 1 and is 2 now" in out


def test_changed_data_models_and_settings_are_named(moved: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    home, folder = moved
    train = home / "train.csv"
    text = train.read_text()
    train.write_text(text.replace("train-0007,", "train-0007,very ", 1))
    code, out, _ = verify(capsys, folder, "--steps", "1")
    assert code == 1 and out.count("the training data are not those of the run") == 3
    train.write_text(text)
    recipe = folder / "recipe.yaml"
    written = recipe.read_text()
    recipe.write_text(written.replace("fraction: 0.5", "fraction: 0.25"))
    code, out, _ = verify(capsys, folder, "--steps", "1")
    assert code == 1 and "main: 1 of 24 steps DIFFER: 48 examples were selected then and 24 now, 24 of them the same" in out
    assert "  different here: the stage's settings differ (select)" in out and "reference: 1 of 24 steps match" in out
    recipe.write_text(written.replace("patience: 2", "patience: 3"))
    code, out, _ = verify(capsys, folder, "--steps", "1")
    assert code == 1 and "main: 1 of 24 steps DIFFER: it is another stage" in out
    shutil.rmtree(folder.parent / ".store")
    code, out, _ = verify(capsys, folder, "--steps", "1")
    assert code == 1 and "data, model or settings are not those of the run, whose store no longer says which" in out


def test_paths_start_where_the_run_was_started_and_not_in_its_folder(
    finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, folder = finished
    copied = shutil.copytree(home, tmp_path / "home")
    run = copied / folder.relative_to(home)
    # Written "model", beside which the run's own folder has a trained model of that name.
    (run / "recipe.yaml").write_text((run / "recipe.yaml").read_text().replace(f"{home}/", ""))
    monkeypatch.chdir(copied)
    code, out, _ = verify(capsys, run.relative_to(copied), "--steps", "2")
    assert code == 0, out
    monkeypatch.chdir(tmp_path)
    code, _, error = verify(capsys, run, "--steps", "2")
    assert code == 2 and error.startswith("error: data.train.path: train.csv does not exist")
    assert error.endswith("verify a run in the folder it was started in, with its data and models in place")


REFUSED: dict[str, tuple[Callable[[Path], Any], list[str], str]] = {
    "no run": (lambda folder: shutil.rmtree(folder), [], "does not exist; name the folder of a finished run"),
    "unfinished": (lambda folder: os.remove(folder / "result.json"), [], "holds no result.json"),
    "no steps": (lambda folder: None, ["--steps", "0"], "--steps is 0; replay at least 1 step"),
    "no recipe": (lambda folder: os.remove(folder / "recipe.yaml"), [], "the run's recipe .* does not exist"),
    "no losses": (
        lambda folder: edit_result(folder, lambda document: document["stages"]["erm"]["training"].pop("losses")),
        [], "keeps no losses of stage erm to compare a replay with",
    ),
    "no stage": (
        lambda folder: edit_result(folder, lambda document: document["stages"].pop("main")),
        [], "holds no stage main, which .*recipe.yaml has; run it again",
    ),
    "two processes": (
        lambda folder: edit_result(folder, lambda document: document["stages"]["erm"]["provenance"].update(processes=2)),
        [], "stage erm was trained by 2 processes; verify it with `torchrun --nproc_per_node 2 -m ftft verify`",
    ),
    "no such device": (
        lambda folder: edit_result(folder, lambda document: document["stages"]["erm"]["provenance"].update(device="A GPU")),
        [], "stage erm was trained on A GPU, and this machine has only its CPU to replay it on",
    ),
    "no dynamics": (
        lambda folder: (folder / "stages" / "reference" / "dynamics.parquet").write_bytes(b"PAR1"),
        [], "dynamics.parquet",
    ),
    "no selection": (lambda folder: os.remove(folder / "stages" / "erm" / "selection.parquet"), [], "does not exist"),
    "no model": (lambda folder: shutil.rmtree(folder.parents[1] / "model"), [], "stages.erm.model.path: .* does not exist"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "arguments", "expected"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_verified_is_one_sentence(
    damage: Callable[[Path], Any],
    arguments: list[str],
    expected: str,
    moved: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    _, folder = moved
    damage(folder)
    code, _, error = verify(capsys, folder, "--steps", "1", *arguments)
    assert code == 2 and error.startswith("error: ") and re.search(expected, error), error


def test_a_hash_of_the_weights_outlives_a_resumption(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Recipe], capsys: pytest.CaptureFixture[str]
) -> None:
    from ftft.errors import Interrupted

    train = {"steps": 12, "batch_size": 8, "precision": "fp32", "shuffle": "plain"}
    recipe = tiny_recipe(tmp_path, tiny_bert_folder, {"erm": {"train": train}})

    def interrupt(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 8:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        run_recipe(recipe, notify=interrupt)
    folder = run_recipe(copy.deepcopy(recipe))
    document = json.loads((folder / "result.json").read_text())
    assert document["stages"]["erm"]["ledger"]["effective"]["training"]["steps"] == 12
    assert list(document["stages"]["erm"]["training"]["weights"]) == ["5"]
    code, out, _ = verify(capsys, folder)
    assert code == 0 and "erm: 5 of 12 steps match in losses and weights" in out
