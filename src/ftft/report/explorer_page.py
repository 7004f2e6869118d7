"""The explorer of data maps: its controls as plain HTML, its data, and its script, all inside the page.

The controls are hidden until the script runs; without it, and in print, the static figures of the page stand for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from ftft.report.map_payload import ExplorerData, data_block
from ftft.report.markup import Attributes, Markup, join, tag

SCRIPTS = (
    "data",
    "choosing",
    "plot",
    "nearest",
    "colours",
    "exports",
    "example",
    "suspects",
    "outcome",
    "main",
    "pointer",
    "start",
)

RULES = (
    ("top highest", "highest scores"),
    ("top lowest", "lowest scores"),
    ("both_ends", "both ends: 70 % hard, 30 % easy"),
    ("without_suspects", "all but likely label errors"),
    ("lasso", "by hand: lasso or limits"),
)


def explorer(data: ExplorerData) -> Markup:
    """The explorer and its data; :func:`explorer_script` and :func:`explorer_style` belong to the same page."""
    inside = join([_toolbar(), _stage(), _selection(), _suspects()])
    return join([_part("div", None, inside, id="ftft-explorer", klass="explorer", hidden=True), data_block(data)])


def explorer_script() -> str:
    """The script, one function around all modules, so that it leaves no names behind."""
    folder = files("ftft.report").joinpath("explorer")
    modules = [folder.joinpath(f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    return '(() => {\n"use strict";\n' + "\n".join(modules) + "})();\n"


def explorer_style() -> str:
    return files("ftft.report").joinpath("explorer").joinpath("explorer.css").read_text(encoding="utf-8")


def _part(
    element: str, part: str | None, /, *children: Markup | str, klass: str | None = None, **attributes: str | bool
) -> Markup:
    """An element that the script knows as ``part``; attributes that are True are written without a value's meaning."""
    written: dict[str, str | None] = {"data-part": part, "class": klass}
    for key, value in attributes.items():
        written[key.rstrip("_").replace("_", "-")] = (key if value else None) if isinstance(value, bool) else value
    return tag(element, *children, attributes=written)


def _field(words: str, control: Markup, part: str | None = None) -> Markup:
    """A control with its label around it."""
    return _part("label", part, tag("span", words), control, klass="field")


def _select(part: str, options: Sequence[tuple[str, str]] = ()) -> Markup:
    return _part("select", part, *(tag("option", words, attributes={"value": value}) for value, words in options))


def _input(part: str, kind: str, /, **attributes: Any) -> Markup:
    return _part("input", part, type=kind, **attributes)


def _button(part: str, words: str, /, **attributes: Any) -> Markup:
    return _part("button", part, words, type="button", **attributes)


def _choice(part: str | None, kind: str, words: str, /, **attributes: Any) -> Markup:
    """A checkbox or radio button before its words."""
    return tag("label", _part("input", part, type=kind, **attributes), words, attributes={"class": "choice"})


def _toolbar() -> Markup:
    tools = tag(
        "fieldset",
        tag("legend", "Pointer"),
        _choice("move", "radio", "move", name="ftft-tool", checked=True),
        _choice("lasso", "radio", "lasso", name="ftft-tool"),
        attributes={"class": "inline"},
    )
    zoom = tag(
        "div",
        _button("zoomIn", "+", aria_label="magnify"),
        _button("zoomOut", "−", aria_label="make smaller"),
        _button("zoomAll", "all", aria_label="show the whole map"),
        attributes={"class": "buttons", "role": "group", "aria-label": "Magnification"},
    )
    return tag(
        "div",
        _field("Map", _select("left"), "mapField"),
        _field("Beside it", _select("right"), "rightField"),
        _field("Colour", _select("colour")),
        tools,
        zoom,
        _choice("density", "checkbox", "density"),
        _choice("fade", "checkbox", "show the selection", checked=True),
        attributes={"class": "toolbar"},
    )


def _stage() -> Markup:
    sides = [
        _part(
            "figure",
            f"side{index}",
            tag(
                "div",
                _part("canvas", f"canvas{index}", tabindex="0", role="application", aria_label="Data map"),
                _part("div", f"tip{index}", klass="tip", hidden=True, aria_hidden="true"),
                attributes={"class": "plot-area"},
            ),
            _part("figcaption", f"caption{index}"),
            klass="side",
        )
        for index in (0, 1)
    ]
    example = tag(
        "aside",
        tag("h3", "Example"),
        _part("p", "noExample", "Click a point, or go to one with the arrow keys and press Enter.", klass="soft"),
        _part(
            "div",
            "example",
            _part("p", "exampleId", klass="id"),
            _part("dl", "exampleText", klass="texts"),
            _part("dl", "facts"),
            _part("svg", "trajectory", role="img", klass="trajectory"),
            _part("p", "trajectoryNote", klass="soft"),
            _part("p", "exampleMark"),
            hidden=True,
        ),
        _part("p", "spoken", klass="unseen", aria_live="polite"),
        attributes={"class": "example", "aria-label": "Pinned example"},
    )
    maps = tag("div", tag("div", *sides, attributes={"class": "sides"}), _part("ul", "legend", klass="key"))
    return _part("div", "stage", maps, example, klass="stage")


