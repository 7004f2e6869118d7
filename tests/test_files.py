"""Folders are replaced whole or not at all, leftovers of killed writes are told from the user's files, and a lock can wait."""

import errno
import os
import shutil
import threading

import pytest

from ftft import files
from ftft.errors import UserError
from ftft.files import FolderLock, atomic_path, copy_file, copy_folder, remove_killed_writes, safetensors_os_error


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "store" / "model"
    (folder / "more").mkdir(parents=True)
    (folder / "weights.bin").write_bytes(bytes(range(200)))
    (folder / "more" / "names.txt").write_text("a b c")
    return folder


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refuse_copies(monkeypatch, number=errno.ENOSPC):
    def refuse(source, target):
        target.write_bytes(b"ha")
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.shutil, "copyfile", refuse)


def test_a_copied_folder_replaces_another_one_and_leaves_nothing_beside(model, tmp_path):
    target = tmp_path / "run" / "model"
    copy_folder(model, target)
    assert contents(target) == contents(model)
    (model / "weights.bin").write_bytes(b"new")
    (target / "stale.txt").write_text("of the model before")
    copy_folder(model, target)
    assert contents(target) == contents(model)
    assert [path.name for path in target.parent.iterdir()] == ["model"]


def test_an_equal_folder_is_left_alone_with_what_the_user_put_there(model, tmp_path):
    target = tmp_path / "model"
    copy_folder(model, target)
    (target / "notes.txt").write_text("mine")
    copy_folder(model, target)
    assert (target / "notes.txt").read_text() == "mine"


def test_a_copy_is_no_link(model, tmp_path):
    copy_folder(model, tmp_path / "model")
    (tmp_path / "model" / "weights.bin").write_bytes(b"edited in place")
    assert (model / "weights.bin").read_bytes() == bytes(range(200))


def test_a_full_disk_leaves_the_folder_that_was_there(model, tmp_path, monkeypatch):
    target = tmp_path / "run" / "model"
    copy_folder(model, target)
    before = contents(target)
    (model / "weights.bin").write_bytes(b"new")
    refuse_copies(monkeypatch)
    with pytest.raises(UserError, match=r"cannot write .*run/model: the disk is full"):
        copy_folder(model, target)
    assert contents(target) == before and [path.name for path in target.parent.iterdir()] == ["model"]


def test_a_file_is_copied_where_it_cannot_be_linked_and_whole_or_not_at_all(model, tmp_path, monkeypatch):
    target = tmp_path / "run" / "weights.bin"

    def no_links(*_):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(files.os, "link", no_links)
    copy_file(model / "weights.bin", target)
    assert target.read_bytes() == bytes(range(200)) and target.stat().st_nlink == 1
    refuse_copies(monkeypatch, errno.EFBIG)
    with pytest.raises(UserError, match=r"cannot write .*weights.bin: the file would be larger than is allowed"):
        copy_file(model / "weights.bin", target)
    assert target.read_bytes() == bytes(range(200)) and [path.name for path in target.parent.iterdir()] == ["weights.bin"]


def test_only_what_killed_writes_leave_is_removed(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(files.Path, "unlink", lambda *_, **__: None)
        with pytest.raises(RuntimeError), atomic_path(tmp_path / "result.json"):
            raise RuntimeError("as if killed")
        patched.setattr(files.shutil, "rmtree", lambda *_, **__: None)
        refuse_copies(patched)
        (tmp_path / "source").mkdir()
        (tmp_path / "source" / "x").write_text("x")
        with pytest.raises(UserError):
            copy_folder(tmp_path / "source", tmp_path / "model")
    assert len(list(tmp_path.glob(".*.tmp"))) == 2
    shutil.rmtree(tmp_path / "source")
    mine = ["notes.tmp", ".hidden", ".draft.tmp", "result.json", ".model.old.tmp"]
    for name in mine:
        (tmp_path / name).write_text("mine")
    remove_killed_writes(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(mine)
    remove_killed_writes(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "words",
    ["I/O error: No space left on device (os error 28)", "IoError(Os { code: 28, kind: StorageFull, message: ... })"],
)
def test_the_number_in_the_error_of_safetensors_is_the_systems(words):
    error = safetensors_os_error(RuntimeError(f"Error while serializing: {words}"))
    assert error is not None and error.errno == errno.ENOSPC
    assert safetensors_os_error(RuntimeError("no number")) is None


def test_a_waiting_lock_says_so_once_and_is_had_when_the_other_is_done(tmp_path):
    told, entered = [], threading.Event()

    def wait_for_it():
        with FolderLock(tmp_path, wait=told.append):
            entered.set()

    with FolderLock(tmp_path):
        waiting = threading.Thread(target=wait_for_it)
        waiting.start()
        while not told:
            assert waiting.is_alive()
        assert not entered.is_set()
    waiting.join(30)
    assert entered.is_set() and len(told) == 1
    assert told[0].startswith(f"another run (process {os.getpid()}) is already working in {tmp_path}; waiting")


def test_a_file_system_without_locks_is_not_taken_for_another_run(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    with pytest.raises(UserError, match="No locks available"), FolderLock(tmp_path):
        pass
