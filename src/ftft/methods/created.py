"""What `create` made, as a Parquet file: one row an example, with the id of its parent and how it came about.

Columns ``id``, ``parent``, ``source`` (strings), ``label`` (int64), ``group`` and ``cluster`` where the examples have them, and
``input.<name>`` for each of the task's input columns. The file's metadata hold the rule, the counts, the label names and the
fingerprint of the examples, by which a changed file is known.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ftft.data.examples import Examples
from ftft.data.hashing import fingerprint_examples
from ftft.errors import UserError
from ftft.files import atomic_path
from ftft.methods.contract import Created

FILE = "created.parquet"
FORMAT_VERSION = 1
INPUT = "input."


def write_created(created: Created, path: Path) -> None:
    """Write the examples atomically."""
    examples = created.examples
    columns = {"id": examples.ids, "parent": created.parents, "source": created.sources, "label": pa.array(examples.labels)}
    columns |= {"group": examples.groups} if examples.groups is not None else {}
    columns |= {"cluster": examples.clusters} if examples.clusters is not None else {}
    columns |= {INPUT + name: column for name, column in examples.inputs.items()}
    about = {
        "format_version": FORMAT_VERSION,
        "rule": dict(created.rule),
        "counts": dict(created.counts),
        "label_names": list(examples.label_names),
        "fingerprint": examples.fingerprint,
    }
    metadata = {"format": "ftft/created", "about": json.dumps(about, ensure_ascii=False)}
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns, metadata=metadata), temporary, compression="zstd", write_page_checksum=True)


def read_created(path: Path) -> Created:
    """Read what :func:`write_created` wrote; UserError for a file that is missing, of a newer format, or not as it was left."""
    if not path.is_file():
        raise UserError(f"{path} does not exist, and the examples that were made are kept there")
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        about = json.loads((table.schema.metadata or {})[b"about"])
        if about["format_version"] > FORMAT_VERSION:
            raise UserError(
                f"{path} is of format {about['format_version']}, and this ftft reads {FORMAT_VERSION}; upgrade ftft"
            )
        column = {name: table[name].combine_chunks() for name in table.column_names}
        examples = Examples(
            ids=column["id"],
            inputs={name.removeprefix(INPUT): values for name, values in column.items() if name.startswith(INPUT)},
            labels=np.asarray(column["label"].to_numpy(), dtype=np.int64),
            label_names=tuple(about["label_names"]),
            fingerprint=about["fingerprint"],
            groups=column.get("group"),
            clusters=column.get("cluster"),
        )
        created = Created(examples, column["parent"], column["source"], about["rule"], about["counts"])
        found = fingerprint_examples(examples.ids, examples.inputs, examples.labels, examples.label_names)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} holds no examples that were made: {error}") from None
    if found != examples.fingerprint:
        raise UserError(f"{path} is not as it was left; run the recipe again with another store, or remove the file's folder")
    return created
