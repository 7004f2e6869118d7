"""How long a frame takes while the explorer's data map of 400,000 examples is dragged, and what else one waits for.

    python benchmarks/map_pan.py [--examples 400000] [--frames 60] [--out FILE]

Writes the page of generated dynamics (6 epochs x 3 classes), opens it in headless Chromium and drags the map with the mouse,
a step per frame. Given are the milliseconds between frames (what one sees), those spent drawing (of them), the milliseconds
of processor time that the page's thread took for a frame (what one would see on a machine that does nothing else), the seconds
until the page can be used, and the milliseconds of a new selection and of finding the example under the pointer. Headless
Chromium draws on the processor. Target: at most 100 ms between frames.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from chromium import find_chromium
from telling import cores

from ftft.dynamics.table import Dynamics
from ftft.report.map_page import map_page
from ftft.report.map_values import map_values

EPOCHS, CLASSES, SIZE = 6, 3, {"width": 1280, "height": 900}
DRAG = """
async ([frames, density]) => {
  const explorer = window.ftftExplorer;
  if (explorer.parts.density.checked !== density) explorer.parts.density.click();
  explorer.view.zoom = 2;
  const canvas = explorer.parts.canvas0;
  const box = canvas.getBoundingClientRect();
  const at = (step) => ({ clientX: box.left + 300 + 2 * (step % 60), clientY: box.top + 300, button: 0, pointerId: 1 });
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  canvas.setPointerCapture = () => {};
  canvas.dispatchEvent(new PointerEvent("pointerdown", at(0)));
  const between = [], drawing = [];
  let last = await frame();
  for (let step = 1; step <= frames; step++) {
    canvas.dispatchEvent(new PointerEvent("pointermove", at(step)));
    const now = await frame();
    between.push(now - last);
    drawing.push(explorer.plots[0].milliseconds);
    last = now;
  }
  canvas.dispatchEvent(new PointerEvent("pointercancel", at(frames)));
  return { between: between.slice(2), drawing: drawing.slice(2) };
}
"""
TIMED = """
() => {
  const explorer = window.ftftExplorer;
  const timed = (act) => { const start = performance.now(); act(); return performance.now() - start; };
  const shares = Array.from({ length: 20 }, (_, step) => 0.1 + 0.04 * step);
  return {
    selection: shares.map((share) => timed(() => explorer.setShare(share))),
    hover: shares.map((share) => timed(() => explorer.row(0, 60 + 500 * share, 400 - 350 * share))),
  };
}
"""


def generated(n: int, seed: int = 0) -> Dynamics:
    """Dynamics with easy, ambiguous and hard examples in the shares of a real training set."""
    generator = np.random.default_rng(seed)
    kind = generator.choice(3, n, p=[0.65, 0.25, 0.1])
    level = np.array([2.5, 0.3, -1.5], dtype=np.float32)[kind] + 0.7 * generator.standard_normal(n, dtype=np.float32)
    spread = np.array([0.4, 1.5, 0.6], dtype=np.float32)[kind]
    gold = generator.integers(0, CLASSES, n, dtype=np.int32)
    logits = 0.5 * generator.standard_normal((EPOCHS, n, CLASSES), dtype=np.float32)
    logits[:, np.arange(n), gold] += level + spread * generator.standard_normal((EPOCHS, n), dtype=np.float32)
    ids = pa.array([f"example-{row:06d}" for row in range(n)])
    return Dynamics(ids, tuple(range(EPOCHS)), np.ones((EPOCHS, n), dtype=bool), gold, logits)


def spread(values: list[float]) -> dict[str, float]:
    """The least is what an idle machine would show; the others say what the busy one did."""
    shown = (("min", 0), ("median", 50), ("p95", 95), ("max", 100))
    return {name: round(float(np.percentile(values, q)), 2) for name, q in shown}


def processor_seconds(session: Any) -> float:
    """What the page's thread has used of the processor so far."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return float(next(one["value"] for one in metrics if one["name"] == "TaskDuration"))


def measure(examples: int, frames: int) -> dict[str, Any]:
    from playwright.sync_api import sync_playwright

    path_of_browser = find_chromium()
    if path_of_browser is None:
        raise SystemExit("no chromium is installed; install it, or name it in FTFT_CHROMIUM")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "map.html"
        started = time.perf_counter()
        path.write_text(map_page([map_values(generated(examples), "of generated dynamics")]), encoding="utf-8")
        wrote = time.perf_counter() - started
        browser = playwright.chromium.launch(executable_path=path_of_browser, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(120_000)
        started = time.perf_counter()
        page.goto(path.as_uri())
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        opened = time.perf_counter() - started
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        modes = {}
        for name, density in (("points", False), ("density", True)):
            before = processor_seconds(session)
            found = page.evaluate(DRAG, [frames, density])
            used = 1000 * (processor_seconds(session) - before) / frames
            modes[name] = {f"{what}_ms": spread(values) for what, values in found.items()}
            modes[name]["processor_ms_per_frame"] = round(used, 2)
        timed = page.evaluate(TIMED)
        canvas = page.evaluate("() => [window.ftftExplorer.plots[0].width, window.ftftExplorer.plots[0].height]")
        version = browser.version
        browser.close()
        return {
            "examples": examples,
            "epochs": EPOCHS,
            "frames": frames,
            "canvas_pixels": canvas,
            "page_bytes": path.stat().st_size,
            "write_seconds": round(wrote, 2),
            "open_seconds": round(opened, 2),
            **modes,
            "selection_ms": spread(timed["selection"]),
            "hover_ms": spread(timed["hover"]),
            "chromium": version,
            "cores": cores(),
            "load_before": load,
            "machine": platform.machine(),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=400_000)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--out", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    found = measure(arguments.examples, arguments.frames)
    print(json.dumps(found, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
