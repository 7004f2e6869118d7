"""The versions that are allowed are those that are tested: the lowest by a file of their own, the newest by another."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TORCH = "torch"
ONLY_TESTS = ("statsmodels",)  # what results are compared with; the tools need no lowest version


def pinned(name: str) -> dict[str, str]:
    """Package -> version of a file of constraints."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {package.lower(): version for package, version in pairs}


def lower_bounds() -> dict[str, str]:
    """Package -> the version after >= or == in what the package itself, or one of its extras, depends on."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    users = [line for name, lines in extras.items() if name != "test" for line in lines]
    tested = [line for line in extras["test"] if line not in users and re.split("[>=]", line)[0] in ONLY_TESTS]
    wanted = [*project["dependencies"], *users, *tested]
    found = [re.fullmatch(r"([\w-]+)[>=]=([\d.]+)", dependency) for dependency in wanted]
    assert all(found), wanted
    return {one[1].lower(): one[2] for one in found if one is not None}


def extras_tested() -> set[str]:
    """The extras that the environment of the lowest versions installs."""
    named = re.search(r"^LOWEST_EXTRAS := (\S+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert named is not None
    return set(named[1].split(","))


def numbers(version: str) -> list[int]:
    parts = [int(part) for part in version.split(".")]
    return parts + [0] * (3 - len(parts))


def test_the_lowest_versions_that_are_tested_are_those_that_are_allowed() -> None:
    bounds = lower_bounds()
    del bounds[TORCH]
    lowest = pinned("constraints-lowest.txt")
    assert lowest.keys() == bounds.keys()
    assert {name: numbers(version) for name, version in lowest.items()} == {name: numbers(one) for name, one in bounds.items()}


def test_every_extra_is_tested_with_its_lowest_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert extras_tested() == project["optional-dependencies"].keys() - {"test"}


def test_the_newest_versions_are_not_below_the_lowest() -> None:
    newest = pinned("constraints.txt")
    for name, version in pinned("constraints-lowest.txt").items():
        assert numbers(newest[name]) >= numbers(version), name


def test_the_version_of_torch_that_is_tested_is_stated() -> None:
    tested = re.search(r"^TORCH \?= torch==([\d.]+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert tested is not None
    assert f"torch {tested[1]}" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert numbers(tested[1]) >= numbers(lower_bounds()[TORCH])
