"""The page: its figures are the result's, everything is escaped, nothing is fetched, and any part may be missing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ftft.dynamics.diagnostics import reference_diagnostics
from ftft.dynamics.parquet import read_dynamics, write_dynamics
from ftft.dynamics.scores import compute_scores
from ftft.dynamics.table import Dynamics
from ftft.errors import UserError
from ftft.report import datamap
from ftft.report.card import model_card
from ftft.report.parts import group_rows, load_parts
from ftft.report.writing import write_report

EVIL = "<script>alert(1)</script>"
VOID = {"meta", "br", "hr"}


class Reader(HTMLParser):
    """Checks that elements nest, and gathers tags, attributes, table rows and text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.errors: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "span" and "tr" in self.open and self.rows[-1]:
            self.rows[-1][-1] += " "

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.errors.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("script", "style"):
            return
        self.text += data
        if "tr" in self.open and self.rows[-1]:
            self.rows[-1][-1] += data


def read(page: Path) -> Reader:
    reader = Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    reader.close()
    assert reader.errors == [] and reader.open == []
    return reader


def row(reader: Reader, *beginning: str) -> list[str]:
    """The first row whose heading holds all words of ``beginning``."""
    return next(cells for cells in reader.rows if cells and all(word in cells[0] for word in beginning))


@pytest.fixture
def page(result: dict[str, Any], write_run: Callable[..., Path]) -> Reader:
    return read(write_report(write_run(result)))


def test_results_table_shows_the_results_figures(page: Reader, result: dict[str, Any]) -> None:
    for name in ("test", "no_shortcut", "reversed_shortcut", "new_words"):
        cells = row(page, name, "n = 200")
        for cell, stage in zip(cells[1:4], ("erm", "reference", "main")):
            metrics = result["stages"][stage]["evaluation"][name]["metrics"]
            a, f1 = metrics["accuracy"], metrics["macro_f1"]["value"]
            limits = f"[{100 * a['low']:.1f}, {100 * a['high']:.1f}]"
            assert cell.split(" ", 1) == [f"{100 * a['value']:.1f}", f"{limits} F1 {100 * f1:.1f}"]
    ood = ("no_shortcut", "reversed_shortcut", "new_words")
    evaluations = [result["stages"][stage]["evaluation"] for stage in ("erm", "reference", "main")]
    means = [np.mean([one[name]["metrics"]["accuracy"]["value"] for name in ood]) for one in evaluations]
    cells, gap = row(page, "OOD mean"), means[2] - means[0]
    shown = [f"{100 * mean:.1f} [{100 * (mean - 0.019):.1f}, {100 * (mean + 0.019):.1f}]" for mean in means]
    paired = f"{100 * gap:+.1f} [{100 * (gap - 0.012):+.1f}, {100 * (gap + 0.012):+.1f}]"
    assert cells[1:] == [*shown, f"{paired} F1 +9.1 [+7.9, +10.3]"]
    assert row(page, "no_shortcut", "n = 200")[4] == "+7.3 [+5.2, +9.4] F1 +6.9 [+4.8, +9.0]"


def test_id_mean_leaves_validation_out_where_there_is_a_test_set(page: Reader) -> None:
    cells = row(page, "ID mean")[1:]
    assert [cell.split(" ")[0] for cell in cells] == ["94.1", "90.9", "92.4", "-1.7"]
    assert cells[3].startswith("-1.7 [-3.8, +0.4] ")


def test_further_metrics_are_the_results(page: Reader) -> None:
    cells = row(page, "no_shortcut", "main")
    starts = [cell.split(" ")[0] for cell in cells[1:]]
    assert starts == ["0.806", "0.795", "77.7", "77.8", "0.071", "0.193", "56.4"]
    assert "F1 77.2" in cells[3] and "shortcut_breaking, n = 31" in cells[7]
    assert "tuned on this set" in row(page, "validation", "main")[4]


