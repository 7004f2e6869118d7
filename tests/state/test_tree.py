"""Trees come back exactly as they were, types included; what cannot be held, or is damaged, is named."""

import json
import struct
from collections import OrderedDict
from enum import IntEnum

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ftft.errors import UserError
from ftft.state.tree import load_tree, save_tree

TORCH_DTYPES = [
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128, torch.float8_e4m3fn),
]
NUMPY_DTYPES = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
NUMPY_DTYPES += ["float16", "float32", "float64", "complex64", "complex128"]


def tensor_bytes(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def same(left, right):
    """Equal in type, order, shape and every bit (a Python NaN in its being NaN)."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        pairs = zip(left.items(), right.items())
        return len(left) == len(right) and all(same(a, c) and same(b, d) for (a, b), (c, d) in pairs)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right))
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and left.shape == right.shape and tensor_bytes(left) == tensor_bytes(right)
    if isinstance(left, (np.ndarray, np.generic)):
        return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
    if isinstance(left, float):
        return (left != left and right != right) or struct.pack("d", left) == struct.pack("d", right)
    return left == right


def round_trip(folder, tree):
    save_tree(folder, "state", tree)
    return load_tree(folder, "state")


arrays = st.sampled_from(NUMPY_DTYPES).flatmap(
    lambda name: hnp.arrays(name, hnp.array_shapes(min_dims=0, min_side=0, max_side=3))
)
tensors = st.tuples(st.sampled_from(TORCH_DTYPES), st.lists(st.integers(0, 3), max_size=3), st.integers(0, 255)).map(
    lambda drawn: make_tensor(*drawn)
)
scalars = st.sampled_from(NUMPY_DTYPES).flatmap(lambda name: hnp.arrays(name, (1,))).map(lambda array: array[0])
leaves = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.integers(min_value=2**127, max_value=2**130), st.floats()),
    *(st.text(), st.text(st.characters(categories=["Cs"])), arrays, scalars, tensors),
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.one_of(st.text(), st.integers()), inner, max_size=4),
        st.dictionaries(st.text(), inner, max_size=4).map(OrderedDict),
    ),
    max_leaves=12,
)


def make_tensor(dtype, shape, fill):
    count = int(np.prod(shape)) if shape else 1
    if dtype is torch.bool:
        return (torch.arange(count) + fill).remainder(2).bool().reshape(shape)
    raw = torch.arange(fill, fill + count * dtype.itemsize).remainder(256).to(torch.uint8)
    return raw.view(dtype).reshape(shape)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trees)
def test_any_tree_comes_back_exactly(tmp_path_factory, tree):
    folder = tmp_path_factory.getbasetemp() / "trees"
    folder.mkdir(exist_ok=True)
    assert same(tree, round_trip(folder, tree))


@pytest.mark.parametrize("dtype", TORCH_DTYPES, ids=str)
def test_every_tensor_type_comes_back_bit_for_bit(tmp_path, dtype):
    tree = {
        "full": make_tensor(dtype, [3, 2], 120),
        "scalar": make_tensor(dtype, [], 63),
        "empty": make_tensor(dtype, [0, 2], 0),
    }
    assert same(tree, round_trip(tmp_path, tree))


def test_numbers_that_json_lacks_or_rounds_are_exact(tmp_path):
    tree = [
        float("nan"),
        float("inf"),
        -float("inf"),
        -0.0,
        0.1,
        5e-324,
        2**53,
        -(2**53) - 1,
        2**128 - 1,
        -(10**5000),
        True,
        1,
        1.0,
    ]
    assert same(tree, round_trip(tmp_path, tree))
    text = (tmp_path / "state.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_pcg64_state_continues_the_same_stream(tmp_path):
    generator = np.random.default_rng(3)
    generator.random(7)
    state = round_trip(tmp_path, generator.bit_generator.state)
    restored = np.random.default_rng(0)
    restored.bit_generator.state = state
    assert restored.random(100).tolist() == generator.random(100).tolist()


def test_dictionaries_that_look_like_the_notation_stay_dictionaries(tmp_path):
    tree = {
        "tuple": [1],
        "int": "0x1",
        "deeper": {"dict": {"items": []}, "tensor": "0 tree"},
        "__metadata__": torch.ones(1),
        "": 1,
    }
    assert same(tree, round_trip(tmp_path, tree))


def test_int_and_string_keys_stay_apart_and_in_order(tmp_path):
    tree = {3: torch.tensor(1), "3": torch.tensor(2), -1: "x", 2**70: "y"}
    assert same(tree, round_trip(tmp_path, tree))


def test_optimizer_state_continues_the_same_training(tmp_path):
    def train(model, optimizer, steps):
        for step in range(steps):
            optimizer.zero_grad()
            model(torch.full((2, 3), float(step))).square().sum().backward()
            optimizer.step()

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    train(model, optimizer, 3)
    loaded = round_trip(tmp_path, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    other = torch.nn.Linear(3, 2)
    other.load_state_dict(loaded["model"])
    other_optimizer = torch.optim.AdamW(other.parameters(), lr=0.5)
    other_optimizer.load_state_dict(loaded["optimizer"])
    train(model, optimizer, 3)
    train(other, other_optimizer, 3)
    assert same(dict(model.state_dict()), dict(other.state_dict()))


def test_tied_overlapping_and_strided_tensors_keep_their_values(tmp_path):
    base = torch.arange(12.0)
    tree = {"whole": base, "tied": base, "part": base[3:7], "turned": base.reshape(3, 4).T, "same part": base[:12].view(12)}
    tree["conjugate"] = torch.tensor([1 + 2j]).conj()
    tree["parameter"] = torch.nn.Parameter(base * 2)
    loaded = round_trip(tmp_path, tree)
    for name, tensor in tree.items():
        assert torch.equal(loaded[name], tensor.detach()) and type(loaded[name]) is torch.Tensor
    loaded["whole"].zero_()
    assert torch.equal(loaded["tied"], base)


def test_a_tied_tensor_is_stored_once(tmp_path):
    big = torch.zeros(10_000)
    save_tree(tmp_path, "state", {"a": big, "b": big})
    assert (tmp_path / "state.safetensors").stat().st_size < 1.5 * big.nbytes


def test_arrays_in_any_layout_come_back_writable(tmp_path):
    source = np.arange(12, dtype=np.float64).reshape(3, 4)
    frozen = source.copy()
    frozen.flags.writeable = False
    loaded = round_trip(tmp_path, {"turned": source.T, "backwards": source[::-1, ::-2], "frozen": frozen})
    assert np.array_equal(loaded["turned"], source.T) and np.array_equal(loaded["backwards"], source[::-1, ::-2])
    loaded["frozen"][0, 0] = 7.0
    assert loaded["frozen"][0, 0] == 7.0


def test_loaded_tensors_do_not_depend_on_the_file(tmp_path):
    loaded = round_trip(tmp_path, {"a": torch.ones(1000)})
    (tmp_path / "state.safetensors").write_bytes(b"")
    assert loaded["a"].sum() == 1000


def test_files_follow_the_umask(tmp_path):
    save_tree(tmp_path, "state", {"a": torch.ones(3)})
    (tmp_path / "plain").touch()
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


class Colour(IntEnum):
    RED = 1


@pytest.mark.parametrize(
    "value",
    [
        *({1, 2}, b"bytes", object(), Colour.RED, np.str_("x"), np.array([object()]), np.array(["x"]), np.array([1.0], ">f8")),
        *(np.ma.array([1.0]), np.longdouble(1), torch.ones(2, 2).to_sparse(), torch.ones(2, device="meta"), lambda: 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_held_is_named_with_its_place(tmp_path, value):
    with pytest.raises(TypeError, match=r"tree\['optimizer'\]\[1\]\[3\] "):
        save_tree(tmp_path, "state", {"optimizer": [0, {3: value}]})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", [True, 1.5, None, (1, 2)], ids=repr)
def test_keys_other_than_str_and_int_are_refused(tmp_path, key):
    with pytest.raises(TypeError, match=r"tree\['a'\] has the key"):
        save_tree(tmp_path, "state", {"a": {key: 1}})


def test_a_tree_that_contains_itself_is_refused(tmp_path):
    tree = []
    tree.append(tree)
    with pytest.raises(TypeError, match="contains itself"):
        save_tree(tmp_path, "state", tree)


def test_files_of_two_savings_are_never_mixed(tmp_path):
    save_tree(tmp_path, "old", {"step": 1, "a": torch.ones(2)})
    save_tree(tmp_path, "new", {"step": 2, "a": torch.zeros(2)})
    (tmp_path / "old.json").rename(tmp_path / "new.json")
    with pytest.raises(UserError, match="do not belong together"):
        load_tree(tmp_path, "new")


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
def test_missing_or_truncated_files_are_one_sentence(tmp_path, suffix):
    save_tree(tmp_path, "state", {"a": torch.arange(100), "b": [1, 2, 3]})
    path = tmp_path / f"state.{suffix}"
    content = path.read_bytes()
    for length in {0, 1, 7, 8, 9, len(content) // 2, len(content) - 2}:
        path.write_bytes(content[:length])
        with pytest.raises(UserError):
            load_tree(tmp_path, "state")
    path.unlink()
    with pytest.raises(UserError, match="does not exist"):
        load_tree(tmp_path, "state")


def test_a_newer_format_is_refused(tmp_path):
    save_tree(tmp_path, "state", 1)
    path = tmp_path / "state.json"
    path.write_text(path.read_text().replace('"format_version":1', '"format_version":2'))
    with pytest.raises(UserError, match="format version 2.*upgrade ftft"):
        load_tree(tmp_path, "state")
