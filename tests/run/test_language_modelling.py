"""Language models in recipes: from rows to a model that loads, its loss on every set, and a report that tells it so."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ftft.data.loading import load_data
from ftft.dynamics.parquet import read_dynamics
from ftft.dynamics.scores import available_scores
from ftft.errors import UserError
from ftft.report.parts import load_parts
from ftft.report.terminal import print_result
from ftft.report.writing import write_report
from ftft.run.checking import check_models_and_data
from ftft.run.evaluating_saved import evaluate_saved
from ftft.run.reading import check_files, recipe_from_dict
from ftft.run.runner import read_result, run_recipe
from ftft.run.verifying import verify_run
from ftft.tasks import intervals
from ftft.tasks.answers import last_number
from ftft.tasks.causal_language_modelling import CausalLanguageModelling
from ftft.tasks.sequences import PREDICTIONS, STATISTICS, measure

WORDS = [
    "good",
    "great",
    "happy",
    "bad",
    "terrible",
    "boring",
    "the",
    "film",
    "movie",
    "plot",
    "acting",
    "food",
    "place",
    "dog",
    "cat",
    "people",
    "man",
    "woman",
]
SIZES = {"train": 48, "validation": 16, "test": 24, "ood": 24, "forget": 12}
TRAIN = {"steps": 12, "batch_size": 8, "precision": "fp32"}
ADAMW = {"name": "adamw", "learning_rate": 3e-3}


@pytest.fixture(scope="session")
def llama(tiny_config: Callable[..., Any], tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random Llama of 3 layers, with a tokenizer that has an end-of-text token. Not to be changed."""
    from transformers import LlamaForCausalLM

    folder = tmp_path_factory.mktemp("llama") / "model"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(tiny_config("llama")).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "eos_token": "[SEP]"}))
    return folder


