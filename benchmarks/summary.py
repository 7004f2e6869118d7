"""The table of benchmarks/README.md from the results under results/benchmarks.

    python benchmarks/throughput.py --out results/benchmarks/throughput.json
    python benchmarks/flop_rate.py --out results/benchmarks/flop_rate.json
    python benchmarks/recorder_overhead.py --out results/benchmarks/recorder_overhead.json
    python benchmarks/score_ten_million.py --json results/benchmarks/score_ten_million.json
    python benchmarks/map_pan.py --out results/benchmarks/map_pan.json
    python benchmarks/method_memory.py --out results/benchmarks/method_memory.json
    python benchmarks/startup.py --out results/benchmarks/startup.json
    python benchmarks/step_profile.py --out results/benchmarks/step_profile.json
    python benchmarks/faster_models.py --out results/benchmarks/faster_models.json
    python benchmarks/ten_million.py --out results/benchmarks/ten_million.json
    python benchmarks/summary.py

Each figure stands with its target, whether it is met, and how busy the machine was.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from telling import between_markers

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results" / "benchmarks"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
GIB = 2**30

Line = tuple[str, str, str, str]  # what, figure, target, machine


def table(results: Path) -> str:
    """The Markdown table of the result files that are there."""
    lines = ["| what | measured | target | machine |", "|---|---|---|---|"]
    for name, rows in (
        ("throughput", _throughput),
        ("flop_rate", _flop_rate),
        ("recorder_overhead", _recorder_overhead),
        ("score_ten_million", _scoring),
        ("map_pan", _map_pan),
        ("method_memory", _method_memory),
        ("startup", _startup),
        ("step_profile", _step_profile),
        ("faster_models", _faster_models),
        ("ten_million", _ten_million),
    ):
        path = results / f"{name}.json"
        if path.exists():
            lines += [f"| {' | '.join(line)} |" for line in rows(json.loads(path.read_text(encoding="utf-8")))]
    return "\n".join(lines)


def _throughput(result: Mapping[str, Any]) -> Iterator[Line]:
    faster = result["precision_of_defaults"] == "bf16"
    native = "" if faster else f" where bf16 is faster; here its products run at {result['speedup_of_bf16_products']:.2f}x"
    for key, what, target, least in (
        ("defaults", "tokens per second against the Trainer's defaults", f"at least 2x{native}", 2.0),
        ("defaults_same_batch_size", "the same, the Trainer with batches of our size", "", None),
        ("equal", "at equal batches, padding, precision and optimizer", "at least 0.97x", 0.97),
    ):
        ratio = result[key]["wall"]
        padding = ", ".join(f"{result[key][side]['padding']:.2f}" for side in ("ftft", "trainer"))
        yield (
            what,
            f"{_ratio(ratio)}x (padding {padding})",
            f"{target}: {_met(least is not None and ratio['ratio'] >= least)}" if target else "",
            _machine(result),
        )


def _flop_rate(result: Mapping[str, Any]) -> Iterator[Line]:
    told = result["auto"]["wall"]
    fractions = {name: 100 * told[f"fraction_of_{name}"]["ratio"] for name in ("bfloat16", "float32")}
    shares = ", ".join(
        f"{share:.0f} % of the {name} matrix rate ({told[f'{name}_product_gflops']:.0f} GFLOP/s)"
        for name, share in fractions.items()
    )
    yield (
        f"training FLOP rate ({result['precision_of_auto']})",
        f"{told['training_gflops']:.0f} GFLOP/s, {shares}",
        "",
        _machine(result),
    )


def _recorder_overhead(result: Mapping[str, Any]) -> Iterator[Line]:
    for key, where in (("loop", "our loop"), ("trainer", "the Trainer")):
        for per in ("wall", "processor_time"):
            ratio = result[key][per]
            told = f"at most 1.01: {_met(ratio['ratio'] <= 1.01)}" if per == "wall" else ""
            yield (
                f"step with the online recorder over one without, {where}, {per.replace('_', ' ')}",
                _ratio(ratio),
                told,
                _machine(result),
            )
    inside = result["loop"]["share_inside_the_recorder"]
    figure = f"{100 * inside['median']:.2f} % (at most {100 * inside['largest']:.2f} %)"
    yield "share of a step spent in the recorder's own calls, our loop", figure, "", _machine(result)


def _method_memory(result: Mapping[str, Any]) -> Iterator[Line]:
    """One line a method: what it takes as shares of full fine-tuning with AdamW."""
    for row, found in result["ratio_to_full"].items():
        if row in ("full", "inference"):
            continue
        kept = {"optimizer state": "optimizer_state", "saved activations": "saved_activations", "peak": "peak_over_model"}
        figure = ", ".join(f"{name} {100 * found[key]:.1f} %" for name, key in kept.items())
        told = f" (peak {result['mezo_peak_over_inference']:.2f}x that of a forward pass)" if row == "mezo" else ""
        yield f"memory of {row}, as shares of full fine-tuning's", f"{figure}{told}", "", _machine(result)


def _scoring(figures: list[Mapping[str, Any]]) -> Iterator[Line]:
    for one in figures:
        seconds, memory = one["seconds"], one["peak_bytes"] / GIB
        layout = {"wide": "our Parquet", "long": "a shuffled long table"}[one["layout"]]
        yield (
            f"all {len(one['scores'])} scores of {one['examples']:,} examples x {one['epochs']} epochs, {layout}",
            f"{seconds:.1f} s, {memory:.2f} GiB",
            f"at most 60 s and 4 GiB: {_met(seconds <= 60 and memory <= 4)}",
            f"{one['cores']} cores{_load(one)}",
        )


def _map_pan(result: Mapping[str, Any]) -> Iterator[Line]:
    cores = f"{result['cores']} core{'s' * (result['cores'] > 1)}"
    for mode in ("points", "density"):
        one = result[mode]
        used, between = one["processor_ms_per_frame"], one["between_ms"]["median"]
        yield (
            f"a frame while the data map of {result['examples']:,} examples is dragged, {mode}",
            f"{between:.0f} ms between frames, {used:.0f} ms of processor time",
            f"at most 100 ms between frames: {_met(between <= 100)}",
            f"headless Chromium without graphics, {cores}{_load(result)}",
        )


def _startup(result: Mapping[str, Any]) -> Iterator[Line]:
    target = result["target_seconds"]
    for name, found in result["commands"].items():
        one = found["processor"]
        yield (
            f"start-up of ftft {name}, beyond importing the libraries (processor time)",
            f"{one['own_seconds']:.2f} s ({one['ratio']:.2f}x importing them alone, {one['libraries_seconds']:.1f} s)",
            f"at most {target:g} s: {_met(one['own_seconds'] <= target)}",
            _machine(result),
        )


def _step_profile(result: Mapping[str, Any]) -> Iterator[Line]:
    target = result["target"]
    for key, what in (("realistic_lengths", "realistic lengths"), ("32_tokens", "32 tokens")):
        one = result[key]["outside"]
        low, high = one["interval_95"]
        yield (
            f"share of a recorded step outside forward, backward, clipping and optimizer, {what}",
            f"{100 * one['ratio']:.2f} % [{100 * low:.2f}, {100 * high:.2f}]",
            f"at most {100 * target:g} %: {_met(one['ratio'] <= target)}",
            _machine(result),
        )


def _faster_models(result: Mapping[str, Any]) -> Iterator[Line]:
    padding = f"{result['without_padding']['padding']:.0%}"
    for name, what in (
        ("compiled", "torch.compile"),
        ("eager_attention", "attention that is not fused"),
        ("padded_to_longest", "batches no wider than their longest example"),
        ("without_padding", f"none of the {padding} padding, the most that unpadded attention can give"),
    ):
        one = result[name]
        ready, plain = one["warm_up_seconds"]
        yield (
            f"steps with {what}, against the model as it is ({result['precision']})",
            f"{_ratio(one['wall'])}x; warm-up {ready:.0f} s, as it is {plain:.0f} s",
            "",
            _machine(result),
        )


def _ten_million(result: Mapping[str, Any]) -> Iterator[Line]:
    """One line a phase: seconds of processor time and memory at every size, and the growth at the last step."""
    sizes = {int(rows): found for rows, found in result["sizes"].items()}
    largest, growth = max(sizes), list(result["growth"].values())
    for name, found in sizes[largest].items():
        times = ", ".join(f"{sizes[rows][name]['cpu_seconds']:.1f} s" for rows in sorted(sizes))
        grows = f"; growth {growth[-1][name]:.2f}" if growth else ""
        yield (
            f"{name}, {', '.join(f'{rows:,}' for rows in sorted(sizes))} rows",
            f"{times} of processor time, {found['peak_bytes'] / GIB:.2f} GiB at the last{grows}",
            f"at most 4 GiB: {_met(found['peak_bytes'] <= 4 * GIB)}; linear: growth 1",
            f"{result['machine']['cores']} cores, load {found['load_before']:.1f} before",
        )


def _ratio(one: Mapping[str, Any]) -> str:
    low, high = one["interval_95"]
    return f"{one['ratio']:.3f} [{low:.3f}, {high:.3f}]"


def _met(holds: bool) -> str:
    return "met" if holds else "not met"


def _machine(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    return f"{machine['processor']}, {machine['threads']} threads{_load(machine)}"


def _load(machine: Mapping[str, Any]) -> str:
    """How busy the machine was; nothing where the system does not tell."""
    return "" if machine["load_before"] is None else f", load {machine['load_before']:.1f} before"


def written(text: str, results: Path) -> str:
    """A README with the table between its markers."""
    return between_markers(text, BEGIN, END, table(results))


def main() -> None:
    """Put the table into benchmarks/README.md."""
    path = ROOT / "benchmarks" / "README.md"
    path.write_text(written(path.read_text(encoding="utf-8"), RESULTS), encoding="utf-8")


if __name__ == "__main__":
    main()
