"""A recipe is read, overridden and checked; whatever is wrong is one sentence led by the path of the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ftft.engine.settings import TrainSettings
from ftft.errors import UserError
from ftft.run.reading import check_files, load_recipe, named_paths, recipe_from_dict, recipe_to_dict, recipe_to_yaml
from ftft.run.recipe import Recipe
from ftft.run.yaml_reading import parse_yaml

RECIPE = """
data:
  train: {path: train.csv}
  columns: {text: [premise, hypothesis]}
  labels: [entailment, neutral, contradiction]
  evaluation:
    dev: {path: dev.csv, role: id, split: validation}
    hard: {path: "${FTFT_TEST_DATA}/hard.csv", split: validation}
    ood: {path: ood.csv, merge_labels: {yes: [entailment], no: [neutral, contradiction]}}
stages:
  erm:
    model: {path: big}
    adapt: full
  reference:
    model: {path: big, keep_layers: 2}
    dynamics: {mode: online}
  main:
    model: {path: big}
    use_dynamics_of: reference
    select: {name: top, score: variability, fraction: 0.33}
    stop: {on: [dev], patience: 2}
    combine: best
baseline: erm
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "nli.yaml"
    path.write_text(RECIPE)
    return path


def sentence(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_recipe(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def replaced(path: Path, old: str, new: str) -> Path:
    assert old in RECIPE
    path.write_text(RECIPE.replace(old, new))
    return path


def test_every_default_is_filled_in(file: Path) -> None:
    recipe = load_recipe(file)
    assert (recipe.name, recipe.main, recipe.baseline) == ("nli", "main", "erm")
    main = recipe.stages["main"]
    assert main.train == TrainSettings()
    assert main.stop is not None and main.stop.on == ["dev"]
    assert main.select["name"] == "top" and main.select["largest"] is True
    assert recipe.stages["erm"].adapt == {"name": "full"}
    assert recipe.stages["erm"].optimize["learning_rate"] == 2e-5
    assert recipe.data.evaluation["ood"].merge_labels == {"yes": ["entailment"], "no": ["neutral", "contradiction"]}


def test_resolved_recipe_reads_back_equal(file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(file, ["stages.main.train.steps=7", "seed=3", "stages.erm.optimize.learning_rate=1.0e-05"])
    again = tmp_path / "elsewhere" / "recipe.yaml"
    again.parent.mkdir()
    again.write_text(recipe_to_yaml(recipe))
    assert load_recipe(again) == recipe
    assert recipe_from_dict(recipe_to_dict(recipe)) == recipe


words = st.text(min_size=1, max_size=12).filter(lambda text: "\0" not in text)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    labels=st.lists(words, min_size=2, max_size=4, unique=True),
    renamed=st.dictionaries(words, words, max_size=3),
    seed=st.integers(0, 2**32 - 1),
    rate=st.floats(1e-30, 1e30),
    fraction=st.floats(0.001, 0.5),
)
def test_any_sound_values_round_trip(
    labels: list[str], renamed: dict[str, str], seed: int, rate: float, fraction: float
) -> None:
    raw = yaml.safe_load(RECIPE)
    raw["stages"]["main"]["stop"] = {"patience": 1}
    raw["data"]["evaluation"]["ood"].pop("merge_labels")
    raw["data"] |= {"labels": labels, "validation_fraction": fraction}
    raw["data"]["train"]["rename_labels"] = renamed
    raw["seed"] = seed
    raw["stages"]["main"]["optimize"] = {"name": "adamw", "learning_rate": rate}
    recipe = recipe_from_dict(raw)
    assert recipe_from_dict(parse_yaml(recipe_to_yaml(recipe), "again")) == recipe


def test_odd_line_ends_and_yaml_words_round_trip() -> None:
    labels = ["a\x85b", "c\u2028d", "no", "3e-4", "1_0", "2024-01-02", " x ", "é", "\U0001f600", "#", "on: off"]
    raw = yaml.safe_load(RECIPE)
    raw["stages"]["main"]["stop"] = {"patience": 1}
    raw["data"]["evaluation"]["ood"].pop("merge_labels")
    raw["data"]["labels"] = labels
    written = recipe_to_yaml(recipe_from_dict(raw))
    assert recipe_from_dict(parse_yaml(written, "again")).data.labels == labels
    assert "é" in written


def test_steps_alone_switch_the_default_epochs_off(file: Path) -> None:
    train = load_recipe(file, ["stages.main.train.steps=10"]).stages["main"].train
    assert (train.steps, train.epochs) == (10, None)


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("stages.main.train.epochs=5", lambda recipe: recipe.stages["main"].train.epochs == 5.0),
        ("stages.erm.adapt=linear_probe", lambda recipe: recipe.stages["erm"].adapt["name"] == "linear_probe"),
        ("stages.erm.optimize.learning_rate=0.1", lambda recipe: recipe.stages["erm"].optimize["learning_rate"] == 0.1),
        ("stages.erm.stop.patience=4", lambda recipe: recipe.stages["erm"].stop.patience == 4),
        ("stages.main.stop.on.0=hard", lambda recipe: recipe.stages["main"].stop.on == ["hard"]),
        ("stages.main.stop=null", lambda recipe: recipe.stages["main"].stop is None),
        ("data.evaluation.new.path=new.csv", lambda recipe: recipe.data.evaluation["new"].path == "new.csv"),
        ("data.evaluation.v1.1={path: a.csv}", lambda recipe: True),
        ("name=007", lambda recipe: True),
        ("task.max_length=64", lambda recipe: recipe.task["max_length"] == 64),
    ],
)
def test_override_changes_one_key(file: Path, override: str, read: Any) -> None:
    if override.startswith(("data.evaluation.v1.1", "name=007")):
        assert "expected" in sentence(file, override) or "has no key" in sentence(file, override)
        return
    assert read(load_recipe(file, [override]))


