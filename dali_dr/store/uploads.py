"""Puts of whole objects, create-only ones among them."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dali_dr.store.answers import Kind, understood
from dali_dr.store.patience import Patience, silence_s
from dali_dr.store.url import StoreError

if TYPE_CHECKING:
    from dali_dr.store.objects import Objects

# What S3 takes in one put (Azure: 5,000 MiB). More would need parts, and parts that a dead writer left cost for ever.
_LARGEST: Final = 5 << 30
# obstore says nothing while it sends, so that a put which hangs is known by its time alone: twice the silence of a read, and
# what its bytes take at 1 MB/s, rounded up to one of few limits, since each has a client; doubled after each try, of which
# three are due, so that a slow link gets there.
_PUT_BYTES_PER_S: Final = 1e6
_TRIES: Final = 3
_COMPARED: Final = 8 << 20


def put(store: Objects, name: str, data: bytes | Path, *, create: bool) -> bool:
    """As `Objects.put`."""
    import obstore

    key, where = store.key(name), store.shown(name)
    body = _body(data)
    size = len(body)
    if size > _LARGEST:
        raise StoreError(f"{where}: {size:,} bytes are more than one put takes (5 GiB): make smaller shards")
    limit = 2 * silence_s()
    while limit < silence_s() + size / _PUT_BYTES_PER_S:
        limit *= 2
    patience = Patience(_TRIES)
    while True:
        try:
            obstore.put(store.client(limit), key, body, mode="create" if create else "overwrite", use_multipart=False)
        except StoreError:
            raise
        except Exception as error:
            answer = understood(error)
            if create and answer.kind is Kind.EXISTS:
                store.count(requests=1)
                return patience.tries > 0 and _same(store, name, body)
            if answer.kind is Kind.MISSING:  # of what is written: the bucket
                answer = type(answer)(Kind.NO_BUCKET, Kind.NO_BUCKET.value)
            store.again(answer, patience, "an answer to a put", where)
            limit *= 2
        else:
            store.count(requests=1, written=size)
            return True


def _body(data: bytes | Path) -> bytes | mmap.mmap:
    """The bytes of ``data``: a file's as a map, which takes no memory of its own."""
    if not isinstance(data, Path):
        return data
    with data.open("rb") as file:
        if file.seek(0, 2) == 0:
            return b""
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _same(store: Objects, name: str, body: bytes | mmap.mmap) -> bool:
    """Whether the object ``name`` has these bytes; one that is gone again has not."""
    entry = store.head(name)
    if entry is None or entry.bytes != len(body):
        return False
    for begin in range(0, len(body), _COMPARED):
        size = min(_COMPARED, len(body) - begin)
        if store.read(name, begin, size) != body[begin : begin + size]:
            return False
    return True
