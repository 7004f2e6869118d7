"""Every command of docs/paper-recipes.md is read as it stands there, and run on tiny random models of the same
architectures and a few generated rows in the original file layouts. Nothing is downloaded."""

from __future__ import annotations

import csv
import itertools
import json
import os
import random
import shlex
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ftft.cli.main import main as ftft
from ftft.data.loading import load_data
from ftft.dynamics.parquet import read_dynamics
from ftft.errors import Interrupted
from ftft.run.reading import check_files, load_recipe
from ftft.run.recipe import Recipe, Stage
from ftft.run.runner import read_result, run_recipe

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "paper-recipes.md"
HUB = {
    "DeBERTaV3-Small": "microsoft/deberta-v3-small",
    "DeBERTaV3-Base": "microsoft/deberta-v3-base",
    "DeBERTaV3-Large": "microsoft/deberta-v3-large",
    "ELECTRA-Small": "google/electra-small-discriminator",
    "ELECTRA-Base": "google/electra-base-discriminator",
    "ELECTRA-Large": "google/electra-large-discriminator",
    "TinyBERT": "prajjwal1/bert-tiny",
    "BERT-Large": "google-bert/bert-large-uncased",
    "RoBERTa-Large": "FacebookAI/roberta-large",
}
STAGE_OF_ROW = {"ERM": "erm", "ERM, early stopping": "erm_early", "Random third": "random", "DM": "dm", "FTFT": "ftft"}
STEPS, INTERVAL = {"nli": 49_088, "hate_speech": 1_620}, {"nli": 4_090, "hate_speech": 180}
ROWS, STEPS_HERE = 96, 12  # as in the paper: 4 epochs of the whole training set
NLI_LABELS, HATE_LABELS = ("entailment", "neutral", "contradiction"), ("non-toxic", "toxic")


@dataclass(frozen=True)
class Command:
    """A documented command; ``row``, ``main`` and ``reference`` are the cells of its line, empty outside the tables."""

    recipe: str
    overrides: tuple[str, ...]
    row: str = ""
    main: str = ""
    reference: str = ""

    @property
    def name(self) -> str:
        return next(one.removeprefix("name=") for one in self.overrides if one.startswith("name="))

    @property
    def task(self) -> str:
        return Path(self.recipe).stem

    def load(self, *more: str) -> Recipe:
        return load_recipe(self.recipe, [*self.overrides, *more])


def documented() -> list[Command]:
    """The commands of the page, in its order: those in the tables with their cells, and those on lines of their own."""
    found = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        text = cells[-1].strip("`") if cells else line.strip()
        if text.startswith("ftft run "):
            recipe, *overrides = shlex.split(text)[2:]
            found.append(Command(recipe, tuple(overrides), *(cells[:3])))
    return found


