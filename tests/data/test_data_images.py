"""Images of every form a file has them in become the same pixels, and what is no image is said with file and row."""

from __future__ import annotations

import csv
import io
import json
import struct
import sys
import zlib
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ftft.data.images import RAW, decode, pack, shown
from ftft.data.inputs import TaskInputs
from ftft.data.loading import load_data, load_examples
from ftft.data.settings import Columns, DataFile, DataSettings, EvaluationFile
from ftft.errors import UserError
from ftft.models.processors import require_image_processor
from ftft.models.small import image_processor

Image = pytest.importorskip("PIL.Image")
IMAGES = TaskInputs(({"image": "image"},))
COLOURS = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def parquet(path, images, kind=None, labels=None):
    labels = labels or ["cat", "dog"] * (len(images) // 2)
    pq.write_table(pa.table({"image": pa.array(images, kind), "label": labels}), path)
    return DataFile(path=str(path))


def pixels_of(file, columns=None):
    examples = load_examples(file, columns or Columns(), inputs=IMAGES)
    return np.stack([decode(value) for value in examples.inputs["image"].to_pylist()]), examples


def test_bytes_structs_paths_and_numbers_give_the_same_pixels(tmp_path):
    pngs = [encoded(one) for one in COLOURS]
    (tmp_path / "pictures").mkdir()
    for index, one in enumerate(pngs):
        (tmp_path / "pictures" / f"{index}.png").write_bytes(one)
    paths = [f"pictures/{index}.png" for index in range(6)]
    struct_kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    forms = {
        "bytes": parquet(tmp_path / "bytes.parquet", pngs),
        "structs": parquet(tmp_path / "structs.parquet", [{"bytes": one, "path": None} for one in pngs], struct_kind),
        "struct_paths": parquet(tmp_path / "sp.parquet", [{"bytes": None, "path": one} for one in paths], struct_kind),
        "paths": parquet(tmp_path / "paths.parquet", paths),
        "numbers": parquet(tmp_path / "numbers.parquet", COLOURS.tolist()),
        "fractions": parquet(tmp_path / "fractions.parquet", (COLOURS / 255).tolist()),
    }
    for name, file in forms.items():
        found, _ = pixels_of(file)
        assert (found == COLOURS).all(), name
    with open(tmp_path / "numbers.jsonl", "w") as stream:
        for index, one in enumerate(COLOURS):
            stream.write(json.dumps({"image": one.tolist(), "label": index % 2}) + "\n")
    assert (pixels_of(DataFile(path=str(tmp_path / "numbers.jsonl")))[0] == COLOURS).all()


def test_grey_is_repeated_and_whole_numbers_are_not_scaled(tmp_path):
    grey = COLOURS[:2, :, :, 0]
    for values in (grey.tolist(), grey[..., None].tolist(), [encoded(one) for one in grey]):
        found, _ = pixels_of(parquet(tmp_path / "grey.parquet", values))
        assert (found == np.repeat(grey[..., None], 3, axis=3)).all()
    ones = np.ones((2, 2, 2), dtype=int)
    assert pixels_of(parquet(tmp_path / "ones.parquet", ones.tolist()))[0].max() == 1
    assert pixels_of(parquet(tmp_path / "ones.parquet", ones.astype(float).tolist()))[0].max() == 255


def test_ids_and_overlaps_are_by_content(tmp_path):
    train = parquet(tmp_path / "train.parquet", [encoded(one) for one in COLOURS])
    again = parquet(tmp_path / "again.parquet", [encoded(one) for one in COLOURS])
    assert pixels_of(train)[1].ids.equals(pixels_of(again)[1].ids)
    assert pixels_of(train)[1].fingerprint == pixels_of(again)[1].fingerprint
    held = EvaluationFile(path=parquet(tmp_path / "held.parquet", COLOURS[[2, 3]].tolist()).path, role="id", split="validation")
    same = EvaluationFile(path=parquet(tmp_path / "same.parquet", [encoded(one) for one in COLOURS[:2]]).path)
    data = load_data(DataSettings(train=train, evaluation={"held": held, "same": same}), inputs=IMAGES)
    found = {name: data.report["evaluation"][name]["duplicates"] for name in ("held", "same")}
    assert found["held"] == {"exact": 0, "normalised": 2, "train_rows": 2}  # the same pixels, encoded otherwise
    assert found["same"] == {"exact": 2, "normalised": 2, "train_rows": 2}


def folder_of(path):
    for index, one in enumerate(COLOURS):
        where = path / ("cat" if index < 3 else "dog")
        where.mkdir(parents=True, exist_ok=True)
        (where / f"{5 - index}.PNG").write_bytes(encoded(one))
    (path / "cat" / "notes.txt").write_text("no picture")
    return DataFile(path=str(path))


def test_an_image_folder_has_classes_by_sub_folder_in_the_order_of_the_paths(tmp_path):
    found, examples = pixels_of(folder_of(tmp_path / "all"))
    assert examples.ids.to_pylist() == ["cat/3.PNG", "cat/4.PNG", "cat/5.PNG", "dog/0.PNG", "dog/1.PNG", "dog/2.PNG"]
    assert (found == COLOURS[[2, 1, 0, 5, 4, 3]]).all()
    assert examples.label_names == ("cat", "dog") and examples.labels.tolist() == [0, 0, 0, 1, 1, 1]
    limited = DataFile(path=str(tmp_path / "all"), where={"label": "dog"}, limit=2)
    with pytest.raises(UserError, match="2 labels|two"):
        load_data(DataSettings(train=limited), inputs=IMAGES)


def test_metadata_names_labels_and_further_columns(tmp_path):
    file = folder_of(tmp_path / "all")
    with open(tmp_path / "all" / "metadata.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file_name", "label", "place"])
        writer.writerows([["dog/0.PNG", "wolf", "wood"], ["cat/3.PNG", "cat", "house"]])
    _, examples = pixels_of(file, Columns(group="place"))
    assert examples.ids.to_pylist() == ["dog/0.PNG", "cat/3.PNG"]
    assert examples.label_names == ("cat", "wolf") and examples.groups.to_pylist() == ["wood", "house"]


