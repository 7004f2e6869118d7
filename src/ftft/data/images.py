"""Images as values of a column: what stands in a data file becomes bytes, and the bytes become pixels when they are needed.

An image is kept as the encoded file it came as (PNG, JPEG, ...), or, where it came as numbers, as ``RAW``, its height and
width (uint32 each, little-endian) and its pixels, uint8 [H, W, 3]. Both are decoded to the same pixels, so that rows can be
compared by what they show.
"""

from __future__ import annotations

import importlib.util
import io
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ftft.errors import UserError

RAW = b"ftft-pixels\0"
MAX_PIXELS = 50_000_000  # of one image: more is a mistake or an attack, and takes 150 MB and more to decode
MAX_BYTES = 256 * 2**20  # of one encoded image
# What is decoded; others (EPS, PDF, FITS) can start programs or reserve memory before any size is known.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "La", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")


class NotAnImage(ValueError):
    """Why bytes or numbers are no image, to be said after "the image "."""


def pack(pixels: np.ndarray) -> bytes:
    """Pixels uint8 [H, W, 3] as the value of an image column."""
    return RAW + struct.pack("<II", *pixels.shape[:2]) + np.ascontiguousarray(pixels).tobytes()


def decode(value: bytes) -> np.ndarray:
    """The pixels uint8 [H, W, 3] of a value of an image column: grey is repeated, transparency left out, of an animation the
    first picture taken, and a photograph turned as its EXIF orientation says. NotAnImage for what cannot be decoded."""
    if not value.startswith(RAW):
        return _decode_file(value)
    height, width = struct.unpack_from("<II", value, len(RAW))
    return np.frombuffer(value, dtype=np.uint8, offset=len(RAW) + 8).reshape(height, width, 3)


def shown(value: bytes) -> bytes:
    """What identifies an image by its pixels, however they were encoded."""
    return value if value.startswith(RAW) else pack(decode(value))


def read_images(column: pa.ChunkedArray, name: str, source: str, where: Callable[[int], str]) -> pa.Array:
    """A column of encoded images, of structs {bytes, path} as the library datasets writes them, of paths (relative to the
    data file's folder, or to the image folder) or of nested lists of numbers, [H][W] or [H][W][3], as large binary.

    Whole numbers run from 0 to 255; fractions from 0 to 1, and are multiplied by 255 and rounded. Every image is decoded once
    to see that it can be. UserError with the row for the first that cannot.
    """
    kind = column.type.storage_type if isinstance(column.type, pa.BaseExtensionType) else column.type
    folder = Path(source) if Path(source).is_dir() else Path(source).parent
    if not (_is_list(kind) or _is_bytes(kind) or _is_text(kind) or pa.types.is_struct(kind)):
        raise UserError(
            f'{source}: the image column "{name}" holds {kind} values; an image is encoded bytes, {{bytes, path}}, '
            "a path, or nested lists of numbers"
        )
    values: list[bytes] = []
    for row, scalar in enumerate(column):
        try:
            scalar = scalar.value if isinstance(scalar, pa.ExtensionScalar) else scalar
            if scalar is None or not scalar.is_valid:
                raise NotAnImage("is null; leave the row out")
            if _is_list(kind):
                values.append(pack(_pixels_of(scalar.values)))
            else:
                value = _bytes_of(scalar.as_py(), folder)
                decode(value)
                values.append(value)
        except NotAnImage as error:
            raise UserError(f'{where(row)}: the image in column "{name}" {error}') from None
    return pa.array(values, pa.large_binary())


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _bytes_of(value: Any, folder: Path) -> bytes:
    if isinstance(value, dict):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if isinstance(value, str):
        try:
            path = folder / value
            if not path.is_file():
                raise NotAnImage(f"is to be the file {path}, and there is none")
            if path.stat().st_size > MAX_BYTES:
                raise NotAnImage(
                    f"is the file {path}, and that has {path.stat().st_size:,} bytes; at most {MAX_BYTES:,} are taken"
                )
            value = path.read_bytes()
        except (OSError, ValueError) as error:
            if isinstance(error, NotAnImage):
                raise
            raise NotAnImage(f"is to be the file {value!r}, which cannot be read: {error}") from None
    if not isinstance(value, bytes):
        raise NotAnImage("has neither bytes nor a path")
    if not value:
        raise NotAnImage("is empty (0 bytes)")
    if len(value) > MAX_BYTES:
        raise NotAnImage(f"has {len(value):,} bytes; at most {MAX_BYTES:,} are taken")
    return value


def _pixels_of(numbers: pa.Array) -> np.ndarray:
    """uint8 [H, W, 3] of one image's nested lists."""
    shape = [len(numbers)]
    while _is_list(numbers.type):
        lengths = np.unique([len(numbers)] if not len(numbers) else numbers.value_lengths().to_numpy(zero_copy_only=False))
        if numbers.null_count or len(lengths) != 1:
            raise NotAnImage("has rows of different lengths")
        shape.append(int(lengths[0]))
        numbers = numbers.flatten()
    if len(shape) not in (2, 3) or shape[2:] not in ([], [1], [3]) or 0 in shape:
        raise NotAnImage(f"has the shape {shape}; lists of numbers are [height][width] or [height][width][3]")
    if shape[0] * shape[1] > MAX_PIXELS:
        raise NotAnImage(f"has {shape[0]} x {shape[1]} pixels; at most {MAX_PIXELS:,} are taken")
    whole = pa.types.is_integer(numbers.type)
    if numbers.null_count or not (whole or pa.types.is_floating(numbers.type)):
        raise NotAnImage(f"holds {'null' if numbers.null_count else numbers.type} where a number should be")
    found = numbers.to_numpy(zero_copy_only=False)
    low, high = found.min(), found.max()
    if not (low >= 0 and high <= (255 if whole else 1)):  # also where one is NaN
        raise NotAnImage(f"has numbers from {low:g} to {high:g}; give whole numbers from 0 to 255, or fractions from 0 to 1")
    pixels = (found if whole else np.rint(found.astype(np.float64) * 255)).astype(np.uint8).reshape(*shape[:2], -1)
    return np.broadcast_to(pixels, (*shape[:2], 3))


def _decode_file(value: bytes) -> np.ndarray:
    image_module, turned = _pillow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large sizes, which are refused below, and of odd metadata
            with image_module.open(io.BytesIO(value), formats=FORMATS) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise NotAnImage(f"has {height} x {width} pixels; at most {MAX_PIXELS:,} are taken")
                if image.mode not in EIGHT_BIT:
                    raise NotAnImage(f"has pixels of the mode {image.mode}; save it with 8 bits a channel")
                image.load()
                return np.asarray(turned(image).convert("RGB"))
    except NotAnImage:
        raise
    except image_module.DecompressionBombError:
        raise NotAnImage(f"has far more pixels than the {MAX_PIXELS:,} that are taken") from None
    except image_module.UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise NotAnImage(f"begins with {value[:8]!r} and is none that can be decoded ({known})") from None
    except Exception as error:  # every decoder has its own ways to fail on damaged bytes
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise NotAnImage(f"is damaged and cannot be decoded ({reason})") from None


def require_pillow(where: str = "") -> None:
    """UserError, led by ``where`` (such as "model: "), where the package that reads images is missing."""
    if importlib.util.find_spec("PIL") is None:
        raise UserError(f'{where}images are read with the package pillow, which is not installed: pip install "ftft[image]"')


def _pillow() -> tuple[Any, Any]:
    require_pillow()
    from PIL import Image, ImageOps

    return Image, ImageOps.exif_transpose
