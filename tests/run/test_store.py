"""A finished stage is recognised and verified, an unfinished one resumes, and two runs never share a folder."""

import errno
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from ftft import files
from ftft.errors import UserError
from ftft.files import FolderLock
from ftft.run.store import Store, stage_key

SPEC = {"model": "small", "seed": 3, "train": {"epochs": 2.0}}


@pytest.fixture
def warned():
    return []


@pytest.fixture
def store(tmp_path, warned):
    return Store(tmp_path / "store", warn=warned.append)


@pytest.fixture
def stage(store):
    return store.stage_folder(stage_key(SPEC))


def finish(stage):
    stage.describe(SPEC)
    (stage.path("model")).mkdir(exist_ok=True)
    stage.path("model/weights.bin").write_bytes(bytes(range(100)))
    stage.path("result.json").write_text('{"accuracy": 0.5}')
    stage.finish({"steps": 12, "score": 0.5})
    return stage


def again(store):
    return store.stage_folder(stage_key(SPEC))


def test_the_key_does_not_depend_on_the_order_of_settings():
    assert stage_key(SPEC) == stage_key(dict(reversed(SPEC.items()))) and len(stage_key(SPEC)) == 64
    assert stage_key(SPEC) != stage_key({**SPEC, "seed": 4})


def test_a_finished_stage_is_found_again(store, stage, warned):
    assert not stage.finished
    finish(stage)
    found = again(Store(store.root))
    assert found.folder.name == stage_key(SPEC)[:20]
    assert found.finished and found.verify(full=True)
    assert found.payload() == {"steps": 12, "score": 0.5} and found.spec() == SPEC
    assert warned == []


def test_checkpoints_serve_until_the_stage_is_finished(store, stage):
    stage.describe(SPEC)
    stage.checkpoints.save(7, {"model": {"w": 1}}, {})
    assert again(store).checkpoints.newest_valid().step == 7 and not again(store).finished
    finish(stage)
    assert again(store).checkpoints.newest_valid() is None and not (stage.folder / "checkpoints").exists()
    assert again(store).finished


@pytest.mark.parametrize("length", [0, 1, 50, 99])
def test_a_truncated_result_counts_as_unfinished(store, stage, warned, length):
    path = finish(stage).path("model/weights.bin")
    path.write_bytes(path.read_bytes()[:length])
    found = again(store)
    assert not found.finished and not found.finished
    assert len(warned) == 1 and "model/weights.bin" in warned[0]


def test_a_changed_byte_is_found_by_the_full_check(store, stage, warned):
    finish(stage).path("model/weights.bin").write_bytes(bytes(99) + b"x")
    found = again(store)
    assert found.finished and not found.verify(full=True) and "SHA-256" in warned[0]


@pytest.mark.parametrize("length", [0, 1, 100, -3])
def test_a_truncated_record_counts_as_unfinished(store, stage, warned, length):
    path = finish(stage).folder / "finished.json"
    path.write_bytes(path.read_bytes()[:length])
    assert not again(store).finished and len(warned) == 1
    with pytest.raises(UserError):
        again(store).payload()


def test_work_that_begins_again_does_not_look_finished_early(store, stage):
    finish(stage).path("result.json").unlink()
    found = again(store)
    found.describe(SPEC)
    found.path("result.json").write_text('{"accuracy": 0.5}')
    assert not again(store).finished


def test_describing_a_finished_stage_keeps_it(store, stage):
    finish(stage)
    again(store).describe(SPEC)
    assert again(store).finished


def test_results_of_killed_writes_are_not_listed(store, stage):
    stage.describe(SPEC)
    (stage.folder / ".result.json.x1y2z3.tmp").write_text("half")
    finish(stage)
    (stage.folder / ".result.json.x1y2z3.tmp").unlink()
    assert again(store).verify()


def test_a_model_folder_that_a_kill_left_half_written_is_neither_listed_nor_kept(store, stage):
    stage.describe(SPEC)
    half = stage.folder / ".model.x1y2z3w4.tmp"
    half.mkdir()
    (half / "config.json").write_text("{}")
    stage.path("result.json").write_text("{}")
    stage.finish({})
    again(store).describe(SPEC)
    assert not half.exists() and again(store).finished


