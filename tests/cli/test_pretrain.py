"""``ftft pretrain``: what a user types, and a sentence for each thing that is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftft.cli.main import main
from ftft.pretraining.kinds import KINDS, Kind


def call(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["pretrain", *map(str, arguments)])
    return int(caught.value.code or 0)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the old dog sees the red cat.\n" * 200)
    return path


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--kind", "decoder-1n"], '--kind: there is no kind "decoder-1n"; did you mean "decoder-1m"?'),
        (["--kind", "decoder-1m", "--minutes", "5", "--steps", "3"], "--minutes and --steps both say how long to train"),
        (["--kind", "decoder-1m", "--minutes", "0"], "--minutes is 0; it must be a number above 0"),
        (["--kind", "decoder-1m", "--minutes", "nan"], "--minutes is nan"),
        (["--kind", "decoder-1m", "--steps", "0"], "--steps is 0; it must be at least 1"),
        (["--kind", "decoder-1m", "--seed", "-1"], "--seed is -1; it must be 0 or more"),
        (["--kind", "decoder-1m", "--vocab", "100"], "--vocab is 100; it must be from 261"),
        (["--kind", "decoder-1m", "--held-out", "missing.txt"], "missing.txt does not exist"),
        ([], "ftft pretrain needs the option --kind"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_options_are_one_sentence_and_write_nothing(
    options: list[str], sentence: str, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(text, "--out", text.parent / "model", *options) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1, captured.err
    assert sentence in captured.err
    assert [one.name for one in text.parent.iterdir()] == ["text.txt"]


def test_a_folder_that_holds_something_else_is_refused(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (text.parent / "mine").mkdir()
    (text.parent / "mine" / "thesis.tex").touch()
    assert call(text, "--kind", "mlm-small", "--out", text.parent / "mine") == 2
    assert "holds something that is not a model of this command" in capsys.readouterr().err
    assert call(text, "--kind", "mlm-small", "--out", text) == 2
    assert "is a file; name a folder" in capsys.readouterr().err


def test_a_model_is_written_and_its_figures_are_printed(
    text: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, "tiny", Kind("replaced", 16, 1, 2, 32, 16, 4, 1e-3, 40, embedding=16, generator_hidden=16))
    out = text.parent / "model"
    assert call(text, "--kind", "tiny", "--out", out, "--minutes", "1", "--vocab", "280") == 0
    captured = capsys.readouterr()
    assert "held-out bits per byte: " in captured.out and "held-out discriminator loss: " in captured.out
    assert "held out at the start: " in captured.err and "tiny: " in captured.err
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md", "ftft.json"} <= {
        one.name for one in out.iterdir()
    }
    assert "\n2 steps of 4 blocks" in (out / "README.md").read_text()  # a minute of twenty: 40 / 20
    assert call(text, "--kind", "tiny", "--out", out, "--minutes", "1", "--vocab", "280") == 0
    assert "is finished already" in capsys.readouterr().out
