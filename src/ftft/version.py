"""The installed version of this package, read only when asked for."""

from __future__ import annotations


def version() -> str:
    """The version in the installed package's metadata, or "unknown" where it runs from a folder without any."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("ftft")
    except PackageNotFoundError:
        return "unknown"
