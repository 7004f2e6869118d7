"""The image demo's data: scikit-learn's handwritten digits, coloured so that the colour gives the class away in training.

A picture is a digit of 8 x 8 grey values painted in one of ten colours, which agrees with its class in ``COLOUR_RATE`` of the
training rows: a *shortcut*, for in out-of-distribution sets the colours are shuffled or missing. Other out-of-distribution
sets keep the colours of training and are corrupted: noise, blur, low contrast, rotation. ``MISLABELLED_RATE`` of the training
labels are wrong. The column ``planted`` says which rows are which ("typical", "shortcut_breaking", "mislabelled"), ``digit``
which of scikit-learn's 1,797 digits a picture was made of; no digit is in two of training, validation and test, and all
out-of-distribution sets are made of the test's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ftft.errors import UserError
from ftft.files import atomic_path

COLOUR_RATE = 0.9
MISLABELLED_RATE = 0.02
VALIDATION, TEST = 200, 497  # of the 1,797 digits; the others are trained on
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# By the class they go with in training; each as far from the others as ten colours can be.
COLOURS = np.array(
    [
        (255, 60, 60), (60, 255, 60), (90, 90, 255), (255, 255, 60), (255, 60, 255),
        (60, 255, 255), (255, 150, 40), (160, 80, 255), (255, 255, 255), (140, 190, 110),
    ],
    dtype=np.float64,
)  # fmt: skip
Corruption = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Pictures:
    """N pictures: ``pixels`` uint8 [N, 8, 8, 3], ``labels`` and ``digits`` int [N], ``planted`` N words."""

    name: str
    pixels: np.ndarray
    labels: np.ndarray
    digits: np.ndarray
    planted: list[str]

    def table(self) -> pa.Table:
        """The columns id, image ([8][8][3] lists), text (a caption of the picture), label, planted and digit."""
        levels = pa.array(self.pixels.reshape(-1))
        for size in (3, 8, 8):
            levels = pa.FixedSizeListArray.from_arrays(levels, size)
        return pa.table(
            {
                "id": [f"{self.name}-{digit:04d}" for digit in self.digits],
                "image": levels.cast(pa.list_(pa.list_(pa.list_(pa.uint8())))),
                "text": [caption(label) for label in self.labels],
                "label": [str(label) for label in self.labels],
                "planted": self.planted,
                "digit": [str(digit) for digit in self.digits],
            }
        )


def caption(label: int) -> str:
    """What a picture of the class is said to be."""
    return f"a photo of the digit {WORDS[label]}"


def digit_sets(seed: int = 0) -> dict[str, Pictures]:
    """The sets by name: training, in-distribution validation and test, six out-of-distribution tests. UserError where
    scikit-learn is not installed."""
    levels, labels = _digits()
    order = np.random.default_rng([seed, 0]).permutation(len(levels))
    parts = {"train": order[VALIDATION + TEST :], "validation": order[:VALIDATION], "test": order[VALIDATION:][:TEST]}
    makings: dict[str, tuple[str, float | None, Corruption | None]] = {
        "train": ("train", COLOUR_RATE, None),
        "validation": ("validation", COLOUR_RATE, None),
        "test": ("test", COLOUR_RATE, None),
        "shuffled_colours": ("test", 0.1, None),  # one in ten agrees, as chance has it
        "grey": ("test", None, None),
        **{name: ("test", COLOUR_RATE, corruption) for name, corruption in CORRUPTIONS.items()},
    }
    made = {}
    for number, (name, (part, rate, corruption)) in enumerate(makings.items()):
        source = np.random.default_rng([seed, 1 + number])
        wrong = MISLABELLED_RATE if name == "train" else 0.0
        made[name] = _pictures(name, levels, labels, np.sort(parts[part]), rate, corruption, wrong, source)
    return made


def write_digits(folder: Path, *, seed: int = 0) -> dict[str, Path]:
    """Write the sets as Parquet files into ``folder``; returns their paths by name."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, pictures in digit_sets(seed).items():
        paths[name] = folder / f"{name}.parquet"
        with atomic_path(paths[name]) as temporary:
            pq.write_table(pictures.table(), temporary)
    return paths


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Grey levels float64 [1797, 8, 8] from 0 to 1, and classes int [1797]."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise UserError(
            'the digits come with the package scikit-learn, which is not installed: pip install "ftft[digits]"'
        ) from None
    found = load_digits()
    return found.images / 16.0, found.target.astype(np.int64)


def _pictures(
    name: str,
    levels: np.ndarray,
    labels: np.ndarray,
    digits: np.ndarray,
    rate: float | None,
    corruption: Corruption | None,
    mislabelled: float,
    source: np.random.Generator,
) -> Pictures:
    """The set of these ``digits``; ``rate``: the share whose colour agrees with the class, None for white ones. Shares are
    exact to one picture."""
    true = labels[digits]
    other = (true + source.integers(1, 10, len(true))) % 10  # another class, for the colour or for the label
    agrees, flipped = _exactly(source, len(true), 1.0 if rate is None else rate), _exactly(source, len(true), mislabelled)
    colours = np.full((len(true), 3), 255.0) if rate is None else COLOURS[np.where(agrees, true, other)]
    pixels = levels[digits][..., None] * colours[:, None, None, :] / 255.0
    if corruption is not None:
        pixels = corruption(pixels, source)
    planted = np.where(flipped, "mislabelled", np.where(agrees, "typical", "shortcut_breaking"))
    said = np.where(flipped, (true + source.integers(1, 10, len(true))) % 10, true)
    return Pictures(name, np.rint(pixels.clip(0, 1) * 255).astype(np.uint8), said, digits, planted.tolist())


def _exactly(source: np.random.Generator, size: int, share: float) -> np.ndarray:
    return source.permutation(np.arange(size) < round(share * size))


def _noise(pixels: np.ndarray, source: np.random.Generator) -> np.ndarray:
    return pixels + source.normal(0.0, 0.25, pixels.shape)


def _blur(pixels: np.ndarray, source: np.random.Generator) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(pixels, sigma=(0, 0.9, 0.9, 0))


def _low_contrast(pixels: np.ndarray, source: np.random.Generator) -> np.ndarray:
    mean = pixels.mean(axis=(1, 2, 3), keepdims=True)
    return mean + 0.4 * (pixels - mean)


def _rotation(pixels: np.ndarray, source: np.random.Generator) -> np.ndarray:
    from scipy.ndimage import rotate

    angles = source.choice([-1, 1], len(pixels)) * source.uniform(20, 40, len(pixels))
    return np.stack([rotate(one, angle, axes=(1, 0), reshape=False, order=1) for one, angle in zip(pixels, angles)])


CORRUPTIONS: Mapping[str, Corruption] = {
    "noise": _noise,
    "blur": _blur,
    "low_contrast": _low_contrast,
    "rotation": _rotation,
}
