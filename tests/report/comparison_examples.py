"""Table documents of comparisons made by hand: the issue's CAD trial as a suite, and documents of any size."""

from __future__ import annotations

from typing import Any

METRICS = ("accuracy", "macro_f1", "auroc", "prior_corrected.accuracy", "prior_corrected.macro_f1", "ece")
NOTHING = {"value": None, "low": None, "high": None}
# OOD mean macro-F1, AUROC, whole cost: two seeds on 6,000 rows of CAD.
TRIAL = {
    "erm": (0.639, 0.703, 1.00),
    "erm_half": (0.628, 0.708, 0.50),
    "ambiguous": (0.613, 0.692, 0.58),
    "ambiguous_prior_kept": (0.585, 0.692, 0.58),
    "random": (0.601, 0.688, 0.33),
    "random_prior": (0.618, 0.694, 0.33),
}
SETS = ("dynahate", "hatecheck", "kennedy")


def estimate(value: float | None, half: float | None = 0.02) -> dict[str, float | None]:
    if value is None:
        return dict(NOTHING)
    return (
        {"value": value, "low": None, "high": None}
        if half is None
        else {"value": value, "low": value - half, "high": value + half}
    )


def difference(value: float | None, half: float | None = 0.01) -> dict[str, Any]:
    one = estimate(value, half)
    low, high = one["low"], one["high"]
    sign = "0" if low is None or high is None else "+" if low > 0 else "-" if high < 0 else "0"
    return {**one, "sign": sign}


def metrics(f1: float, auroc: float) -> dict[str, float]:
    values = {"accuracy": f1 + 0.013, "macro_f1": f1, "auroc": auroc, "prior_corrected.accuracy": auroc - 0.041}
    return {**values, "prior_corrected.macro_f1": auroc - 0.052, "ece": 0.113}


def one_set(name: str, role: str, split: str = "test", seen: bool = False) -> dict[str, Any]:
    over = "clusters" if role == "ood" else "examples"
    return {"name": name, "role": role, "split": split, "seen": seen, "n": 2400, "uncertain_over": over}


def rates(centre: float, best: float, interior: bool = True) -> dict[str, Any]:
    curve = [
        {"learning_rate": centre * factor, "scores": [best - drop, best - drop + 0.004], "value": best - drop + 0.002}
        for factor, drop in ((1 / 3, 0.03), (1.0, 0.0), (3.0, 0.02 if interior else -0.01))
    ]
    chosen = centre if interior else 3 * centre
    return {"chosen": chosen, "interior": interior, "metric": "macro_f1", "on": ["validation"], "curve": curve}