def test_override_finds_names_that_hold_dots(file: Path) -> None:
    replaced(file, "    ood: {path", "    ood.v1: {path")
    assert load_recipe(file, ["data.evaluation.ood.v1.limit=5"]).data.evaluation["ood.v1"].limit == 5


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("stages.mian.train.epochs=3", 'there is no stage "mian"; did you mean "main"?'),
        ("stages.main.train.epcohs=3", 'stages.main.train has no key "epcohs"; did you mean "epochs"?'),
        ("stages.main.train.epochs.x=3", 'stages.main.train.epochs is a single value, so it has no key "x"'),
        ("stages.main.stop.on.1=hard", "stages.main.stop.on is a list with the indices 0 to 0, not 1"),
        ("stages.main.optimize.lr=0.1", 'stages.main.optimize.lr: there is no setting "lr"'),
        ("epochs", "is not of the form key=value"),
        ("seed=[1", "the override seed, line 1"),
        ("stages.main.optimize.learning_rate=3e-4", "so write 3.0e-4"),
        ("stages.main.train.batch_size=1e2", "write 100"),
        ("stages.main.train.steps=10.0", "stages.main.train.steps: expected a whole number or null, found 10.0"),
        ("seed=-1", "seed: -1 is out of range; it must be at least 0 and below 4294967296"),
        ("stages.main.train.warmup=1", "below 1"),
        ("stages.main.train.epochs=0", "above 0"),
        ("stages.main.train.clip=.inf", "expected a finite number, found inf"),
        ("stages.main.model.keep_layers=0", "at least 1"),
        ("stages.main.stop.patience=0", "at least 1"),
        ("stages.erm.optimize.learning_rate=0", "above 0"),
        ("data.validation_fraction=0.6", "above 0 and at most 0.5"),
        ("stages.main.select.fraction=1.5", "stages.main.select.fraction: 1.5 is out of range"),
        ("stages.main.train.schedule=liner", 'there is no "liner"; did you mean "linear"?'),
        ("data.labels=[no, yes]", "data.labels.0: expected text, found false (a boolean); YAML reads yes, no"),
        ("data.columns.text=text", "put it in square brackets"),
        ("output=", "output: expected text, found null"),
    ],
)
def test_wrong_overrides_are_one_sentence(file: Path, override: str, expected: str) -> None:
    assert expected in sentence(file, override)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["stages.main.use_dynamics_of=referenc"], 'there is no stage "referenc"; did you mean "reference"?'),
        (["stages.main.use_dynamics_of=main"], "names the stage itself"),
        (["stages.reference.use_dynamics_of=main", "stages.reference.select={name: top, fraction: 0.1}"], "which comes later"),
        (["stages.main.use_dynamics_of=erm"], "records no dynamics; add stages.erm.dynamics: {mode: online}"),
        (["stages.main.use_dynamics_of=null"], "top needs training dynamics; add stages.main.use_dynamics_of"),
        (["stages.erm.use_dynamics_of=x.parquet"], "add stages.erm.select, or leave use_dynamics_of out"),
        (["stages.main.model.hub=x"], "stages.main.model has path and hub; give it exactly one of path or hub or package"),
        (["stages.main.model.path=null"], "stages.main.model names no source; give it path or hub or package"),
        (["stages.main.train={epochs: 1, steps: 2}"], "both epochs and steps are given"),
        (["stages.main.train.epochs=null"], "neither epochs nor steps is given"),
        (["stages.main.stop.on=[ood]"], '"ood" is a test set, and test sets are only reported'),
        (["stages.main.stop.on=[devv]"], 'no validation set "devv"; did you mean "dev"?'),
        (["stages.main.stop.on=[validation]"], 'no validation set "validation"'),
        (["stages.main.stop.on=[dev, dev]"], 'names "dev" twice'),
        (["baseline=er"], 'baseline: there is no stage "er"; did you mean "erm"?'),
        (["main=mainn"], 'main: there is no stage "mainn"; did you mean "main"?'),
        (["stages.main.train.micro_batch_size=7"], "7 does not divide batch_size 32; 4 would"),
        (["stages.main.train.evaluate_every=2.5"], "2.5 is no whole number of steps, nor a share below 1"),
        (["stages.reference.train.epochs=1"], "variability needs dynamics of at least 2 epochs"),
        (["stages.main.select.score=dual", "stages.reference.train.epochs=2"], "dual needs dynamics of at least 3 epochs"),
        (
            ["stages.main.select.drop_first_epochs=2"],
            'of the 3 that the stage "reference" gives, stages.main.select.drop_first_epochs leaves 1; drop at most 1, or',
        ),
        (
            ["stages.main.select.drop_first_epochs=4", "stages.reference.train.epochs=4"],
            'of the 4 that the stage "reference" gives, stages.main.select.drop_first_epochs leaves 0; drop at most 2, or',
        ),
        (
            ["stages.main.select={name: top, score: confidence, fraction: 0.1, drop_first_epochs: 3}"],
            "confidence needs dynamics of at least 1 epoch, and of the 3",
        ),
        (["stages.main.select.epochs=[2]"], "and stages.main.select.epochs names 1; name more, or leave it out"),
        (
            [
                "stages.main.select={name: mixture, fraction: 0.1, parts: [{score: dual, share: 1.0}]}",
                "stages.reference.train.epochs=2",
            ],
            "dual needs",
        ),
        (["name=a/b"], '"a/b" cannot be used as a file name'),
        (["data.evaluation.DEV={path: x.csv}"], "differ only in case"),
        (["data.evaluation.dev.role=ood", "data.evaluation.validation={path: x.csv}"], "is kept for the rows held out"),
        (["data.evaluation.ood.merge_labels={a: [entail]}"], 'the model has no label "entail"; did you mean "entailment"?'),
        (["data.evaluation.ood.merge_labels={a: [neutral], b: [neutral]}"], 'counts as both "a" and "b"'),
        (["data.evaluation.ood.hub_config=x"], "hub_config is only for a dataset on the hub"),
        (["data.labels=[a, a]"], "at least two labels, each once"),
        (["data.train=[]"], "data.train is an empty list"),
        (["stages={}"], "stages is empty"),
        (["task.name=text_clasification"], 'did you mean "text_classification"?'),
        (["stages.main.model.sha256=abc"], "64 hexadecimal digits"),
        (["data.columns.text=[a, a]"], "two different ones for pairs"),
    ],
)
def test_impossible_combinations_are_refused(file: Path, overrides: list[str], expected: str) -> None:
    assert expected in sentence(file, *overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["stages.main.stop.on=[dev, hard]"],  # steering by an OOD validation set is allowed by name
        ["data.evaluation.dev.split=test", "stages.main.stop.on=[validation]"],  # held out of the training rows
        ["stages.main.use_dynamics_of=old/dynamics.parquet"],
        ["stages.main.use_dynamics_of=dynamics.parquet", "stages.reference.train.epochs=1"],
        ["stages.main.select.score=confidence", "stages.reference.train.epochs=1"],
        ["stages.main.select.score=confidence", "stages.reference.train.epochs=0.5"],
        ["stages.main.select={name: random, fraction: 0.3}"],
        ["stages.main.train.micro_batch_size=8", "stages.main.train.evaluate_every=0.25"],
    ],
)
def test_sound_combinations_are_accepted(file: Path, overrides: list[str]) -> None:
    assert isinstance(load_recipe(file, overrides), Recipe)


