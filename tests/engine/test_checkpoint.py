"""A checkpoint is whole or it does not exist: crashes, full disks and damage never cost the older ones."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from ftft.engine import checkpoint as checkpoint_module
from ftft.engine.checkpoint import CheckpointFolder
from ftft.errors import UserError
from ftft.files import FolderLock, fingerprint
from ftft.state import tree as tree_module


@pytest.fixture
def warned():
    return []


@pytest.fixture
def folder(tmp_path, warned):
    return CheckpointFolder(tmp_path / "checkpoints", keep=2, warn=warned.append)


def trees(step):
    return {"model": {"w": torch.full((50,), float(step))}, "optimizer": {"state": {0: (step, torch.arange(30) * step)}}}


def save(folder, step, **options):
    return folder.save(step, trees(step), {"seconds": step / 3}, **options)


def names(folder):
    return sorted(path.name for path in folder.folder.iterdir() if path.name != ".lock")


def test_what_was_saved_is_loaded(folder, warned):
    path = save(folder, 120)
    assert path.name == "step_00000120"
    loaded = folder.newest_valid()
    assert (loaded.step, loaded.path, loaded.info) == (120, path, {"seconds": 40.0})
    assert torch.equal(loaded.trees["model"]["w"], torch.full((50,), 120.0))
    step, positions = loaded.trees["optimizer"]["state"][0]
    assert step == 120 and torch.equal(positions, torch.arange(30) * 120)
    assert warned == []


def test_an_empty_or_missing_folder_has_no_checkpoint(folder):
    assert folder.newest_valid() is None
    with pytest.raises(UserError, match="no checkpoint of step 3.*there is: none"):
        folder.load(3)


def test_only_the_named_trees_are_loaded(folder):
    save(folder, 1)
    assert list(folder.load(1, only=["model"]).trees) == ["model"]


def test_older_ones_are_removed_but_pinned_ones_stay(folder):
    save(folder, 10)
    folder.pin(10)
    for step in (20, 30, 40):
        save(folder, step)
    assert folder.steps() == [10, 30, 40]
    save(folder, 50, keep_steps=[30])
    assert folder.steps() == [10, 30, 40, 50]
    folder.unpin(10)
    save(folder, 60)
    assert names(folder) == ["step_00000050", "step_00000060"]


def test_the_same_step_is_replaced(folder):
    save(folder, 10)
    folder.save(10, {"model": {"w": 2}}, {"second": True})
    assert folder.newest_valid().info == {"second": True} and names(folder) == ["step_00000010"]


def test_steps_are_ordered_as_numbers(folder):
    for step in (99_999_999, 100_000_000):
        save(folder, step)
    assert folder.newest_valid().step == 100_000_000


def truncate(path, length):
    path.write_bytes(path.read_bytes()[:length])


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)


FILES = ["model.safetensors", "model.json", "optimizer.safetensors", "optimizer.json", "manifest.json"]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.98, 1.0])
def test_a_truncated_file_is_passed_over(folder, warned, file, share):
    save(folder, 1)
    path = save(folder, 2) / file
    truncate(path, min(int(path.stat().st_size * share), path.stat().st_size - 2))
    assert folder.newest_valid().step == 1
    assert len(warned) == 1 and "step 2 is passed over" in warned[0] and "step_00000002" in warned[0]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("share", [0.0, 0.2, 0.4, 0.5, 0.7, 0.9])
def test_a_flipped_bit_is_passed_over(folder, warned, file, share):
    save(folder, 1)
    path = save(folder, 2) / file
    flip(path, int(path.stat().st_size * share))
    assert folder.newest_valid().step == 1
    assert len(warned) == 1


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_passed_over(folder, warned, file):
    save(folder, 1)
    (save(folder, 2) / file).unlink()
    assert folder.newest_valid().step == 1 and len(warned) == 1


def test_when_all_are_damaged_there_is_none_and_loading_one_says_why(folder, warned):
    for step in (1, 2):
        (save(folder, step) / "model.json").unlink()
    assert folder.newest_valid() is None and len(warned) == 2
    with pytest.raises(UserError, match="model.json is missing"):
        folder.load(2)


def rewrite_manifest(path, change):
    """A forged manifest whose own hash is right, so that only the check under test can refuse it."""
    document = json.loads(path.read_text())
    change(document)
    document.pop("payload_sha256")
    payload = {key: value for key, value in document.items() if not key.startswith("format")}
    path.write_text(json.dumps({**document, "payload_sha256": fingerprint(payload)}))


def test_a_rewritten_manifest_is_accepted_when_nothing_is_wrong(folder):
    rewrite_manifest(save(folder, 1) / "manifest.json", lambda document: document["info"].update(more=1))
    assert folder.load(1).info["more"] == 1


@pytest.mark.parametrize("name", ["../outside", "{absolute}", "sub/../../outside", "link"])
def test_a_manifest_that_lists_what_lies_outside_is_refused(folder, tmp_path, name):
    path = save(folder, 1)
    outside = path.parent / "outside"
    outside.write_bytes(b"secret")
    (path / "link").symlink_to(outside)
    facts = {"bytes": 6, "sha256": checkpoint_module.list_files(path.parent, ["outside"])["outside"]["sha256"]}
    listed = name.format(absolute=outside)
    rewrite_manifest(path / "manifest.json", lambda document: document["files"].update({listed: facts}))
    with pytest.raises(UserError, match="outside the folder"):
        folder.load(1)


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["trees"].append("../model"),
        lambda document: document["files"].pop("model.json"),
        lambda document: document.update(step=7),
        lambda document: document.update(files=None),
        lambda document: document.update(trees=3),
        lambda document: document.pop("info"),
        lambda document: document.update(format_version=2),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(folder, change):
    rewrite_manifest(save(folder, 1) / "manifest.json", change)
    with pytest.raises(UserError):
        folder.load(1)


def test_a_damaged_checkpoint_does_not_take_the_place_of_a_sound_one(folder):
    save(folder, 1)
    save(folder, 2)
    flip(folder.path(2) / "model.safetensors", -1)
    assert folder.newest_valid().step == 1
    save(folder, 3)
    assert folder.steps() == [1, 3]


def fail_on_call(monkeypatch, module, name, call, code):
    calls = []
    original = getattr(module, name)

    def failing(*arguments, **options):
        calls.append(arguments)
        if len(calls) == call:
            raise OSError(code, os.strerror(code))
        return original(*arguments, **options)

    monkeypatch.setattr(module, name, failing)
    return calls


@pytest.mark.parametrize(
    "module, name, call",
    [
        (tree_module, "save_file", 1),
        (tree_module, "save_file", 2),
        (tree_module, "write_text", 2),
        (checkpoint_module, "write_manifest", 1),
        (checkpoint_module, "flush_folder", 1),
        (os, "fsync", 1),
        (os, "fsync", 6),
        (os, "rename", 1),
        (Path, "mkdir", 1),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_full_disk_while_saving_is_one_sentence_and_costs_nothing(folder, monkeypatch, module, name, call):
    save(folder, 1)
    save(folder, 2)
    with monkeypatch.context() as patched:
        calls = fail_on_call(patched, module, name, call, errno.ENOSPC)
        with pytest.raises(UserError, match="the disk is full") as caught:
            save(folder, 3)
        assert len(calls) >= call
    assert "tmp-" not in str(caught.value) and "\n" not in str(caught.value)
    assert names(folder) == ["step_00000001", "step_00000002"]
    assert folder.newest_valid().step == 2
    save(folder, 3)
    assert folder.newest_valid().step == 3


def test_an_unsupported_tree_leaves_nothing(folder):
    save(folder, 1)
    with pytest.raises(TypeError, match=r"tree\['bad'\]"):
        folder.save(2, {"good": 1, "model": {"bad": {1}}}, {})
    assert names(folder) == ["step_00000001"]


@pytest.mark.parametrize("name", ["manifest", "../x", "a/b", "", ".hidden"])
def test_names_that_are_no_file_names_are_refused(folder, name):
    with pytest.raises(ValueError):
        folder.save(1, {name: 1}, {})


def test_a_real_refusal_to_write_is_one_sentence(tmp_path):
    """The operating system itself refuses: files may not grow beyond 64 KiB in the other process."""
    program = """
        import resource, sys, torch
        from ftft.engine.checkpoint import CheckpointFolder
        from ftft.errors import UserError
        folder = CheckpointFolder(sys.argv[1])
        folder.save(1, {"model": torch.zeros(10)}, {})
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
        try:
            folder.save(2, {"model": torch.zeros(100_000)}, {})
        except UserError as error:
            print(error)
        print([path.name for path in folder.folder.iterdir() if path.name != ".lock"], folder.newest_valid().step)
    """
    output = run(program, tmp_path / "checkpoints").splitlines()
    target = tmp_path / "checkpoints" / "step_00000002"
    reason = "the file would be larger than is allowed here (see ulimit -f); raise the limit and run again"
    assert output[0] == f"cannot write {target}: {reason}"
    assert output[1] == "['step_00000001'] 1"


def run(program, *arguments):
    command = [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.kill
@pytest.mark.parametrize("point", ["first file", "manifest", "before rename", "after rename", "while pruning"])
def test_a_kill_at_any_point_leaves_a_sound_checkpoint(tmp_path, warned, point):
    program = """
        import os, signal, sys, torch, shutil
        from ftft.engine import checkpoint
        from ftft.state import tree
        folder = checkpoint.CheckpointFolder(sys.argv[1])
        for step in (1, 2):
            folder.save(step, {"model": torch.full((9,), float(step))}, {})
        def die(*_, **__):
            os.kill(os.getpid(), signal.SIGKILL)
        def half_deleted(path, **_):
            os.unlink(os.path.join(path, "model.json"))
            die()
        module, name, action = {
            "first file": (tree, "save_file", die),
            "manifest": (checkpoint, "write_manifest", die),
            "before rename": (os, "rename", die),
            "after rename": (checkpoint.CheckpointFolder, "_prune", die),
            "while pruning": (shutil, "rmtree", half_deleted),
        }[sys.argv[2]]
        if sys.argv[2] == "while pruning":
            original = shutil.rmtree
            action = lambda path, **options: original(path, **options) if ".tmp-" in str(path) else half_deleted(path)
        setattr(module, name, action)
        folder.save(3, {"model": torch.full((9,), 3.0)}, {})
    """
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run(program, tmp_path, point)
    assert caught.value.returncode == -signal.SIGKILL
    folder = CheckpointFolder(tmp_path, warn=warned.append)
    expected = 3 if point in ("after rename", "while pruning") else 2
    loaded = folder.newest_valid()
    assert loaded.step == expected and loaded.trees["model"].tolist() == [float(expected)] * 9
    assert warned == []
    folder.save(4, {"model": 1}, {})
    assert names(folder) == [f"step_{expected:08d}", "step_00000004"]


def test_only_leftovers_of_our_own_naming_are_removed(folder):
    save(folder, 1)
    for name in ("step_00000002.tmp-1", "step_00000001.old-99999", "step_00000002.tmp", "notes", "step_2.tmp-1"):
        (folder.folder / name).mkdir()
    save(folder, 3)
    assert names(folder) == ["notes", "step_00000001", "step_00000002.tmp", "step_00000003", "step_2.tmp-1"]


def test_while_another_saves_here_nothing_of_its_work_is_touched(folder):
    save(folder, 1)
    working = folder.folder / "step_00000002.tmp-1"
    working.mkdir()
    with FolderLock(folder.folder), pytest.raises(UserError, match="another run"):
        save(folder, 3)
    assert working.is_dir()


def test_a_failure_to_remove_an_old_one_is_only_a_warning(folder, warned, monkeypatch):
    save(folder, 1)
    save(folder, 2)
    with monkeypatch.context() as patched:
        fail_on_call(patched, os, "rename", 2, errno.EACCES)
        save(folder, 3)
    assert folder.steps() == [1, 2, 3] and len(warned) == 1 and "could not be removed" in warned[0]