def row(
    f1: float | None,
    auroc: float = 0.7,
    cost: float = 1.0,
    *,
    against: tuple[float, float] | None = None,
    sets: tuple[str, ...] = SETS,
    seeds: tuple[int, ...] = (0, 1),
    pending: tuple[int, ...] = (),
    failed: tuple[tuple[int, str], ...] = (),
    half: float | None = 0.02,
) -> dict[str, Any]:
    """A row with the OOD mean ``f1`` and ``auroc``; ``against``: the baseline's two; ``f1`` None: no seed has finished."""
    document: dict[str, Any] = {
        "about": "A row of the trial.",
        "seeds": list(seeds),
        "pending": list(pending),
        "failed": [{"seed": seed, "why": why} for seed, why in failed],
    }
    shift = {name: 0.03 * (index - (len(sets) - 1) / 2) for index, name in enumerate(sets)}
    empty = {name: dict(NOTHING) for name in METRICS}
    if f1 is None:
        unknown = {"charged": dict(NOTHING), "amortised": dict(NOTHING), "searches": None, "flops": 0.0, "parts": {}}
        means = {"id": {"sets": ["cad"], **empty}, "ood": {"sets": list(sets), **empty}, "forget": None}
        nothing = {"learning_rate": None, "sets": {}, "means": means, "versus": None, "cost": unknown, "steps": []}
        sizes = dict.fromkeys(("trainable_parameters", "parameters", "peak_memory_bytes", "adapter_bytes", "class_prior"))
        return {**document, **nothing, **sizes, "effective_robustness": None}
    ood, at_home = metrics(f1, auroc), metrics(f1 + 0.2, auroc + 0.2)
    on = {name: {key: estimate(value + shift[name], half) for key, value in ood.items()} for name in sets}
    on["cad"] = {key: estimate(value, half) for key, value in at_home.items()}
    means = {
        "id": {"sets": ["cad"], **{key: estimate(value, half) for key, value in at_home.items()}},
        "ood": {"sets": list(sets), **{key: estimate(value, half) for key, value in ood.items()}},
        "forget": None,
    }
    versus = None
    if against is not None:
        theirs = metrics(*against)
        gaps = {key: difference(ood[key] - theirs[key], None if half is None else half / 2) for key in METRICS}
        every = dict.fromkeys((*sets, "cad"), gaps)
        versus = {"sets": every, "means": {"id": gaps, "ood": gaps, "forget": None}}
    reference = 0.25 if cost < 0.9 else 0.0
    return {
        **document,
        "learning_rate": rates(5e-5, f1 + 0.2),
        "sets": on,
        "means": means,
        "versus": versus,
        "cost": {
            "charged": estimate(cost, None if half is None else 0.03),
            "amortised": estimate(cost - reference / 2, None if half is None else 0.03),
            "searches": 2.1,
            "flops": cost * 1.2e15,
            "parts": {"training": cost - reference - 0.02, "reference": reference, "evaluation": 0.02},
        },
        "trainable_parameters": 22_713_986,
        "parameters": 22_713_986,
        "peak_memory_bytes": 1_200_000_000,
        "adapter_bytes": None,
        "steps": [310, 280],
        "class_prior": {"positive": 0.37, "negative": 0.63} if cost < 0.9 else None,
        "effective_robustness": estimate(0.004, 0.01),
    }


def contrast(
    name: str,
    against: str,
    value: float,
    half: float,
    holds: bool,
    metric: str = "macro_f1",
    ranking: dict[str, float] | None = None,
) -> dict[str, Any]:
    """``ranking``: what the AUROC says of the same rows."""
    return {
        "task": "hate_speech",
        "row": name,
        "against": against,
        "on": "ood",
        "metric": metric,
        "kind": "different",
        "margin": None,
        "difference": estimate(value, half),
        "ranking": ranking,
        "p": 0.0312,
        "p_holm": 0.0624,
        "holds": holds,
    }


def document(rows: dict[str, dict[str, Any]], sets: tuple[str, ...] = SETS, **more: Any) -> dict[str, Any]:
    """A comparison of one task."""
    task = {
        "sets": [one_set("cad", "id"), *(one_set(name, "ood") for name in sets)],
        "rows": rows,
        "line": None,
        "searches": {"flops": 1.0e15, "fraction": 2.1},
    }
    whole = {
        "format": "ftft/comparison",
        "format_version": 1,
        "name": "hate-speech",
        "kind": "explore",
        "created": "2026-11-21T20:00:00Z",
        "level": 0.95,
        "label": "direction only: 2 seeds",
        "baseline": "erm",
        "metrics": list(METRICS),
        "headline": "macro_f1",
        "tasks": {"hate_speech": task},
        "contrasts": [],
        "explorations": [],
        "opened": None,
        "cells": {"finished": 2 * len(rows), "pending": 0, "failed": 0},
    }
    return {**whole, **more}


def trial() -> dict[str, Any]:
    """The trial of the issue: the ambiguous third beats the random third in macro-F1, and a shorter ERM beats it for less."""
    base = TRIAL["erm"][:2]
    rows = {name: row(*figures, against=None if name == "erm" else base) for name, figures in TRIAL.items()}
    rows["random"]["learning_rate"] = rates(5e-5, 0.8, interior=False)
    rows["erm_half"]["learning_rate"] = None
    table = document(rows, contrasts=[contrast("ambiguous", "random", 0.012, 0.02, False, ranking=estimate(0.004, 0.01))])
    table["contrasts"] += [
        {**contrast("ambiguous", "erm", -0.026, 0.01, False), "kind": "no worse", "margin": 0.01, "p": 0.99, "p_holm": 1.0},
    ]
    points = [
        {"row": "erm", "seed": seed, "id": 0.70 + 0.03 * step, "ood": 0.56 + 0.02 * step}
        for seed in (0, 1)
        for step in range(6)
    ]
    table["tasks"]["hate_speech"]["line"] = {
        "metric": "accuracy", "slope": 0.62, "intercept": -0.29, "rows": ["erm", "erm_half"], "points": points,
    }  # fmt: skip
    return table