def test_ledger_shows_phases_repeated_work_reuse_and_the_whole(page: Reader) -> None:
    training = row(page, "main training")
    assert training[1:7] == ["4.00e14", "39.2", "26.5", "2,370", "49,770", "60"]
    assert training[7].startswith("1.40 GiB") and training[8:] == ["1.00e13", "1.2"]
    whole = row(page, "main, whole cost", "with reference")
    assert whole[1:3] == ["7.30e14", "71.6"]
    assert row(page, "reference (reused)")[1] == "3.00e14"
    assert row(page, "erm, whole cost")[2] == "100.0"
    assert row(page, "main, reporting")[2] == "-"


def test_group_table_and_diagnostics_are_those_of_the_dynamics(page: Reader, tmp_path: Path, result: dict[str, Any]) -> None:
    folder = tmp_path / "run"
    scores = compute_scores(read_dynamics(folder / "stages/reference/dynamics.parquet"), ["confidence", "variability"])
    cells = next(cells for cells in page.rows if cells[0] == "shortcut_breaking")
    assert cells[1:5] == [
        "28",
        "11.7",
        f"{scores['confidence'][200:228].mean():.3f}",
        f"{scores['variability'][200:228].mean():.3f}",
    ]
    found = reference_diagnostics(scores["confidence"], scores["variability"], fraction=0.33)
    assert row(page, "Overlap of the 33 %")[1] == f"{100 * found.overlap:.1f}"
    assert row(page, "Easy: neither")[1] == f"{100 * found.easy:.1f}"
    parts = load_parts(folder, result)
    rows = group_rows(parts, parts.maps["reference"])
    assert [one.group for one in rows] == ["typical", "shortcut_breaking", "mislabelled", "all"]
    assert rows[-1].enrichment["main"] == pytest.approx(1.0)
    chosen = set(parts.selections["main"].ids.to_pylist())
    taken = sum(f"row-{index:04d}" in chosen for index in range(200, 228))
    assert rows[1].selected["main"] == pytest.approx(taken / 28)
    assert rows[1].enrichment["main"] == pytest.approx((taken / 79) / (28 / 240))


def test_headline_says_better_and_worse_and_how_sure(page: Reader) -> None:
    better = "Out of distribution, main is 9.5 points better than plain fine-tuning (erm), beyond sampling chance [+8.3, +10.7]"
    worse = "in distribution, main is 1.7 points worse than plain fine-tuning (erm), within sampling chance [-3.8, +0.4]"
    assert better in page.text and worse in page.text and "92.4 % [89.1, 95.7]" in page.text
    assert "71.6 % of ERM's (measured)" in page.text
    assert "One seed: direction only." in page.text
    line = (
        "new_words: 73.5 % [70.2, 76.8] against 68.7 % [65.4, 72.0], better by 4.8 points, beyond sampling chance [+2.7, +6.9]"
    )
    assert line in page.text


def test_a_result_without_paired_intervals_says_whether_the_two_overlap(
    result: dict[str, Any], write_run: Callable[..., Path]
) -> None:
    for stage in result["stages"].values():
        for key in ("means", "versus_baseline", "class_prior", "dynamics_used", "diagnosis"):
            del stage[key]
    del result["data"]["evaluation"]
    reader = read(write_report(write_run(result)))
    assert "Out of distribution, main is 9.5 points better than plain fine-tuning (erm): 70.8 % against 61.4 %" in reader.text
    assert "new_words: 73.5 % [70.2, 76.8] against 68.7 % [65.4, 72.0], better, the intervals overlap" in reader.text
    assert row(reader, "OOD mean")[1:] == ["61.4", "51.7", "70.8", "+9.5 F1 +9.5"]


def test_intervals_of_a_mean_over_other_sets_are_not_shown(result: dict[str, Any], write_run: Callable[..., Path]) -> None:
    result["data"]["evaluation"]["new_words"]["seen_by"] = {"main": "it was trained on this"}
    reader = read(write_report(write_run(result)))
    assert row(reader, "OOD mean")[1:] == ["57.7", "47.6", "69.5", "+11.8 F1 +11.8"]


