"""The comparison's page: its figures and drawings are the document's, everything is escaped, nothing is fetched."""

from __future__ import annotations

import math
from html.parser import HTMLParser
from types import ModuleType
from typing import Any

import pytest

from ftft.report.comparison_page import comparison_page
from ftft.report.labels import LETTER, LINE, MOST_LETTERS, Box, place_labels, shortened

NAMES = ("trial", "measured", "unfinished", "empty", "large", "hostile")
VOID = {"meta", "br", "hr"}


class Reader(HTMLParser):
    """Checks that elements nest; gathers tables by their name, drawings by theirs, and the text."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.drawings: dict[str, list[tuple[str, dict[str, str | None]]]] = {}
        self.words: dict[str, list[str]] = {}
        self.text, self.table, self.drawing = "", "", ""
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._note(tag, given)
        if tag not in VOID:
            self.open.append(tag)
        if given.get("class") == "wide":
            self.table = (given["aria-label"] or "").removeprefix("hate_speech: ")
            self.tables[self.table] = []
        if tag == "svg":
            self.drawing = given.get("aria-label") or ""
            self.drawings.setdefault(self.drawing, [])
        if tag == "tr":
            self.tables[self.table].append([])
        if tag in ("td", "th"):
            self.tables[self.table][-1].append("")
        if tag == "span" and "table" in self.open:
            self.tables[self.table][-1][-1] += " | "

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, dict(attrs))

    def _note(self, tag: str, given: dict[str, str | None]) -> None:
        self.tags.append((tag, given))
        if "svg" in self.open:
            self.drawings[self.drawing].append((tag, given))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "tr" in self.open and self.tables[self.table][-1]:
            self.tables[self.table][-1][-1] += data
        if "svg" in self.open and self.open[-1] == "text":
            self.words.setdefault(self.drawing, []).append(data)

    def of(self, drawing: str, tag: str, kind: str) -> list[dict[str, str | None]]:
        found = [given for name, given in self.drawings[drawing] if name == tag]
        return [given for given in found if (given.get("class") or "").split()[:1] == [kind]]


def row(reader: Reader, table: str, name: str) -> list[str]:
    return next(cells for cells in reader.tables[table] if cells[0] == name)


def place(given: dict[str, str | None], *keys: str) -> list[float]:
    return [float(given[key] or "nan") for key in keys]


COST = "hate_speech: OOD mean macro-F1 over cost"


@pytest.fixture(scope="module")
def page(examples: ModuleType) -> Reader:
    return Reader(comparison_page(examples.trial()))


@pytest.mark.parametrize("name", NAMES)
def test_every_page_is_well_formed_and_needs_nothing_else(examples: ModuleType, name: str) -> None:
    source = comparison_page(getattr(examples, name)())
    reader = Reader(source)
    assert "None" not in reader.text and "nan" not in source
    assert {tag for tag, _ in reader.tags}.isdisjoint({"script", "link", "img", "iframe", "object", "use", "image"})
    for tag, given in reader.tags:
        assert not any(key in ("src", "srcset", "xlink:href") or key.startswith("on") for key in given)
        assert (given.get("href") or "#").startswith("#")
        if tag == "svg":
            assert given.get("aria-hidden") == "true" or (given["role"] == "img" and given["aria-label"])
    boxes = [given for _, given in reader.tags if given.get("class") == "wide"]
    assert boxes and all(given["tabindex"] == "0" for given in boxes)
    assert len({given["aria-label"] for given in boxes}) == len(boxes)


def test_what_evaluators_measured_of_the_models_has_tables_of_its_own(examples: ModuleType, page: Reader) -> None:
    reader = Reader(comparison_page(examples.measured()))
    assert reader.tables["Measured of the model: intruder dimensions"] == [
        ["Row", "Count", "Looked at", "Random"],
        ["erm (baseline)", "0", "2,160", "0.5 | 1, 0"],
        ["ambiguous", "12 | 12, -", "360", "-"],
    ]
    assert row(reader, "Measured of the model: forgetting", "ambiguous")[1] == "-2.5 | -3.4, -1.6"
    assert not any(name.startswith("Measured") for name in page.tables) and "Measured of the model" not in page.text


def test_summary_has_figures_intervals_differences_and_cost(page: Reader) -> None:
    cells = row(page, "Summary", "ambiguous")
    assert cells[1:] == [
        "81.3 | [79.3, 83.3] | -2.6 [-3.6, -1.6] (-)",
        "61.3 | [59.3, 63.3] | -2.6 [-3.6, -1.6] (-)",
        "62.6 | [60.6, 64.6] | -2.6 [-3.6, -1.6] (-)",
        "69.2 | [67.2, 71.2] | -1.1 [-2.1, -0.1] (-)",
        "64.0 | [62.0, 66.0] | -1.1 [-2.1, -0.1] (-)",
        "0.58 | [0.55, 0.61] | amortised 0.45 | searches 2.10",
        "2 | rate 5e-5",
        "+0.4 | [-0.6, +1.4]",
    ]
    assert row(page, "Summary", "random")[7] == "2 | rate 1.5e-4 (edge)"
    assert row(page, "dynahate", "ambiguous")[3].startswith("69.2 | ") is False
    assert row(page, "dynahate", "ambiguous")[3].startswith("66.2 | [64.2, 68.2]")


def test_label_and_remarks_stand_where_claims_could_be_read(page: Reader) -> None:
    assert page.text.lower().count("direction only: 2 seeds") >= 6
    assert "ambiguous is not better than erm_half, which costs less" in page.text
    assert "a shifted class prior alone can change them" in page.text


def test_cost_plot_has_every_row_in_its_place_with_both_intervals(page: Reader, examples: ModuleType) -> None:
    rows = examples.TRIAL
    marks = page.of(COST, "circle", "mark")
    (diamond,) = page.of(COST, "path", "mark")
    assert [len(page.of(COST, "line", "whisker")), len(marks)] == [2 * len(rows), len(rows) - 1]
    assert set(rows) <= set(page.words[COST])
    at = {name: place(given, "cx", "cy") for name, given in zip([name for name in rows if name != "erm"], marks, strict=True)}
    (line,) = page.of(COST, "line", "stop")
    assert place(line, "x1") == place(line, "x2") and (diamond["d"] or "").startswith(f"M{float(line['x1'] or 0):.1f} ")
    # Linear axes: equal steps of cost and of macro-F1 are equal steps in the drawing, cheaper to the left, better above.
    scale = (at["ambiguous"][0] - at["random"][0]) / (rows["ambiguous"][2] - rows["random"][2])
    assert at["erm_half"][0] - at["random"][0] == pytest.approx(scale * (rows["erm_half"][2] - rows["random"][2]), abs=0.2)
    assert float(line["x1"] or 0) - at["random"][0] == pytest.approx(scale * (1 - rows["random"][2]), abs=0.2)
    up = (at["random"][1] - at["erm_half"][1]) / (rows["erm_half"][0] - rows["random"][0])
    assert at["random"][1] - at["ambiguous"][1] == pytest.approx(up * (rows["ambiguous"][0] - rows["random"][0]), abs=0.2)
    assert scale > 0 and up > 0


def test_pareto_front_is_filled_joined_and_named(page: Reader, examples: ModuleType) -> None:
    names = [name for name in examples.TRIAL if name != "erm"]
    filled = [name for name, given in zip(names, page.of(COST, "circle", "mark")) if given["class"] == "mark"]
    assert filled == ["erm_half", "random_prior"]
    (front,) = page.of(COST, "polyline", "front")
    assert len((front["points"] or "").split()) == 3
    assert "On the Pareto front: random_prior, erm_half, erm." in page.text


def test_id_against_ood_has_logit_axes_and_the_erm_line(page: Reader, examples: ModuleType) -> None:
    drawing = "hate_speech: OOD over ID accuracy"
    points = examples.trial()["tasks"]["hate_speech"]["line"]["points"]
    spare = page.of(drawing, "circle", "spare")
    assert len(spare) == len(points)

    def logit(share: float) -> float:
        return math.log(share / (1 - share))

    x = [place(given, "cx")[0] for given in spare[:6]]
    shares = [logit(one["id"]) for one in points[:6]]
    scale = (x[5] - x[0]) / (shares[5] - shares[0])
    for across, share in zip(x, shares):
        assert across - x[0] == pytest.approx(scale * (share - shares[0]), abs=0.2)
    (line,) = page.of(drawing, "polyline", "trend")
    path = [tuple(map(float, point.split(","))) for point in (line["points"] or "").split()]
    y = [place(given, "cy")[0] for given in spare[:6]]
    rise = (y[5] - y[0]) / (logit(points[5]["ood"]) - logit(points[0]["ood"]))
    slope = (path[-1][1] - path[0][1]) / (path[-1][0] - path[0][0])
    assert slope == pytest.approx(0.62 * rise / scale, rel=0.01)
    first = next(point for point in path if abs(point[0] - x[2]) < 5)
    wanted = y[0] + rise * (0.62 * (shares[2] + (first[0] - x[2]) / scale) - 0.29 - logit(points[0]["ood"]))
    assert first[1] == pytest.approx(wanted, abs=0.5)
    assert {"70", "80", "85"} <= set(page.words[drawing])


def test_without_a_line_the_headline_is_drawn_and_no_line_is_named(examples: ModuleType) -> None:
    table = examples.trial()
    table["tasks"]["hate_speech"]["line"] = None
    reader = Reader(comparison_page(table))
    drawing = "hate_speech: OOD over ID macro-F1"
    assert reader.of(drawing, "circle", "mark") and not reader.of(drawing, "polyline", "trend")
    assert "ERM line" not in reader.text.partition("Quality and cost")[2].partition("How to read")[0]


def test_learning_rate_curves_are_drawn_for_every_searched_row(page: Reader) -> None:
    drawn = [name for name in page.drawings if name.endswith("macro-F1 by rate")]
    assert len(drawn) == 5 and not any(name.startswith("erm_half") for name in drawn)
    marks = page.of("random: macro-F1 by rate", "circle", "mark")
    assert [given["class"] for given in marks] == ["mark hollow", "mark hollow", "mark"]
    assert {"1.67e-5", "5e-5", "1.5e-4"} <= set(page.words["random: macro-F1 by rate"])
    assert "random: chosen 1.5e-4, at the edge of its grid" in page.text


def test_cost_parts_are_stacked_to_the_whole(page: Reader) -> None:
    drawing = "ambiguous: reference 0.25, training 0.31, evaluation 0.02"
    parts = [place(given, "x", "width") for given in page.of(drawing, "rect", "part")]
    (line,) = page.of(drawing, "line", "stop")
    one = float(line["x1"] or 0)
    assert [width / one for _, width in parts] == pytest.approx([0.25, 0.31, 0.02], abs=1e-3)
    assert [x for x, _ in parts] == pytest.approx([0, 0.25 * one, 0.56 * one], abs=0.2)


def test_strings_of_the_data_are_escaped_everywhere(examples: ModuleType) -> None:
    source = comparison_page(examples.hostile())
    assert "<script" not in source and "\x1b" not in source
    assert source.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 20
    reader = Reader(source)
    (summary,) = [cells for name, cells in reader.tables.items() if name.endswith(": Summary")]
    assert summary[2][0].startswith(examples.EVIL[:20])


def test_attributes_cannot_be_left_by_a_name(examples: ModuleType) -> None:
    name = '"><img src=x onerror=alert(1)>'
    rows = {"erm": examples.row(0.6, 0.7), name: examples.row(0.61, 0.7, 0.5, against=(0.6, 0.7))}
    reader = Reader(comparison_page(examples.document(rows)))
    assert "img" not in {tag for tag, _ in reader.tags}
    assert any((given.get("aria-label") or "").startswith(name) for _, given in reader.tags)


def test_an_unfinished_comparison_has_tables_and_only_the_finished_rows_drawn(examples: ModuleType) -> None:
    reader = Reader(comparison_page(examples.unfinished()))
    assert row(reader, "Summary", "ftft")[-2] == "0 of 3 | 3 pending"
    assert [word for word in reader.words[COST] if word in ("erm", "ftft", "random")] == ["erm"]
    assert not reader.of(COST, "line", "whisker")
    assert "random, seed 0: the loss became NaN at step 12" in reader.text
    assert COST not in Reader(comparison_page(examples.empty())).drawings


@pytest.mark.parametrize("table", [{}, {"tasks": {}}, {"tasks": {"a": None}}, {"tasks": {"a": {"rows": {"b": None}}}}])
def test_a_document_that_lacks_nearly_everything_is_no_error(table: dict[str, Any]) -> None:
    assert Reader(comparison_page(table)).text


def test_several_tasks_are_linked(examples: ModuleType) -> None:
    table = examples.trial()
    table["tasks"]["nli"] = table["tasks"]["hate_speech"]
    reader = Reader(comparison_page(table))
    links = [given["href"] for tag, given in reader.tags if tag == "a"]
    assert links == ["#task-0", "#task-1"]
    boxes = [given["aria-label"] for _, given in reader.tags if given.get("class") == "wide"]
    assert {"hate_speech: Summary", "nli: Summary"} <= set(boxes) and len(set(boxes)) == len(boxes)
    assert {given.get("id") for tag, given in reader.tags if tag == "h2"} >= {"task-0", "task-1"}


def test_one_row_only_gives_a_page_with_its_plot(examples: ModuleType) -> None:
    reader = Reader(comparison_page(examples.document({"erm": examples.row(0.6, 0.7)})))
    assert "erm" in reader.words[COST] and "beware" not in reader.text


def test_names_in_a_drawing_cover_neither_each_other_nor_points() -> None:
    points = [(140 + 16.0 * index, 250 - 6.0 * (index % 5)) for index in range(12)]
    names = shortened([f"ambiguous_third_with_class_prior_kept_{index}" for index in range(12)])
    area = Box(54, 16, 544, 372)
    spots = place_labels(names, points, area)
    boxes = []
    for name, spot in zip(names, spots, strict=True):
        width = LETTER * len(name)
        left = spot.x - {"start": 0.0, "end": width, "middle": width / 2}[spot.anchor]
        boxes.append(Box(left, spot.y - 4.5 - LINE / 2, left + width, spot.y - 4.5 + LINE / 2))
    for index, box in enumerate(boxes):
        assert box.overlap(area) == pytest.approx(LINE * LETTER * len(names[index]))
        assert all(box.overlap(other) < 1e-6 for other in boxes[:index])
        assert all(box.overlap(Box(x - 5, y - 5, x + 5, y + 5)) < 1e-6 for x, y in points)


def test_names_are_shortened_but_stay_apart() -> None:
    short = shortened(["a" * 40, "a" * 41, "erm"])
    assert len(set(short)) == 3 and short[2] == "erm" and max(map(len, short)) <= MOST_LETTERS + 3
