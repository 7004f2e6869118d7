"""What a run's numbers depend on besides its recipe: versions, processor, threads, processes. No names, users or paths."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("ftft", "torch", "transformers", "accelerate", "tokenizers", "numpy", "safetensors")

# Instruction sets by which torch, oneDNN and MKL choose between kernels that round differently.
_FLAGS = {
    *("sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx_vnni"),
    *("avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8", "asimd", "asimdhp", "asimddp", "sve", "sve2"),
    *("bf16", "i8mm", "svebf16"),
}
# Variables that make those libraries choose other kernels on the same processor.
_VARIABLES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS")


def provenance() -> dict[str, Any]:
    """A JSON description of software and machine, without importing anything heavy.

    ``python``; ``versions`` (package -> version or None); ``platform``; ``architecture``; ``processor`` (model name,
    with family and model numbers, because virtual machines give several processors one name); ``processor_flags``;
    ``environment`` (variables that choose kernels); ``processes`` (WORLD_SIZE); and where torch is already imported
    ``cpu_capability``, ``threads`` and ``device`` (a GPU's model name, or "cpu"), else None.
    """
    torch = sys.modules.get("torch")
    processor, flags = _processor()
    return {
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in PACKAGES},
        "platform": " ".join(part for part in (platform.system(), *platform.libc_ver()) if part),
        "architecture": platform.machine(),
        "processor": processor,
        "processor_flags": flags,
        "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "cpu_capability": None if torch is None else torch.backends.cpu.get_cpu_capability(),
        "threads": None if torch is None else torch.get_num_threads(),
        "processes": _processes(),
        "device": None if torch is None else _device(torch),
    }


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One sentence for each difference that can change the bits of a resumed run; empty when there is none.

    What either side does not know (torch was not imported, an older format) is not compared.
    """
    sentences = [
        f"{package} was {_shown(before)} and is {_shown(after)} now"
        for package, before, after in _changes(_section(old, "versions"), _section(new, "versions"))
    ]
    names = {
        "python": "Python",
        "architecture": "the architecture",
        "processor": "the processor",
        "cpu_capability": "torch's processor capability",
        "threads": "the number of threads",
        "processes": "the number of processes",
        "sharding": "how the processes hold the model",
        "device": "the device",
    }
    for field, before, after in _changes(old, new):
        if field in names and before is not None and after is not None:
            sentences.append(f"{names[field]} was {_shown(before)} and is {_shown(after)} now")
    if "processor_flags" in old and "processor_flags" in new:
        before_flags, after_flags = set(old["processor_flags"]), set(new["processor_flags"])
        if before_flags != after_flags:
            changed = ", ".join(sorted(before_flags ^ after_flags))
            sentences.append(f"the processor's instruction sets differ in {changed}")
    if "environment" in old and "environment" in new:
        before_set, after_set = _section(old, "environment"), _section(new, "environment")
        for name in sorted({*before_set, *after_set}):
            if before_set.get(name) != after_set.get(name):
                was, now = _shown(before_set.get(name), "unset"), _shown(after_set.get(name), "unset")
                sentences.append(f"the variable {name} was {was} and is {now} now")
    return sentences


def differences_on_resuming(
    known: Sequence[str], old: Mapping[str, Any], new: Mapping[str, Any], step: int, warn: Callable[[str], None]
) -> list[str]:
    """The sentences of :func:`differences` of a run that resumes at ``step``, behind those that are ``known`` from its earlier
    resumptions, each once; the present ones are told in a warning."""
    found = differences(old, new)
    if found:
        warn(
            f"resuming at step {step} under other conditions ({'; '.join(found)}): "
            "the result may differ in the last digits from an undisturbed run, and it is marked"
        )
    return list(dict.fromkeys([*known, *found]))


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    return [(name, old[name], new[name]) for name in old if name in new and old[name] != new[name]]


def _section(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = document.get(name)
    return found if isinstance(found, Mapping) else {}


def _shown(value: Any, absent: str = "not installed") -> str:
    return absent if value is None else str(value)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processes() -> int:
    try:
        return int(os.environ.get("WORLD_SIZE") or 1)
    except ValueError:
        return 1


def _device(torch: Any) -> str:
    return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else "cpu"


def _processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, list[str]]:
    """The processor's model and its instruction sets, from the kernel's description; on macOS from sysctl."""
    try:
        first = cpuinfo.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        return _processor_by_sysctl() or platform.processor() or "unknown", []
    pairs = (line.partition(":") for line in first.splitlines())
    facts = {name.strip(): value.strip() for name, _, value in pairs}
    if "model name" in facts:
        numbers = f"family {facts.get('cpu family', '?')} model {facts.get('model', '?')}"
        name = f"{facts['model name']} ({numbers})"
    elif "CPU part" in facts:
        name = f"ARM implementer {facts.get('CPU implementer', '?')} part {facts['CPU part']}"
    else:
        name = platform.processor() or "unknown"
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    return name, sorted(_FLAGS.intersection(flags))


def _processor_by_sysctl() -> str | None:
    if sys.platform != "darwin":
        return None
    command = ["sysctl", "-n", "machdep.cpu.brand_string"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
