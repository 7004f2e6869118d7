"""Images become the model's own inputs, the same in every batch; adapters know a ViT's parts; models without what is needed
are refused in one sentence."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from ftft.data.examples import Examples
from ftft.data.images import pack
from ftft.errors import UserError
from ftft.methods import registry
from ftft.methods.contract import Trainables
from ftft.modelmap import ModelMap
from ftft.models.headers import inspect
from ftft.models.loading import load_model, load_saved
from ftft.models.saving import save_model
from ftft.models.settings import ModelSettings
from ftft.tasks import pixels
from ftft.tasks.contract import Task
from ftft.tasks.image_classification import ImageClassification

pytest.importorskip("PIL")
PIXELS = np.random.default_rng(3).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)


def examples(images=PIXELS, labels=None):
    values = pa.array([pack(one) for one in images], pa.large_binary())
    labels = np.arange(len(images)) % 2 if labels is None else labels
    return Examples(pa.array([f"i{row}" for row in range(len(images))]), {"image": values}, labels, ("cat", "dog"), "made")


@pytest.fixture(scope="module")
def loaded(tiny_vit_folder):
    return load_model(ModelSettings(path=str(tiny_vit_folder())), "image_classification", ("cat", "dog"), seed=1)


def test_pixel_values_are_the_processors_and_the_same_kept_or_not(loaded, monkeypatch):
    task = ImageClassification()
    assert isinstance(task, Task) and task.longest is None
    rows = np.array([5, 0, 7])
    kept = task.collate(task.prepare(examples(), loaded.processor), rows)
    expected = (PIXELS[rows].astype(np.float64) / 255 - 0.5) / 0.5  # ViT's own scaling; no resizing at this size
    assert np.allclose(kept.inputs["pixel_values"].numpy(), expected.transpose(0, 3, 1, 2), atol=1e-6)
    assert kept.ids == ["i5", "i0", "i7"] and kept.labels.tolist() == [1, 0, 1] and kept.shape == (3, 192)
    monkeypatch.setattr(pixels, "KEPT_NUMBERS", 0)
    prepared = task.prepare(examples(), loaded.processor)
    assert prepared.storage["kept"] is None
    assert torch.equal(task.collate(prepared, rows).inputs["pixel_values"], kept.inputs["pixel_values"])


def test_images_of_any_size_are_resized(loaded):
    big = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    task = ImageClassification()
    batch = task.collate(task.prepare(examples(big), loaded.processor), np.array([0, 1]))
    assert batch.inputs["pixel_values"].shape == (2, 3, 8, 8)


def test_a_processor_that_does_not_resize_must_get_images_of_one_size(loaded):
    class Plain:
        def __call__(self, images, **_):
            return {"pixel_values": [one.transpose(2, 0, 1).astype(np.float32) for one in images]}

    values = [pack(np.zeros((4 + row, 4, 3), dtype=np.uint8)) for row in range(2)]
    mixed = Examples(pa.array(["a", "b"]), {"image": pa.array(values, pa.large_binary())}, np.array([0, 1]), ("c", "d"), "m")
    with pytest.raises(UserError, match=r"different shapes \(\[3, 4, 4\] and \[3, 5, 4\]\)"):
        ImageClassification().prepare(mixed, Plain())


def test_float64_models_get_float64(loaded, tiny_vit_folder):
    double = load_model(ModelSettings(path=str(tiny_vit_folder())), "image_classification", ("cat", "dog"), dtype=torch.float64)
    task = ImageClassification()
    data = task.prepare(examples(), double.processor)
    rows = np.arange(12)
    given = pixels.as_model(double.model, {"pixel_values": torch.ones(1), "ids": torch.ones(1, dtype=torch.int64)})
    assert given["pixel_values"].dtype == torch.float64 and given["ids"].dtype == torch.int64
    logits = task.forward(double.model, task.collate(data, rows))
    assert logits.dtype == torch.float64 and logits.shape == (12, 2)
    alone = torch.cat([task.forward(double.model, task.collate(data, rows[row : row + 1])) for row in rows])
    assert torch.allclose(logits, alone, atol=1e-12)


def test_the_map_names_every_matrix_of_a_vit(loaded):
    found = ModelMap.of(loaded.model)
    assert len(found.blocks) == 3 and set(found.attention[0]) == {"query", "key", "value", "output"}
    assert set(found.mlp[0]) == {"up", "down"} and found.head == ("classifier.weight", "classifier.bias")
    matrices = {name for name, parameter in found.blocks[0].named_parameters() if parameter.ndim == 2}
    named = {*found.attention[0].values(), *found.mlp[0].values()}
    assert {f"{found.blocks_name}.0.{name}".removesuffix(".weight") for name in matrices} == named


@pytest.mark.parametrize("dtype", [torch.float32])
@pytest.mark.parametrize(
    "name, options",
    [
        ("lora", {"rank": 2}),
        ("bias_only", {}),
        ("linear_probe", {}),
        ("corda", {"rank": 2, "examples": 12}),
        ("eva", {"rank": 2, "batch_size": 8, "tau": 0.5}),
        ("lift", {}),
        ("s2ft", {}),
        ("lora_ga", {"rank": 2}),
        ("probe_then_full", {}),
    ],
)
def test_adapters_change_a_vit_and_merge_back(tiny_vit_folder, name, options, dtype):
    from ftft.engine.calibrating import CountedCalibration
    from ftft.engine.ledger import Ledger

    fresh = load_model(ModelSettings(path=str(tiny_vit_folder())), "image_classification", ("cat", "dog"), seed=1, dtype=dtype)
    task = ImageClassification()
    data = task.prepare(examples(), fresh.processor)
    rows = np.arange(12)
    batch = task.collate(data, rows)
    before = {key: value.clone() for key, value in fresh.model.state_dict().items()}
    calibration = CountedCalibration(task, data, rows, 0, Ledger())
    adapted = registry.build("adapt", {"name": name, **options}, "adapt").adapt(fresh.model, calibration)
    parameters = Trainables.of(adapted.model).named
    torch.optim.SGD([one for _, one in parameters], lr=0.05).zero_grad()
    adapted.model.train()
    task.per_example_loss(task.forward(adapted.model, batch), batch).mean().backward()
    with torch.no_grad():
        for _, parameter in parameters:
            if parameter.grad is not None:
                parameter -= 0.05 * parameter.grad
    adapted.model.eval()
    logits = task.forward(adapted.model, batch)
    merged = adapted.merged()
    assert set(merged) == set(before)
    plain = load_model(ModelSettings(path=str(tiny_vit_folder())), "image_classification", ("cat", "dog"), seed=1, dtype=dtype)
    plain.model.load_state_dict(merged)
    assert torch.allclose(task.forward(plain.model, batch), logits, atol=1e-5)
    changed = {key for key in before if not torch.equal(before[key], merged[key])}
    assert changed and (name != "linear_probe" or changed == {"classifier.weight", "classifier.bias"})
    assert name != "bias_only" or all("bias" in key or "classifier" in key for key in changed)


def test_keep_layers_saving_and_loading(tiny_vit_folder, tmp_path):
    settings = ModelSettings(path=str(tiny_vit_folder()), keep_layers=1)
    assert inspect(settings, kind="image_classification").layers == 3
    cut = load_model(settings, "image_classification", ("cat", "dog"))
    assert cut.description["layers"] == 1 and cut.model.config.num_hidden_layers == 1
    save_model(tmp_path / "saved", cut.model, cut.processor)
    model, processor = load_saved(tmp_path / "saved", "image_classification")
    task = ImageClassification()
    batch = task.collate(task.prepare(examples(), processor), np.arange(12))
    assert torch.equal(task.forward(model, batch), task.forward(cut.model, batch))
    from transformers import AutoModelForImageClassification
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    theirs = AutoModelForImageClassification.from_pretrained(tmp_path / "saved").eval()
    values = AutoImageProcessor.from_pretrained(tmp_path / "saved")(list(PIXELS), return_tensors="pt")
    assert torch.allclose(theirs(**values).logits, task.forward(cut.model, batch), atol=1e-6)
    assert theirs.config.id2label == {0: "cat", 1: "dog"}


def test_the_processors_settings_are_part_of_the_fingerprint(tiny_vit_folder):
    folder = tiny_vit_folder()
    first = load_model(ModelSettings(path=str(folder)), "image_classification", ("cat", "dog")).fingerprint
    config = folder / "preprocessor_config.json"
    config.write_text(config.read_text().replace("0.5", "0.25", 1))
    assert load_model(ModelSettings(path=str(folder)), "image_classification", ("cat", "dog")).fingerprint != first


def test_folders_that_lack_something_are_refused(tiny_vit_folder, tiny_folder):
    folder = tiny_vit_folder()
    (folder / "preprocessor_config.json").unlink()
    for call in (
        lambda: inspect(ModelSettings(path=str(folder)), kind="image_classification"),
        lambda: load_model(ModelSettings(path=str(folder)), "image_classification", ("cat", "dog")),
    ):
        with pytest.raises(UserError, match="has no preprocessor_config.json, which says how the model wants its images"):
            call()
    bert = tiny_folder("bert")
    (bert / "preprocessor_config.json").write_text('{"image_processor_type": "ViTImageProcessor"}')
    with pytest.raises(UserError, match="cannot be loaded as an image classifier"):
        load_model(ModelSettings(path=str(bert)), "image_classification", ("cat", "dog"))
    (folder / "preprocessor_config.json").write_text("{")
    with pytest.raises(UserError, match="the image processor in .* cannot be loaded"):
        load_model(ModelSettings(path=str(folder)), "image_classification", ("cat", "dog"))
    vit = tiny_vit_folder()
    with pytest.raises(UserError, match="has no tokenizer"):
        load_model(ModelSettings(path=str(vit)), "sequence_classification", ("cat", "dog"))