def _selection() -> Markup:
    share = tag(
        "span",
        _input("share", "range", min="0.01", max="1", step="0.01", value="0.33", aria_label="Fraction, slider"),
        _input("shareNumber", "number", min="0.001", max="1", step="any", value="0.33", aria_label="Fraction, number"),
        attributes={"class": "pair-of-inputs"},
    )
    controls = tag(
        "div",
        _field("Rule", _select("rule", RULES)),
        _field("Score", _select("score")),
        tag("div", _part("span", "shareWords", "Fraction chosen"), share, attributes={"class": "field"}),
        _field(
            "Balance",
            _select("balance", (("none", "none"), ("class", "equal per class"), ("prior", "class shares kept"))),
            "balanceField",
        ),
        _field(
            "First drop the lowest confidence, %",
            _input("dropSuspects", "number", min="0", max="99", step="any", value="0"),
        ),
        attributes={"class": "controls"},
    )
    limits = tag(
        "details",
        tag("summary", "Limits by numbers, instead of a lasso"),
        _part(
            "form",
            "limits",
            _field("Variability from", _input("fromX", "number", min="0", max="0.5", step="any", value="0")),
            _field("to", _input("toX", "number", min="0", max="0.5", step="any", value="0.5")),
            _field("Confidence from", _input("fromY", "number", min="0", max="1", step="any", value="0")),
            _field("to", _input("toY", "number", min="0", max="1", step="any", value="0.5")),
            tag("button", "Select", attributes={"type": "submit"}),
            klass="controls",
        ),
    )
    classes = _part(
        "div",
        "classes",
        tag(
            "table",
            tag("thead", _row("th", "Class", "All, %", "Selected, %", "Selected")),
            _part("tbody", "classRows"),
        ),
        klass="wide",
        tabindex="0",
        role="region",
        aria_label="Class balance of the selection",
    )
    outcome = tag(
        "div",
        _part("p", "said", role="status"),
        _part("p", "problem", klass="problem", role="status"),
        _part("div", "outcome", classes),
        attributes={"class": "outcome"},
    )
    recipe = tag(
        "div",
        tag("h4", "In a recipe"),
        _part("pre", "recipe", tabindex="0"),
        tag(
            "p",
            _button("exportIds", "Export the ids"),
            _button("exportRecipe", "Export the recipe lines"),
            attributes={"class": "buttons"},
        ),
    )
    return tag(
        "section",
        tag("h3", "What a selection would hold"),
        controls,
        limits,
        tag("div", outcome, recipe, attributes={"class": "halves"}),
        attributes={"aria-label": "Selection"},
    )


def _row(cell: str, *words: str) -> Markup:
    return tag("tr", *(tag(cell, one, attributes={"scope": "col"}) for one in words))


def _suspects() -> Markup:
    every = (("", "all"),)
    filters = tag(
        "div",
        _field("Rank by", _select("suspectBy")),
        _field("Label", _select("suspectLabel", every), "suspectLabelField"),
        _field("The model prefers", _select("suspectPreferred", every), "suspectPreferredField"),
        _field("Id or text holds", _input("suspectWords", "search", autocomplete="off")),
        attributes={"class": "controls"},
    )
    listed = tag(
        "div",
        tag("table", _part("thead", "suspectHead"), _part("tbody", "suspectRows")),
        attributes={"class": "wide suspects", "tabindex": "0", "role": "region", "aria-label": "Likely label errors"},
    )
    turning: Attributes = {"class": "buttons"}
    foot = tag(
        "p",
        _button("suspectsBack", "Previous"),
        _button("suspectsOn", "Next"),
        _part("span", "suspectCount", role="status"),
        _button("exportCorrections", "Export the corrections"),
        _part("span", "marked"),
        attributes=turning,
    )
    note = "Hard but correct examples lie here too: look before you mark. The export is a file for data.corrections."
    return tag(
        "section",
        tag("h3", "Likely label errors"),
        tag("p", note, attributes={"class": "soft"}),
        filters,
        listed,
        foot,
        attributes={"aria-label": "Likely label errors"},
    )
