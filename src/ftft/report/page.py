"""The report as one HTML page that needs nothing else: no network, no file beside it. Only its explorer needs the script."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from ftft.report import tables
from ftft.report.charts import learning_curves
from ftft.report.datamap import draw_map
from ftft.report.diagnosis import diagnoses
from ftft.report.document import document, section, soft
from ftft.report.explorer_page import explorer, explorer_script, explorer_style
from ftft.report.figures import (
    count,
    dig,
    duration,
    evaluation_sets,
    left_out,
    measured,
    number,
    positive_note,
    sentences,
    stage_names,
    whole,
    without_folders,
)
from ftft.report.guessing import guessing
from ftft.report.headline import headline
from ftft.report.map_payload import ExplorerData, Texts
from ftft.report.markup import Markup, tag
from ftft.report.measures import CLASSIFICATION, compared
from ftft.report.parts import Parts, group_rows
from ftft.report.stage_charts import cost_chart, difference_chart, score_chart
from ftft.report.transfer import transfer, transfer_tables


def page(result: Mapping[str, Any], parts: Parts, texts: Texts | None = None) -> str:
    """The page of a result, whatever it lacks; every string of the data is escaped. Rows' ids are in the data of its explorer,
    their texts only where ``texts`` are given."""
    name = str(result.get("name") or "run")
    sections = [_header(result, name), _headline(result), _notes(result, parts), _stages(result), _evaluation(result)]
    sections += [_diagnoses(result), _maps(parts, texts), _curves(result), _ledger(result), _setup(result)]
    shown = [one for one in sections if one is not None]
    title = f"{name}: ftft report"
    if not parts.values:
        return document(title, *shown)
    return document(title, *shown, style=explorer_style(), script=explorer_script())


def _header(result: Mapping[str, Any], name: str) -> Markup:
    train = whole(dig(result, "data", "train", "n"))
    facts = [
        f"stages {', '.join(stage_names(result))}" if stage_names(result) else "",
        f"{count(train)} training examples" if train is not None else "",
        f"{len(evaluation_sets(result))} evaluation sets" if evaluation_sets(result) else "",
        f"seed {result['seed']}" if result.get("seed") is not None else "",
        str(result.get("created") or ""),
    ]
    return tag("header", tag("h1", name), soft(" · ".join(fact for fact in facts if fact)))


def _headline(result: Mapping[str, Any]) -> Markup:
    found = headline(result)
    parts = [tag("p", found.sentence, attributes={"class": "headline"})]
    if found.details:
        parts.append(tag("p", f"{result.get('main')} against {result.get('baseline')}, set by set:"))
        parts.append(tag("ul", *(tag("li", line) for line in found.details)))
    if found.caution:
        parts.append(tag("p", found.caution))
    return tag("section", *parts)


def _notes(result: Mapping[str, Any], parts: Parts) -> Markup | None:
    lines = [*guessing(result), *sentences(result, "stamps"), *sentences(result, "warnings"), *parts.notes]
    if not lines:
        return None
    listed = tag("ul", *(tag("li", line) for line in lines))
    return tag("section", tag("h2", "Warnings"), listed, attributes={"class": "warnings"})


def _stages(result: Mapping[str, Any]) -> Markup | None:
    if not stage_names(result):
        return None
    sources = {str(source) for name in stage_names(result) if (source := dig(result, "stages", name, "cost", "erm_source"))}
    said = f"The unit of cost, plain fine-tuning (ERM), is {'; '.join(sorted(sources))}." if sources else ""
    return section("Stages", tables.stages_table(result), soft(said) if said else None)


def _evaluation(result: Mapping[str, Any]) -> Markup | None:
    if not evaluation_sets(result):
        return section("Results", tag("p", "The recipe names no evaluation set, so nothing was measured."))
    note = (
        "Prior-corrected: after correction to the set's own class prior, which uses its labels. Tuned threshold: the decision "
        "rule tuned on ID validation. Both tell a better model from a shifted class prior. ECE: expected calibration error."
    )
    if positive := positive_note(result):
        note = f"{positive} {note}"
    without = left_out(evaluation_sets(result))
    said = tag("p", f"{without[0].upper()}{without[1:]}.") if without else None
    classes = compared(result) == CLASSIFICATION
    more = (tag("h3", "Further metrics"), tables.further_table(result), soft(note)) if classes else ()
    drawn = [score_chart(result), difference_chart(result)]
    charts = [tag("div", *(one for one in drawn if one is not None), attributes={"class": "charts"})] if any(drawn) else []
    looked = [tag("p", sentence) for sentence in measured(result)]
    return section("Results", tables.results_table(result), said, *charts, *looked, *more)


def _diagnoses(result: Mapping[str, Any]) -> Markup | None:
    said = diagnoses(result)
    return section("What it learned from", *(tag("p", f"{stage}: {' '.join(lines)}") for stage, lines in said.items()))


def _maps(parts: Parts, texts: Texts | None) -> Markup | None:
    shown: list[Markup | None] = []
    values = list(parts.values.values())
    if values:
        shown.append(explorer(ExplorerData(values, texts, parts.groups)))
    for data_map in parts.maps.values():
        shown.append(draw_map(data_map, parts))
        rows = group_rows(parts, data_map)
        shown.append(tables.groups_table(rows, data_map, parts.rules) if rows else None)
        shown.append(tables.diagnostics_table(data_map))
    for other in values[1:]:
        if (found := transfer(values[0], other)) is not None:
            shown += [tag("h3", f"Do the dynamics transfer: {found.first} and {found.second}"), transfer_tables(found)]
    if not parts.maps and (rows := group_rows(parts, None)):
        shown.append(tables.groups_table(rows, None, parts.rules))
    return section("Training dynamics" if parts.maps else "Training rows", *shown)


def _curves(result: Mapping[str, Any]) -> Markup | None:
    return section("Learning curves", *(learning_curves(result, name) for name in stage_names(result)))


def _ledger(result: Mapping[str, Any]) -> Markup | None:
    if not any(dig(result, "stages", name, "ledger") for name in stage_names(result)):
        return None
    note = (
        "FLOPs are counted, padding included; tokens are without padding. Reporting is the measuring of the finished model on "
        "all sets, which is no part of its cost. A reused stage was taken from the store and is charged as what it cost when "
        "it ran."
    )
    return section("Ledger", cost_chart(result), tables.ledger_table(result), soft(note))


def _setup(result: Mapping[str, Any]) -> Markup | None:
    facts = [
        ("Wall time of this command", duration(number(result.get("wall_seconds")))),
        ("Recipe", str(result.get("recipe_hash") or "-")[:16]),
        *((label, str(dig(result, "provenance", key) or "-")) for label, key in _MACHINE),
        ("Versions", _versions(dig(result, "provenance", "versions"))),
        ("Training data", str(dig(result, "data", "train", "fingerprint") or "-")[:16]),
    ]
    listed = [element for label, value in facts if value != "-" for element in (tag("dt", label), tag("dd", value))]
    recipe = result.get("recipe")
    written = None
    if isinstance(recipe, Mapping) and recipe:
        source = yaml.safe_dump(without_folders(recipe), sort_keys=False, allow_unicode=True, width=100)
        written = tag("details", tag("summary", "The resolved recipe"), tag("pre", source))
    return section("How it was run", tag("dl", *listed) if listed else None, written)


_MACHINE = (
    ("Python", "python"),
    ("Processor", "processor"),
    ("Device", "device"),
    ("Threads", "threads"),
    ("Processes", "processes"),
)


def _versions(found: Any) -> str:
    return ", ".join(f"{name} {version}" for name, version in found.items() if version) if isinstance(found, Mapping) else "-"