def test_a_method_that_does_not_serve_the_task_is_refused(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "boxes.py").write_text(
        '"""Boxes."""\nfrom __future__ import annotations\nfrom dataclasses import dataclass\n'
        "from typing import ClassVar\n\n\n"
        '@dataclass(frozen=True)\nclass Boxes:\n    """Boxes only."""\n\n'
        '    tasks: ClassVar[tuple[str, ...]] = ("detection",)\n\n'
        "    def adapt(self, model, calibration):\n        return model\n"
    )
    info = tmp_path / "boxes-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: boxes\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[ftft.methods]\nadapt.boxes = boxes\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    expected = "stages.erm.adapt: boxes serves the tasks detection and not text_classification; for this task there is"
    assert expected in sentence(file, "stages.erm.adapt=boxes")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("baseline: erm", "baselin: erm", 'baselin: there is no setting "baselin"; did you mean "baseline"?'),
        ("keep_layers: 2", "keep_layer: 2", 'stages.reference.model.keep_layer: there is no setting "keep_layer"'),
        ("  train: {path: train.csv}\n", "", "data.train is missing"),
        ("dynamics: {mode: online}", "dynamics: online", "stages.reference.dynamics: expected a mapping or null, found"),
        ("    adapt: full", "    adapt:", "stages.erm.adapt: expected a mapping, found null"),
        ("baseline: erm", "data: {}", 'line 23: the key "data" was already given in line 2'),
        ("model: {path: big}\n    adapt", "model: {path: big}\n\tadapt", "this is no valid YAML"),
    ],
)
def test_misspelt_and_misshapen_keys_are_one_sentence(file: Path, old: str, new: str, expected: str) -> None:
    assert expected in sentence(replaced(file, old, new))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"- a\n- b\n", "is no mapping"),
        (b"data: \xff\n", "is no UTF-8 text (line 1)"),
        (b"a: 1\n" * 300_000, "larger than 1 MiB"),
        (b"data: {train: ", "this is no valid YAML"),
        (b"a: !!python/object/apply:os.system [ls]\n", "this is no valid YAML"),
    ],
)
def test_files_that_are_no_recipe_are_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    assert expected in sentence(path)


