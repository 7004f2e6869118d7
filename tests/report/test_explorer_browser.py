"""The explorer in a real browser: what it shows, what it chooses (as the selectors do), what it exports, who can use it."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from ftft.data.corrections import read_corrections
from ftft.dynamics.scores import compute_scores
from ftft.dynamics.table import Dynamics
from ftft.methods import registry
from ftft.methods.select.without_suspects import WithoutSuspects
from ftft.methods.selection import ExamplesOfDynamics, read_selection, select
from ftft.report.map_page import map_page
from ftft.report.map_payload import Texts
from ftft.report.map_values import map_values, with_selection
from ftft.report.writing import write_report

pytestmark = pytest.mark.browser

N, EPOCHS, CLASSES = 300, 5, 3
NAMES = ["entails", "neutral, or so", 'contradicts "it"']
HOSTILE = '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 1"> & <b>bold</b>'


def make_dynamics(seed: int, *, ordered: bool = True) -> Dynamics:
    """Dynamics with ties in most scores, examples seen in one epoch or in none, classes of different sizes, odd ids."""
    chance = np.random.default_rng(7)
    noise = np.random.default_rng(seed)
    gold = chance.choice(CLASSES, N, p=[0.6, 0.3, 0.1]).astype(np.int32)
    level = chance.choice([-2.0, 0.0, 2.0], N)
    margin = level + noise.choice([-1.5, 0.0, 1.5], (EPOCHS, N))
    logits = np.zeros((EPOCHS, N, CLASSES), dtype=np.float32)
    logits[:, np.arange(N), gold] = margin
    logits[:, np.arange(N), (gold + 1) % CLASSES] = 0.25
    seen = np.ones((EPOCHS, N), dtype=bool)
    seen[:, 5] = False
    seen[1:, 6:9] = False
    ids = [f'row {index % 7}, "{index}" é' for index in range(N)]
    rows = np.arange(N) if ordered else np.random.default_rng(3).permutation(N)[: N - 20]
    taken = pa.array([ids[row] for row in rows])
    return Dynamics(taken, tuple(range(EPOCHS)), seen[:, rows], gold[rows], logits[:, rows], metadata={"label_names": NAMES})


@pytest.fixture(scope="module")
def dynamics() -> Dynamics:
    return make_dynamics(1)


@pytest.fixture(scope="module")
def page_of(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """A function that opens a page's source; the page must fetch nothing and log nothing."""
    told: list[str] = []
    opened = []

    def open_page(source: str, **settings: Any) -> Any:
        path = tmp_path_factory.mktemp("page") / "map.html"
        path.write_text(source, encoding="utf-8")
        context = browser.new_context(viewport={"width": 1280, "height": 1000}, accept_downloads=True, **settings)
        context.set_default_timeout(20_000)
        page = context.new_page()
        page.on("console", lambda message: told.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda request: told.append(request.url) if request.url != path.as_uri() else None)
        page.goto(path.as_uri())
        opened.append(context)
        return page

    yield open_page
    for context in opened:
        context.close()
    assert told == []


@pytest.fixture(scope="module")
def page(page_of: Callable[..., Any], dynamics: Dynamics) -> Any:
    texts = {
        one: (f"text of {one}", HOSTILE if index % 5 == 0 else "plain") for index, one in enumerate(dynamics.ids.to_pylist())
    }
    values = map_values(dynamics, "in here", "some/dynamics")
    chosen = np.arange(N) < 60
    return page_of(map_page([with_selection(values, "selected before", chosen)], Texts(("premise", "hypothesis"), texts)))


def part(page: Any, name: str) -> Any:
    return page.locator(f'[data-part="{name}"]')


def download(page: Any, name: str, folder: Path) -> Path:
    from playwright.sync_api import TimeoutError as NoDownload

    # Chromium drops a download that begins long after its click, as on a starved machine: then it is asked for again.
    for last in (False, False, True):
        try:
            with page.expect_download(timeout=10_000) as caught:
                part(page, name).click()
            break
        except NoDownload:
            if last:
                raise
    target = folder / caught.value.suggested_filename
    caught.value.save_as(target)
    return target