def _bomb() -> bytes:
    """A PNG that says it has 50,000 x 50,000 pixels."""
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


NOISE = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
BAD = {
    "truncated": (encoded(NOISE)[:3000], "damaged"),
    "truncated_jpeg": (encoded(NOISE, "JPEG")[:1500], "damaged"),
    "bomb": (_bomb(), "more pixels|pixels; at most"),
    "text": (b"not a picture", "none that can be decoded"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "none that can be decoded"),
    "empty": (b"", "0 bytes"),
    "sixteen_bits": (encoded(np.full((4, 4), 40_000, dtype=np.uint16)), "8 bits"),
}


@pytest.mark.parametrize("name", BAD)
def test_hostile_bytes_are_one_sentence_with_file_and_row(tmp_path, name):
    value, said = BAD[name]
    file = parquet(tmp_path / "bad.parquet", [encoded(NOISE), value])
    with pytest.raises(UserError, match=rf"bad.parquet, row 2: the image in column \"image\".*({said})") as error:
        pixels_of(file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "value, said",
    [
        ([[0, 256]], "from 0 to 256"),
        ([[-1, 0]], "from -1 to 0"),
        ([[0.5, 1.5]], "from 0.5 to 1.5"),
        ([[0.5, float("nan")]], "from nan to nan"),
        ([[1, 2], [3]], "different lengths"),
        ([[1, None]], "null"),
        ([1, 2, 3], "shape"),
        ([[[1, 2], [3, 4]]], "shape"),
        ([], "shape|different"),
        (None, "null"),
    ],
)
def test_numbers_that_are_no_image(tmp_path, value, said):
    good = [[0.0, 1.0]] if value and "0.5" in str(value) else [[0, 1]]
    good = [[[0, 1, 2]]] if value and isinstance(value[0], list) and isinstance(value[0][0], list) else good
    good = [0, 1] if value == [1, 2, 3] else good
    file = parquet(tmp_path / "bad.parquet", [good, value])
    row = 1 if value == [1, 2, 3] else 2  # a column of such lists holds nothing else
    with pytest.raises(UserError, match=rf"bad.parquet, row {row}: the image.*({said})"):
        pixels_of(file)