def test_missing_recipe_suggests_the_nearest_file(file: Path) -> None:
    assert f"did you mean {file}?" in sentence(file.with_name("nil.yaml"))


def test_relative_paths_start_from_the_recipe_s_folder_where_they_exist_there(file: Path, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("")
    recipe = load_recipe(file)
    assert recipe.data.train.path == f"{tmp_path}/train.csv"  # type: ignore[union-attr]
    assert recipe.data.evaluation["dev"].path == "dev.csv"


def test_a_corrections_file_is_looked_for_like_a_data_file(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    stages = "stages: {erm: {model: {path: .}, train: {steps: 1}}}\n"
    recipe.write_text(f"data: {{train: {{path: r.yaml}}, columns: {{text: [t]}}, corrections: fixes.csv}}\n{stages}")
    with pytest.raises(UserError, match="data.corrections: fixes.csv does not exist"):
        check_files(load_recipe(recipe))
    (tmp_path / "fixes.csv").write_text("id,action,label\n")
    assert load_recipe(recipe).data.corrections == f"{tmp_path}/fixes.csv"
    check_files(load_recipe(recipe))


def test_missing_files_are_found_by_check_files_only(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FTFT_TEST_DATA", raising=False)
    (tmp_path / "trian.csv").write_text("")
    assert (
        refusal(file)
        == "data.train.path: train.csv does not exist beside the recipe or in the current folder; did you mean trian.csv?"
    )
    for name in ("train.csv", "dev.csv", "hard.csv", "ood.csv", "big"):
        (tmp_path / name).write_text("")
    assert "data.evaluation.hard.path: the environment variable FTFT_TEST_DATA" in refusal(file)
    monkeypatch.setenv("FTFT_TEST_DATA", str(tmp_path))
    assert load_recipe(file).data.evaluation["hard"].path == "${FTFT_TEST_DATA}/hard.csv"
    assert "stages.erm.model.path" in refusal(file) and "is a file; give the folder" in refusal(file)
    (tmp_path / "big").unlink()
    (tmp_path / "big").mkdir()
    check_files(load_recipe(file))


def refusal(file: Path) -> str:
    recipe = load_recipe(file)
    with pytest.raises(UserError) as caught:
        check_files(recipe)
    return str(caught.value)


def test_an_override_of_an_anchor_or_an_alias_changes_that_place_alone(file: Path) -> None:
    replaced(file, "    model: {path: big}\n    adapt: full", "    model: &big {path: big}\n    adapt: full")
    file.write_text(file.read_text().replace("    model: {path: big}\n    use", "    model: *big\n    use"))
    for changed, other in (("erm", "main"), ("main", "erm")):
        stages = load_recipe(file, [f"stages.{changed}.model.path=small"]).stages
        assert (stages[changed].model.path, stages[other].model.path) == ("small", "big")


def test_only_keeps_the_named_stages_and_what_they_use(file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(file, ["only=[main]"])
    assert list(recipe.stages) == ["reference", "main"] and (recipe.main, recipe.baseline) == ("main", None)
    recipe = load_recipe(file, ["only=[erm]", "main=main"])
    assert list(recipe.stages) == ["erm"] and (recipe.main, recipe.baseline) == ("erm", "erm")
    assert list(load_recipe(file, ["only=[main, erm]"]).stages) == ["erm", "reference", "main"]
    again = tmp_path / "again.yaml"
    again.write_text(recipe_to_yaml(recipe))
    assert load_recipe(again) == recipe
    assert sentence(file, "only=[mian]") == 'only: there is no stage "mian"; did you mean "main"?'
    assert "only is an empty list" in sentence(file, "only=[]")


def test_an_overrides_value_can_stand_in_a_file(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("train: {path: other.csv}\ncolumns: {text: [text]}\nevaluation: {dev: {path: d.csv, split: validation}}\n")
    recipe = load_recipe(file, [f"data=@{other}"])
    train = recipe.data.train
    assert not isinstance(train, list) and train.path == "other.csv" and list(recipe.data.evaluation) == ["dev"]
    missing = sentence(file, f"data=@{tmp_path / 'othr.yaml'}")
    assert missing.startswith("the override data: the file") and "did you mean" in missing
    other.write_text("train: [")
    assert "no valid YAML" in sentence(file, f"data=@{other}")


def test_a_files_format_is_for_files(file: Path) -> None:
    assert load_recipe(file, ["data.evaluation.hard.format=tsv"]).data.evaluation["hard"].format == "tsv"
    said = sentence(file, "data.evaluation.hard={hub: a/b, format: tsv}")
    assert said.startswith("data.evaluation.hard.format is only for a file")
    assert "there is no" in sentence(file, "data.evaluation.hard.format=tvs") and "tsv" in sentence(
        file, "data.evaluation.hard.format=tvs"
    )


@pytest.mark.parametrize("place", ["beside the recipe", "in the current folder"])
def test_a_name_that_is_no_stage_and_exists_is_a_path(
    place: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "elsewhere"
    here.mkdir()
    monkeypatch.chdir(here)
    assert 'there is no stage "cart"' in sentence(file, "stages.main.use_dynamics_of=cart")
    (tmp_path if place == "beside the recipe" else here).joinpath("cart").mkdir()
    recipe = load_recipe(file, ["stages.main.use_dynamics_of=cart"])
    source = recipe.stages["main"].use_dynamics_of
    assert source == (f"{tmp_path}/cart" if place == "beside the recipe" else "cart")
    assert [path for where, path, _ in named_paths(recipe) if where == "stages.main.use_dynamics_of"] == [source]
    again = tmp_path / "again.yaml"
    again.write_text(recipe_to_yaml(recipe))
    assert load_recipe(again) == recipe


def test_a_stage_comes_before_a_folder_of_its_name(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reference").mkdir()
    assert load_recipe(file).stages["main"].use_dynamics_of == "reference"


def test_a_source_with_a_variable_or_a_home_is_a_path(file: Path) -> None:
    for source in ("${FTFT_TEST_DYNAMICS}", "~"):
        assert load_recipe(file, [f"stages.main.use_dynamics_of={source!r}"]).stages["main"].use_dynamics_of == source