@pytest.mark.parametrize("seen", [("new_words",), ("new_words", "no_shortcut", "reversed_shortcut")])
def test_seen_sets_are_marked_and_no_ood_mean_has_them(
    seen: tuple[str, ...], result: dict[str, Any], write_run: Callable[..., Path]
) -> None:
    for name in seen:
        result["data"]["evaluation"][name]["seen_by"] = {"main": "it was trained on this"}
    folder = write_run(result)
    reader = read(write_report(folder))
    card = (folder / "model" / "README.md").read_text(encoding="utf-8")
    assert "seen by the model of main" in row(reader, "new_words", "n = 200")[0]
    assert "| new_words | out of distribution (seen) |" in card
    ood = row(reader, "main (result)", "")[5]
    if len(seen) == 1:
        assert ood == "69.5" and "mean accuracy of 2 sets (without new_words, seen)" in reader.text
        assert "The OOD mean leaves out new_words, seen before by the models of main" in reader.text
    else:
        assert ood == "-" and not any(cells[0].startswith("OOD mean") for cells in reader.rows if cells)
        assert "There is no OOD mean: no_shortcut, reversed_shortcut, new_words were seen before" in reader.text
        assert "Out of distribution, main is" not in reader.text and "70.8 % against" not in reader.text


EARLIER = 'the settings of stage main are searched on the evaluation set "new_words", which therefore is no measure of them'


@pytest.mark.parametrize("earlier", [False, True])
def test_a_set_that_was_searched_on_is_not_told_to_be_seen_by_a_model(
    earlier: bool, result: dict[str, Any], write_run: Callable[..., Path]
) -> None:
    """Also of a result of an earlier version, which said so among those that were seen."""
    result["stages"]["main"]["search"] = {"on": ["new_words"]}
    if earlier:
        result["data"]["evaluation"]["new_words"]["seen_by"] = {"main": EARLIER}
    folder = write_run(result)
    reader = read(write_report(folder))
    card = (folder / "model" / "README.md").read_text(encoding="utf-8")
    assert "searched on for main" in row(reader, "new_words", "n = 200")[0] and "seen by" not in reader.text
    assert "| new_words | out of distribution (searched on) |" in card
    assert "Searched on: settings of a stage were chosen by this set" in card and "trained on this set" not in card
    assert row(reader, "main (result)", "")[5] == "69.5" and "(without new_words, searched on)" in reader.text
    assert "The OOD mean leaves out new_words, searched on for the settings of main" in reader.text
    assert "without those searched on" in row(reader, "OOD mean")[0]

    result["data"]["evaluation"]["no_shortcut"]["seen_by"] = {"main": "trained on this", "erm": "trained on this"}
    result["data"]["evaluation"]["new_words"]["seen_by"] = {"erm": "trained on this"}
    text = read(write_report(write_run(result))).text
    assert "leaves out no_shortcut, new_words, seen before by the models of main, erm (see the warnings)." in text
    assert "seen by the model of erm, searched on for main" in text


def test_headline_says_when_ftft_is_worse_out_of_distribution(result: dict[str, Any], write_run: Callable[..., Path]) -> None:
    evaluations = {name: result["stages"][name]["evaluation"] for name in ("erm", "main")}
    result["stages"]["erm"]["evaluation"], result["stages"]["main"]["evaluation"] = evaluations["main"], evaluations["erm"]
    for stage in result["stages"].values():
        stage["means"] = stage["versus_baseline"] = None
    text = read(write_report(write_run(result))).text
    assert "Out of distribution, main is 9.5 points worse than plain fine-tuning (erm)" in text
    assert "no_shortcut: 70.2 % [66.9, 73.5] against 77.5 % [74.2, 80.8], worse, the intervals do not overlap" in text