def test_predictions_of_a_model_that_is_trained_anew_are_not_kept(store, stage, warned):
    finish(stage)
    names = ["measured", "predictions", "predictions_before"]
    assert sorted(folder.name for folder in stage.made_later) == names
    for folder in stage.made_later:
        folder.mkdir()
        (folder / "abc.parquet").write_text("of the model before")
    stage.path("model/weights.bin").unlink()
    found = again(store)
    assert not found.finished and all(folder.exists() for folder in found.made_later)
    found.describe(SPEC)
    assert not any(folder.exists() for folder in found.made_later)
    for folder in finish(found).made_later:
        folder.mkdir()
    again(store).describe(SPEC)
    assert all(folder.exists() for folder in found.made_later), "those of a sound stage stay"
    (found.folder / "finished.json").unlink()
    again(store).describe(SPEC)
    assert not any(folder.exists() for folder in found.made_later), "nothing says whose they are"


def test_a_linked_result_is_refused(stage, tmp_path):
    stage.describe(SPEC)
    (tmp_path / "elsewhere").write_text("x")
    stage.path("weights").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="link"):
        stage.finish({})
    assert not stage.finished


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "", "stage.json", "finished.json", "checkpoints/x", ".lock"])
def test_paths_outside_or_of_the_store_itself_are_refused(stage, name):
    with pytest.raises(ValueError):
        stage.path(name)


def test_a_folder_of_another_key_is_refused(store, stage):
    stage.describe(SPEC)
    other = stage_key(SPEC)[:20] + "0" * 44
    with pytest.raises(UserError, match="belongs to the stage"):
        store.stage_folder(other)


def test_the_spec_must_be_the_keys(stage):
    with pytest.raises(ValueError, match="specification"):
        stage.describe({**SPEC, "seed": 4})
    assert not stage.folder.exists()


@pytest.mark.parametrize("key", ["", "abc", "g" * 64, "../" + "a" * 61])
def test_a_key_that_is_no_hash_is_refused(store, key):
    with pytest.raises(ValueError):
        store.stage_folder(key)


def test_a_damaged_description_is_written_again(store, stage, warned):
    finish(stage)
    (stage.folder / "stage.json").write_text("{")
    found = again(store)
    assert len(warned) == 1 and found.finished
    found.describe(SPEC)
    assert again(store).spec() == SPEC


def test_a_newer_store_is_refused_in_one_sentence(store):
    path = store.root / "store.json"
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(UserError, match=r"store\.json has format version 2.*upgrade ftft"):
        Store(store.root)


def test_a_store_where_a_file_stands_is_one_sentence(tmp_path):
    (tmp_path / "store").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        Store(tmp_path / "store")
    with pytest.raises(UserError, match="cannot write"):
        Store(tmp_path / "store" / "below")


@pytest.mark.parametrize(
    "code, words", [(errno.EROFS, "read-only"), (errno.ENOSPC, "the disk is full"), (errno.EACCES, "denied")]
)
def test_a_refused_write_is_one_sentence_and_leaves_the_stage_unfinished(store, stage, monkeypatch, code, words):
    stage.describe(SPEC)
    stage.checkpoints.save(7, {"model": 1}, {})

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(files.os, "replace", refuse)
        with pytest.raises(UserError, match=words):
            finish(stage)
        with pytest.raises(UserError, match=words):
            Store(store.root / "inner")
    assert not again(store).finished and again(store).checkpoints.newest_valid().step == 7


def test_a_read_only_folder_is_one_sentence(tmp_path, no_superuser):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="permission was denied"):
        Store(tmp_path / "store")


HOLD = """
    import sys
    from ftft.files import FolderLock
    with FolderLock(sys.argv[1]):
        print("held", flush=True)
        sys.stdin.read()
"""


@pytest.mark.kill
def test_a_second_process_is_refused_until_the_first_is_killed(stage):
    command = [sys.executable, "-c", textwrap.dedent(HOLD), str(stage.folder)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=rf"another run \(process {holder.pid}\) is already working"), stage.lock():
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait(30)
        with stage.lock():
            assert (stage.folder / ".lock").read_text() == str(os.getpid())
    finally:
        holder.kill()
        holder.communicate()


def test_a_lock_is_free_again_after_use(stage):
    with stage.lock(), pytest.raises(UserError, match="another run"), stage.lock():
        pass
    with stage.lock():
        pass


def test_a_full_disk_does_not_cost_the_lock(stage, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(files.os, "write", refuse)
        with stage.lock(), pytest.raises(UserError, match="another run"), FolderLock(stage.folder):
            pass


def test_a_measured_choice_is_made_once_for_each_machine(tmp_path):
    store = Store(tmp_path)
    answers = iter(["bf16", "fp32", "never"])
    assert store.remembered("precision", "this machine", lambda: next(answers)) == "bf16"
    assert Store(tmp_path).remembered("precision", "this machine", lambda: next(answers)) == "bf16"
    assert store.remembered("precision", "another machine", lambda: next(answers)) == "fp32"