def test_a_missing_pillow_is_one_sentence_wherever_it_is_missed(tmp_path, monkeypatch):
    (tmp_path / "preprocessor_config.json").write_text("{}")
    stream = io.BytesIO()
    Image.fromarray(np.zeros((2, 2, 3), dtype=np.uint8)).save(stream, "PNG")
    monkeypatch.setitem(sys.modules, "PIL", None)
    sentence = r"images are read with the package pillow, which is not installed: pip install \"ftft\[image\]\"$"
    for where, call in (
        ("^", lambda: decode(stream.getvalue())),
        ("^", image_processor),
        ("^stages.erm.model: ", lambda: require_image_processor(SimpleNamespace(path=tmp_path), "stages.erm.model")),
    ):
        with pytest.raises(UserError, match=where + sentence):
            call()


def test_missing_files_and_folders_without_classes(tmp_path):
    with pytest.raises(UserError, match=r"row 1: .*no.png, and there is none"):
        pixels_of(parquet(tmp_path / "paths.parquet", ["no.png", "no.png"]))
    (tmp_path / "flat").mkdir()
    with pytest.raises(UserError, match="holds no picture"):
        pixels_of(DataFile(path=str(tmp_path / "flat")))
    (tmp_path / "flat" / "a.png").write_bytes(encoded(NOISE))
    with pytest.raises(UserError, match="a.png does not stand as class/picture"):
        pixels_of(DataFile(path=str(tmp_path / "flat")))
    folder_of(tmp_path / "all")
    (tmp_path / "all" / "dog" / "0.PNG").write_bytes(encoded(NOISE)[:2000])
    with pytest.raises(UserError, match=r"all, picture dog/0.PNG: the image .*damaged"):
        pixels_of(DataFile(path=str(tmp_path / "all")))
    with pytest.raises(UserError, match="is a folder, not a data file"):
        load_examples(DataFile(path=str(tmp_path / "all")), Columns())


def test_modes_transparency_and_the_cameras_orientation(tmp_path):
    pixels = COLOURS[0]
    clear = np.concatenate([pixels, np.full((4, 5, 1), 7, dtype=np.uint8)], axis=2)
    assert (decode(encoded(clear)) == pixels).all()
    stream = io.BytesIO()
    Image.fromarray(pixels).convert("P", palette=Image.Palette.ADAPTIVE).save(stream, "PNG")
    assert decode(stream.getvalue()).shape == (4, 5, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", exif=exif)
    assert (decode(stream.getvalue()) == np.rot90(pixels, 3)).all()


def test_fractions_are_rounded(tmp_path):
    found, _ = pixels_of(parquet(tmp_path / "f.parquet", [[[0.0, 0.999]], [[0.001, 0.003]]]))
    assert found[:, 0, :, 0].tolist() == [[0, 255], [0, 1]]


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr("ftft.data.images.MAX_PIXELS", 10)
    for values in ([encoded(COLOURS[0])] * 2, [COLOURS[0].tolist()] * 2):
        with pytest.raises(UserError, match="row 1: .* has 4 x 5 pixels; at most 10 are taken"):
            pixels_of(parquet(tmp_path / "large.parquet", values))


def test_files_of_absurd_size_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("ftft.data.images.MAX_BYTES", 100)
    folder_of(tmp_path / "all")
    (tmp_path / "all" / "cat" / "3.PNG").write_bytes(b"0" * 200)
    with pytest.raises(UserError, match="picture cat/3.PNG: .* 200 bytes; at most 100"):
        pixels_of(DataFile(path=str(tmp_path / "all")))


def test_packed_pixels_come_back(tmp_path):
    assert pack(COLOURS[0]).startswith(RAW) and (decode(pack(COLOURS[0])) == COLOURS[0]).all()
    assert shown(encoded(COLOURS[0])) == pack(COLOURS[0]) == shown(pack(COLOURS[0]))