COMMANDS = documented()
TABLE = [command for command in COMMANDS if command.row]
# A row of each kind; the rest run where slow tests do.
REPRESENTATIVE = {
    "nli-erm-0", "nli-erm-early-0", "nli-random-0", "nli-dm-0", "nli-ftft-deberta-small-0", "nli-ftft-electra-base-0",
    "nli-ftft-bert-large-0", "hsd-ftft-deberta-small-0",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **settings: Any) -> None:
        raise AssertionError(f"the network was asked for {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, paper_data: Path) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("FTFT_PAPER_DATA", str(paper_data))


# -- the data, in the original layouts -----------------------------------------------------------------------------------

WORDS = [
    "people", "film", "river", "market", "teacher", "window", "letter", "garden", "winter", "music", "answer", "bridge",
]  # fmt: skip
GLUE = ["index", "promptID", "pairID", "genre", *(f"sentence{n}_{kind}" for kind in ("binary_parse", "parse") for n in (1, 2))]


def sentence(rng: random.Random, label: int) -> str:
    """A few words that give the label away now and then, some with the signs that layouts trip over."""
    words = rng.choices(WORDS, k=rng.randint(3, 14)) + [["good", "bad", "odd"][label]] * rng.randint(0, 2)
    rng.shuffle(words)
    return " ".join(words) + rng.choice([".", ' said "no.', ", it's", ' "so"', " $5 # | \\n"])


def write_mnli(path: Path, rows: int, annotators: int, rng: random.Random) -> None:
    """GLUE's MNLI: 12 columns in train (one annotator's label), 16 in dev (five), the gold label last, no quoting."""
    labels = [f"label{number}" for number in range(1, annotators + 1)]
    lines = ["\t".join([*GLUE, "sentence1", "sentence2", *labels, "gold_label"])]
    for row in range(rows):
        gold = NLI_LABELS[row % 3]
        parses = ["( tree )", "( tree )", "(ROOT (S))", "(ROOT (S))"]
        texts = [sentence(rng, row % 3), sentence(rng, row % 3)]
        lines.append("\t".join([str(row), f"{row}", f"{row}{gold[0]}", "fiction", *parses, *texts, *[gold] * annotators, gold]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_anli(path: Path, rows: int, rng: random.Random) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as stream:
        for row in range(rows):
            given = {"uid": f"{path.parent.name}-{path.stem}-{row}", "context": sentence(rng, row % 3)}
            given |= {"hypothesis": sentence(rng, row % 3), "label": "enc"[row % 3], "model_label": "c", "emturkid": "x"}
            stream.write(json.dumps({**given, "reason": "", "tag": ""}) + "\n")


def write_hate(path: Path, rows: int, rng: random.Random, *, numbers: bool) -> None:
    """Tab-separated without a header, written by the csv module as pandas would: a text with a quote stands in quotes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        for row in range(rows):
            text = sentence(rng, row % 2) + ("\nand more" if row % 5 == 0 else "")
            writer.writerow([row % 2 if numbers else HATE_LABELS[row % 2], text, f"{path.name}-{row}"])


def write_dynahate_table(path: Path) -> None:
    """DynaHate as published: one CSV for all rounds; two rows of each round, kind and split."""
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["", "acl.id", "X1", "text", "label", "type", "level", "split", "round.base", "round"])
        for number, kind, split, label in itertools.product("1234", "ab", ("train", "dev", "test"), ("hate", "nothate")):
            text = f'a "text", {number}{kind} {split} {label}'
            writer.writerow([1, f"acl{text}", 1, text, label, "none", "original", split, number, number + kind])


@pytest.fixture(scope="session")
def paper_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder ``datasets`` of the paper's archive, with few rows, and DynaHate's own table in it."""
    root, rng = tmp_path_factory.mktemp("datasets"), random.Random(4)
    write_mnli(root / "nli/mnli/train.tsv", ROWS, 1, rng)
    write_mnli(root / "nli/mnli/dev_matched.tsv", 18, 5, rng)
    for number in (1, 2, 3):
        for split in ("dev", "test"):
            write_anli(root / f"nli/anli/R{number}/{split}.jsonl", 12, rng)
    write_hate(root / "hsd/cad/cad_uid.train", ROWS, rng, numbers=False)
    write_hate(root / "hsd/cad/cad_uid.dev", 16, rng, numbers=False)
    for number in (2, 3, 4):
        for kind in ("original", "perturbation"):
            for split in ("dev", "test"):
                write_hate(root / f"hsd/dynahate/r{number}_{kind}.{split}", 10, rng, numbers=number == 4)
    write_dynahate_table(root / "hsd/dynahate/Dynamically Generated Hate Dataset v0.2.3.csv")
    return root


# -- the models: tiny, random, of the same architectures, with tokenizers of the same kinds --------------------------------


def make_tokenizer(family: str) -> Any:
    import transformers
    from tokenizers import ByteLevelBPETokenizer

    texts = [" ".join(WORDS), "good bad odd said no it's so and more"]
    letters = sorted({*"".join(texts), *'"$5#|\\n.,'} - {" "})
    if family == "deberta":
        special = [(token, 0.0) for token in ("[PAD]", "[CLS]", "[SEP]", "[UNK]")]
        return transformers.DebertaV2Tokenizer(
            vocab=[*special, *((f"▁{word}", -3.0) for word in WORDS), ("▁", -4.0), *((letter, -6.0) for letter in letters)]
        )
    if family == "roberta":
        backend = ByteLevelBPETokenizer()
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        backend.train_from_iterator(texts, vocab_size=330, special_tokens=special, show_progress=False)
        model = json.loads(backend.to_str())["model"]
        return transformers.RobertaTokenizer(vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]])
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *letters, *(f"##{letter}" for letter in letters)]
    return transformers.BertTokenizer(vocab={piece: index for index, piece in enumerate(pieces)})


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny model that stands for a hub name, saved without a head."""
    made: dict[str, Path] = {}

    def folder(hub: str) -> Path:
        if hub not in made:
            made[hub] = save_tiny(hub, tmp_path_factory.mktemp("model") / hub.rpartition("/")[2])
        return made[hub]

    return folder


def save_tiny(hub: str, folder: Path) -> Path:
    import torch
    import transformers

    family = next(name for name in ("deberta", "electra", "roberta", "bert") if name in hub)
    layers = 1 if "small" in hub or "tiny" in hub else 2
    tokenizer = make_tokenizer(family)
    usual: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 16, "num_hidden_layers": layers, "num_attention_heads": 2,
        "intermediate_size": 32, "max_position_embeddings": 514, "initializer_range": 0.3,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    third = {
        "relative_attention": True, "position_buckets": 8, "max_relative_positions": -1, "norm_rel_ebd": "layer_norm",
        "share_att_key": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False, "type_vocab_size": 0,
        "pooler_hidden_size": 16, "pooler_dropout": 0, "pooler_hidden_act": "gelu",
    }  # fmt: skip
    configs = {
        "deberta": lambda: transformers.DebertaV2Config(**usual, **third),
        "electra": lambda: transformers.ElectraConfig(**usual, embedding_size=8),
        "roberta": lambda: transformers.RobertaConfig(**usual, type_vocab_size=1, bos_token_id=0, eos_token_id=2),
        "bert": lambda: transformers.BertConfig(**usual),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(len(hub))
        transformers.AutoModel.from_config(configs[family]()).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def scaled_down(recipe: Recipe, stand_in: Callable[[str], Path], output: Path) -> list[str]:
    """Overrides that put tiny models in the place of the hub's and a handful of steps in the place of the planned ones."""
    overrides = [f"output={json.dumps(str(output))}"]
    for name, stage in recipe.stages.items():
        assert stage.model.hub is not None
        overrides.append(f"stages.{name}.model={{path: {json.dumps(str(stand_in(stage.model.hub)))}}}")
        overrides.append(f"stages.{name}.train.steps={STEPS_HERE}")
        if stage.train.evaluate_every is not None:
            overrides.append(f"stages.{name}.train.evaluate_every=1")
    return overrides


