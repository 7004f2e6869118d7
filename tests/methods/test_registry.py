"""The registry reads method files without importing them, and what it reads is what the imported class says."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from ftft.errors import UserError
from ftft.methods.contract import PROTOCOLS
from ftft.methods.header import MethodHeader, read_header
from ftft.methods.questions import QUESTIONS, VERBS
from ftft.methods.registry import (
    build,
    build_task,
    header,
    list_methods,
    list_tasks,
    load_class,
    task_header,
    validate_section,
)

METHOD = '''
"""A method of another package."""
from __future__ import annotations
from dataclasses import dataclass
from typing import ClassVar, Literal
from ftft.settings import setting

Mode = Literal["fast", "slow"]

@dataclass(frozen=True)
class Halves:
    """Keep the first half.

    More about it.
    """

    needs: ClassVar[tuple[str, ...]] = ("dynamics",)
    tasks: ClassVar[tuple[str, ...]] = ("text_classification",)
    paper: ClassVar[str] = "arXiv 0000.00000"

    share: float = setting(0.5, "share that is kept", origin="section 3", gt=0, le=1)
    mode: Mode = "fast"
    layers: list[int] = setting((), "layers that count", factory=list)
    pair: tuple[int, float] = (1, 2.0)
    limit: int | None = None

    def __post_init__(self):
        if self.mode == "slow" and self.limit is None:
            raise ValueError("mode slow needs a limit")

    def select(self, examples, dynamics, *, seed):
        return self.share
'''


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package on the path that registers `select.halves` and breaks when its top package is imported."""
    package = tmp_path / "halvespkg"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (package / "inner" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (package / "inner" / "method.py").write_text(METHOD)
    register(tmp_path, "select.halves = halvespkg.inner.method")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield package
    for name in [name for name in sys.modules if name.startswith("halvespkg")]:
        del sys.modules[name]


def register(folder: Path, lines: str) -> None:
    info = folder / "halvespkg-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: halvespkg\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[ftft.methods]\n{lines}\n")


@pytest.mark.parametrize("found", list_methods(), ids=lambda found: f"{found.question}.{found.name}")
def test_static_header_equals_the_imported_class(found: MethodHeader) -> None:
    cls = load_class(found)
    assert cls.__module__ == found.module
    assert dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen
    assert hasattr(cls, VERBS[found.question])
    assert_settings_equal(found, cls)
    for name in ("needs", "offers", "tasks"):
        assert tuple(getattr(cls, name, getattr(MethodHeader, name, ()))) == getattr(found, name)
    for name in ("coupling", "trainable", "artefact", "paper"):
        assert getattr(cls, name, getattr(MethodHeader, name)) == getattr(found, name)


@pytest.mark.parametrize("found", list_tasks(), ids=lambda found: found.name)
def test_static_header_equals_the_imported_task(found: MethodHeader) -> None:
    assert_settings_equal(found, load_class(found))


@pytest.mark.parametrize("found", list_methods(), ids=lambda found: f"{found.question}.{found.name}")
def test_every_task_that_a_method_of_ours_names_exists(found: MethodHeader) -> None:
    assert found.tasks and set(found.tasks) <= {"*", *(task.name for task in list_tasks())}


def assert_settings_equal(found: MethodHeader, cls: Any) -> None:
    assert found.summary and cls.__doc__.strip().splitlines()[0] == found.summary
    hints, fields = get_type_hints(cls), dataclasses.fields(cls)
    assert [field.name for field in fields] == [setting.name for setting in found.settings]
    for field, setting in zip(fields, found.settings):
        assert hints[field.name] == setting.kind
        assert field.metadata.get("help", "") == setting.help
        assert field.metadata.get("origin", "") == setting.origin
        assert dict(field.metadata.get("bounds", {})) == dict(setting.bounds)
        if field.default is not dataclasses.MISSING:
            assert field.default == setting.default
        elif field.default_factory is not dataclasses.MISSING:
            assert field.default_factory() == setting.default
        else:
            assert setting.required


def test_every_verb_is_its_protocol_s() -> None:
    assert set(VERBS) == set(QUESTIONS) == set(PROTOCOLS)
    for question, verb in VERBS.items():
        assert callable(getattr(PROTOCOLS[question], verb))


def test_header_of_a_file_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "halves.py"
    path.write_text(METHOD)
    found = read_header(path, "select", "select", "nowhere")
    assert found is not None
    assert (found.name, found.class_name, found.summary) == ("halves", "Halves", "Keep the first half.")
    assert (found.needs, found.tasks, found.paper) == (("dynamics",), ("text_classification",), "arXiv 0000.00000")
    settings = {setting.name: setting for setting in found.settings}
    assert settings["share"].default == 0.5 and settings["share"].bounds == {"gt": 0, "le": 1}
    assert settings["share"].help == "share that is kept" and settings["share"].origin == "section 3"
    assert settings["layers"].default == [] and settings["layers"].kind == list[int]
    assert settings["limit"].kind == int | None and settings["pair"].default == (1, 2.0)
    assert found.serves("text_classification") and not found.serves("detection")


