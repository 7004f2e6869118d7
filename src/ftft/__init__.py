"""ftft: fine-tune models accurate in distribution, robust out of distribution and cheap to train, and measure all three.

The public names are loaded when first used, so that ``import ftft`` and the command line's listings stay fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftft.bridges.recorder import DynamicsRecorder as DynamicsRecorder
    from ftft.dynamics.parquet import open_dynamics as open_dynamics
    from ftft.dynamics.table import Dynamics as Dynamics
    from ftft.errors import UserError as UserError
    from ftft.methods.predictors import load as load
    from ftft.methods.selection import select as select
    from ftft.run.reading import load_recipe as load_recipe

    __version__: str

_PUBLIC = {
    "Dynamics": "ftft.dynamics.table",
    "DynamicsRecorder": "ftft.bridges.recorder",
    "UserError": "ftft.errors",
    "load": "ftft.methods.predictors",
    "load_recipe": "ftft.run.reading",
    "open_dynamics": "ftft.dynamics.parquet",
    "select": "ftft.methods.selection",
}

__all__ = ["Dynamics", "DynamicsRecorder", "UserError", "__version__", "load", "load_recipe", "open_dynamics", "select"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from ftft.version import version

        return version()
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'ftft' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