# -- every documented command ----------------------------------------------------------------------------------------------


def test_the_page_has_a_row_of_every_kind_for_both_tasks() -> None:
    rows = {(command.task, command.row, command.main, command.reference) for command in TABLE}
    assert len(rows) == len(TABLE) == 40
    assert len({command.name for command in COMMANDS}) == len(COMMANDS) == 46
    for task in STEPS:
        for main in ("DeBERTaV3-Large", "ELECTRA-Large"):
            assert {row for _task, row, _main, _ in rows if (_task, _main) == (task, main)} == set(STAGE_OF_ROW)
        references = {ref for _task, row, main, ref in rows if (_task, row, main) == (task, "FTFT", "DeBERTaV3-Large")}
        assert references == set(HUB) - {"DeBERTaV3-Large"}
    assert {command.name for command in COMMANDS} >= REPRESENTATIVE


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_documented_command_is_a_sound_recipe_with_the_papers_settings(command: Command) -> None:
    recipe = command.load()
    check_files(recipe)
    assert recipe.seed == 0 and recipe.task["max_length"] == 300 and recipe.baseline == "erm"
    for stage in recipe.stages.values():
        assert_papers_settings(stage, command.task)
    if not command.row:
        return
    assert recipe.main == STAGE_OF_ROW[command.row]
    assert recipe.stages["erm"].model.hub == recipe.stages[recipe.main].model.hub == HUB[command.main]
    assert set(recipe.stages) == {"erm", recipe.main} | ({"reference"} if command.row == "FTFT" else set())
    if command.row == "FTFT":
        assert recipe.stages["reference"].model.hub == HUB[command.reference]
        assert recipe.stages["ftft"].use_dynamics_of == "reference"
    if command.row == "DM":
        assert recipe.stages["dm"].use_dynamics_of == "erm" and command.reference == command.main
    stop = recipe.stages[recipe.main].stop
    assert (stop is not None) == (command.row in ("ERM, early stopping", "FTFT"))
    if stop is not None:
        ood = [name for name, one in recipe.data.evaluation.items() if (one.role, one.split) == ("ood", "validation")]
        assert stop.on == ood and len(ood) == {"nli": 3, "hate_speech": 6}[command.task]


