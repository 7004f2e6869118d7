"""The settings that selectors share, and their ranges: what can be refused before any data is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from ftft.dynamics.scores import SCORES
from ftft.errors import UserError, did_you_mean

Apply = Literal["subset", "copies", "weights"]
Balance = Literal["none", "class", "prior"] | dict[str, float]
SuspectScore = Literal["confidence", "aum"]


def check_size(fraction: float | None, count: int | None) -> None:
    """UserError unless exactly one of the two is given and within its range."""
    if (fraction is None) == (count is None):
        given = "neither is given" if fraction is None else "both are given"
        raise UserError(f"a selection needs either fraction (FTFT uses 0.33) or count, and {given}")
    if fraction is not None and not 0 < fraction <= 1:
        raise UserError(f"fraction is {fraction}; it must be above 0 and at most 1")
    if count is not None and count < 1:
        raise UserError(f"count is {count}; it must be at least 1")


def check_score(name: str, where: str = "score") -> None:
    """UserError, led by the setting ``where``, for a score that does not exist."""
    if name not in SCORES:
        raise UserError(f'{where}: there is no score "{name}"{did_you_mean(name, SCORES)}')


def check_common(
    *,
    drop_suspects: float = 0.0,
    suspect_score: str = "confidence",
    apply: str = "subset",
    copies: int = 1,
    weight: float = 2.0,
    epochs: Sequence[int] | None = None,
    drop_first_epochs: int = 0,
) -> None:
    """UserError for a setting out of range; what needs no data is checked before any is read."""
    if not 0 <= drop_suspects < 1:
        raise UserError(f"drop_suspects is {drop_suspects}; it must be a share of at least 0 and below 1")
    _check_choice("suspect_score", suspect_score, get_args(SuspectScore))
    _check_choice("apply", apply, get_args(Apply))
    if copies < 1:
        raise UserError(f"copies is {copies}; it must be at least 1 extra copy of each selected example")
    if not 0 < weight < float("inf"):
        raise UserError(f"weight is {weight}; it must be a positive number")
    if drop_first_epochs < 0:
        raise UserError(f"drop_first_epochs is {drop_first_epochs}; it must be at least 0")
    if epochs is not None and drop_first_epochs:
        raise UserError("give either epochs or drop_first_epochs, not both")


def check_compat(
    compat: str | None,
    *,
    fraction: float | None,
    balance: Balance,
    drop_suspects: float,
    known: Sequence[str] = ("ftft", "cartography"),
) -> None:
    """UserError for an unknown released rule, or one combined with what its code does not have."""
    if compat is None:
        return
    _check_choice("compat", compat, known)
    if fraction is None:
        raise UserError(f"compat: {compat} is defined for a fraction; give fraction instead of count")
    if balance != "none" or drop_suspects:
        extra = "drop_suspects" if drop_suspects else "balancing over classes"
        raise UserError(f"compat: {compat} reproduces released code that has no {extra}; leave out one of the two")


def check_balance(balance: str | Mapping[str, float], where: str, known: Sequence[str] = ("none", "class", "prior")) -> None:
    """UserError for an unknown balance, and for class shares given by hand that are negative or do not sum to 1."""
    if not isinstance(balance, Mapping):
        _check_choice(where, balance, known)
        return
    total = sum(balance.values())
    if any(not share >= 0 for share in balance.values()) or not abs(total - 1) <= 1e-6:
        raise UserError(f"{where} must give shares of at least 0 that sum to 1, and they sum to {total:g}")


def _check_choice(where: str, value: object, known: Sequence[str]) -> None:
    if value not in known:
        raise UserError(f'{where} cannot be "{value}"{did_you_mean(str(value), known)}')
