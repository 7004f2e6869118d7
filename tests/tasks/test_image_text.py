"""The contrastive loss is InfoNCE in both directions, a pair's dynamics are about its batch, and captions classify."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from ftft.data.examples import Examples
from ftft.data.images import pack
from ftft.errors import UserError
from ftft.methods import registry
from ftft.modelmap import ModelMap, blocks_of
from ftft.models.headers import inspect
from ftft.models.loading import load_model, load_saved
from ftft.models.saving import save_model
from ftft.models.settings import ModelSettings
from ftft.tasks.contract import Task
from ftft.tasks.image_text import ImageText

pytest.importorskip("PIL")
N = 8
PIXELS = np.random.default_rng(3).integers(0, 256, (N, 8, 8, 3), dtype=np.uint8)
CAPTIONS = {"cat": "the cat", "dog": "the very old dog"}
TASK = ImageText(captions=CAPTIONS, max_length=32)


def examples(texts):
    values = pa.array([pack(one) for one in PIXELS[: len(texts)]], pa.large_binary())
    ids = pa.array([f"p{row}" for row in range(len(texts))])
    inputs = {"image": values, "text": pa.array(texts, pa.large_string())}
    return Examples(ids, inputs, np.arange(len(texts)) % 2, ("cat", "dog"), "made")


TEXTS = ["cat", "the dog runs", "cat", "a man sits outside", "red film", "blue", "old place", "very happy dog plays"]


@pytest.fixture(scope="module")
def loaded(tiny_clip_folder):
    settings = ModelSettings(path=str(tiny_clip_folder()))
    return load_model(settings, "two_tower", ("cat", "dog"), dtype=torch.float64)


@pytest.fixture(scope="module")
def batch(loaded):
    return TASK.collate(TASK.prepare(examples(TEXTS), loaded.processor), np.arange(N))


def log_softmax(values, axis):
    high = values.max(axis=axis, keepdims=True)
    return values - high - np.log(np.exp(values - high).sum(axis=axis, keepdims=True))


def similarity(loaded, batch):
    """exp(s) u v^T of the batch by hand, from the model's own embeddings, float64 [B, B]."""
    with torch.no_grad():
        out = loaded.model(**{**batch.inputs, "pixel_values": batch.inputs["pixel_values"].double()})
        u, v = out.image_embeds.numpy(), out.text_embeds.numpy()
        return float(loaded.model.logit_scale.exp()) * u @ v.T


def test_the_loss_is_infonce_in_both_directions(loaded, batch):
    assert isinstance(TASK, Task)
    z = similarity(loaded, batch)
    own = np.arange(N)
    expected = -(log_softmax(z, 1)[own, own] + log_softmax(z, 0)[own, own]) / 2
    loaded.model.train()
    training = TASK.forward(loaded.model, batch)
    loaded.model.eval()
    evaluating = TASK.forward(loaded.model, batch)
    assert training.shape == (N, N) and evaluating.shape == (N, N + 2) and training.dtype == torch.float64
    for outputs in (training, evaluating):
        losses = TASK.per_example_loss(outputs, batch).detach().numpy()
        assert np.allclose(losses, expected, rtol=0, atol=1e-10)
    theirs = loaded.model(**{**batch.inputs, "pixel_values": batch.inputs["pixel_values"].double()}, return_loss=True).loss
    assert np.isclose(expected.mean(), theirs.item(), atol=1e-10)
    units = TASK.unit_logits(evaluating, batch)
    each = torch.nn.functional.cross_entropy(units.logits, units.targets, reduction="none")
    summed = torch.zeros(N, dtype=each.dtype).index_add(0, units.example, each)
    assert torch.allclose(summed / TASK.units(batch), TASK.per_example_loss(evaluating, batch))


def test_the_scale_gets_a_gradient_and_the_loss_depends_on_the_batch(loaded, batch):
    loaded.model.train()
    TASK.per_example_loss(TASK.forward(loaded.model, batch), batch).mean().backward()
    assert loaded.model.logit_scale.grad.abs() > 0
    loaded.model.zero_grad()
    loaded.model.eval()
    data = TASK.prepare(examples(TEXTS), loaded.processor)
    whole = TASK.per_example_loss(TASK.forward(loaded.model, batch), batch)
    half = TASK.collate(data, np.arange(4))
    assert not torch.allclose(TASK.per_example_loss(TASK.forward(loaded.model, half), half), whole[:4])


def test_dynamics_are_the_probability_of_the_right_partner_equal_texts_together(loaded, batch):
    z = similarity(loaded, batch)
    same = np.array([[a == b for b in TEXTS] for a in TEXTS])
    text_of_image = (np.exp(log_softmax(z, 1)) * same).sum(axis=1)
    image_of_text = (np.exp(log_softmax(z, 0)) * same).sum(axis=0)
    recorded = TASK.record(TASK.forward(loaded.model, batch), batch)
    assert set(recorded) == set(TASK.quantities.dynamics)
    assert np.allclose(recorded["probability"].numpy(), np.sqrt(text_of_image * image_of_text), atol=1e-6)
    assert torch.allclose(recorded["mean_log_probability"].exp(), recorded["probability"])