def set_rule(page: Any, *, rule: str, score: str, fraction: float, balance: str = "none", drop: float = 0.0) -> None:
    part(page, "rule").select_option(rule)
    part(page, "score").select_option(score)
    part(page, "shareNumber").fill(str(fraction))
    part(page, "shareNumber").dispatch_event("change")
    if rule != "without_suspects":
        part(page, "balance").select_option(balance)
        part(page, "dropSuspects").fill(str(100 * drop))
        part(page, "dropSuspects").dispatch_event("change")


def place(page: Any, variability: float, confidence: float) -> tuple[float, float]:
    """Where a place of the map is on the screen."""
    part(page, "canvas0").scroll_into_view_if_needed()
    box = part(page, "canvas0").bounding_box()
    x, y = page.evaluate(
        """([v, c]) => { const p = window.ftftExplorer.plots[0];
        return [(p.left + p.width * v / 0.5) / p.ratio, (p.top + p.height * (1 - c)) / p.ratio]; }""",
        [variability, confidence],
    )
    return box["x"] + x, box["y"] + y


@pytest.mark.parametrize(
    "rule, score, fraction, balance, drop",
    [
        ("top highest", "variability", 0.33, "none", 0.0),
        ("top lowest", "correctness", 0.57, "none", 0.0),
        ("top highest", "forgetting", 0.5, "class", 0.0),
        ("top lowest", "aum", 0.9, "prior", 0.07),
        ("top highest", "el2n", 1 / 3, "class", 0.1),
        ("both_ends", "confidence", 0.31, "none", 0.0),
        ("both_ends", "correctness", 0.7, "prior", 0.05),
        ("without_suspects", "confidence", 0.13, "none", 0.0),
        ("without_suspects", "aum", 0.29, "none", 0.0),
    ],
)
def test_exported_lines_choose_the_exported_ids(
    page: Any,
    dynamics: Dynamics,
    tmp_path: Path,
    rule: str,
    score: str,
    fraction: float,
    balance: str,
    drop: float,
) -> None:
    set_rule(page, rule=rule, score=score, fraction=fraction, balance=balance, drop=drop)
    exported = read_selection(download(page, "exportIds", tmp_path))
    lines = yaml.safe_load(download(page, "exportRecipe", tmp_path).read_text(encoding="utf-8"))
    assert lines.pop("use_dynamics_of") == "some/dynamics"
    method = registry.build("select", lines["select"], "stages.main.select")
    expected = method.select(ExamplesOfDynamics.of(dynamics), dynamics, seed=0)
    assert exported.ids.to_pylist() == expected.ids.to_pylist()
    assert lines["select"].get("fraction", lines["select"].get("drop_suspects")) == round(fraction, 6)


def test_a_size_that_cannot_be_reached_is_said_and_nothing_is_exported(page: Any) -> None:
    set_rule(page, rule="top highest", score="variability", fraction=1.0)
    assert "300 of 300 examples cannot be chosen: only 296" in part(page, "problem").text_content()
    assert part(page, "exportIds").is_disabled() and part(page, "exportRecipe").is_disabled()


def test_the_slider_shows_size_class_balance_and_overlap_live(page: Any, dynamics: Dynamics) -> None:
    set_rule(page, rule="top highest", score="variability", fraction=0.2)
    slider = part(page, "share")
    slider.focus()
    slider.press("ArrowRight")
    expected = select(dynamics, score="variability", fraction=0.21)
    said = part(page, "said").text_content()
    assert part(page, "shareNumber").input_value() == "0.21"
    before = set(dynamics.ids[:60].to_pylist())
    both = len(before & set(expected.ids.to_pylist()))
    assert said.startswith("63 of 300 examples (21.0 %)")
    assert f"{100 * both / 63:.1f} % of them are also selected before ({both} of its 60)" in said
    rows = part(page, "classRows").locator("tr").all()
    shown = {row.locator("th").text_content(): row.locator("td").all_text_contents() for row in rows}
    for name in NAMES:
        counts = expected.counts["classes"][name]
        assert shown[name] == [
            f"{100 * counts['pool'] / N:.1f}",
            f"{100 * counts['selected'] / 63:.1f}",
            str(counts["selected"]),
        ]


