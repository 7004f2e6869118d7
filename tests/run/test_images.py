"""Recipes of image tasks from data to report: FTFT on a tiny ViT and on a tiny CLIP, checked, run and measured again."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ftft.dynamics.parquet import read_dynamics
from ftft.engine.processes import Processes
from ftft.errors import UserError
from ftft.methods.registry import build_task
from ftft.report.writing import write_report
from ftft.run.checking import check_models_and_data
from ftft.run.evaluating_saved import evaluate_saved
from ftft.run.predicted_costs import predict_costs
from ftft.run.reading import check_files, recipe_from_dict
from ftft.run.runner import read_result, run_recipe
from ftft.run.stages import StageRun
from ftft.tasks.image_text import ImageText

Image = pytest.importorskip("PIL.Image")
CAPTIONS = {"dark": "the old place", "light": "very happy people"}
SIZES = {"train": 48, "validation": 16, "test": 16, "elsewhere": 16}


def pictures(name: str, size: int) -> tuple[np.ndarray, list[str]]:
    """Dark and light noise, uint8 [N, 8, 8, 3]."""
    source = np.random.default_rng([len(name), size])
    labels = np.arange(size) % 2
    values = source.integers(0, 90, (size, 8, 8, 3)) + 150 * labels[:, None, None, None]
    return values.astype(np.uint8), [("dark", "light")[label] for label in labels]


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``train.parquet``, ``validation.parquet``, ``test.parquet`` with encoded images, and the image folder ``elsewhere``."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, size in SIZES.items():
        values, labels = pictures(name, size)
        if name == "elsewhere":
            for row, (one, label) in enumerate(zip(values, labels)):
                (folder / name / label).mkdir(parents=True, exist_ok=True)
                (folder / name / label / f"{row}.png").write_bytes(png(one))
            continue
        images = [{"bytes": png(one), "path": None} for one in values]
        kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        texts = [CAPTIONS[label] for label in labels]
        pq.write_table(pa.table({"image": pa.array(images, kind), "text": texts, "label": labels}), folder / f"{name}.parquet")
    return folder


def require_predicted(recipe: Any, result: Any) -> None:
    """What `ftft check --cost` predicts of the recipe is what its run has counted."""
    lines = check_models_and_data(recipe)
    while True:
        try:
            next(lines)
        except StopIteration as end:
            checked = end.value
            break
    found = predict_costs(recipe, build_task(recipe.task), checked.data, checked.plans)
    costs = {name: result["stages"][name]["cost"]["flops"] for name in found.stages}
    assert {name: found.whole(name) for name in found.stages} == costs
    afterwards = {name: one["reporting_ledger"]["effective"]["evaluation"]["flops"] for name, one in result["stages"].items()}
    assert {name: one.reporting for name, one in found.stages.items()} == afterwards


def recipe_of(folder: Path, model: Path, task: Any, output: Path, **changes: Any) -> Any:
    two = isinstance(task, dict)
    evaluation: dict[str, Any] = {
        "validation": {"path": str(folder / "validation.parquet"), "role": "id", "split": "validation"},
        "test": {"path": str(folder / "test.parquet"), "role": "id", "split": "test"},
    }
    if not two:
        evaluation["elsewhere"] = {"path": str(folder / "elsewhere")}
    usual = {
        "model": {"path": str(model)},
        "train": {"epochs": 3, "batch_size": 8, "precision": "fp32", **changes.pop("train", {})},
        "optimize": {"name": "adamw", "learning_rate": 5e-3},
        "evaluate": {"resamples": 20},
    }
    reference = {**usual, "model": {"path": str(model), "keep_layers": 1}, "dynamics": {"mode": "online"}}
    choose = {"name": "top", "score": "variability", "fraction": 0.5}
    main = {**usual, "use_dynamics_of": "reference", "select": choose, **changes.pop("main", {})}
    stages = {"erm": usual, "reference": reference, "main": main}
    data = {"train": {"path": str(folder / "train.parquet")}, "evaluation": evaluation}
    raw = {"task": task, "data": data, "stages": stages, "baseline": "erm", "main": "main", "output": str(output)}
    return recipe_from_dict({**raw, **changes}, default_name="images")


def test_ftft_on_a_vit_from_files_to_a_model_that_transformers_loads(data_folder, tiny_vit_folder, tmp_path):
    main = {"adapt": {"name": "lora", "rank": 2}, "stop": {"patience": 2}, "combine": {"name": "best"}}
    recipe = recipe_of(data_folder, tiny_vit_folder(), "image_classification", tmp_path / "runs", main=main)
    check_files(recipe)
    lines = list(check_models_and_data(recipe))
    assert (
        "stage reference: ViTForImageClassification, 1 of 3 layers" in "\n".join(lines) and lines[-1] == "the recipe is sound"
    )
    run = run_recipe(recipe)
    result = read_result(run)
    require_predicted(recipe, result)
    assert '"texts":null,' in write_report(run, texts=True).read_text(encoding="utf-8")  # an image is none
    assert result["stages"]["main"]["selection"]["examples"] == 24
    assert result["stages"]["erm"]["evaluation"]["elsewhere"]["metrics"]["accuracy"]["value"] > 0.9
    costs = [result["stages"][name]["ledger"]["effective"]["training"]["flops"] for name in ("erm", "reference")]
    assert 0 < costs[1] < 0.6 * costs[0]
    dynamics = read_dynamics(run / "stages/reference/dynamics.parquet")
    assert dynamics.seen.all() and dynamics.logits is not None and dynamics.logits.shape == (3, 48, 2)
    from transformers import AutoModelForImageClassification
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    model = AutoModelForImageClassification.from_pretrained(run / "model").eval()
    values = AutoImageProcessor.from_pretrained(run / "model")(list(pictures("test", 16)[0]), return_tensors="pt")
    predicted = [model.config.id2label[one] for one in model(**values).logits.argmax(dim=1).tolist()]
    accuracy = np.mean([one == label for one, label in zip(predicted, pictures("test", 16)[1])])
    assert accuracy == result["stages"]["main"]["evaluation"]["test"]["metrics"]["accuracy"]["value"]
    again = evaluate_saved(run / "model", recipe)
    assert again["test"]["metrics"]["accuracy"]["value"] == accuracy


def test_ftft_on_two_towers(data_folder, tiny_clip_folder, tmp_path):
    task = {"name": "image_text", "captions": CAPTIONS, "max_length": 32}
    recipe = recipe_of(data_folder, tiny_clip_folder(), task, tmp_path / "runs")
    assert list(check_models_and_data(recipe))[-1] == "the recipe is sound"
    run = run_recipe(recipe)
    result = read_result(run)
    require_predicted(recipe, result)
    page = write_report(run, texts=True).read_text(encoding="utf-8")
    assert '"text_columns":["text"]' in page and f'["{CAPTIONS["dark"]}"],["{CAPTIONS["light"]}"]' in page
    assert result["stages"]["main"]["selection"]["examples"] == 24
    assert result["stages"]["erm"]["evaluation"]["test"]["metrics"]["accuracy"]["value"] > 0.7
    dynamics = read_dynamics(run / "stages/reference/dynamics.parquet")
    assert set(dynamics.statistics) == {"mean_log_probability", "probability"} and dynamics.seen.all()
    from transformers import CLIPModel

    assert CLIPModel.from_pretrained(run / "model").config.vision_config.num_hidden_layers == 3
    again = evaluate_saved(run / "model", recipe)
    kept = result["stages"]["main"]["evaluation"]["test"]["metrics"]["accuracy"]["value"]
    assert again["test"]["metrics"]["accuracy"]["value"] == kept


def test_what_a_batch_decides_is_not_cut(data_folder, tiny_clip_folder, tiny_vit_folder, tmp_path):
    task = {"name": "image_text", "captions": CAPTIONS, "max_length": 32}
    with pytest.raises(UserError, match=r"stages.erm.train.micro_batch_size: in image_text .* depends on its batch"):
        recipe_of(data_folder, tiny_clip_folder(), task, tmp_path, train={"micro_batch_size": 4})
    recipe_of(data_folder, tiny_clip_folder(), task, tmp_path, train={"micro_batch_size": 8})
    recipe_of(data_folder, tiny_vit_folder(), "image_classification", tmp_path, train={"micro_batch_size": 4})
    with pytest.raises(UserError, match="task.captions is empty"):
        recipe_of(data_folder, tiny_clip_folder(), {"name": "image_text"}, tmp_path)
    late = {"dynamics": {"mode": "epoch_end"}}
    with pytest.raises(UserError, match=r"stages.main.dynamics.mode: in image_text .* record with mode: online"):
        recipe_of(data_folder, tiny_clip_folder(), task, tmp_path, main=late)
    recipe_of(data_folder, tiny_vit_folder(), "image_classification", tmp_path, main=late)


def test_every_pair_is_recorded_among_as_many_others(data_folder, tiny_clip_folder, tmp_path, monkeypatch):
    """48 pairs in batches of 10: the rest of 8 is filled up, in training and where a sampler chooses."""
    sizes: list[int] = []
    real = ImageText.record

    def record(self: Any, outputs: Any, batch: Any) -> Any:
        sizes.append(len(batch))
        return real(self, outputs, batch)

    monkeypatch.setattr(ImageText, "record", record)
    task = {"name": "image_text", "captions": CAPTIONS, "max_length": 32}
    train = {"batch_size": 10}
    recipe = recipe_of(data_folder, tiny_clip_folder(), task, tmp_path / "runs", train=train)
    run = run_recipe(recipe)
    assert sizes == [10] * 15
    reference = read_result(run)["stages"]["reference"]
    assert reference["training"]["steps"] == 15 and read_dynamics(run / "stages/reference/dynamics.parquet").seen.all()
    spec = json.loads((tmp_path / "runs/.store" / reference["key"][:20] / "stage.json").read_text())["spec"]
    assert spec["short_batch"] == "filled"
    measured = read_result(run)["stages"]["main"]["cost"]["erm_flops"]
    cost = read_result(run_recipe(dataclasses.replace(recipe, baseline=None)))["stages"]["main"]["cost"]
    assert cost["erm_source"].startswith("estimated") and cost["erm_flops"] == pytest.approx(measured, rel=0.02)


def test_sets_of_images_and_texts_merge_no_classes(data_folder, tiny_clip_folder, tiny_vit_folder, tmp_path):
    task = {"name": "image_text", "captions": CAPTIONS, "max_length": 32}
    merged = {"path": str(data_folder / "test.parquet"), "merge_labels": {"any": ["dark", "light"]}}
    data = {"train": {"path": str(data_folder / "train.parquet")}, "evaluation": {"test": merged}}
    with pytest.raises(UserError, match="^data.evaluation.test.merge_labels: image_text classifies a set by the captions"):
        recipe_of(data_folder, tiny_clip_folder(), task, tmp_path, data=data)
    recipe_of(data_folder, tiny_vit_folder(), "image_classification", tmp_path, data=data)


def test_several_processes_are_refused_where_a_batch_decides(data_folder, tiny_clip_folder, tmp_path):
    task = {"name": "image_text", "captions": CAPTIONS, "max_length": 32}
    recipe = recipe_of(data_folder, tiny_clip_folder(), task, tmp_path)
    nothing: Any = None
    run = StageRun(recipe, "erm", nothing, build_task(recipe.task), nothing, {}, print, print, Processes(count=2))
    with pytest.raises(UserError, match="stages.erm: in image_text .* several processes .* run it in one process"):
        run.run()


def test_a_folder_is_data_for_images_only(data_folder, tiny_vit_folder, tmp_path):
    recipe = recipe_of(data_folder, tiny_vit_folder(), "image_classification", tmp_path)
    check_files(recipe)
    texts = recipe_of(data_folder, tiny_vit_folder(), "text_classification", tmp_path)
    with pytest.raises(UserError, match="data.evaluation.elsewhere.path: .* is a folder"):
        check_files(texts)
