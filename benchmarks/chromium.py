"""The browser that the data map's benchmark and the tests of the pages drive."""

from __future__ import annotations

import os
import shutil

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str | None:
    """The Chromium to drive: what FTFT_CHROMIUM names, or the installed one; None where there is none."""
    return os.environ.get("FTFT_CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)