def test_hover_shows_an_example_and_a_click_pins_it(page: Any, dynamics: Dynamics) -> None:
    values = map_values(dynamics, "")
    row = int(np.nanargmax(values.variability))
    x, y = place(page, values.variability[row], values.confidence[row])
    page.mouse.move(x, y)
    page.mouse.move(x + 1, y)
    tip = part(page, "tip0")
    tip.wait_for(state="visible")
    # Several examples may share the place.
    there = [
        one for at, one in enumerate(dynamics.ids.to_pylist()) if abs(values.variability[at] - values.variability[row]) < 0.005
    ]
    assert tip.locator("strong").text_content() in there
    page.mouse.down()
    page.mouse.up()
    name = part(page, "exampleId").text_content()
    assert name in there
    spoken = page.locator("[aria-live=polite]").first.text_content()
    assert name in spoken and "Variability" in spoken and f"text of {name}" in spoken
    drawn = part(page, "trajectory")
    assert drawn.locator("circle").count() == EPOCHS
    at = dynamics.ids.to_pylist().index(name)
    first = f"epoch 0 {values.trajectory[0, at]:.2f}"
    assert first in drawn.get_attribute("aria-label")


def test_arrow_keys_walk_over_the_points_and_enter_pins(page: Any) -> None:
    canvas = part(page, "canvas0")
    canvas.focus()
    page.evaluate("() => { window.ftftExplorer.hovered = -1; }")
    canvas.press("ArrowRight")
    first = page.evaluate("() => window.ftftExplorer.hovered")
    canvas.press("ArrowUp")
    second = page.evaluate("() => window.ftftExplorer.hovered")
    ys = page.evaluate("([a, b]) => [window.ftftExplorer.map.y[a], window.ftftExplorer.map.y[b]]", [first, second])
    assert first >= 0 and ys[1] > ys[0]
    canvas.press("Enter")
    assert page.evaluate("() => window.ftftExplorer.pinned") == second
    canvas.press("+")
    assert page.evaluate("() => window.ftftExplorer.view.zoom") == 1.5
    canvas.press("0")
    assert page.evaluate("() => window.ftftExplorer.view.zoom") == 1


def test_hostile_text_stays_text(page: Any, dynamics: Dynamics) -> None:
    part(page, "suspectWords").fill("<script>window.hacked")
    cells = part(page, "suspectRows").locator("td.text").all_text_contents()
    assert cells and all(HOSTILE in cell for cell in cells)
    part(page, "suspectRows").locator("button").first.click()
    assert HOSTILE in part(page, "exampleText").text_content()
    part(page, "suspectWords").fill("")
    assert page.evaluate("() => [window.hacked, document.images.length, document.scripts.length]") == [None, 0, 2]


def test_the_page_refuses_every_other_script(page: Any) -> None:
    policy = page.locator('meta[http-equiv="Content-Security-Policy"]').get_attribute("content")
    assert policy.startswith("default-src 'none'") and "script-src 'sha256-" in policy and "unsafe-inline'; script" in policy


@pytest.mark.parametrize("magnified", [False, True])
def test_a_lasso_selects_what_lies_inside(page: Any, dynamics: Dynamics, tmp_path: Path, magnified: bool) -> None:
    values = map_values(dynamics, "")
    left, right, low, high = 0.08, 0.3, 0.15, 0.62
    if magnified:
        page.evaluate("() => { window.ftftExplorer.zoom(1.2); window.ftftExplorer.render(); }")
    page.get_by_label("lasso", exact=True).check()
    part(page, "canvas0").scroll_into_view_if_needed()
    box = part(page, "canvas0").bounding_box()
    corners = [(left, low), (right, low), (right, high), (left, high), (left, low)]
    view = page.evaluate("() => window.ftftExplorer.view")
    plot = page.evaluate(
        "() => { const p = window.ftftExplorer.plots[0]; return [p.left, p.top, p.width, p.height, p.ratio]; }"
    )
    for index, (v, c) in enumerate(corners):
        across = ((v / 0.5 - view["x"]) * view["zoom"] + 0.5) * plot[2] + plot[0]
        down = (0.5 - (c - view["y"]) * view["zoom"]) * plot[3] + plot[1]
        page.mouse.move(box["x"] + across / plot[4], box["y"] + down / plot[4], steps=4)
        if index == 0:
            page.mouse.down()
    page.mouse.up()
    exported = set(read_selection(download(page, "exportIds", tmp_path)).ids.to_pylist())
    page.get_by_label("move", exact=True).check()
    part(page, "zoomAll").click()
    ids = np.array(dynamics.ids.to_pylist())

    def within(margin: float) -> set[str]:  # pixels are coarser than the limits
        x, y = values.variability, values.confidence
        inside = (x > left + margin / 2) & (x < right - margin / 2) & (y > low + margin) & (y < high - margin)
        return set(ids[inside].tolist())

    assert within(0.01) <= exported <= within(-0.01)
    assert 10 < len(exported) < N - 10
    assert part(page, "exportRecipe").is_disabled()


