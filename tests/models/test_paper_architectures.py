"""What the paper's models need of loading: DeBERTaV3 and ELECTRA cut to their first layers, and sentencepiece tokenizers."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ftft.errors import UserError
from ftft.models import folder as folders
from ftft.models.headers import inspect
from ftft.models.loading import load_classifier, load_saved
from ftft.models.saving import save_model
from ftft.models.settings import ModelSettings

NAMES = ("entailment", "neutral", "contradiction")
V3 = {"conv_kernel_size": 0, "num_hidden_layers": 3}


@pytest.mark.parametrize(("architecture", "changes"), [("deberta_v2", V3), ("electra", {"num_hidden_layers": 3})])
def test_a_cut_model_is_the_first_layers_of_the_whole_one(
    architecture: str, changes: dict[str, Any], tiny_folder: Callable[..., Path], tmp_path: Path
) -> None:
    path = tiny_folder(architecture, headless=True, **changes)
    whole, cut = (load_classifier(ModelSettings(path=str(path), keep_layers=keep), NAMES).model for keep in (None, 2))
    inputs = {"input_ids": torch.tensor([[2, 9, 11, 14, 3]]), "attention_mask": torch.ones(1, 5, dtype=torch.long)}
    with torch.no_grad():
        states = [model.base_model(**inputs, output_hidden_states=True).hidden_states for model in (whole, cut)]
        logits = cut(**inputs).logits
    assert [len(one) for one in states] == [4, 3]
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(states[1], states[0]))
    tokenizer = load_classifier(ModelSettings(path=str(path)), NAMES).processor
    save_model(tmp_path / "cut", cut, tokenizer)
    again, _ = load_saved(tmp_path / "cut")
    assert again.config.num_hidden_layers == 2
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, logits)


@pytest.fixture
def deberta_as_published(tiny_folder: Callable[..., Path], tmp_path: Path) -> Path:
    """A DeBERTaV3 folder with the tokenizer files that the hub has: spm.model and a config without a class."""
    sentencepiece = pytest.importorskip("sentencepiece")
    path = Path(shutil.copytree(tiny_folder("deberta_v2", headless=True, **V3), tmp_path / "deberta"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (path / name).unlink()
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a good film and a bad plot", "the old man is not sad", "it was very boring"] * 10),
        model_writer=made,
        vocab_size=50,
        hard_vocab_limit=False,
        minloglevel=2,
        **{"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3},
        **{"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"},
    )
    (path / "spm.model").write_bytes(made.getvalue())
    (path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False, "vocab_type": "spm"}))
    return path


@pytest.mark.parametrize("missing", [["google.protobuf"], ["sentencepiece"], ["sentencepiece", "google.protobuf"]])
def test_a_sentencepiece_tokenizer_without_its_packages_is_one_sentence_that_says_what_to_install(
    missing: list[str], deberta_as_published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "_is_installed", lambda module: module not in missing)
    settings = ModelSettings(path=str(deberta_as_published))
    packages = " and ".join(name.removeprefix("google.") for name in missing)
    for refused in (lambda: inspect(settings, "stages.erm.model"), lambda: load_classifier(settings, NAMES)):
        with pytest.raises(UserError) as caught:
            refused()
        assert "\n" not in str(caught.value)
        assert f"package{'s' * (len(missing) > 1)} {packages} must be installed" in str(caught.value)
        assert str(caught.value).endswith('pip install "ftft[paper]"')


def test_a_tokenizer_that_is_converted_already_needs_no_sentencepiece(
    tiny_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(tiny_folder("deberta_v2", headless=True, **V3), tmp_path / "deberta"))
    (path / "spm.model").write_bytes(b"never read")
    monkeypatch.setattr(folders, "_is_installed", lambda module: False)
    assert load_classifier(ModelSettings(path=str(path)), NAMES).processor("good film")["input_ids"]


def test_a_published_sentencepiece_tokenizer_is_read_and_saved_so_that_it_needs_nothing_more(
    deberta_as_published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("google") is None or importlib.util.find_spec("google.protobuf") is None:
        pytest.skip('protobuf is not installed; pip install "ftft[paper]" brings it')
    loaded = load_classifier(ModelSettings(path=str(deberta_as_published)), NAMES)
    encoded = loaded.processor("a good film", "it was bad")
    pieces = loaded.processor.convert_ids_to_tokens(encoded["input_ids"])
    assert pieces[0] == "[CLS]" and pieces.count("[SEP]") == 2 and pieces[-1] == "[SEP]" and "[UNK]" not in pieces
    first = pieces.index("[SEP]") + 1
    assert encoded["token_type_ids"] == [0] * first + [1] * (len(pieces) - first)
    assert "".join(pieces[1 : first - 1]).replace("▁", " ").strip() == "a good film"
    assert loaded.processor.pad_token_id == loaded.model.config.pad_token_id == 0
    save_model(tmp_path / "saved", loaded.model, loaded.processor)
    monkeypatch.setattr(folders, "_is_installed", lambda module: False)
    _, tokenizer = load_saved(tmp_path / "saved")
    assert tokenizer("a good film", "it was bad")["input_ids"] == encoded["input_ids"]