def assert_papers_settings(stage: Stage, task: str) -> None:
    """The released code's: the same length and schedule for ERM, reference and main run, two learning rates."""
    train, optimize = stage.train, stage.optimize
    assert (train.steps, train.epochs, train.batch_size) == (STEPS[task], None, 32)
    assert (train.schedule, train.warmup, train.clip, train.precision) == ("linear", 0.1, 1.0, "bf16")
    large = "-large" in str(stage.model.hub)
    assert optimize["name"] == "adamw" and optimize["learning_rate"] == (1e-5 if large else 2e-5)
    assert (optimize["epsilon"], optimize["weight_decay"], tuple(optimize["betas"])) == (1e-6, 0.0, (0.9, 0.999))
    if stage.select["name"] != "all":
        assert (stage.select["fraction"], stage.select["compat"]) == (0.33, "ftft")
    if stage.stop is None:
        assert train.evaluate_every is None and stage.combine["name"] == "last"
    else:
        assert (train.evaluate_every, stage.stop.patience, stage.combine["name"]) == (INTERVAL[task], 2, "best")
        assert stage.stop.metric == {"nli": "accuracy", "hate_speech": "macro_f1"}[task]


# -- the data readings -----------------------------------------------------------------------------------------------------


def counts(recipe: Recipe) -> dict[str, int]:
    data = load_data(recipe.data)
    assert not data.warnings, data.warnings
    return {"train": len(data.train), **{name: len(one.examples) for name, one in data.evaluation.items()}}


