"""The tables of the page: stages, results, further metrics, ledger, groups, diagnostics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ftft.engine.ledger import PHASES
from ftft.report.figures import (
    ROLE_NAMES,
    Interval,
    StageFigures,
    count,
    decimals,
    dig,
    duration,
    evaluation_sets,
    interval,
    level,
    mean_difference,
    mean_interval,
    mean_sets,
    memory,
    metric,
    number,
    percent,
    scientific,
    set_difference,
    sets_left_out,
    stage_figures,
    stage_names,
    whole,
)
from ftft.report.guessing import set_guess
from ftft.report.learning import Learned, learned, picked_words
from ftft.report.markup import Markup, join, table, under
from ftft.report.measures import chief, compared, legend, measure_of
from ftft.report.parts import DataMap, GroupRow

Cell = Markup | str


def shown(name: str, entry: Interval | None, *extra: str) -> Markup:
    """A score as it is told, its interval below."""
    told = measure_of(name)
    if entry is None:
        return join(["-"])
    limits = "" if entry.low is None or entry.high is None else f"[{told.figure(entry.low)}, {told.figure(entry.high)}]"
    return under(told.figure(entry.value), limits, *extra)


def share(entry: Interval | None, *extra: str) -> Markup:
    """An accuracy-like figure in per cent, its interval below."""
    if entry is None:
        return join(["-"])
    limits = "" if entry.low is None or entry.high is None else f"[{percent(entry.low)}, {percent(entry.high)}]"
    return under(percent(entry.value), limits, *extra)


def plain(entry: Interval | None) -> Markup:
    """A figure with three decimals, its interval below."""
    if entry is None:
        return join(["-"])
    limits = "" if entry.low is None or entry.high is None else f"[{decimals(entry.low)}, {decimals(entry.high)}]"
    return under(decimals(entry.value), limits)


def stages_table(result: Mapping[str, Any]) -> Markup:
    """One row per stage: model, what it learned from, steps, whole cost."""
    rows: list[list[Cell]] = []
    first, told = chief(result)
    for name in stage_names(result):
        row, stage = stage_figures(result, name), dig(result, "stages", name)
        rows.append(
            [
                under(row.title, "taken from the store" if row.reused else ""),
                _model(stage),
                _learned(learned(result, name)),
                _steps(row),
                shown(first, mean_interval(result, name, "id", first)),
                shown(first, mean_interval(result, name, "ood", first)),
                under(percent(row.fraction), row.cost_kind or ""),
                duration(row.seconds),
            ]
        )
    percents = ", %" if told.share else ""
    means = [f"ID mean{percents}", f"OOD mean{percents}"]
    heads = ["Stage", "Model", "Examples", "Steps", *means, "Cost, % of ERM", "Time"]
    return table(heads, rows, caption=f"Means are of {told.words}; cost and time include the stages a stage uses.")


def _model(stage: Any) -> Markup:
    description = dig(stage, "model")
    layers, total = whole(dig(description, "layers")), whole(dig(description, "layers_of_checkpoint"))
    parameters, trained = whole(dig(stage, "parameters")), whole(dig(stage, "trainable_parameters"))
    said = []
    if layers is not None:
        said.append(f"{layers} of {total} layers" if total not in (None, layers) else f"{layers} layers")
    if parameters is not None:
        said.append(f"{_millions(parameters)} parameters")
    if trained is not None and trained != parameters:
        said.append(f"{_millions(trained)} trained")
    return under(str(dig(description, "architecture") or "-"), *said)


def _millions(value: int) -> str:
    return f"{value / 1e6:.1f}M" if value >= 1e5 else count(value)


def _learned(found: Learned | None) -> Markup:
    if found is None:
        return join(["-"])
    if found.apply == "copies":
        return under(count(found.rows), f"{found.share} and", found.addition)
    partly = found.pool is not None and found.examples != found.pool
    of = f"of {count(found.pool)} ({100 * found.examples / max(1, found.pool or 0):.1f} %)" if partly else ""
    return under(count(found.examples), of, found.addition)


def _steps(row: StageFigures) -> Markup:
    if row.planned is None or row.planned == row.steps:
        return join([count(row.steps)])
    return under(count(row.steps), f"of {count(row.planned)}", "stopped early" if row.stopped_early else "")


def results_table(result: Mapping[str, Any]) -> Markup:
    """One row per set, one column per stage: the chief score with its interval and the others (accuracy and macro-F1); the
    means; the difference to ERM."""
    first = chief(result)[0]
    names, sets = stage_names(result), evaluation_sets(result)
    main, baseline = str(result.get("main")), str(result.get("baseline"))
    against = main in names and baseline in names and main != baseline
    rows: list[list[Cell]] = []
    kinds: list[str] = []
    roles = list(dict.fromkeys(one.role for one in sets))
    for role in roles:
        own = [one for one in sets if one.role == role]
        for one in own:
            facts = [ROLE_NAMES.get(one.role, one.role), *([one.split] if one.split != "test" else []), f"n = {count(one.n)}"]
            facts += one.facts
            guess = set_guess(result, one.name)
            facts += [] if guess is None else [f"{percent(guess.accuracy)} % {guess.label}"]
            found = {name: metric(result, name, one.name, "metrics", first) for name in names}
            cells = [shown(first, found[name], *_others(result, name, one.name)) for name in names]
            rows.append([under(one.name, ", ".join(facts)), *cells, *([_gap(result, main, one.name)] if against else [])])
            kinds.append("")
        over = mean_sets(sets, role)
        if role != "forget" and len(own) > 1 and over:
            means = {name: mean_interval(result, name, role, first) for name in names}
            gap = [_points({name: mean_difference(result, main, role, name) for name in compared(result)})]
            split = "test" if over[0].split == "test" else "validation"
            facts = [f"{len(over)} {split} sets, unweighted" if len(over) > 1 else f"{split} set {over[0].name} only"]
            marks = dict.fromkeys(mark for one in sets_left_out(own) for mark in one.marks)
            facts += [f"without those {' or '.join(marks)}"] if marks else []
            title = under(f"{role.upper()} mean", ", ".join(facts))
            rows.append([title, *(shown(first, means[name]) for name in names), *(gap if against else [])])
            kinds.append("sum")
    heads = ["Set", *(stage_figures(result, name).title for name in names), *([f"{main} minus {baseline}"] if against else [])]
    caption = legend(result).format(level=level(result))
    rest = ", ".join(measure_of(name).words for name in compared(result)[1:])
    scale = "points" if measure_of(first).share else measure_of(first).scale
    paired = f"; differences in {scale}, with paired intervals, and those of {rest}." if against else "."
    frequent = " Under a set's name: its most frequent class." if any(set_guess(result, one.name) for one in sets) else ""
    return table(heads, rows, caption=f"{caption}{paired}{frequent}", kinds=kinds)


def _others(result: Mapping[str, Any], stage: str, set_name: str) -> list[str]:
    found = {name: metric(result, stage, set_name, "metrics", name) for name in compared(result)[1:]}
    return [f"{measure_of(name).short} {measure_of(name).figure(one.value)}" for name, one in found.items() if one is not None]


def _gap(result: Mapping[str, Any], main: str, set_name: str) -> Markup:
    return _points({name: set_difference(result, main, set_name, name) for name in compared(result)})


def _points(differences: Mapping[str, Interval | None]) -> Markup:
    """The difference of the chief score with its interval (in points of accuracy), and below it those of the others."""
    first, *others = differences
    value, _, limits = measure_of(first).difference(differences[first]).partition(" ")
    known = {measure_of(name): entry for name in others if (entry := differences[name]) is not None}
    return under(value, limits, *(f"{told.short} {told.difference(entry)}" for told, entry in known.items()))


def further_table(result: Mapping[str, Any]) -> Markup:
    """The secondary metrics: one row per set and stage."""
    rows: list[list[Cell]] = []
    for one in evaluation_sets(result):
        for name in stage_names(result):
            entry = dig(result, "stages", name, "evaluation", one.name)
            if entry is None:
                continue
            figures = {key: interval(dig(entry, "metrics", key)) for key in ("auroc", "average_precision", "ece", "brier")}
            rows.append(
                [
                    under(one.name, name),
                    plain(figures["auroc"]),
                    plain(figures["average_precision"]),
                    share(interval(dig(entry, "prior_corrected", "accuracy")), *_below(entry, "prior_corrected")),
                    share(interval(dig(entry, "tuned_threshold", "accuracy")), *_below(entry, "tuned_threshold")),
                    plain(figures["ece"]),
                    plain(figures["brier"]),
                    _worst(entry),
                ]
            )
    heads = [
        "Set, stage",
        "AUROC",
        "Average precision",
        "Prior-corrected, %",
        "Tuned threshold, %",
        "ECE",
        "Brier",
        "Worst group, %",
    ]
    return table(heads, rows, caption="Prior-corrected and tuned: accuracy, and macro-F1 below")


def _below(entry: Any, key: str) -> tuple[str, str]:
    found = interval(dig(entry, key, "macro_f1"))
    itself = "tuned on this set" if dig(entry, key, "tuned_on_itself") else ""
    return "" if found is None else f"F1 {percent(found.value)}", itself


def _worst(entry: Any) -> Markup:
    found = interval(dig(entry, "worst_group", "accuracy"))
    if found is None:
        return join(["-"])
    group, n = dig(entry, "worst_group", "group"), whole(dig(entry, "worst_group", "n"))
    return share(found, f"{group}, n = {count(n)}")


def ledger_table(result: Mapping[str, Any]) -> Markup:
    """What every stage cost itself, per phase, and whole with the stages it uses."""
    rows: list[list[Cell]] = []
    kinds: list[str] = []
    for name in stage_names(result):
        stage = dig(result, "stages", name)
        erm = number(dig(stage, "cost", "erm_flops"))
        mark = " (reused)" if dig(stage, "reused") else ""
        for title, ledger in ((f"{name}{mark}", dig(stage, "ledger")), (f"{name}, reporting", dig(stage, "reporting_ledger"))):
            for phase in _phases(ledger):
                rows.append([under(title, phase), *_cost_cells(ledger, [phase], None if "reporting" in title else erm)])
                kinds.append("")
        whole_ledger = dig(stage, "cost", "ledger")
        if _phases(whole_ledger):
            uses = dig(stage, "cost", "uses")
            with_others = f"with {', '.join(str(one) for one in uses)}" if uses else "alone"
            rows.append([under(f"{name}, whole cost", with_others), *_cost_cells(whole_ledger, _phases(whole_ledger), erm)])
            kinds.append("sum")
    heads = [
        "Stage, phase",
        "FLOPs",
        "% of ERM",
        "Seconds",
        "Examples",
        "Tokens",
        "Steps",
        "Peak memory",
        "Repeated FLOPs",
        "Repeated s",
    ]
    return table(heads, rows, caption="Effective costs; what interruptions repeated stands apart", kinds=kinds)


def _phases(ledger: Any) -> list[str]:
    present = {phase for book in ("effective", "repeated") for phase in (dig(ledger, book) or {})}
    return [phase for phase in PHASES if phase in present]


def _cost_cells(ledger: Any, phases: Sequence[str], erm: float | None) -> list[Cell]:
    def total(field: str, book: str = "effective") -> float:
        return sum(number(dig(ledger, book, phase, field)) or 0.0 for phase in phases)

    peaks = {kind: [number(dig(ledger, "peak_memory", phase, kind)) for phase in phases] for kind in ("rss", "cuda")}
    highest = {kind: max(known) for kind, values in peaks.items() if (known := [value for value in values if value])}
    gpu = f"GPU {memory(highest['cuda'])}" if "cuda" in highest else ""
    repeated = total("flops", "repeated"), total("seconds", "repeated")
    return [
        scientific(total("flops")),
        "-" if not erm else percent(total("flops") / erm),
        f"{total('seconds'):,.1f}",
        *(count(int(total(field))) for field in ("examples", "tokens", "steps")),
        under(memory(highest.get("rss")), gpu),
        scientific(repeated[0]) if repeated[0] else "-",
        f"{repeated[1]:,.1f}" if repeated[1] else "-",
    ]


def groups_table(rows: Sequence[GroupRow], data_map: DataMap | None, rules: Mapping[str, Any]) -> Markup:
    """One row per group of training rows and one for all: where it lies in the data map, and what was selected of it by
    the stages' ``rules``."""
    heads = ["Group", "Rows", "Share, %"]
    if data_map is not None:
        heads += ["Mean confidence", "Mean variability"]
        heads += [f"Mean correctness, of {data_map.epochs} epochs"] if data_map.correctness is not None else []
    stages = list(rows[0].selected)
    for stage in stages:
        heads += [f"{picked_words(rules.get(stage)).capitalize()} {stage}, %", "Enrichment"]
    body: list[list[Cell]] = []
    for row in rows:
        cells: list[Cell] = [row.group, count(row.count), percent(row.share)]
        if data_map is not None:
            cells += [decimals(row.confidence), decimals(row.variability)]
            cells += [decimals(row.correctness, 2)] if data_map.correctness is not None else []
        for stage in stages:
            cells += [percent(row.selected[stage]), f"{row.enrichment[stage]:.2f}"]
        body.append(cells)
    caption = "Groups of the training rows. Enrichment: share in what is learned from over share in the pool; 1 is no change"
    return table(heads, body, caption=caption, kinds=[""] * (len(body) - 1) + ["sum"])


def diagnostics_table(data_map: DataMap) -> Markup | None:
    """The reference diagnostics of a data map."""
    found = data_map.diagnostics
    if found is None:
        return None
    q = f"{100 * found.fraction:g} %"
    rows: list[list[Cell]] = [
        [f"Overlap of the {q} most ambiguous and the {q} hardest to learn, % of either", percent(found.overlap)],
        ["Either of the two, % of all", percent(found.union)],
        ["Easy: neither, % of all", percent(found.easy)],
        ["Mean confidence of all", decimals(number(found.mean_confidence))],
        ["Mean confidence of the ambiguous", decimals(number(found.mean_confidence_ambiguous))],
        ["Mean confidence of the hard to learn", decimals(number(found.mean_confidence_hard))],
        ["Mean confidence of the easy", decimals(number(found.mean_confidence_easy))],
        ["Smallest variability among the ambiguous", decimals(number(found.smallest_variability))],
    ]
    return table(
        ["Diagnostic", "Value"], rows, caption=f"Reference diagnostics {data_map.of}, {found.examples:,} scored examples"
    )