def test_the_diagnosis_is_said_in_words(result: dict[str, Any], write_run: Callable[..., Path]) -> None:
    text = read(write_report(write_run(result))).text
    assert "The reference (stage reference) is right in 90.9 % of the ID examples (main: 92.4 %, erm: 94.1 %)." in text
    assert "Of what it learns from 61.0 % is does_not_follow, of the training set 50.0 %: the class prior is shifted" in text
    main = result["stages"]["main"]
    values = {
        "union": 0.5,
        "easy": 0.475,
        "mean_confidence": 0.7,
        "mean_confidence_ambiguous": 0.5,
        "mean_confidence_hard": 0.2,
    }
    values |= {"mean_confidence_easy": None, "smallest_variability": 0.2, "examples": 240, "selected": 60}  # type: ignore[dict-item]
    for overlap in (0.41, 0.71):
        main["diagnosis"] = {"fraction": 0.25, "overlap": overlap, **values}
        main["class_prior"] = {**main["class_prior"], "total_variation": 0.01}
        reader = read(write_report(write_run(result)))
        assert f"Of the 25 % most ambiguous training examples {100 * overlap:.1f} % are also among the 25 %" in reader.text
        assert "47.5 % of all are easy, that is neither (possible here: 50 to 75 %)" in reader.text
        assert "the class prior is about the same" in reader.text
        # The table of the map shows the same figures, at the recipe's fraction.
        assert row(reader, "Overlap of the 25 %")[1] == f"{100 * overlap:.1f}"
        assert row(reader, "Mean confidence of the easy")[1] == "-"


def test_dynamics_of_a_file_are_drawn_with_the_stages_that_used_them(
    result: dict[str, Any], write_run: Callable[..., Path]
) -> None:
    folder = write_run(result)
    given = folder / "stages" / "main" / "dynamics_used.parquet"
    (folder / "stages" / "reference" / "dynamics.parquet").rename(given)
    result["stages"]["reference"]["dynamics"] = None
    used = {"stage": None, "source": "maps/winogrande", "file": "stages/main/dynamics_used.parquet"}
    result["stages"]["main"]["dynamics_used"] = used
    result["recipe"]["stages"]["main"]["use_dynamics_of"] = "maps/winogrande"
    result["stages"]["main"]["cost"]["not_counted"] = ["maps/winogrande"]
    parts = load_parts(folder, result)
    assert [data_map.users for data_map in parts.maps.values()] == [("main",)]
    reader = read(write_report(write_run(result, dynamics=False)))
    assert "Data map in maps/winogrande, coloured by group." in reader.text
    assert "outlined: selected by stage main" in reader.text
    assert "It selects by the dynamics in maps/winogrande" in reader.text
    assert "Its whole cost, without that of the dynamics it was given, is 71.6 %" in reader.text
    used["file"] = "../../dynamics.parquet"
    assert load_parts(folder, result).maps == {}


def test_nothing_is_fetched_and_only_the_explorer_runs(page: Reader, tmp_path: Path) -> None:
    source = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "http://" not in source and "https://" not in source and "@import" not in source and "url(" not in source
    assert {tag for tag, _ in page.tags}.isdisjoint({"link", "img", "iframe", "object", "use", "image"})
    scripts = [attributes for tag, attributes in page.tags if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "ftft-map-data"}, {}]
    own = source[source.rindex("<script>") + len("<script>") : source.rindex("</script>")]
    allowed = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
    policy = next(attributes["content"] for tag, attributes in page.tags if "http-equiv" in attributes)
    assert policy is not None and "default-src 'none'" in policy and f"script-src 'sha256-{allowed}';" in policy
    for _, attributes in page.tags:
        assert not any(name in ("src", "href", "srcset", "xlink:href") or name.startswith("on") for name in attributes)


def test_strings_from_the_data_are_escaped(result: dict[str, Any], write_run: Callable[..., Path]) -> None:
    evil = _spoil(result)
    folder = write_run(evil)
    page = write_report(folder)
    source = page.read_text(encoding="utf-8")
    assert EVIL not in source and "&lt;script&gt;alert(1)&lt;/script&gt;" in source
    assert source.count("<script") == source.count("</script") == 2  # the explorer's data and its script
    reader = read(page)
    own = next(cells for cells in reader.rows if cells[0].startswith(EVIL) and "n = 200" in cells[0])
    assert own[3].startswith("77.5")
    card = (folder / "model" / "README.md").read_text(encoding="utf-8")
    assert "<script" not in card.partition("## Recipe")[0]


