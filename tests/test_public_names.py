"""The public names are loaded when used, not when the package is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

import ftft

NAMES = [pytest.param(name, marks=pytest.mark.slow) if name == "DynamicsRecorder" else name for name in ftft.__all__]


@pytest.mark.parametrize("name", NAMES)  # the recorder imports torch and transformers
def test_every_public_name_can_be_had(name: str) -> None:
    assert getattr(ftft, name) is not None
    assert name in dir(ftft)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="module 'ftft' has no attribute 'nope'"):
        _ = ftft.nope


def test_importing_the_package_imports_none_of_its_parts() -> None:
    code = "import sys, ftft; print(sorted(name for name in sys.modules if name.startswith('ftft.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