def write_rows(folder: Path) -> None:
    source = random.Random(0)
    for name, size in SIZES.items():
        with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as stream:
            for row in range(size):
                one, other = source.sample(WORDS, 2)
                text = {"prompt": f"{name} {one} {other}", "completion": " ".join([other, one][: 1 + row % 2])}
                stream.write(json.dumps({"id": f"{name}-{row}", **text, "cluster": row // 4}) + "\n")


def recipe_of(folder: Path, model: Path, stages: dict[str, Any], **changes: Any) -> Any:
    if not (folder / "train.jsonl").exists():
        write_rows(folder)
    roles = {"validation": ("id", "validation"), "test": ("id", "test"), "ood": ("ood", "test"), "forget": ("forget", "test")}
    sets: dict[str, Any] = {
        name: {"path": str(folder / f"{name}.jsonl"), "role": role, "split": split} for name, (role, split) in roles.items()
    }
    sets["ood"]["columns"] = {"id": "id", "cluster": "cluster"}
    usual = {"model": {"path": str(model)}, "train": TRAIN, "optimize": ADAMW}
    evaluate = {"name": "language_modelling", "resamples": 40}
    raw = {
        "task": {"name": "causal_language_modelling", "max_length": 32},
        "data": {"train": {"path": str(folder / "train.jsonl")}, "columns": {"id": "id"}, "evaluation": sets},
        "stages": {name: {**usual, "evaluate": evaluate, **stage} for name, stage in stages.items()},
        "output": str(folder / "runs"),
    }
    return recipe_from_dict({**raw, **changes}, default_name="tiny")


FTFT: dict[str, Any] = {
    "erm": {"stop": {"patience": 3}, "combine": "best", "train": {**TRAIN, "evaluate_every": 4}},
    "reference": {"dynamics": {"mode": "online"}},
    "main": {"use_dynamics_of": "reference", "select": {"name": "top", "score": "loss", "fraction": 0.5}},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, llama: Path) -> tuple[Path, dict[str, Any]]:
    """The folder and the result of FTFT for a language model, the reference of one layer. Not to be changed."""
    folder = tmp_path_factory.mktemp("lm")
    stages = {**FTFT, "reference": {**FTFT["reference"], "model": {"path": str(llama), "keep_layers": 1}}}
    recipe = recipe_of(folder, llama, stages, baseline="erm", main="main")
    lines = list(check_models_and_data(recipe))
    assert "training data: 48 examples" in lines and lines[-1] == "the recipe is sound"
    run = run_recipe(recipe)
    return run, read_result(run)


def stored(folder: Path, stage: str, name: str) -> np.ndarray:
    table = pq.read_table(folder / "stages" / stage / "predictions" / f"{name}.parquet")
    assert table.column_names == ["id", *PREDICTIONS]
    return np.stack([table[name].to_numpy() for name in PREDICTIONS], axis=1).astype(np.float64)


def test_every_set_is_measured_and_the_figures_are_those_of_the_stored_rows(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, result = finished
    assert result["compared"] == ["loss", "perplexity", "token_accuracy"]
    for stage in result["stages"]:
        for name in ("validation", "test", "ood", "forget"):
            entry, rows = result["stages"][stage]["evaluation"][name], stored(folder, stage, name)
            nats = -(rows[:, 0] * rows[:, 2]).sum() / rows[:, 2].sum()
            assert entry["metrics"]["loss"]["value"] == pytest.approx(nats, rel=1e-12)
            assert entry["metrics"]["perplexity"]["value"] == pytest.approx(np.exp(nats), rel=1e-12)
            assert entry["tokens"] == rows[:, 2].sum() and entry["n"] == SIZES[name]
            assert entry["bootstrap"]["over"] == ("clusters" if name == "ood" else "examples")
            low, high = (entry["metrics"]["loss"][key] for key in ("low", "high"))
            assert low < nats < high
    assert result["stages"]["main"]["evaluation"]["forget"]["role"] == "forget"


def test_a_loss_is_that_of_the_model_that_was_saved(finished: tuple[Path, dict[str, Any]]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, result = finished
    model, tokenizer = (kind.from_pretrained(folder / "model") for kind in (AutoModelForCausalLM, AutoTokenizer))
    total, tokens = 0.0, 0
    for line in (folder.parents[1] / "test.jsonl").read_text().splitlines():
        row = json.loads(line)
        prompt, answer = (tokenizer(row[key], add_special_tokens=False)["input_ids"] for key in ("prompt", "completion"))
        answer = [*answer, tokenizer.eos_token_id]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="sum"))
        tokens += len(answer)
    assert result["stages"]["main"]["evaluation"]["test"]["metrics"]["loss"]["value"] == pytest.approx(total / tokens, abs=1e-5)


def test_the_difference_to_the_baseline_is_paired(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, result = finished
    versus = result["stages"]["main"]["versus_baseline"]
    mine, theirs = (stored(folder, stage, "test") for stage in ("main", "erm"))
    counts = intervals.bootstrap_multiplicities(SIZES["test"], None, 40, intervals.seed_for(result["seed"], "test"))
    gaps = measure(mine, counts)["perplexity"] - measure(theirs, counts)["perplexity"]
    entry = versus["sets"]["test"]["perplexity"]
    assert entry["value"] == pytest.approx(float(measure(mine)["perplexity"]) - float(measure(theirs)["perplexity"]), abs=1e-9)
    assert (entry["low"], entry["high"]) == pytest.approx(intervals.percentile_interval(np.asarray(gaps)), abs=1e-9)
    assert versus["means"]["ood"]["loss"] == versus["sets"]["ood"]["loss"]
    assert set(versus["sets"]["forget"]) == {"loss", "perplexity", "token_accuracy"}


def test_stopping_follows_the_loss_downwards(finished: tuple[Path, dict[str, Any]]) -> None:
    _, result = finished
    erm = result["stages"]["erm"]
    training = erm["training"]
    losses = {entry["step"]: entry["scores"]["validation"]["loss"] for entry in training["history"]}
    assert training["best_score"] == min(losses.values()) == losses[training["best_step"]]
    assert result["stages"]["erm"]["evaluation"]["validation"]["metrics"]["loss"]["value"] == pytest.approx(
        min(losses.values())
    )


def test_the_main_model_learns_from_the_rows_the_reference_found_hardest(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, result = finished
    dynamics = read_dynamics(folder / "stages/reference/dynamics.parquet")
    assert dynamics.gold is None and set(dynamics.statistics) == set(STATISTICS) and dynamics.seen.all()
    assert {"confidence", "variability", "loss"} <= set(available_scores(dynamics))
    losses = -dynamics.statistics["mean_log_probability"].astype(np.float64).mean(axis=0)
    hardest = set(np.array(dynamics.ids.to_pylist())[np.argsort(-losses)[:24]])
    chosen = pq.read_table(folder / "stages/main/selection.parquet")["id"].to_pylist()
    assert set(chosen) == hardest and len(chosen) == 24
    assert result["stages"]["main"]["class_prior"] is None and "predicted_classes" not in result["stages"]["main"]


def test_the_reports_tell_loss_and_not_accuracy(finished: tuple[Path, dict[str, Any]]) -> None:
    from io import StringIO

    from rich.console import Console

    folder, result = finished
    out = StringIO()
    print_result(result, Console(file=out, width=200), parts=load_parts(folder, result))
    page, card = write_report(folder).read_text(), (folder / "model" / "README.md").read_text()
    main, erm = (result["stages"][one]["evaluation"]["ood"]["metrics"]["loss"]["value"] for one in ("main", "erm"))
    word = "better" if main < erm else "worse"
    for text in (" ".join(out.getvalue().split()), page, card):
        assert f"main is {abs(main - erm):.3f} nats per token {word} than plain fine-tuning (erm)" in text
        assert f"{main:.3f}" in text and "F1" not in text and "AUROC" not in text
    assert "Loss in nats per token (lower is better)" in out.getvalue() and "(negative is better)" in out.getvalue()
    assert "Loss in nats per token (lower is better) with" in page and "Differences to erm in nats per token" in page
    assert "pipeline_tag: text-generation" in card and "Token accuracy" in card
    assert f"ppl {result['stages']['main']['evaluation']['ood']['metrics']['perplexity']['value']:.2f}" in page


def test_a_saved_model_is_measured_alike(finished: tuple[Path, dict[str, Any]], llama: Path, tmp_path: Path) -> None:
    folder, result = finished
    recipe = recipe_of(folder.parents[1], llama, {"main": {}}, seed=result["seed"])
    found = evaluate_saved(folder / "model", recipe, out=tmp_path / "out")
    expected = result["stages"]["main"]["evaluation"]["test"]["metrics"]
    assert found["test"]["metrics"]["loss"] == pytest.approx(expected["loss"], abs=1e-6)
    assert pq.read_table(tmp_path / "out/predictions/test.parquet").column_names == ["id", *PREDICTIONS]
    assert "training_prior" not in json.loads((tmp_path / "out/evaluation.json").read_text())


@pytest.mark.parametrize(
    ("columns", "keys"),
    [
        ({}, ("text",)),
        ({"inputs": {"prompt": "question", "completion": "answer"}}, ("question", "answer")),
        ({"text": ["story"]}, ("story",)),
    ],
)
def test_the_layout_is_the_one_named_or_the_one_the_file_has(
    columns: dict[str, Any], keys: tuple[str, ...], tmp_path: Path, llama: Path
) -> None:
    rows = [{key: f"{word} {key}" for key in keys} for word in WORDS]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"train": {"path": str(tmp_path / "train.jsonl")}, "columns": columns, "validation_fraction": 0.3}
    recipe = recipe_of(tmp_path, llama, {"main": {"train": {**TRAIN, "steps": 1}}}, data=data)
    result = read_result(run_recipe(recipe))
    assert result["data"]["train"]["n"] + result["data"]["evaluation"]["validation"]["n"] == len(WORDS)


def test_balancing_over_classes_is_refused_where_there_are_none(tmp_path: Path, llama: Path) -> None:
    select = {"name": "top", "score": "loss", "fraction": 0.5, "balance": "class"}
    stages = {**FTFT, "main": {"use_dynamics_of": "reference", "select": select}}
    with pytest.raises(
        UserError, match="stages.main.select: balancing over classes needs labels, and these examples have none"
    ):
        list(check_models_and_data(recipe_of(tmp_path, llama, stages)))


def test_scores_that_sequences_do_not_have_are_refused_before_training(tmp_path: Path, llama: Path) -> None:
    stages = {**FTFT, "main": {"use_dynamics_of": "reference", "select": {"name": "top", "score": "aum", "fraction": 0.5}}}
    with pytest.raises(UserError, match='stages.main.select: the score "aum" needs'):
        list(check_models_and_data(recipe_of(tmp_path, llama, stages)))


@pytest.mark.parametrize(
    ("stage", "sentence"),
    [
        ({"evaluate": "classification"}, "stages.main.evaluate: classification serves the tasks text_classification"),
        ({"objective": "mixup"}, "stages.main.objective: mixup serves the tasks text_classification"),
        ({"stop": {"metric": "accuracy"}}, 'causal_language_modelling has no score "accuracy" to steer by'),
    ],
)
def test_what_a_classifier_alone_can_do_is_refused(stage: dict[str, Any], sentence: str, tmp_path: Path, llama: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        recipe_of(tmp_path, llama, {"main": stage})


def test_files_of_different_layouts_are_refused(tmp_path: Path, llama: Path) -> None:
    write_rows(tmp_path)
    (tmp_path / "texts.jsonl").write_text('{"text": "the film"}\n')
    files = [{"path": str(tmp_path / name), "columns": {}} for name in ("train.jsonl", "texts.jsonl")]
    with pytest.raises(UserError, match="differ in how many|as well as"):
        list(check_models_and_data(recipe_of(tmp_path, llama, {"main": {}}, data={"train": files})))


def test_the_released_llama_learns_its_stories(real_data: Path, tmp_path: Path) -> None:
    """A pretrained language model of 260,000 parameters: a few steps on one kind of story lower its loss on another of it."""
    kinds = [f"Once upon a time, there was a little {animal} named {name}. " for animal in ("dog", "cat", "bird", "fish")
             for name in ("Tim", "Lily", "Tom", "Sue", "Ben", "Amy")]  # fmt: skip
    lines = [
        json.dumps({"text": f"{start}One day, {start[31:-2]} saw a big red robot and said: hello, robot!"}) for start in kinds
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(lines[:18]))
    (tmp_path / "test.jsonl").write_text("\n".join(lines[18:]))
    sets = {"test": {"path": str(tmp_path / "test.jsonl"), "role": "id", "split": "validation"}}
    data = {"train": {"path": str(tmp_path / "train.jsonl")}, "evaluation": sets}
    train = {"steps": 10, "batch_size": 6, "precision": "fp32", "evaluate_every": 5}
    stages = {"main": {"train": train, "stop": {"patience": 5}}}
    recipe = recipe_of(tmp_path, real_data / "lm_stories260k", stages, data=data, task={"name": "causal_language_modelling"})
    before = evaluate_saved(real_data / "lm_stories260k", recipe)["test"]["metrics"]["loss"]["value"]
    result = read_result(run_recipe(recipe))
    after = result["stages"]["main"]["evaluation"]["test"]["metrics"]["loss"]["value"]
    assert before < 3.0, "it knows English stories"
    assert after < before - 0.3


def test_chats_run_from_their_rows_to_a_saved_model_with_its_template(tmp_path: Path, llama: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"the {one}"}, {"role": "assistant", "content": f"{one} film"}]}
        for one in WORDS
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    template = tmp_path / "chat.jinja"
    template.write_text(
        "{% for m in messages %}{{ m.role + ': ' + m.content + '; ' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    data = {"train": {"path": str(tmp_path / "train.jsonl")}, "validation_fraction": 0.3}
    task = {"name": "causal_language_modelling", "max_length": 32, "chat_template": str(template)}
    stages = {"main": {"train": {**TRAIN, "steps": 2}}}
    folder = run_recipe(recipe_of(tmp_path, llama, stages, data=data, task=task))
    result = read_result(folder)
    assert result["data"]["train"]["n"] + result["data"]["evaluation"]["validation"]["n"] == len(rows) + 1
    kept = folder / "model" / "chat_template.jinja"
    assert kept.read_text() == template.read_text()
    assert str(tmp_path) not in json.dumps(result["recipe"]["task"])
    key = result["stages"]["main"]["key"]
    copied = tmp_path / "copied.jinja"
    copied.write_text(template.read_text())
    again = run_recipe(recipe_of(tmp_path, llama, stages, data=data, task={**task, "chat_template": str(copied)}))
    assert read_result(again)["stages"]["main"]["key"] == key, "the template's text says what is computed, not where it lies"
    assert str(tmp_path) not in (folder.parent / ".store" / key[:20] / "stage.json").read_text()
    for file in (template, copied):
        file.write_text(file.read_text().replace("; ", " . "))
    notes = [note for one in verify_run(folder, steps=1) for note in one.notes]
    assert notes == ["the files that the task's settings name are not those of the run (chat_template)"]
    assert read_result(run_recipe(recipe_of(tmp_path, llama, stages, data=data, task=task)))["stages"]["main"]["key"] != key


def test_a_missing_chat_template_is_named(tmp_path: Path, llama: Path) -> None:
    recipe = recipe_of(tmp_path, llama, {"main": {}}, task={"name": "causal_language_modelling", "chat_template": "no.jinja"})
    with pytest.raises(UserError, match="task.chat_template: no.jinja does not exist"):
        check_files(recipe)


def test_exact_match_is_what_the_saved_model_writes(tmp_path: Path, llama: Path) -> None:
    """A copying task so small that some answers are right and others are not."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    (tmp_path / "train.jsonl").write_text(
        "".join(json.dumps({"prompt": f"the {one} is", "completion": f"number {n % 2}"}) + "\n" for n, one in enumerate(WORDS))
    )
    data = {"train": {"path": str(tmp_path / "train.jsonl")}, "validation_fraction": 0.4}
    task = {"name": "causal_language_modelling", "max_length": 32, "answer": "number", "answer_tokens": 12}
    stage = {"train": {**TRAIN, "steps": 30, "evaluate_every": 10}, "stop": {"metric": "exact_match", "patience": 9}}
    recipe = recipe_of(tmp_path, llama, {"main": {**stage, "combine": "best"}}, data=data, task=task)
    folder = run_recipe(recipe)
    result = read_result(folder)
    assert result["compared"][0] == "exact_match"
    main = result["stages"]["main"]
    rows = pq.read_table(folder / "stages/main/predictions/validation.parquet")
    right = dict(zip(rows["id"].to_pylist(), rows["exact_match"].to_pylist()))
    entry = main["evaluation"]["validation"]["metrics"]["exact_match"]
    assert entry["value"] == np.mean(list(right.values())) == pytest.approx(main["training"]["best_score"])
    assert 0 < entry["value"] < 1 and entry["low"] <= entry["value"] <= entry["high"]
    model, tokenizer = (kind.from_pretrained(folder / "model") for kind in (AutoModelForCausalLM, AutoTokenizer))
    loaded = load_data(recipe.data, inputs=CausalLanguageModelling.inputs).evaluation["validation"].examples
    config = GenerationConfig(do_sample=False, max_new_tokens=12, eos_token_id=3, pad_token_id=0)
    for name, prompt, completion in zip(*(column.to_pylist() for column in (loaded.ids, *loaded.inputs.values()))):
        ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
        said = tokenizer.decode(model.generate(ids, generation_config=config)[0, ids.shape[1] :], skip_special_tokens=True)
        assert right[name] == (last_number(said) == completion[-1])
    assert "exact match" in write_report(folder).read_text()


def test_answers_are_not_asked_of_rows_without_a_prompt(tmp_path: Path, llama: Path) -> None:
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in WORDS))
    data = {"train": {"path": str(tmp_path / "train.jsonl")}, "validation_fraction": 0.4}
    recipe = recipe_of(tmp_path, llama, {"main": {}}, data=data, task={"name": "causal_language_modelling", "max_length": 32,
                                                                     "answer": "text", "answer_tokens": 8})  # fmt: skip
    with pytest.raises(UserError, match="^task.answer: rows of text alone ask nothing"):
        run_recipe(recipe)
