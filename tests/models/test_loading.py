"""Loading a classifier: the head, the seed, what is refused, and that tokenizer and model agree."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from ftft.errors import UserError
from ftft.models.loading import load_classifier, load_model, load_saved, resolve
from ftft.models.settings import ModelSettings

NAMES = ("no", "yes")
INPUTS = {"input_ids": torch.tensor([[2, 9, 11, 14, 3]]), "attention_mask": torch.ones(1, 5, dtype=torch.long)}


def settings(path, **more):
    return ModelSettings(path=str(path), **more)


def state(loaded):
    return loaded.model.state_dict()


@pytest.fixture
def copy(tiny_bert_folder, tmp_path):
    """A copy of the tiny BERT that a test may spoil."""
    return shutil.copytree(tiny_bert_folder, tmp_path / "model")


@pytest.fixture(scope="module")
def finished(tiny_folder):
    """A classifier with the labels no, maybe, yes."""
    path = tiny_folder("bert", labels=3)
    config = json.loads((path / "config.json").read_text())
    config["id2label"] = {"0": "no", "1": "maybe", "2": "yes"}
    config["label2id"] = {"no": 0, "maybe": 1, "yes": 2}
    (path / "config.json").write_text(json.dumps(config))
    return path


def edit_config(folder, name="config.json", **changes):
    config = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**config, **changes}))


# -- the head -----------------------------------------------------------------------------------------------------------


def test_new_head_depends_on_the_seed_only(tiny_bert_folder):
    torch.manual_seed(1)
    first = load_classifier(settings(tiny_bert_folder), NAMES, seed=5)
    torch.manual_seed(2)
    second = load_classifier(settings(tiny_bert_folder), NAMES, seed=5)
    other = load_classifier(settings(tiny_bert_folder), NAMES, seed=6)
    assert all(torch.equal(value, state(second)[name]) for name, value in state(first).items())
    differing = {name for name, value in state(first).items() if not torch.equal(value, state(other)[name])}
    assert differing == {"classifier.weight"}
    assert first.description["head"] == "new"
    assert first.description["new_parameters"] == ["classifier.bias", "classifier.weight"]


def test_loading_leaves_the_global_random_state_alone(tiny_bert_folder, finished):
    before = torch.get_rng_state()
    load_classifier(settings(tiny_bert_folder), NAMES, seed=5)
    load_classifier(settings(finished), ("a", "b", "c"), seed=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_label_names_stand_in_the_config(tiny_bert_folder):
    config = load_classifier(settings(tiny_bert_folder), NAMES).model.config
    assert config.num_labels == 2 and config.id2label == {0: "no", 1: "yes"} and config.label2id == {"no": 0, "yes": 1}


def test_head_with_the_same_labels_is_kept(finished):
    loaded = load_classifier(settings(finished), ("No", "maybe", "yes"), seed=3)
    from safetensors.torch import load_file

    assert loaded.description["head"] == "kept" and loaded.description["new_parameters"] == []
    assert torch.equal(state(loaded)["classifier.weight"], load_file(finished / "model.safetensors")["classifier.weight"])


def test_head_with_the_labels_in_another_order_gives_them_in_ours(finished):
    kept = load_classifier(settings(finished), ("no", "maybe", "yes"))
    loaded = load_classifier(settings(finished), ("maybe", "no", "yes"))
    assert loaded.description["head"] == "reordered"
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(**INPUTS).logits, kept.model(**INPUTS).logits[:, [1, 0, 2]])


@pytest.mark.parametrize("names", [("a", "b", "c"), ("no", "yes")])
def test_head_with_other_labels_is_replaced(finished, names):
    first, second = (load_classifier(settings(finished), names, seed=seed) for seed in (1, 2))
    kept = load_classifier(settings(finished), ("no", "maybe", "yes"))
    assert first.description["head"] == "new"
    assert not torch.equal(state(first)["classifier.weight"], state(second)["classifier.weight"])
    if len(names) == 3:
        assert not torch.equal(state(first)["classifier.weight"], state(kept)["classifier.weight"])
    assert torch.equal(state(first)["classifier.bias"], torch.zeros(len(names)))
    assert torch.equal(state(first)["bert.pooler.dense.weight"], state(kept)["bert.pooler.dense.weight"])


def test_evaluating_needs_a_head_that_fits(finished, tiny_bert_folder, tiny_folder):
    with pytest.raises(UserError, match="no classification head for the 3 labels a, b, c"):
        load_classifier(settings(finished), ("a", "b", "c"), require_head=True)
    with pytest.raises(UserError, match="no classification head"):
        load_saved(tiny_bert_folder)
    unnamed = load_classifier(settings(tiny_folder("bert", labels=2)), NAMES, require_head=True)
    assert unnamed.description["head"] == "kept" and unnamed.model.config.id2label == {0: "no", 1: "yes"}


# -- what may be set ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["bert", "electra", "deberta_v2", "distilbert", "gpt2"])
def test_dropout_is_set_everywhere(tiny_folder, architecture):
    loaded = load_classifier(settings(tiny_folder(architecture), dropout=0.25), NAMES)
    probabilities = {module.p for module in loaded.model.modules() if isinstance(module, torch.nn.Dropout)}
    assert probabilities == {0.25} and loaded.description["dropout_set"]


def test_without_dropout_two_training_forwards_are_equal(tiny_bert_folder):
    model = load_classifier(settings(tiny_bert_folder, dropout=0.0), NAMES).model.train()
    assert torch.equal(model(**INPUTS).logits, model(**INPUTS).logits)


def test_layers_are_cut_and_said(tiny_bert_folder):
    loaded = load_classifier(settings(tiny_bert_folder, keep_layers=2), NAMES)
    assert len(loaded.model.bert.encoder.layer) == loaded.model.config.num_hidden_layers == 2
    assert (loaded.description["layers"], loaded.description["layers_of_checkpoint"]) == (2, 3)
    assert loaded.description["parameters"] == sum(p.numel() for p in loaded.model.parameters())
    with pytest.raises(UserError, match="has 3 layers"):
        load_classifier(settings(tiny_bert_folder, keep_layers=4), NAMES)


def test_fingerprint_tells_models_apart_and_ignores_the_seed(tiny_bert_folder, finished):
    whole = load_classifier(settings(tiny_bert_folder), NAMES, seed=1)
    assert whole.fingerprint == load_classifier(settings(tiny_bert_folder), NAMES, seed=2).fingerprint
    others = [
        load_classifier(settings(tiny_bert_folder, keep_layers=2), NAMES),
        load_classifier(settings(tiny_bert_folder, dropout=0.0), NAMES),
        load_classifier(settings(tiny_bert_folder), ("a", "b")),
        load_classifier(settings(finished), NAMES),
    ]
    assert len({whole.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_float64_on_request_and_float32_otherwise(tiny_bert_folder):
    assert load_classifier(settings(tiny_bert_folder), NAMES).model.dtype == torch.float32
    assert load_classifier(settings(tiny_bert_folder), NAMES, dtype=torch.float64).model.dtype == torch.float64


@pytest.mark.parametrize("padding", range(0, 64, 8))
def test_weights_lie_where_torch_would_have_put_them_wherever_the_file_has_them(copy, padding):
    """Products differ in the last digit by the place on some processors: a saved model must give what it gave before."""
    file = copy / "model.safetensors"
    save_file(load_file(file), file, metadata={"format": "pt", "filling": "x" * padding})  # moves the weights in the file
    loaded = load_classifier(settings(copy), NAMES).model
    assert {value.data_ptr() % 64 for value in loaded.state_dict().values()} == {0}


def test_tied_weights_stay_tied(tiny_folder):
    decoder = load_model(settings(tiny_folder("gpt2", headless=True)), "causal_language_model", (), seed=0).model
    assert decoder.lm_head.weight is decoder.transformer.wte.weight


def test_nothing_is_printed_and_the_logging_is_as_before(tiny_bert_folder, capfd):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_classifier(settings(tiny_bert_folder), NAMES)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


# -- tokenizer and model agree --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["qwen3", "gpt2"])
def test_decoder_gets_a_padding_token(tiny_folder, architecture):
    folder = tiny_folder(architecture)
    edit_config(folder, "tokenizer_config.json", pad_token=None, eos_token="[SEP]", padding_side="left")
    edit_config(folder, pad_token_id=None)
    loaded = load_classifier(settings(folder), NAMES)
    assert loaded.processor.pad_token == "[SEP]" and loaded.processor.padding_side == "right"
    assert loaded.model.config.pad_token_id == loaded.processor.pad_token_id


def test_tokenizer_makes_only_what_the_model_takes(tiny_folder):
    assert "token_type_ids" not in load_classifier(settings(tiny_folder("distilbert")), NAMES).processor("a")
    assert "token_type_ids" in load_classifier(settings(tiny_folder("bert")), NAMES).processor("a")


def test_length_limit_is_what_the_model_has_positions_for(tiny_folder):
    limits = {}
    for architecture in ("bert", "roberta"):
        folder = tiny_folder(architecture)
        edit_config(folder, "tokenizer_config.json", model_max_length=int(1e30))
        limits[architecture] = load_classifier(settings(folder), NAMES).processor.model_max_length
    # The tiny tokenizer pads with 0, the tiny RoBERTa has 129 positions and counts from after its padding position.
    assert limits == {"bert": 128, "roberta": 128}


def test_tokenizer_of_another_model_is_refused(copy, tiny_folder):
    from transformers import AutoTokenizer

    larger = AutoTokenizer.from_pretrained(copy)
    larger.add_tokens(["another", "two"])
    larger.save_pretrained(copy)
    with pytest.raises(UserError, match="do not belong together"):
        load_classifier(settings(copy), NAMES)
    with pytest.raises(UserError, match="pads with token 0, but the model counts positions around token 1"):
        load_classifier(settings(tiny_folder("roberta", pad_token_id=1)), NAMES)


# -- what is refused ------------------------------------------------------------------------------------------------------


def test_pickled_weights_are_refused_with_the_way_to_convert(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin, which may run code .* convert it once"):
        load_classifier(settings(copy), NAMES)


def test_missing_weights_tokenizer_and_config_are_named(copy):
    (copy / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"has no tokenizer \(tokenizer.json"):
        load_classifier(settings(copy), NAMES)
    (copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"has no weights \(model.safetensors\)"):
        load_classifier(settings(copy), NAMES)
    (copy / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json cannot be read"):
        load_classifier(settings(copy), NAMES)
    (copy / "config.json").unlink()
    with pytest.raises(UserError, match="is not a model folder: it has no config.json"):
        load_classifier(settings(copy), NAMES)


@pytest.mark.parametrize("size", [4, 100, 5000])
def test_weights_cut_short_are_refused(copy, size):
    with open(copy / "model.safetensors", "r+b") as stream:
        stream.truncate(size)
    with pytest.raises(UserError, match="is damaged or incomplete"):
        load_classifier(settings(copy), NAMES)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_the_model_runs_only_with_permission(copy, file):
    edit_config(copy, file, auto_map={"AutoConfig": "code.Config"})
    (copy / "code.py").write_text("raise SystemExit('this code must never run')")
    with pytest.raises(UserError, match="trust_remote_code: true"):
        load_classifier(settings(copy), NAMES)


def test_expected_hash_is_checked(tiny_bert_folder):
    loaded = load_classifier(settings(tiny_bert_folder), NAMES)
    digest = loaded.description["weights_sha256"]["model.safetensors"]
    load_classifier(settings(tiny_bert_folder, sha256=digest.upper()), NAMES)
    with pytest.raises(UserError, match=f"its SHA-256 is {digest}, expected {'0' * 64}"):
        load_classifier(settings(tiny_bert_folder, sha256="0" * 64), NAMES)


def test_weights_of_another_model_are_refused(copy, tiny_folder):
    edit_config(copy, vocab_size=10)
    with pytest.raises(UserError, match="1 of 57 parameters are missing or of another shape, such as bert.embeddings.word_emb"):
        load_classifier(settings(copy), NAMES)
    shutil.copy(tiny_folder("distilbert") / "model.safetensors", copy / "model.safetensors")
    with pytest.raises(UserError, match="do not fit its config.json"):
        load_classifier(settings(copy), NAMES)


def test_unknown_architecture_is_one_sentence(copy):
    edit_config(copy, model_type="no_such_model")
    with pytest.raises(UserError, match=r"config\.json in .* cannot be used") as caught:
        load_classifier(settings(copy), NAMES)
    assert "\n" not in str(caught.value)


def test_sharded_weights_load_and_a_missing_shard_is_named(tiny_model, tiny_tokenizer, tmp_path):
    model = tiny_model("bert", labels=2)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    tiny_tokenizer.save_pretrained(tmp_path)
    loaded = load_classifier(settings(tmp_path), NAMES, require_head=True)
    assert len(loaded.description["weights_sha256"]) > 1
    assert all(torch.equal(value, state(loaded)[name]) for name, value in model.state_dict().items())
    (tmp_path / sorted(loaded.description["weights_sha256"])[0]).unlink()
    with pytest.raises(UserError, match="names weights that are not there: model-00001"):
        load_classifier(settings(tmp_path), NAMES)


# -- where a model comes from ---------------------------------------------------------------------------------------------


def test_exactly_one_source_is_asked_for():
    with pytest.raises(UserError, match="stages.main.model: .* exactly one of path, hub and package; there is none"):
        resolve(ModelSettings(), "stages.main.model")
    with pytest.raises(UserError, match="there is path and hub"):
        resolve(ModelSettings(path="x", hub="y"), "model")


def test_path_with_a_variable_is_expanded_and_a_wrong_one_gets_a_hint(tiny_bert_folder, monkeypatch):
    monkeypatch.setenv("TINY_MODELS", str(tiny_bert_folder.parent))
    assert resolve(ModelSettings(path="${TINY_MODELS}/model"), "model") == tiny_bert_folder
    with pytest.raises(UserError, match='does not exist; did you mean "model"'):
        resolve(ModelSettings(path="${TINY_MODELS}/modell"), "model")
    with pytest.raises(UserError, match="is a file; give the folder"):
        resolve(ModelSettings(path="${TINY_MODELS}/model/config.json"), "model")


def test_package_references_are_checked(tiny_bert_folder, tmp_path, monkeypatch):
    (tmp_path / "a_tiny_model_package.py").write_text(f"FOLDER = {str(tiny_bert_folder)!r}\nNUMBER = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve(ModelSettings(package="a_tiny_model_package:FOLDER"), "model") == tiny_bert_folder
    for reference, sentence in {
        "a_tiny_model_package": "not of the form module:ATTRIBUTE",
        "a_tiny_model_package:FOLDR": 'did you mean "FOLDER"',
        "a_tiny_model_package:NUMBER": "is a int, not the path",
        "no_such_package_here:X": "cannot be imported",
    }.items():
        with pytest.raises(UserError, match=sentence):
            resolve(ModelSettings(package=reference), "model")


def test_hub_models_are_downloaded_without_pickles(tiny_bert_folder, monkeypatch):
    import huggingface_hub

    calls = []

    def download(repository, *, revision, allow_patterns):
        calls.append((repository, revision))
        assert not {"*.bin", "*.py", "*"} & set(allow_patterns)
        return str(tiny_bert_folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    loaded = load_classifier(ModelSettings(hub="someone/tiny@refs/pr/3"), NAMES)
    assert calls == [("someone/tiny", "refs/pr/3")] and loaded.description["source"] == "someone/tiny@refs/pr/3"


def test_unreachable_hub_is_one_sentence(monkeypatch):
    import huggingface_hub

    def download(*_, **__):
        raise OSError("no route\nto the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(UserError, match="someone/tiny cannot be had from the hub: no route$"):
        load_classifier(ModelSettings(hub="someone/tiny"), NAMES)


@pytest.mark.pretrained
def test_pretrained_minilm_loads_and_is_cut(minilm):
    import subprocess
    import sys

    loaded = load_classifier(dataclasses.replace(minilm, keep_layers=2), ("a", "b", "c"))
    assert (loaded.description["layers_of_checkpoint"], loaded.description["hidden_size"]) == (6, 384)
    assert loaded.description["parameters"] == 15_616_515 and loaded.description["max_length"] == 512
    # The package's own heavy dependency must not come along.
    code = "import sys, ftft.models.folder as f; from ftft.models.settings import ModelSettings as S; "
    code += f"f.resolve(S(package={minilm.package!r}), 'm'); assert not {{'sentence_transformers', 'torch'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
