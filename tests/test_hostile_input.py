"""Whatever stands in a file that a user names, a reader gives what it can read or one sentence (UserError): no traceback, no
endless work, no memory out of proportion. Sound files are changed by a seeded fuzzer; known traps have tests of their own."""

from __future__ import annotations

import gzip
import json
import random
import re
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ftft.comparison.reading import read_suite
from ftft.data.loading import load_data
from ftft.data.reading import read_table
from ftft.data.settings import Columns, DataFile, DataSettings
from ftft.dynamics import cartography
from ftft.dynamics.long_table import read_long_table
from ftft.dynamics.parquet import open_dynamics, read_dynamics, write_dynamics
from ftft.dynamics.table import Dynamics
from ftft.engine.checkpoint import CheckpointFolder
from ftft.errors import UserError
from ftft.files import fingerprint
from ftft.methods.selection import read_selection
from ftft.models.headers import inspect
from ftft.models.loading import load_classifier
from ftft.models.settings import ModelSettings
from ftft.run.reading import load_recipe

ROUNDS = 150
TOKENS = [
    *(b"null", b"NaN", b"1e999", b"-1", b"true", b"[]", b"{}", b'""', b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b'"\\ud800"'),
    *(
        b"9" * 30,
        b"9" * 5000,
        b"[" * 3000,
        b'{"a":' * 3000,
        b"&a [*a]",
        b"!!python/object:os.system x",
        b"<<: *a",
        b"\r",
        b"\n",
    ),
    *(b"../../etc/passwd", b"'", b'"', b",", b"\t", b"- ", b": ", b"%YAML 9.9", b"1" * 70000),
]


def mutated(content: bytes, chosen: random.Random) -> bytes:
    """The content with one to three changes: bits, cuts, repeats, and what readers stumble over."""
    made = bytearray(content)
    for _ in range(chosen.randint(1, 3)):
        at = chosen.randrange(len(made) + 1)
        to = min(len(made), at + chosen.choice([1, 4, 30, 300]))
        kind = chosen.randrange(5)
        if kind == 0 and at < len(made):
            made[at] ^= 1 << chosen.randrange(8)
        elif kind == 1:
            del made[at:to]
        elif kind == 2:
            made[at:at] = made[at:to]
        elif kind == 3:
            made[at:at] = chosen.choice(TOKENS)
        else:
            made[at:to] = chosen.choice(TOKENS)
    return bytes(made)


ROWS = [{"id": f"r{n}", "text": f"some words {n}", "label": ("yes", "no")[n % 2], "part": n} for n in range(12)]


def recipe_text() -> str:
    train = {"path": "train.jsonl", "where": {"part": 1}, "limit": 3}
    sets = {"ood": {"path": "ood.csv", "role": "ood", "merge_labels": {"a": ["yes"], "b": ["no"]}}}
    stage = {
        "model": {"path": "model", "dropout": 0.1},
        "train": {"epochs": 2, "batch_size": 4},
        "select": {"name": "top", "score": "variability", "fraction": 0.3},
        "use_dynamics_of": "reference",
        "stop": {"patience": 2, "on": ["ood"]},
    }
    stages = {"reference": {"model": {"path": "model"}, "dynamics": {"mode": "online"}}, "main": stage}
    data = {"train": train, "columns": {"text": ["text"], "label": "label"}, "evaluation": sets}
    return yaml.safe_dump({"name": "x", "seed": 1, "data": data, "stages": stages}, sort_keys=False)


def some_dynamics() -> Dynamics:
    logits = np.random.default_rng(0).normal(size=(2, 12, 2)).astype(np.float32)
    ids = pa.array([row["id"] for row in ROWS])
    return Dynamics(ids, (0, 1), np.ones((2, 12), bool), gold=np.arange(12, dtype=np.int32) % 2, logits=logits)


def write_text_file(path: Path) -> None:
    if path.name.startswith("train.jsonl"):
        text = "".join(json.dumps(row) + "\n" for row in ROWS)
    else:
        mark = "\t" if ".tsv" in path.name else ","
        text = "".join(mark.join(map(str, row)) + "\n" for row in [list(ROWS[0]), *(row.values() for row in ROWS)])
    path.write_bytes(gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text.encode())