def test_limits_select_without_a_pointer(page: Any, dynamics: Dynamics, tmp_path: Path) -> None:
    page.locator("details summary", has_text="Limits").click()
    for name, value in (("fromX", 0.1), ("toX", 0.25), ("fromY", 0.2), ("toY", 0.9)):
        part(page, name).fill(str(value))
    page.get_by_role("button", name="Select").click()
    exported = read_selection(download(page, "exportIds", tmp_path)).ids.to_pylist()
    values = map_values(dynamics, "")
    x, y = values.variability, values.confidence
    inside = (x >= 0.1) & (x <= 0.25) & (y >= 0.2) & (y <= 0.9)
    assert exported == sorted(np.array(dynamics.ids.to_pylist())[inside].tolist(), key=lambda one: one.encode())


def test_suspects_are_ranked_filtered_and_exported_as_corrections(page: Any, dynamics: Dynamics, tmp_path: Path) -> None:
    scores = compute_scores(dynamics, ["confidence", "correctness", "aum"])
    values = map_values(dynamics, "")
    assert values.preferred is not None and dynamics.gold is not None
    ids = dynamics.ids.to_pylist()

    def listed() -> list[str]:
        return part(page, "suspectRows").locator("tr th button").all_text_contents()

    part(page, "suspectBy").select_option("aum")
    order = sorted(np.flatnonzero(scores["aum"] < 0), key=lambda row: (scores["aum"][row], ids[row].encode()))
    negative = [ids[row] for row in order]
    assert listed() == negative[:20]
    assert part(page, "suspectCount").text_content() == f"1 to 20 of {len(negative)} examples"
    part(page, "suspectsOn").click()
    assert listed() == negative[20:40]
    part(page, "suspectBy").select_option("never")
    never = [row for row in range(N) if scores["correctness"][row] == 0]
    assert part(page, "suspectCount").text_content() == f"1 to 20 of {len(never)} examples"
    part(page, "suspectBy").select_option("confidence")
    part(page, "suspectLabel").select_option("1")
    part(page, "suspectPreferred").select_option("2")
    order = sorted(np.flatnonzero(scores["confidence"] < 0.5), key=lambda row: (scores["confidence"][row], ids[row].encode()))
    both = [row for row in order if dynamics.gold[row] == 1 and values.preferred[row] == 2]
    assert listed() == [ids[row] for row in both][:20] and len(both) >= 2
    assert part(page, "exportCorrections").is_disabled()
    controls = part(page, "suspectRows").locator("select")
    controls.nth(0).select_option("2")
    controls.nth(1).select_option("drop")
    controls.nth(2).select_option("drop")
    controls.nth(2).select_option("")
    assert part(page, "marked").text_content() == "2 marked"
    exported = Path(download(page, "exportCorrections", tmp_path))
    with open(exported, encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows == [["id", "action", "label"], [ids[both[0]], "relabel", NAMES[2]], [ids[both[1]], "drop", ""]]
    assert read_corrections(exported).labels == {ids[both[0]]: NAMES[2], ids[both[1]]: None}
    part(page, "suspectRows").locator("tr th button").nth(0).click()
    assert part(page, "exampleMark").locator("select").input_value() == "2"
    part(page, "exampleMark").locator("select").select_option("")
    assert controls.nth(0).input_value() == "" and part(page, "marked").text_content() == "1 marked"
    part(page, "suspectLabel").select_option("")
    part(page, "suspectPreferred").select_option("")


def test_two_maps_of_other_orders_choose_and_compare_by_id(
    page_of: Callable[..., Any], dynamics: Dynamics, tmp_path: Path
) -> None:
    other = make_dynamics(2, ordered=False)
    maps = [map_values(dynamics, "in one", "one"), map_values(other, "in two", "two")]
    page = page_of(map_page(maps))
    set_rule(page, rule="top highest", score="variability", fraction=0.25)
    mine = set(select(dynamics, score="variability", fraction=0.25).ids.to_pylist())
    theirs = set(select(other, score="variability", fraction=0.25).ids.to_pylist())
    both = len(mine & theirs)
    said = part(page, "said").text_content()
    assert f"{100 * both / len(mine):.1f} % of them are also in what the same rule chooses by the dynamics in two" in said
    assert f"({both} of its {len(theirs)})" in said
    part(page, "left").select_option("1")
    exported = read_selection(download(page, "exportIds", tmp_path))
    assert exported.ids.to_pylist() == select(other, score="variability", fraction=0.25).ids.to_pylist()
    set_rule(page, rule="without_suspects", score="confidence", fraction=0.1)
    exported = read_selection(download(page, "exportIds", tmp_path))
    expected = WithoutSuspects(drop_suspects=0.1).select(ExamplesOfDynamics.of(other), other)
    assert exported.ids.to_pylist() == expected.ids.to_pylist()
    part(page, "colour").select_option("moved")
    assert part(page, "legend").locator("li").count() == 5
    row = other.ids.to_pylist()[0]
    page.evaluate("(id) => window.ftftExplorer.pin(window.ftftExplorer.data.ids.indexOf(id))", row)
    assert part(page, "trajectory").locator("polyline").count() == 2


def test_a_map_with_its_classes_in_another_order_is_balanced_as_its_selector_does(
    page_of: Callable[..., Any], dynamics: Dynamics, tmp_path: Path
) -> None:
    order = [2, 0, 1]
    assert dynamics.gold is not None and dynamics.logits is not None
    gold = np.argsort(order)[dynamics.gold].astype(np.int32)
    named = {"label_names": [NAMES[code] for code in order]}
    other = Dynamics(dynamics.ids, dynamics.epochs, dynamics.seen, gold, dynamics.logits[:, :, order], metadata=named)
    page = page_of(map_page([map_values(dynamics, "in one", "one"), map_values(other, "in two", "two")]))
    part(page, "left").select_option("1")
    for k in (43, 44):  # one and two places are left over
        set_rule(page, rule="top highest", score="variability", fraction=(k + 0.5) / N, balance="class")
        exported = read_selection(download(page, "exportIds", tmp_path)).ids.to_pylist()
        assert exported == select(other, score="variability", count=k, balance="class").ids.to_pylist()
        assert exported != select(dynamics, score="variability", count=k, balance="class").ids.to_pylist()


def test_every_control_is_labelled_and_tables_are_tables(page: Any) -> None:
    unlabelled = page.evaluate(
        """() => [...document.querySelectorAll("input, select, canvas, button")]
        .filter((one) => !one.hidden && !one.labels?.length && !one.getAttribute("aria-label") && !one.textContent.trim())
        .map((one) => one.outerHTML)"""
    )
    assert unlabelled == []
    assert page.locator("canvas[role=application][tabindex='0']").count() == 2
    assert (
        part(page, "suspectHead").locator("th[scope=col]").count()
        == part(page, "suspectRows").locator("tr").first.locator("th, td").count()
    )


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_screen(page_of: Callable[..., Any], dynamics: Dynamics, width: int, scheme: str) -> None:
    maps = [map_values(dynamics, "in one"), map_values(make_dynamics(2), "in two")]
    page = page_of(map_page(maps), color_scheme=scheme, screen={"width": width, "height": 900})
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    paper = page.evaluate("() => window.ftftExplorer.theme.paper")
    assert paper == ("#ffffff" if scheme == "light" else "#14181e")


def test_without_its_script_and_in_print_the_static_map_is_shown(
    page_of: Callable[..., Any], dynamics: Dynamics, page: Any
) -> None:
    plain = page_of(map_page([map_values(dynamics, "in here")]), java_script_enabled=False)
    assert plain.locator("figure.map > svg").is_visible() and not plain.locator("#ftft-explorer").is_visible()
    assert not page.locator("figure.map > svg").is_visible()
    page.emulate_media(media="print")
    assert page.locator("figure.map > svg").is_visible() and not page.locator("#ftft-explorer").is_visible()
    page.emulate_media(media="screen")


def test_a_runs_page_explores_its_map_with_its_selection(
    page_of: Callable[..., Any], result: dict[str, Any], write_run: Callable[..., Path]
) -> None:
    source = write_report(write_run(result)).read_text(encoding="utf-8")
    page = page_of(source)
    set_rule(page, rule="top highest", score="variability", fraction=0.33)
    said = part(page, "said").text_content()
    assert "79 of 240 examples" in said and "100.0 % of them are also selected by stage main (79 of its 79)" in said
    assert "use_dynamics_of: reference\n" in part(page, "recipe").text_content()
    assert part(page, "colour").locator("option").all_text_contents() == [
        "correctness",
        "region",
        "class",
        "group",
        "selected by stage main",
    ]


def test_drawn_pixels_follow_colour_selection_and_density(page: Any) -> None:
    def colours() -> set[int]:
        page.evaluate("() => window.ftftExplorer.render()")
        return set(page.evaluate("() => [...new Set(window.ftftExplorer.plots[0].pixels)]"))

    part(page, "colour").select_option("class")
    set_rule(page, rule="top highest", score="variability", fraction=0.5)
    with_selection_shown = colours()
    part(page, "fade").uncheck()
    without = colours()
    assert len(without) == 1 + CLASSES and len(with_selection_shown) == 1 + 2 * CLASSES and without < with_selection_shown
    part(page, "density").check()
    dense = colours()
    part(page, "density").uncheck()
    part(page, "fade").check()
    assert len(dense) > 3 and not dense & (without - {page.evaluate("() => window.ftftExplorer.looks[0].paper")})


def test_density_is_that_of_what_is_in_view(page: Any, dynamics: Dynamics) -> None:
    confidence = np.sort(map_values(dynamics, "").confidence)
    confidence = confidence[np.isfinite(confidence)]
    low = int(np.argmax(np.diff(confidence[: N // 2])))  # the widest gap: the view ends in it
    bottom = float(confidence[low : low + 2].mean())
    zoom = 1 / (1 - bottom)
    part(page, "density").check()
    page.evaluate("([zoom]) => { Object.assign(window.ftftExplorer.view, {x: 0, y: 1, zoom}); }", [zoom])
    page.evaluate("() => { window.ftftExplorer.zoom(1); window.ftftExplorer.render(); }")
    assert page.evaluate("() => window.ftftExplorer.view.y") == pytest.approx(1 - 0.5 / zoom)
    lines = page.evaluate(
        """() => { const p = window.ftftExplorer.plots[0], paper = window.ftftExplorer.looks[0].paper;
        const filled = (line) => p.pixels.subarray(line * p.width, (line + 1) * p.width).some((one) => one !== paper);
        return Array.from({length: p.height}, (_, line) => filled(line)); }"""
    )
    part(page, "density").uncheck()
    part(page, "zoomAll").click()
    assert low > 0 and any(lines) and not lines[-1]


def test_points_on_the_edges_are_drawn_however_small(page: Any) -> None:
    """The four corners, of one pixel each (a million are shown)."""
    drawn = page.evaluate(
        """() => { const p = window.ftftExplorer.plots[0], most = 65534;
        const map = {x: Uint16Array.of(0, most, 0, most), y: Uint16Array.of(0, 0, most, most)};
        const look = {colours: new Uint8Array(4), palette: new Uint32Array(64).fill(7), mask: null, shown: 1e6};
        p.pixels.fill(0);
        p.drawPoints(map, {x: 0.5, y: 0.5, zoom: 1}, look);
        const last = p.width * p.height - 1;
        return [0, p.width - 1, last - p.width + 1, last].map((at) => p.pixels[at])
          .concat(p.pixels.filter((one) => one !== 0).length); }"""
    )
    page.evaluate("() => window.ftftExplorer.render()")
    assert drawn == [7, 7, 7, 7, 4]
