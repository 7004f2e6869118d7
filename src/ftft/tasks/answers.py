"""The answer in a text that a model wrote, and whether it is the right one.

Three ways to read it, by what the texts of a data set look like:

    marked   what stands behind the last ``####`` up to the end of its line (GSM8K)
    number   the last number of the text
    text     the whole text, runs of white space as one blank

A number, also one that is all that stands behind the mark, is compared as a number: without thousands' commas, ``$``, ``%``
and a full stop behind it, 4.0 as 4. With ``text`` nothing is: "4.0" is another text than "4".
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Literal

How = Literal["marked", "number", "text"]

MARK = "####"
# A minus between two figures is a difference, not a sign.
_NUMBER = re.compile(r"(?<![\d.)])[-−]?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")


def answer_in(text: str, how: How) -> str | None:
    """The answer of a text in its canonical form; None where there is none."""
    if how == "number":
        return last_number(text)
    if how == "marked":
        if MARK not in text:
            return None
        text = text.rpartition(MARK)[2].lstrip().partition("\n")[0]
        whole = as_number(text)
        if whole is not None:
            return whole
    return " ".join(text.split()) or None


def is_right(written: str, reference: str, how: How) -> bool:
    """Whether a text has the reference's answer; never where the reference has none."""
    right = answer_in(reference, how)
    return right is not None and answer_in(written, how) == right


def last_number(text: str) -> str | None:
    """The last number of a text, canonical."""
    found = _NUMBER.findall(text)
    return as_number(found[-1]) if found else None


def as_number(text: str) -> str | None:
    """A text that is one number, canonical ("$1,234.50" is "1234.5"); None for any other."""
    plain = text.strip().replace(",", "").replace("$", "").replace("−", "-").rstrip(".").rstrip("%").strip()
    if not re.fullmatch(r"[-+]?(\d+(\.\d+)?|\.\d+)", plain):
        return None
    try:
        value = Decimal(plain)
    except InvalidOperation:
        return None
    shown = f"{value:f}"
    shown = shown.rstrip("0").rstrip(".") if "." in shown else shown
    return "0" if not value else shown