def test_helpers_are_no_methods_and_two_methods_in_a_file_are_refused(tmp_path: Path) -> None:
    helper = tmp_path / "helper.py"
    helper.write_text("import dataclasses\n\n@dataclasses.dataclass(frozen=True)\nclass Part:\n    share: float\n")
    assert read_header(helper, "select", "select", "nowhere") is None
    double = tmp_path / "double.py"
    double.write_text(METHOD + METHOD.replace("class Halves", "class Thirds"))
    with pytest.raises(UserError, match="two methods, Halves and Thirds"):
        read_header(double, "select", "select", "nowhere")


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("share: float", "share: torch.Tensor", "torch.Tensor is none a recipe can hold"),
        ('mode: Mode = "fast"', "mode: Mode = choose()", "must be a literal"),
        ("setting(0.5,", "setting(0.5 * two,", "is not a literal"),
        ("factory=list", "factory=make", "factory"),
        ("class Halves:", "class Halves", "cannot be read"),
    ],
)
def test_a_header_that_is_not_literal_is_refused_with_its_place(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    path = tmp_path / "halves.py"
    path.write_text(METHOD.replace(old, new))
    with pytest.raises(UserError, match=sentence):
        read_header(path, "select", "select", "nowhere")


def test_third_party_method_is_listed_and_checked_without_importing_its_package(third_party: Path) -> None:
    found = header("select", "halves")
    assert found.package == "halvespkg" and found.module == "halvespkg.inner.method"
    assert "halves" in [method.name for method in list_methods("select")]
    filled = validate_section("select", {"name": "halves", "share": 1}, "stages.main.select")
    assert filled == {"name": "halves", "share": 1.0, "mode": "fast", "layers": [], "pair": (1, 2.0), "limit": None}
    assert isinstance(filled["share"], float)
    assert not any(name.startswith("halvespkg") for name in sys.modules)


def test_third_party_method_is_built_with_its_settings(third_party: Path) -> None:
    for init in (third_party / "__init__.py", third_party / "inner" / "__init__.py"):
        init.write_text("")
    method = build("select", {"name": "halves", "share": 0.25, "pair": [3, 4]}, "stages.main.select")
    assert (method.share, method.pair, method.select(None, None, seed=0)) == (0.25, (3, 4.0), 0.25)
    with pytest.raises(UserError, match="^stages.main.select: mode slow needs a limit$"):
        build("select", {"name": "halves", "mode": "slow"}, "stages.main.select")


def test_a_missing_package_of_a_method_is_named(third_party: Path) -> None:
    for init in (third_party / "__init__.py", third_party / "inner" / "__init__.py"):
        init.write_text("")
    (third_party / "inner" / "method.py").write_text(METHOD.replace("Mode = Lit", "import no_such_package\nMode = Lit"))
    with pytest.raises(UserError, match="stages.main.select: halves needs the package no_such_package"):
        build("select", "halves", "stages.main.select")


def test_malformed_entry_points_are_named(third_party: Path) -> None:
    register(third_party.parent, "selct.halves = halvespkg.inner.method")
    with pytest.raises(UserError, match='halvespkg registers the method "selct.halves".*"select.halves"'):
        list_methods()
    register(third_party.parent, "select.halves = halvespkg.inner.missing")
    with pytest.raises(UserError, match="halvespkg.inner.missing cannot be found"):
        list_methods()


def test_our_own_method_wins_over_a_third_party_s_of_the_same_name(third_party: Path) -> None:
    register(third_party.parent, "select.all = halvespkg.inner.method")
    assert header("select", "all").package == "ftft"
    assert [method.package for method in list_methods("select") if method.name == "all"] == ["ftft"]


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ("halfs", 'stages.main.select: there is no method "halfs" of select; did you mean "halves"?'),
        ({"name": "halves", "shar": 1}, 'stages.main.select.shar: there is no setting "shar"; did you mean "share"?'),
        (
            {"name": "halves", "share": "3e-4"},
            'stages.main.select.share: expected a number, found "3e-4" (text); YAML 1.1 takes a number for text unless it '
            "has a dot and a signed exponent, so write 3.0e-4",
        ),
        ({"name": "halves", "share": True}, "stages.main.select.share: expected a number, found true (a boolean)"),
        ({"name": "halves", "share": 1.5}, "stages.main.select.share: 1.5 is out of range; it must be above 0 and at most 1"),
        ({"name": "halves", "share": float("nan")}, "stages.main.select.share: expected a finite number, found nan"),
        (
            {"name": "halves", "limit": True},
            "stages.main.select.limit: expected a whole number or null, found true (a boolean)",
        ),
        ({"name": "halves", "mode": "fats"}, 'stages.main.select.mode: there is no "fats"; did you mean "fast"?'),
        ({"name": "halves", "layers": [1, 2.5]}, "stages.main.select.layers.1: expected a whole number, found 2.5"),
        ({"name": "halves", "pair": [1]}, "stages.main.select.pair: expected a list of 2, found one of 1"),
        ({"share": 1}, "stages.main.select.name is missing; say which method is meant"),
        (
            "adamw",
            'stages.main.select: "adamw" is no method of select, it is one of optimize; name it there, and here one of '
            "<the selectors>",
        ),
    ],
)
def test_a_wrong_section_is_one_sentence(third_party: Path, section: Any, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        validate_section("select", section, "stages.main.select")
    names = ", ".join(one.name for one in list_methods("select"))
    assert str(caught.value) == sentence.replace("<the selectors>", names)


def test_a_name_never_reaches_the_file_system_as_a_path() -> None:
    for name in ("../select/all", "__init__", "all.py", ""):
        with pytest.raises(UserError, match="there is no method"):
            header("select", name)


def test_the_task_is_built_from_the_recipe_s_settings() -> None:
    task = build_task({"name": "text_classification", "max_length": 7})
    assert task.max_length == 7
    with pytest.raises(UserError, match='there is no task "text_clasification"; did you mean "text_classification"'):
        task_header("text_clasification")
    with pytest.raises(UserError, match='there is no task "contract"'):
        task_header("contract")
