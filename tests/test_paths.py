"""Paths keep their variables until they are used."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftft.errors import UserError
from ftft.paths import beside, expand


def test_variables_and_home_are_expanded_at_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTFT_X", "/data")
    monkeypatch.setenv("HOME", "/home/me")
    assert expand("${FTFT_X}/a", "k") == expand("$FTFT_X/a", "k") == Path("/data/a")
    assert expand("~/a", "k") == Path("/home/me/a")
    assert expand("a/b", "k") == Path("a/b")


def test_a_value_that_looks_like_a_variable_is_not_expanded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTFT_X", "$FTFT_Y")
    assert expand("${FTFT_X}/a", "k") == Path("$FTFT_Y/a")


def test_unset_variables_are_named_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTFT_DATA_HERE", "x")
    monkeypatch.delenv("FTFT_DATA_HERR", raising=False)
    with pytest.raises(
        UserError, match=r'^data.train.path: .*FTFT_DATA_HERR .* is not set \(did you mean "FTFT_DATA_HERE"\?\)'
    ):
        expand("${FTFT_DATA_HERR}/a", "data.train.path")


@pytest.mark.parametrize("path", ["", "  ", "a\0b"])
def test_paths_that_cannot_be_are_refused(path: str) -> None:
    with pytest.raises(UserError, match="^k: "):
        expand(path, "k")


def test_relative_paths_move_beside_the_recipe_only_where_they_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    monkeypatch.setenv("FTFT_X", "sub")
    assert beside("sub", tmp_path) == f"{tmp_path}/sub"
    assert beside("${FTFT_X}", tmp_path) == f"{tmp_path}/${{FTFT_X}}"
    for unchanged in ("other", "/sub", "${FTFT_UNSET_X}/sub", ""):
        assert beside(unchanged, tmp_path) == unchanged