def _spoil(value: Any) -> Any:
    """Every name of the data replaced by a script."""
    if isinstance(value, dict):
        return {_spoil(key): _spoil(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_spoil(inner) for inner in value]
    if isinstance(value, str):
        return re.sub("no_shortcut|does_not_follow|shortcut_breaking|planted|BertFor|3 training rows", lambda _: EVIL, value)
    return value


def test_no_text_of_rows_is_in_the_page_and_ids_only_in_the_explorers_data(page: Reader, tmp_path: Path) -> None:
    assert "row-0" not in page.text
    source = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    begin = source.index('id="ftft-map-data">') + len('id="ftft-map-data">')
    data = json.loads(source[begin : source.index("</script>", begin)])
    assert data["ids"][0] == "row-0000" and data["texts"] is None
    assert "row-0" not in source.replace(source[begin : source.index("</script>", begin)], "")


@pytest.mark.parametrize("asked", ["by the call", "by the recipe", "not at all"])
def test_texts_are_shown_only_where_they_are_asked_for(
    asked: str, result: dict[str, Any], write_run: Callable[..., Path]
) -> None:
    result["recipe"]["report_texts"] = asked == "by the recipe"
    folder = write_run(result)
    rows = [f"row-{row:04d},words {row} {EVIL},{['does_not_follow', 'follows'][row % 2]}" for row in range(240)]
    (folder / "train.csv").write_text("\n".join(["id,text,label", *rows]) + "\n", encoding="utf-8")
    data = "{train: {path: train.csv}, columns: {id: id}, validation_fraction: 0.1}"
    (folder / "recipe.yaml").write_text(f"data: {data}\nstages: {{main: {{model: {{path: none}}}}}}\n", encoding="utf-8")
    source = write_report(folder, texts=asked == "by the call").read_text(encoding="utf-8")
    assert EVIL not in source
    assert ("words 17 " in source) == (asked != "not at all")
    assert source.count("words 17 ") <= 1


def test_texts_that_cannot_be_read_leave_the_run_as_it_was(result: dict[str, Any], write_run: Callable[..., Path]) -> None:
    folder = write_run(result)
    (folder / "recipe.yaml").write_text("data: {train: {path: gone.csv}}\nstages: {main: {model: {path: none}}}\n")
    with pytest.raises(UserError, match="gone.csv"):
        write_report(folder, texts=True)
    assert not (folder / "report.html").exists() and not (folder / "model" / "README.md").exists()


@pytest.mark.parametrize("lacking", ["dynamics", "groups", "baseline", "evaluation", "stages", "intervals", "training", "all"])
def test_a_result_that_lacks_a_part_still_gives_a_page(
    lacking: str, result: dict[str, Any], write_run: Callable[..., Path]
) -> None:
    stages = list(result["stages"].values())
    if lacking == "baseline":
        result["baseline"] = None
    elif lacking == "stages":
        result["stages"] = {}
    elif lacking == "all":
        result = {}
    for stage in stages if lacking in ("evaluation", "training") else []:
        stage[lacking] = {}
    for stage in stages if lacking == "intervals" else []:
        for one in stage["evaluation"].values():
            one["metrics"] = {
                name: {"value": entry["value"], "low": None, "high": None} for name, entry in one["metrics"].items()
            }
            one["worst_group"] = one["prior_corrected"] = one["tuned_threshold"] = None
    folder = write_run(result, dynamics=lacking not in ("dynamics", "all"), groups=lacking not in ("groups", "all"))
    reader = read(write_report(folder))
    expected = {
        "dynamics": "Groups of the training rows",
        "groups": "coloured by how often the gold label was predicted",
        "baseline": "without an ERM stage to compare it with",
        "evaluation": "names no evaluation set",
        "stages": "left no result",
        "intervals": "77.5 % against 70.2 %, better",
        "training": "Training dynamics",
        "all": "left no result",
    }
    assert expected[lacking] in reader.text
    assert "None" not in reader.text and "nan" not in reader.text.replace("dominant", "")


def test_a_map_too_large_to_explore_is_drawn_and_nothing_more_is_computed(
    result: dict[str, Any], write_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftft.report.parts.MOST_EXPLORED", 239)
    asked: list[str] = []

    def compute(dynamics: Dynamics, names: list[str]) -> dict[str, Any]:
        asked.extend(names)
        return compute_scores(dynamics, names)

    monkeypatch.setattr("ftft.report.map_values.compute_scores", compute)
    parts = load_parts(write_run(result), result)
    assert sorted(asked) == ["confidence", "correctness", "variability"]
    assert parts.values == {} and parts.maps["reference"].correctness is not None
    assert any("is not in the explorer, which takes up to 239 examples" in note for note in parts.notes)


def test_a_damaged_file_is_noted_and_the_rest_is_shown(result: dict[str, Any], write_run: Callable[..., Path]) -> None:
    folder = write_run(result)
    (folder / "stages" / "reference" / "dynamics.parquet").write_bytes(b"PAR1 no")
    (folder / "groups.parquet").write_bytes(b"")
    text = read(write_report(folder)).text
    assert "There is no data map of stage reference" in text and "The groups are not shown" in text
    assert str(folder) not in text
    assert "OOD mean" in text


def test_one_epoch_gives_no_map_but_a_sentence(result: dict[str, Any], write_run: Callable[..., Path]) -> None:
    folder = write_run(result)
    path = folder / "stages" / "reference" / "dynamics.parquet"
    write_dynamics(read_dynamics(path).only_epochs([0]), path)
    assert "needs probabilities in at least 2 epochs, and 1 were recorded" in read(write_report(folder)).text


def test_a_large_map_shows_a_uniform_subsample_that_no_order_changes(
    result: dict[str, Any], write_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datamap, "MOST_POINTS", 50)
    folder = write_run(result)
    first = write_report(folder).read_text(encoding="utf-8")
    assert "50 of 240 scored examples are shown, a uniform subsample" in first
    path = folder / "stages" / "reference" / "dynamics.parquet"
    whole, order = read_dynamics(path), np.random.default_rng(0).permutation(240)
    assert whole.gold is not None and whole.logits is not None
    ids = whole.ids.take(pa.array(order))
    write_dynamics(Dynamics(ids, whole.epochs, whole.seen[:, order], whole.gold[order], whole.logits[:, order]), path)
    second = write_report(folder).read_text(encoding="utf-8")
    marks = r"<(?:circle c|path t)[^>]*/>"
    assert sorted(re.findall(marks, first)) == sorted(re.findall(marks, second))


def test_a_folder_without_a_result_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="result.json does not exist"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("text_classification", "text-classification"),
        ("image_classification", "image-classification"),
        ("image_text", "zero-shot-image-classification"),
        ("causal_language_modelling", "text-generation"),
        ("task_of_another_package", "other"),
    ],
)
def test_a_card_says_what_hubs_call_the_models_use(task: str, expected: str, result: dict[str, Any]) -> None:
    result["recipe"]["task"]["name"] = task
    assert f"pipeline_tag: {expected}\n" in model_card(result)


def test_the_model_card_has_figures_recipe_counts_and_no_folders(
    result: dict[str, Any], write_run: Callable[..., Path]
) -> None:
    import yaml

    folder = write_run(result)
    write_report(folder)
    card = (folder / "model" / "README.md").read_text(encoding="utf-8")
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["ftft", "dataset-cartography"],
    }
    assert "| no_shortcut | out of distribution | test | 200 | 77.5 % [74.2, 80.8] | 76.4 % [73.1, 79.7] | 70.2 %" in body
    assert "Learned from 79 of 240 training examples. 60 optimizer steps of 225 planned." in body
    assert "| main (result) | 7.30e14 | 71.6 % (measured) |" in body
    assert "        use_dynamics_of: reference" in body
    assert "/home" not in card and "row-0" not in card
