"""Check Arrow and Parquet files, and copy those that cannot be mapped: a process of its own runs this file.

A damaged file may crash its reader, or keep it busy for ever; here it takes down nothing else. Standard input
holds the request as JSON, standard output one line of JSON per file, in their order: `{"copied": bool}`,
`{"refused": why}` for columns that are no rows, `{"unwritten": errno}` for a copy, or `{"damaged": why}`.
"""

from __future__ import annotations

import errno
import json
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_BATCH_ROWS = 1024
_BYTES = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view()}
FILE_MAGIC = b"ARROW1"  # of the file form; the stream form has none
_UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no reading gives these


class Refused(ValueError):
    """Why a sound file is not read."""


def main() -> None:
    """Answer the request: columns that make rows and others that may be read; files with copies to write."""
    request = json.load(sys.stdin)
    for path, copy, is_parquet in request["files"]:
        try:
            columns = partial(columns_of_rows, known=request["columns"], beside=request["beside"])
            answer: dict[str, object] = {"copied": _check(path, copy, is_parquet, columns)}
        except Refused as error:
            answer = {"refused": str(error)}
        except Exception as error:  # whatever the library raises
            answer = {"damaged": " ".join(str(error).split()) or type(error).__name__}
            if (code := getattr(error, "errno", None)) in _UNWRITTEN:
                answer = {"unwritten": code}
        print(json.dumps(answer), flush=True)


def _check(path: str, copy: str, is_parquet: bool, columns_of: Callable[[Sequence[str]], list[str]]) -> bool:
    """Read a file to its end; write a copy if it is Parquet, or has types of which rows cannot be taken."""
    if is_parquet:
        leaves = pq.read_metadata(path).schema
        encoded = {field.name for field in leaves.to_arrow_schema() if "dictionary<" in str(field.type)}
        # Named, or else the reader refuses a dictionary with text that is no UTF-8.
        paths = [leaves.column(at).path for at in range(len(leaves))]
        named = [leaf for leaf in paths if leaf.split(".")[0] in encoded]
        with pq.ParquetFile(path, page_checksum_verification=True, read_dictionary=named) as parquet:
            columns = columns_of(parquet.schema_arrow.names)
            schema = parquet.schema_arrow
            return _copied(parquet.iter_batches(_BATCH_ROWS, columns=columns), schema, columns, copy, True)
    schema, batches = _batches(path)
    return _copied(batches, schema, columns_of(schema.names), copy, False)


def columns_of_rows(columns: Sequence[str], known: Sequence[str], beside: Sequence[str]) -> list[str]:
    """The known among the columns, of which there must be one, and those that count beside them."""
    found = [key for key in (*known, *beside) if key in columns]
    if not set(known) & set(columns):
        raise Refused(f"has columns {columns}. Expected one or more of {', '.join(known)}.")
    for key in found:
        if columns.count(key) > 1:
            raise Refused(f"has {columns.count(key)} columns {key!r}. Rename or drop all but one.")
    return found


def _batches(path: str) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    source = pa.memory_map(path)
    is_file = source.read(len(FILE_MAGIC)) == FILE_MAGIC
    source.seek(0)
    if not is_file:
        stream = pa.ipc.open_stream(source)
        return stream.schema, iter(stream)
    file = pa.ipc.open_file(source)
    return file.schema, (file.get_batch(at) for at in range(file.num_record_batches))


def _copied(
    batches: Iterator[pa.RecordBatch], schema: pa.Schema, columns: list[str], copy: str, must_copy: bool
) -> bool:
    plain = pa.schema([schema.field(name).with_type(_plain(schema.field(name).type)) for name in columns])
    if not (must_copy or any(plain.field(name).type != schema.field(name).type for name in columns)):
        for batch in batches:
            for name in columns:
                _checked(batch[name], batch[name].type)
        return False
    with pa.OSFile(copy, "wb") as sink, pa.ipc.new_file(sink, plain) as writer:
        for batch in batches:
            for part in (batch.slice(at, _BATCH_ROWS) for at in range(0, batch.num_rows, _BATCH_ROWS)):
                arrays = [_checked(part[name], plain.field(name).type) for name in columns]
                writer.write_batch(pa.record_batch(arrays, schema=plain))
    return True


def _checked(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Check every offset and number of an array, and give it the type."""
    # As bytes and numbers: text that is no UTF-8, or a time outside Python's, rejects its row, not the file.
    raw = array.view(_mapped(array.type, _raw, encoded=True))
    raw.validate(full=True)
    if array.type == kind:
        return array
    # Casts are missing for some types, and wrong for views of lists.
    return pa.array(raw.to_pylist(), _mapped(kind, _raw)).view(kind)


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type of the same values, of which pyarrow takes rows by number."""
    return _mapped(kind, {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}.get)


def _raw(kind: pa.DataType) -> pa.DataType | None:
    if types.is_temporal(kind) and not types.is_interval(kind):
        return pa.int64() if kind.bit_width == 64 else pa.int32()
    return _BYTES.get(kind)


def _mapped(
    kind: pa.DataType, leaf: Callable[[pa.DataType], pa.DataType | None], encoded: bool = False
) -> pa.DataType:
    """Replace the types of leaves; extensions become what they store.

    Dictionaries, run ends, views of lists and lists of one length stay if `encoded`, else become plain.
    """

    def inner(field: pa.Field) -> pa.Field:
        return field.with_type(_mapped(field.type, leaf, encoded))

    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        values = _mapped(kind.value_type, leaf, encoded)
        if not encoded:
            return values
        if types.is_dictionary(kind):
            return pa.dictionary(kind.index_type, values, kind.ordered)
        return pa.run_end_encoded(kind.run_end_type, values)
    if isinstance(kind, pa.BaseExtensionType):
        return _mapped(kind.storage_type, leaf, encoded)
    if types.is_struct(kind):
        fields: list[Any] = [kind.field(at) for at in range(kind.num_fields)]
        names = [field.name for field in fields]
        if len(set(names)) < len(names):
            raise Refused(f"has fields of one name in {kind}. Rename or drop all but one.")
        return pa.struct(list(map(inner, fields)))
    if types.is_map(kind):
        return pa.map_(inner(kind.key_field), inner(kind.item_field))
    if encoded and types.is_list_view(kind):
        return pa.list_view(inner(kind.value_field))
    if encoded and types.is_large_list_view(kind):
        return pa.large_list_view(inner(kind.value_field))
    if encoded and types.is_fixed_size_list(kind):
        return pa.list_(inner(kind.value_field), kind.list_size)
    if types.is_large_list(kind) or types.is_large_list_view(kind):
        return pa.large_list(inner(kind.value_field))
    if types.is_list(kind) or types.is_list_view(kind) or types.is_fixed_size_list(kind):
        return pa.list_(inner(kind.value_field))
    return leaf(kind) or kind


if __name__ == "__main__":
    main()