def unfinished() -> dict[str, Any]:
    """One row with one seed, one not begun, one failed."""
    base = (0.64, 0.70)
    rows = {
        "erm": row(*base, 1.0, seeds=(0,), pending=(1, 2), half=None),
        "ftft": row(None, seeds=(), pending=(0, 1, 2)),
        "random": row(None, seeds=(), failed=((0, "the loss became NaN at step 12"),), pending=(1, 2)),
    }
    return document(rows, cells={"finished": 1, "pending": 7, "failed": 1})


def empty() -> dict[str, Any]:
    """Nothing has finished."""
    rows = {name: row(None, seeds=(), pending=(0, 1)) for name in ("erm", "ftft")}
    return document(rows, cells={"finished": 0, "pending": 4, "failed": 0})


def large() -> dict[str, Any]:
    """Twelve rows with long names on eight sets with long names."""
    sets = tuple(f"a_rather_long_evaluation_set_name_{index}" for index in range(8))
    base = (0.64, 0.70)
    rows = {"erm": row(*base, 1.0, sets=sets)}
    for index in range(11):
        f1, auroc = 0.62 + 0.004 * index, 0.705 - 0.002 * index
        name = f"ambiguous_third_with_class_prior_kept_{index}"
        rows[name] = row(f1, auroc, 0.33 + 0.05 * index, against=base, sets=sets, pending=(2, 3, 4))
    return document(rows, sets=sets)


def of_seeds(*values: Any) -> dict[str, Any]:
    known = [float(value) for value in values if value is not None]
    return {"mean": sum(known) / len(known) if known else None, "seeds": list(values)}


def measured() -> dict[str, Any]:
    """The trial, with what two evaluators measured of the models of some rows."""
    table = trial()
    rows = table["tasks"]["hate_speech"]["rows"]
    rows["erm"]["measured"] = {
        "intruder_dimensions": {"count": of_seeds(0, 0), "looked_at": of_seeds(2160, 2160), "random": of_seeds(1, 0)}
    }
    rows["ambiguous"]["measured"] = {
        "intruder_dimensions": {"count": of_seeds(12, None), "looked_at": of_seeds(360, 360), "unknown": of_seeds(None, None)},
        "forgetting": {
            "mean.macro_f1.difference": of_seeds(-0.034, -0.016),
            "distance": of_seeds(1.23456, 1.23456),
            "norm": of_seeds(4.5e12, 1.5e12),
            "found": of_seeds(True, False),
            "settled": of_seeds(True, True),
        },
    }
    return table


EVIL = "<script>alert(1)</script>|[x](http://evil)\x1b[2J"


def hostile() -> dict[str, Any]:
    """Every free string of the document is an attack."""
    base = (0.60, 0.70)
    evil = {"erm": row(*base), EVIL: row(0.64, 0.69, 1.3, against=base, sets=(EVIL,), failed=((4, EVIL),))}
    evil[EVIL]["about"] = EVIL
    evil[EVIL]["class_prior"] = {EVIL: 0.5}
    evil[EVIL]["cost"]["parts"] = {EVIL: 1.3}
    evil[EVIL]["measured"] = {EVIL: {EVIL: of_seeds(1, 2), "": {"mean": 1.0, "seeds": [EVIL, 1]}}, "": {"a": EVIL, "b": None}}
    table = document(evil, sets=(EVIL,), label=EVIL, name=EVIL, kind="confirm", opened=2)
    table["contrasts"] = [{**contrast(EVIL, "erm", 0.04, 0.01, True), "task": EVIL, "on": EVIL}]
    table["explorations"] = [{"suite": EVIL, "created": EVIL, "rows": [EVIL], "seeds": [0], "hash": EVIL}]
    table["metrics"] = [*METRICS, EVIL]
    table["tasks"] = {EVIL: table["tasks"]["hate_speech"]}
    return table