def write_epochs(path: Path) -> None:
    cartography.write_cartography(some_dynamics(), path.parents[1])


def write_long(path: Path) -> None:
    rows = [(row["id"], epoch, 0.5 + row["part"] / 100) for epoch in (0, 1) for row in ROWS]
    path.write_text("id,epoch,probability\n" + "".join(f"{a},{b},{c}\n" for a, b, c in rows))


def write_selection_file(path: Path) -> None:
    path.write_text("id,score,weight\n" + "".join(f"{row['id']},0.5,1.0\n" for row in ROWS))


def read_data(path: Path) -> Any:
    columns = Columns(text=["text"], label="label", id="id")
    return load_data(DataSettings(train=DataFile(path=str(path)), columns=columns, validation_fraction=0.4))


KINDS: dict[str, tuple[str, Callable[[Path], Any], Callable[[Path], Any]]] = {
    "recipe": ("recipe.yaml", lambda path: path.write_text(recipe_text()), load_recipe),
    "suite": (
        "suite.yaml",
        lambda path: (
            path.write_text("kind: explore\ntasks: {t: t.yaml}\nrows:\n  erm: {about: x}\n  b: {like: erm}\nseeds: [0]\n"),
            path.with_name("t.yaml").write_text(recipe_text()),
        ),
        read_suite,
    ),
    **{
        name: (name, write_text_file, read_data)
        for name in ("train.jsonl", "train.csv", "train.tsv", "train.jsonl.gz", "train.csv.gz")
    },
    "parquet": ("train.parquet", lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path), read_data),
    "dynamics": ("dynamics.parquet", lambda path: write_dynamics(some_dynamics(), path), read_dynamics),
    "cartography": (
        "training_dynamics/dynamics_epoch_1.jsonl",
        write_epochs,
        lambda path: cartography.read_cartography(path.parents[1]),
    ),
    "first epoch": (
        "training_dynamics/dynamics_epoch_0.jsonl",
        write_epochs,
        lambda path: cartography.read_cartography(path.parents[1]),
    ),
    "metrics": ("td_metrics.jsonl", lambda path: cartography.write_metrics(some_dynamics(), path), cartography.read_metrics),
    "metrics or table": ("td_metrics.jsonl", lambda path: cartography.write_metrics(some_dynamics(), path), open_dynamics),
    "long table": ("long.csv", write_long, read_long_table),
    "selection": ("chosen.csv", write_selection_file, read_selection),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_file_is_read_or_refused_in_one_sentence(kind: str, tmp_path: Path) -> None:
    name, write, read = KINDS[kind]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    write(path)
    content, chosen, refused = path.read_bytes(), random.Random(kind), 0
    try:
        read(path)  # the sound file: what is refused later is refused for the change
    except UserError as error:
        assert kind in ("recipe", "suite", "metrics or table"), error
    for round_ in range(ROUNDS):
        path.write_bytes(mutated(content, chosen))
        try:
            read(path)
        except UserError as error:
            refused += 1
            assert str(error) and "\n" not in str(error), (round_, str(error))
    assert refused > ROUNDS / 10


MODEL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")


@pytest.mark.parametrize("name", MODEL_FILES)
def test_a_changed_model_folder_is_read_or_refused_in_one_sentence(name: str, tmp_path: Path, tiny_bert_folder: Path) -> None:
    folder = shutil.copytree(tiny_bert_folder, tmp_path / "model")
    content, chosen = (folder / name).read_bytes(), random.Random(name)
    for _ in range(25):
        (folder / name).write_bytes(mutated(content, chosen))
        settings = ModelSettings(path=str(folder))
        for read in (inspect, lambda settings: load_classifier(settings, ("no", "yes"), seed=0)):
            try:
                read(settings)
            except UserError as error:
                assert "\n" not in str(error)


def test_changed_checkpoints_are_refused(tmp_path: Path) -> None:
    folder, chosen = CheckpointFolder(tmp_path, warn=lambda sentence: None), random.Random(1)
    path = folder.save(3, {"model": {"w": np.arange(4.0)}}, {"x": 1})
    for name in sorted(one.name for one in path.iterdir()):
        content = (path / name).read_bytes()
        for _ in range(60):
            changed = mutated(content, chosen)
            (path / name).write_bytes(changed)
            if changed != content and folder.newest_valid() is not None:
                assert json.loads(changed) == json.loads(content)  # such as another white space at a manifest's end
        (path / name).write_bytes(content)
    assert folder.newest_valid() is not None


