"""The page of one or two data maps of dynamics from anywhere: the explorer, the static figures, and what transfers."""

from __future__ import annotations

from collections.abc import Sequence

from ftft.report.datamap import draw_map
from ftft.report.document import document, section, soft
from ftft.report.explorer_page import explorer, explorer_script, explorer_style
from ftft.report.figures import count
from ftft.report.map_payload import ExplorerData, Texts
from ftft.report.map_values import MapValues
from ftft.report.markup import Markup, tag
from ftft.report.parts import Parts, data_map
from ftft.report.tables import diagnostics_table
from ftft.report.transfer import transfer, transfer_tables


def map_page(maps: Sequence[MapValues], texts: Texts | None = None) -> str:
    """One page of the maps (the second beside the first); the rows' texts are in it only where they are given, their ids
    always."""
    title = f"Data map{'s' * (len(maps) > 1)} {' and '.join(one.name for one in maps)}"
    facts = " · ".join(f"{count(len(one.ids))} examples, {len(one.epochs)} epochs {one.name}" for one in maps)
    shown: list[Markup | None] = [explorer(ExplorerData(maps, texts))]
    for one in maps:
        drawn = data_map(one)
        shown += [draw_map(drawn, Parts()), diagnostics_table(drawn)]
    compared = transfer(maps[0], maps[1]) if len(maps) > 1 else None
    sections = [
        tag("header", tag("h1", title), soft(facts)),
        section("Explore", *shown),
        None if compared is None else section("Do the dynamics transfer?", transfer_tables(compared, show_ids=True)),
    ]
    present = [one for one in sections if one is not None]
    return document(title, *present, style=explorer_style(), script=explorer_script())