def test_original_layouts_are_read_to_the_letter(paper_data: Path) -> None:
    nli, hate = (load_data(load_recipe(f"recipes/paper/{task}.yaml").data) for task in ("nli", "hate_speech"))
    lines = (paper_data / "nli/mnli/train.tsv").read_text().splitlines()[1:]
    assert nli.train.inputs["text"].to_pylist() == [line.split("\t")[8] for line in lines]
    assert nli.train.inputs["text_pair"].to_pylist() == [line.split("\t")[9] for line in lines]
    assert nli.train.ids.to_pylist() == [str(row) for row in range(ROWS)] and nli.train.label_names == NLI_LABELS
    assert nli.train.labels.tolist() == nli.evaluation["mnli_dev"].examples.labels.tolist()[:3] * (ROWS // 3) == [0, 1, 2] * 32
    assert nli.evaluation["anli_r2_test"].examples.labels.tolist() == [0, 1, 2] * 4
    assert any('"' in text for text in nli.train.inputs["text"].to_pylist())
    with open(paper_data / "hsd/cad/cad_uid.train", encoding="utf-8", newline="") as stream:
        expected = list(csv.reader(stream, delimiter="\t"))
    assert hate.train.inputs["text"].to_pylist() == [text for _, text, _ in expected]
    assert any('"' in text and "\n" in text for _, text, _ in expected)
    for name in ("r2_original_dev", "r4_perturbation_test"):  # labels as words, and as numbers
        assert hate.evaluation[name].examples.labels.tolist() == [0, 1] * 5
        assert hate.evaluation[name].examples.label_names == HATE_LABELS
    assert set(nli.report["evaluation"]) == {"mnli_dev", *(f"anli_r{n}_{s}" for n in (1, 2, 3) for s in ("dev", "test"))}
    assert len(hate.evaluation) == 13


def test_documented_changes_of_the_hate_speech_layout(paper_data: Path, tmp_path: Path) -> None:
    two = tmp_path / "r2_original.dev"
    two.write_text("toxic\tone text\nnon-toxic\tanother\n", encoding="utf-8")
    overrides = [f"data.evaluation.r2_original_dev.path={json.dumps(str(two))}", "data.columns.id=null"]
    overrides.append("data.evaluation.r2_original_dev.header=[labels, text]")
    data = load_data(load_recipe("recipes/paper/hate_speech.yaml", overrides).data)
    assert data.evaluation["r2_original_dev"].examples.labels.tolist() == [1, 0]
    assert len(set(data.train.ids.to_pylist())) == ROWS and not data.train.ids[0].as_py().startswith("cad_uid")


def test_dynahate_is_read_from_its_own_table_too() -> None:
    recipe = next(command for command in COMMANDS if command.name == "hsd-csv-0").load()
    found = counts(recipe)
    assert found.pop("train") == ROWS and found.pop("cad_dev") == 16 and set(found.values()) == {2} and len(found) == 12
    examples = load_data(recipe.data).evaluation["r3_perturbation_test"].examples
    assert examples.labels.tolist() == [1, 0]
    assert examples.inputs["text"].to_pylist() == ['a "text", 3b test hate', 'a "text", 3b test nothate']


def test_nli_is_read_from_the_hub_too(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load_dataset(name: str, config: str | None, *, split: str) -> Any:
        asked.append((name, config, split))
        rows = ROWS if split == "train" else 6
        column = {"nyu-mll/glue": "idx", "facebook/anli": "uid"}[name]
        features = datasets.Features(
            {"premise": datasets.Value("string"), "hypothesis": datasets.Value("string")}
            | {"label": datasets.ClassLabel(names=list(NLI_LABELS))}
            | {column: datasets.Value("int32" if column == "idx" else "string")}
        )
        ids = [row if column == "idx" else f"{split}{row}" for row in range(rows)]
        texts = {"premise": [f"p {split} {row}" for row in ids], "hypothesis": [f"h {row}" for row in ids]}
        return datasets.Dataset.from_dict({**texts, "label": [row % 3 for row in range(rows)], column: ids}, features=features)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = counts(next(command for command in COMMANDS if command.name == "nli-hub-0").load())
    assert found.pop("train") == ROWS and set(found.values()) == {6} and len(found) == 7
    rounds = [("facebook/anli", None, f"{split}_r{number}") for split in ("dev", "test") for number in (1, 2, 3)]
    assert asked == [("nyu-mll/glue", "mnli", "train"), ("nyu-mll/glue", "mnli", "validation_matched"), *rounds]


# -- end to end ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One output folder for all commands, so that they share stages through its store as a user's would."""
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize(
    "command",
    [pytest.param(one, id=one.name, marks=() if one.name in REPRESENTATIVE else pytest.mark.slow) for one in TABLE],
)
def test_documented_command_runs_on_tiny_models(command: Command, stand_in: Callable[[str], Path], output: Path) -> None:
    recipe = command.load()
    with pytest.raises(SystemExit) as ended:
        ftft(["run", command.recipe, *command.overrides, *scaled_down(recipe, stand_in, output)])
    assert not ended.value.code
    folder = output / command.name
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    main = STAGE_OF_ROW[command.row]
    assert result["main"] == main and list(result["stages"]) == list(recipe.stages)
    for name, stage in result["stages"].items():
        assert_stage(stage, recipe.stages[name], result["data"]["evaluation"])
    assert_cost({name: stage["cost"]["fraction_of_erm"] for name, stage in result["stages"].items()}, command.row)
    stamped = any(sentence.startswith(f"stage {main} was steered by out-of-distribution") for sentence in result["stamps"])
    assert stamped == (recipe.stages[main].stop is not None)
    assert_files(folder, recipe, result)


def assert_stage(stage: dict[str, Any], planned: Stage, sets: dict[str, Any]) -> None:
    """Selection sizes by the released rules, the stop by the paper's, figures on every set."""
    sizes = {"all": ROWS, "random": int(0.33 * ROWS), "top": 32}  # top: strictly above the quantile at 0.67 * 95 = 63.65
    assert stage["selection"]["examples"] == sizes[planned.select["name"]]
    assert stage["precision"] == "bf16"
    training, history = stage["training"], stage["training"]["history"]
    assert training["planned"] == STEPS_HERE
    assert all(np.isfinite(training["losses"])) and len(training["losses"]) == training["steps"]
    assert set(stage["evaluation"]) == set(sets)
    assert all(0.0 <= one["metrics"]["accuracy"]["value"] <= 1.0 for one in stage["evaluation"].values())
    if planned.stop is None:
        assert training["steps"] == STEPS_HERE and not training["stopped_early"] and history == []
        return
    scores = [np.mean([entry["scores"][name][planned.stop.metric] for name in planned.stop.on]) for entry in history]
    best = int(np.argmax(scores))  # the first of equal ones
    assert [entry["step"] for entry in history] == list(range(1, training["steps"] + 1))
    assert training["best_step"] == stage["artefact"]["step"] == best + 1
    assert training["stopped_early"] and training["steps"] == best + 3 < STEPS_HERE
    assert stage["steered_by"] == dict.fromkeys(planned.stop.on, "ood")


def assert_cost(fractions: dict[str, float], row: str) -> None:
    assert fractions["erm"] == pytest.approx(1.0)
    if row == "Random third":
        assert 0.7 < fractions["random"] < 1.3
    if row == "DM":
        assert 1.7 < fractions["dm"] < 2.3
    if row == "FTFT":  # the reference whole, and the main run as far as it went, with the evaluations that steered it
        assert 0 < fractions["reference"] < fractions["ftft"]


def assert_files(folder: Path, recipe: Recipe, result: dict[str, Any]) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    assert (folder / "report.html").is_file() and (folder / "events.jsonl").is_file()
    again = load_recipe(folder / "recipe.yaml")
    assert list(again.stages) == list(recipe.stages) and again.only == recipe.only
    for name, stage in recipe.stages.items():
        assert (folder / "stages" / name / "selection.parquet").is_file()
        assert (folder / "stages" / name / "dynamics.parquet").is_file() == (stage.dynamics is not None)
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model")
    assert [model.config.id2label[index] for index in range(model.config.num_labels)] == result["data"]["label_names"]
    assert AutoTokenizer.from_pretrained(folder / "model")("people film")["input_ids"]


def test_a_run_interrupted_in_the_reference_and_in_the_main_stage_ends_bit_for_bit_the_same(
    stand_in: Callable[[str], Path], tmp_path: Path
) -> None:
    command = next(command for command in COMMANDS if command.name == "nli-ftft-electra-base-0")
    undisturbed, disturbed = (
        command.load(*scaled_down(command.load(), stand_in, tmp_path / place), "only=[ftft]") for place in ("a", "b")
    )
    first = run_recipe(undisturbed)
    for stage, step in (("reference", 5), ("ftft", 2)):

        def interrupt(event: dict[str, Any], at: tuple[str, str, int] = ("step", stage, step)) -> None:
            if (event["event"], event.get("stage"), event.get("step")) == at:
                os.kill(os.getpid(), signal.SIGINT)

        with pytest.raises(Interrupted, match=f"interrupted at step {step} of {STEPS_HERE}"):
            run_recipe(disturbed, notify=interrupt)
    second = run_recipe(disturbed)
    results = [read_result(folder)["stages"] for folder in (first, second)]
    for name in ("reference", "ftft"):
        one, other = (result[name]["training"] for result in results)
        assert one == other and one["losses"]
        assert results[0][name]["evaluation"] == results[1][name]["evaluation"]
        assert results[0][name]["resume_differences"] == results[1][name]["resume_differences"] == []
    assert (first / "model/model.safetensors").read_bytes() == (second / "model/model.safetensors").read_bytes()
    dynamics = [read_dynamics(folder / "stages/reference/dynamics.parquet") for folder in (first, second)]
    assert np.array_equal(dynamics[0].logits, dynamics[1].logits) and dynamics[0].logits.shape == (4, ROWS, 3)