def test_a_manifest_with_a_true_hash_of_nonsense_is_refused(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, warn=lambda sentence: None)
    path = folder.save(3, {"model": {"w": np.arange(4.0)}}, {"x": 1}) / "manifest.json"
    sound = json.loads(path.read_text())
    wrong: list[tuple[str, Any]] = [
        *(("trees", value) for value in (None, 3, [3], ["../x"], {"model": 1}, ["model"] * 2000)),
        *(("files", value) for value in (None, [], {"../../etc/passwd": {"bytes": 1}}, {"/etc/passwd": {}}, {"model.json": 3})),
        *(("step", value) for value in (None, "3", 3.5, [], 10**400)),
    ]
    for key, value in wrong:
        payload = {name: one for name, one in sound.items() if name not in ("format", "format_version", "payload_sha256")}
        payload[key] = value
        head = {"format": sound["format"], "format_version": 1}
        path.write_text(json.dumps({**head, **payload, "payload_sha256": fingerprint(payload)}))
        found = folder.newest_valid()
        assert found is None or value in ({"model": 1}, ["model"] * 2000), (key, value)


# -- out of proportion --------------------------------------------------------------------------------------------------


def peak_mib(work: Callable[[], Any]) -> float:
    tracemalloc.start()
    try:
        with pytest.raises(UserError):
            work()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def endless_line(path: Path, size: int) -> Path:
    """A file with one line of ``size`` bytes; sparse, or small by its compression."""
    if path.suffix == ".gz":
        with gzip.open(path, "wb", compresslevel=1) as stream:
            for _ in range(size // 2**20):
                stream.write(b"a" * 2**20)
    else:
        with open(path, "wb") as stream:
            stream.truncate(size)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv", "a.jsonl.gz"])
def test_a_line_without_end_is_refused_before_it_fills_the_memory(name: str, tmp_path: Path) -> None:
    path = endless_line(tmp_path / name, 2**31 if not name.endswith("gz") else 2**28)
    assert peak_mib(lambda: read_table(DataFile(path=str(path)), ["text", "label"])) < 400


@pytest.mark.parametrize("name", ["td_metrics.jsonl", "td_metrics.jsonl.gz", "training_dynamics/dynamics_epoch_0.jsonl"])
def test_metrics_and_epochs_with_a_line_without_end_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    endless_line(path, 2**31 if path.suffix != ".gz" else 2**28)
    read: Callable[[Path], Any] = cartography.read_metrics if "metrics" in name else open_dynamics
    assert peak_mib(lambda: read(path)) < 400
    assert peak_mib(lambda: open_dynamics(path)) < 400


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    for name, text in (("r.yaml", "[" * 50_000), ("s.yaml", "a: " * 50_000), ("t.yaml", "- " * 50_000)):
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError):
            load_recipe(tmp_path / name)
    folder = tmp_path / "training_dynamics"
    folder.mkdir()
    (folder / "dynamics_epoch_0.jsonl").write_text("[" * 100_000)
    with pytest.raises(UserError):
        open_dynamics(tmp_path)


@pytest.mark.parametrize("given", [False, True])
def test_a_million_labels_are_refused_in_no_time(given: bool, tmp_path: Path) -> None:
    count = 300_000
    path = tmp_path / "train.csv"
    path.write_text("text,label\n" + "".join(f"t,c{number}\n" for number in range(count)))
    names = [f"c{number}" for number in range(count - 1)] if given else None
    settings = DataSettings(train=DataFile(path=str(path)), columns=Columns(text=["text"], label="label"), labels=names)
    with pytest.raises(UserError, match="distinct labels|is not in data.labels"):
        load_data(settings)


@pytest.mark.parametrize("name", ["train.bin", "train.pt", "train.pkl", "train.pickle", "train.npy"])
def test_pickles_are_refused_by_name_with_the_way_to_convert(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04.")
    with pytest.raises(UserError, match=re.escape(name) + ".*never unpickles; save the data as JSONL"):
        read_data(tmp_path / name)
