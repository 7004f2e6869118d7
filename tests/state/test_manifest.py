"""A manifest notices every change to what it lists, and is not trusted itself."""

import json

import pytest

from ftft.errors import UserError
from ftft.state.manifest import check_files, is_inside, list_files, read_manifest, write_manifest


@pytest.mark.parametrize("name", ["", ".", "..", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a\\b", "a\0b", 3, None])
def test_names_that_could_leave_the_folder_are_not_inside(name):
    assert not is_inside(name)


@pytest.mark.parametrize("name", ["a", "model/config.json", ".hidden", "..a"])
def test_plain_names_are_inside(name):
    assert is_inside(name)


def test_listed_files_are_found_sound(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_bytes(b"12345")
    files = list_files(tmp_path, ["sub/a"])
    assert files["sub/a"]["bytes"] == 5
    check_files(tmp_path, files)


def test_a_changed_byte_is_found_only_by_the_full_check(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    files = list_files(tmp_path, ["a"])
    (tmp_path / "a").write_bytes(b"12346")
    check_files(tmp_path, files, full=False)
    with pytest.raises(UserError, match="SHA-256"):
        check_files(tmp_path, files)


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / "outside").write_bytes(b"12345")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_bytes(b"12345")
    files = list_files(folder, ["a"])
    (folder / "a").unlink()
    (folder / "a").symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="outside the folder"):
        check_files(folder, files)


def test_a_changed_payload_is_noticed(tmp_path):
    path = tmp_path / "m.json"
    write_manifest(path, {"score": 0.9, "nan": float("nan")}, kind="test")
    assert read_manifest(path, kind="test") == {"score": 0.9, "nan": None}
    path.write_text(path.read_text().replace("0.9", "0.8"))
    assert json.loads(path.read_text())["score"] == 0.8
    with pytest.raises(UserError, match="its own SHA-256"):
        read_manifest(path, kind="test")
