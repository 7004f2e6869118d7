"""A saved model loads by from_pretrained alone, predicts the same, and is never half there."""

from __future__ import annotations

import json

import pytest
import torch

from ftft.errors import UserError
from ftft.models.loading import load_classifier, load_saved
from ftft.models.saving import save_model
from ftft.models.settings import ModelSettings

TEXTS = ["the film was great", "a boring plot, very bad acting!", "somebody sleeps"]


def logits(model, tokenizer):
    with torch.no_grad():
        return model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits


@pytest.mark.parametrize("architecture", ["bert", "electra", "deberta_v2", "qwen3"])
def test_predictions_are_equal_after_from_pretrained(tiny_folder, tmp_path, architecture):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    settings = ModelSettings(path=str(tiny_folder(architecture, headless=True)), keep_layers=2)
    loaded = load_classifier(settings, ("bad", "good"), seed=4)
    save_model(tmp_path / "saved", loaded.model, loaded.processor)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved", use_safetensors=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(model, tokenizer), logits(loaded.model, loaded.processor))
    assert model.config.id2label == {0: "bad", 1: "good"}
    ours, _ = load_saved(tmp_path / "saved")
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in loaded.model.state_dict().items())


def test_float64_models_stay_float64(tiny_bert_folder, tmp_path):
    loaded = load_classifier(ModelSettings(path=str(tiny_bert_folder)), ("a", "b"), dtype=torch.float64)
    save_model(tmp_path / "saved", loaded.model, loaded.processor)
    model, tokenizer = load_saved(tmp_path / "saved")
    assert model.dtype == torch.float64
    assert torch.equal(logits(model, tokenizer), logits(loaded.model, loaded.processor))


def test_paths_with_a_dollar_sign_are_taken_as_they_are(tiny_model, tiny_tokenizer, tmp_path):
    save_model(tmp_path / "a$HOME", tiny_model("bert"), tiny_tokenizer)
    assert load_saved(tmp_path / "a$HOME")[0].config.num_labels == 2


def test_folder_holds_card_and_metadata_and_no_machine_paths(tiny_bert_folder, tmp_path):
    loaded = load_classifier(ModelSettings(path=str(tiny_bert_folder)), ("a", "b"))
    save_model(tmp_path / "saved", loaded.model, loaded.processor, metadata={"lineage": ["x"]}, card="# A model\n")
    assert (tmp_path / "saved" / "README.md").read_text() == "# A model\n"
    metadata = json.loads((tmp_path / "saved" / "ftft.json").read_text())
    assert metadata["format"] == "ftft/model" and metadata["format_version"] == 1 and metadata["lineage"] == ["x"]
    assert all(str(tiny_bert_folder) not in path.read_text() for path in (tmp_path / "saved").glob("*.json"))
    assert not list((tmp_path / "saved").glob("*.bin"))
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def flip_last_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit_in_the_weights_is_one_sentence(tiny_model, tiny_tokenizer, tmp_path):
    saved = save_model(tmp_path / "saved", tiny_model("bert"), tiny_tokenizer)
    load_saved(saved)
    flip_last_bit(saved / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors is damaged: its content does not fit the SHA-256 .* ftft\.json"):
        load_saved(saved)
    with pytest.raises(UserError, match="stages.main.model: .* is damaged"):
        load_classifier(ModelSettings(path=str(saved)), ("a", "b"), where="stages.main.model")
    (saved / "ftft.json").unlink()  # whoever changed the weights on purpose says so by this
    load_saved(saved)


@pytest.mark.parametrize("document", ["{", "[]", "{}", '{"weights_sha256": 3}', '{"weights_sha256": {"other": "0"}}'])
def test_a_model_whose_file_keeps_no_hash_of_the_weights_loads(tiny_model, tiny_tokenizer, tmp_path, document):
    saved = save_model(tmp_path / "saved", tiny_model("bert"), tiny_tokenizer)
    (saved / "ftft.json").write_text(document)
    load_saved(saved)


def test_saved_again_replaces_the_old_model(tiny_model, tiny_tokenizer, tmp_path):
    save_model(tmp_path / "saved", tiny_model("bert"), tiny_tokenizer, card="old")
    save_model(tmp_path / "saved", tiny_model("electra"), tiny_tokenizer)
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["model_type"] == "electra"
    assert [path.name for path in tmp_path.iterdir()] == ["saved"] and not (tmp_path / "saved" / "README.md").exists()


def test_other_peoples_folders_are_not_replaced(tiny_model, tiny_tokenizer, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("precious")
    with pytest.raises(UserError, match="something that is not a model is there"):
        save_model(tmp_path / "thesis", tiny_model("bert"), tiny_tokenizer)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "precious"


@pytest.mark.parametrize("kind", ["os", "safetensors"])
def test_full_disk_leaves_the_old_model_whole(tiny_model, tiny_tokenizer, tmp_path, monkeypatch, kind):
    from safetensors import SafetensorError

    save_model(tmp_path / "saved", tiny_model("bert"), tiny_tokenizer)
    before = {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}
    model = tiny_model("electra")
    words = "Error while serializing: I/O error: No space left on device (os error 28)"
    error = OSError(28, "No space left on device") if kind == "os" else SafetensorError(words)

    def fail(folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise error

    monkeypatch.setattr(model, "save_pretrained", fail)
    with pytest.raises(UserError, match="the disk is full"):
        save_model(tmp_path / "saved", model, tiny_tokenizer)
    assert {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