def test_predictions_are_by_the_captions_whatever_the_batch(loaded, batch):
    found = TASK.predictions(TASK.forward(loaded.model, batch), batch).numpy()
    tokens = loaded.processor.tokenizer(list(CAPTIONS.values()), padding=True, return_tensors="pt")
    with torch.no_grad():
        out = loaded.model(
            pixel_values=batch.inputs["pixel_values"].double(),
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
        )
    assert np.allclose(found, out.logits_per_image.softmax(dim=1).numpy(), atol=1e-6)
    data = TASK.prepare(examples(TEXTS), loaded.processor)
    alone = TASK.collate(data, np.array([3]))
    assert np.allclose(TASK.predictions(TASK.forward(loaded.model, alone), alone).numpy()[0], found[3], atol=1e-6)


def test_both_towers_are_mapped_cut_adapted_and_saved(tiny_clip_folder, loaded, batch, tmp_path):
    found = ModelMap.of(loaded.model)
    assert len(found.attention) == 6 and {name.split(".")[0] for name in found.names} == {"text_model", "vision_model"}
    assert found.block_of("vision_model.encoder.layers.2.mlp.fc1.weight") == 5
    assert found.block_of("text_model.encoder.layers.0.mlp.fc1.weight") == 0 and found.block_of("logit_scale") is None
    with pytest.raises(UserError, match="two towers"):
        blocks_of(loaded.model)
    settings = ModelSettings(path=str(tiny_clip_folder()), keep_layers=1)
    cut = load_model(settings, "two_tower", ("cat", "dog"))
    assert inspect(settings, kind="two_tower").max_positions == 32
    assert cut.model.config.text_config.num_hidden_layers == cut.model.config.vision_config.num_hidden_layers == 1
    adapted = registry.build("adapt", {"name": "lora", "rank": 2}, "adapt").adapt(cut.model, None)
    trained = [name for name, parameter in adapted.model.named_parameters() if parameter.requires_grad]
    assert all("lora" in name for name in trained) and {"text_model", "vision_model"} <= {
        part for name in trained for part in name.split(".")
    }
    plain = load_model(settings, "two_tower", ("cat", "dog"))
    plain.model.load_state_dict(adapted.merged())
    save_model(tmp_path / "saved", plain.model, plain.processor)
    model, processor = load_saved(tmp_path / "saved", "two_tower")
    again = TASK.collate(TASK.prepare(examples(TEXTS), processor), np.arange(N))
    assert torch.allclose(TASK.forward(model, again), TASK.forward(plain.model, batch), atol=1e-5)
    from transformers import AutoProcessor, CLIPModel

    CLIPModel.from_pretrained(tmp_path / "saved")
    assert AutoProcessor.from_pretrained(tmp_path / "saved").tokenizer is not None


@pytest.mark.parametrize(
    "name, options",
    [("lora", {"rank": 2}), ("bias_only", {}), ("lift", {}), ("s2ft", {}), ("lora_ga", {"rank": 2})],
)
def test_adapters_change_two_towers_and_merge_back(tiny_clip_folder, name, options):
    from ftft.engine.calibrating import CountedCalibration
    from ftft.engine.ledger import Ledger

    settings = ModelSettings(path=str(tiny_clip_folder()))
    fresh = load_model(settings, "two_tower", ("cat", "dog"))
    data, rows = TASK.prepare(examples(TEXTS), fresh.processor), np.arange(N)
    batch = TASK.collate(data, rows)
    calibration = CountedCalibration(TASK, data, rows, 0, Ledger())
    adapted = registry.build("adapt", {"name": name, **options}, "adapt").adapt(fresh.model, calibration)
    adapted.model.train()
    TASK.per_example_loss(TASK.forward(adapted.model, batch), batch).mean().backward()
    changed = [one for one in adapted.model.parameters() if one.requires_grad and one.grad is not None]
    with torch.no_grad():
        for parameter in changed:
            parameter -= 0.05 * parameter.grad
    adapted.model.eval()
    plain = load_model(settings, "two_tower", ("cat", "dog"))
    before = TASK.forward(plain.model, batch)
    plain.model.load_state_dict(adapted.merged())
    after = TASK.forward(plain.model, batch)
    assert changed and not torch.allclose(after, before, atol=1e-4)
    assert torch.allclose(after, TASK.forward(adapted.model, batch), atol=1e-4)


def test_what_cannot_be_is_refused(loaded, tiny_clip_folder, tiny_vit_folder):
    with pytest.raises(ValueError, match="captions is empty"):
        ImageText()
    with pytest.raises(UserError, match='task.captions has none for the label "dog"'):
        ImageText(captions={"cat": "a cat"}, max_length=32).prepare(examples(TEXTS), loaded.processor)
    with pytest.raises(UserError, match=r"task.max_length is 2, but the tokenizer's \d special tokens leave no room"):
        ImageText(captions=CAPTIONS, max_length=2).prepare(examples(TEXTS), loaded.processor)
    with pytest.raises(UserError, match="positions for 32 tokens"):
        ImageText(captions=CAPTIONS).prepare(examples(TEXTS), loaded.processor)
    with pytest.raises(UserError, match="has no tokenizer"):
        inspect(ModelSettings(path=str(tiny_vit_folder())), kind="two_tower")
    folder = tiny_clip_folder()
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match="has no preprocessor_config.json"):
        load_model(ModelSettings(path=str(folder)), "two_tower", ("cat", "dog"))
