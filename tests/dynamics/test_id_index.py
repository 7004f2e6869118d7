"""Numbering ids by their hashes: the numbers of a dictionary, exact where hashes are equal, and the same in every release."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ftft.dynamics.idhash import hash_of_ids
from ftft.dynamics.idindex import HashCollision, IdIndex
from ftft.dynamics.prefetch import ahead


def large(texts: list[str]) -> pa.Array:
    return pa.array(texts, pa.large_string())


@pytest.mark.parametrize("kinds", [3, 400, 10**6])
def test_numbers_are_those_of_a_dictionary_filled_in_order(kinds):
    generator = np.random.default_rng(kinds)
    index, known = IdIndex(), {}
    for size in (0, 1, 5000, 17, 9000, 3000):
        numbers = generator.integers(0, kinds, size).tolist()
        texts = [("é" * (number % 40) if number % 7 else "") + str(number) for number in numbers]
        ids = large(texts)
        expected = [known.setdefault(text, len(known)) for text in texts]
        assert index.numbers(ids, hash_of_ids(ids)).tolist() == expected
    assert len(index) == len(known) and index.strings().to_pylist() == list(known)


def test_slots_shared_by_many_hashes_are_told_apart():
    index = IdIndex()
    ids = large([f"id {number}" for number in range(900)])
    # All begin their search at the table's last slot, the half of it beyond its end.
    hashes = np.uint64(2**64 - 1) - 2 * np.arange(900, dtype=np.uint64)
    assert index.numbers(ids, hashes).tolist() == list(range(900))
    order = np.random.default_rng(0).permutation(900)
    assert index.numbers(ids.take(pa.array(order)), hashes[order]).tolist() == order.tolist()


def test_two_ids_of_one_hash_are_noticed_in_one_batch_and_in_two():
    same = np.full(2, 99, dtype=np.uint64)
    with pytest.raises(HashCollision):
        IdIndex().numbers(large(["a", "b"]), same)
    index = IdIndex()
    assert index.numbers(large(["a", "a"]), same).tolist() == [0, 0]
    with pytest.raises(HashCollision):
        index.numbers(large(["b"]), same[:1])
    with pytest.raises(HashCollision):  # equal but for the lowest bit, which marks used slots
        IdIndex().numbers(large(["a", "b"]), np.array([98, 99], dtype=np.uint64))


def test_hashes_stay_what_they_were():
    """The score ``random`` and the rows that it chooses depend on them."""
    ids = pa.array(["", "a", "ex-0000123-7", "aaaaaaaa", "é" * 40])
    seed_0 = [0xA706DD2F4D197E6F, 0xC65453BAC8DA37F7, 0x6C11BBC70D01CA29, 0xE4F481CB28230860, 0x04168F19E28CAFE5]
    seed_7 = [0xEA5787965E2C85F2, 0x0F88EA4AB3456BA7, 0x3FB75F24D83A3AAA, 0x1ECC3345AD3FF9F0, 0xE898E654208312FC]
    assert hash_of_ids(ids).tolist() == seed_0 and hash_of_ids(ids, 7).tolist() == seed_7


def test_a_hash_depends_on_the_id_alone_and_not_on_its_neighbours():
    texts = ["x" * length for length in (0, 1, 7, 8, 9, 15, 16, 17, 300)] + ["tail"]
    whole = hash_of_ids(pa.array(texts))
    for position, text in enumerate(texts):
        assert hash_of_ids(pa.array([text]))[0] == whole[position]
        assert hash_of_ids(pa.array(texts).slice(position, 1))[0] == whole[position]
    assert len(set(whole.tolist())) == len(texts)
    assert len(hash_of_ids(pa.array([], pa.string()))) == 0


def test_items_made_ahead_keep_their_order_and_their_errors():
    def items():
        yield from range(5)
        raise ValueError("after the fifth")

    got = []
    with pytest.raises(ValueError, match="after the fifth"):
        for item in ahead(items()):
            got.append(item)
    assert got == [0, 1, 2, 3, 4]
    assert list(ahead(iter([]))) == [] and next(ahead(iter([None, 1]))) is None
