"""Chains of additions and subtractions in three notations, for `recipes/suites/language_models.yaml`.

    python recipes/lm/sums.py runs/sums

Every chain, as `3+5-2+9=`, is answered step by step and ends in `#### 15`:

    short    8 6 15 #### 15
    long     3+5=8 8-2=6 6+9=15 #### 15
    boxed    [8] [6] [15] #### 15

`base.jsonl` is what the base model learns: two to four numbers, three in five rows short, the others long. `train.jsonl`
has four numbers and is long; `answers.jsonl` has each of its chains in all three notations. `pairs.jsonl` sets its answers
beside some that go wrong on the way (preferences). `validation.jsonl` is as `train.jsonl`, `longer.jsonl` has five numbers (out
of distribution), and `short.jsonl` is what the base knew (short, to be forgotten). No chain of these three is in another file.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

SEED = 0
LARGEST = 39  # of the numbers on the way; none is negative
Chain = tuple[int, ...]  # the first number, then what is added (or, below zero, subtracted) one after the other


def chains(source: random.Random, seen: set[Chain], numbers: tuple[int, int]) -> Iterator[Chain]:
    """New chains of as many numbers, from 1 to 9, without end."""
    while True:
        chain = [source.randint(1, 9)]
        for _ in range(source.randint(*numbers) - 1):
            steps = [step for step in range(-9, 10) if step and 0 <= sum(chain) + step <= LARGEST]
            chain.append(source.choice(steps))
        if (made := tuple(chain)) not in seen:
            seen.add(made)
            yield made


def prompt(chain: Chain) -> str:
    """`3+5-2=`"""
    return f"{chain[0]}{''.join(f'{step:+d}' for step in chain[1:])}="


def answer(chain: Chain, notation: str, slip: tuple[int, int] | None = None) -> str:
    """The steps and the result in a notation. ``slip``: (step, by how much) goes wrong, and all that follows from it."""
    total, said = chain[0], []
    for index, step in enumerate(chain[1:]):
        before, total = total, total + step
        if slip is not None and slip[0] == index:
            total += slip[1]
        said.append({"short": f"{total}", "long": f"{before}{step:+d}={total}", "boxed": f"[{total}]"}[notation])
    return f"{' '.join(said)} #### {total}"


def rows(name: str, made: list[Chain], notations: list[list[str]]) -> list[dict[str, str]]:
    """A row of every chain in each of its notations."""
    return [
        {"id": f"{name}-{index}-{notation}", "prompt": prompt(chain), "completion": answer(chain, notation)}
        for index, (chain, several) in enumerate(zip(made, notations, strict=True))
        for notation in several
    ]


def files() -> dict[str, list[dict[str, str]]]:
    """Every file's rows."""
    source, seen = random.Random(SEED), set[Chain]()

    def some(count: int, *numbers: int) -> list[Chain]:
        made = chains(source, seen, (numbers[0], numbers[-1]))
        return [next(made) for _ in range(count)]

    short, validation, longer, train, base = some(300, 2, 4), some(400, 4), some(400, 5), some(1000, 4), some(4000, 2, 4)
    slips = [(source.randrange(3), source.choice((-3, -2, -1, 1, 2, 3))) for _ in train]
    return {
        "base": rows("base", base, [source.choices(["short", "long"], [3, 2]) for _ in base]),
        "train": rows("train", train, [["long"]] * len(train)),
        "answers": rows("train", train, [["short", "long", "boxed"]] * len(train)),
        "validation": rows("validation", validation, [["long"]] * len(validation)),
        "longer": rows("longer", longer, [["long"]] * len(longer)),
        "short": rows("short", short, [["short"]] * len(short)),
        "pairs": [
            {
                "id": f"pair-{index}",
                "prompt": prompt(chain),
                "chosen": answer(chain, "long"),
                "rejected": answer(chain, "long", slip),
            }
            for index, (chain, slip) in enumerate(zip(train, slips, strict=True))
        ],
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, made in files().items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
        print(f"{len(made)} rows in {folder / name}.jsonl")
