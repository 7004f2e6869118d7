"""Preference rows for `sft_then_dpo.yaml`: the rationales of gen_arithmetic, and the same with a wrong last number.

    python recipes/lm/arithmetic_pairs.py "$FTFT_DATA/gen_arithmetic/train_cot.jsonl.gz" pairs.jsonl

The wrong number is 1 to 9 above or below the right one, drawn from the row's id alone; a row without a number is left out.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import sys
from pathlib import Path

NUMBER = re.compile(r"\d+(?!.*\d)", re.DOTALL)  # the last one


def wrong(text: str, seed: str) -> str | None:
    """The text with another last number; None where it has none."""
    found = NUMBER.search(text)
    if found is None:
        return None
    source = random.Random(seed)
    right = int(found.group())
    other = abs(right + source.choice((-1, 1)) * source.randint(1, 9))
    return f"{text[: found.start()]}{other if other != right else right + 1}{text[found.end() :]}"


def pairs(source: Path) -> list[dict[str, str]]:
    """The preference rows: id, prompt, chosen, rejected."""
    with gzip.open(source, "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    made = [(row, wrong(row["output"], row["id"])) for row in rows]
    return [
        {"id": row["id"], "prompt": row["instruction"], "chosen": row["output"], "rejected": other}
        for row, other in made
        if other is not None
    ]


if __name__ == "__main__":
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in pairs(Path(sys.argv[1]))]
    Path(sys.argv[2]).write_text("".join(lines), encoding="utf-8")
    print(f"{len(lines)} rows in {sys.argv[2]}")
