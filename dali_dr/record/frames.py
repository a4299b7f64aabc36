"""The zstd frames of a member: writing them in chosen blocks, telling one from the next, reading them."""

from __future__ import annotations

from typing import Final

import zstandard

from dali_dr.errors import RecordError
from dali_dr.record.checks import DAMAGED, refuse
from dali_dr.record.layout import MAX_RECORD_BYTES

_CHECKSUMS_SINCE: Final = 2  # version of the record

_MIN_BLOCK: Final = 256  # bytes; below, a zstd block's own Huffman table costs more than it saves

# Of RFC 8878, section 3.1.1.
_FRAME_HEADER_BYTES: Final = 18  # at most
_RUN_BLOCK: Final = 1  # the block type that is one byte repeated
_DESCRIPTOR_AT: Final = 4  # byte of a frame
_CHECKSUM_FLAG: Final = 4  # bit of the descriptor
_UNKNOWN_SIZE: Final = 2**63  # python-zstandard reports a content size of 2**64 - 1 where the frame has none


def compress(blocks: list[bytes], *, literal: bool = False) -> bytes:
    """``blocks``, one after another, as one zstd frame; each that is not too small becomes a zstd block.

    A zstd block has its own Huffman table. These columns hold hardly any repeated strings, so what serves is Huffman
    coding with as few matches as can be had (least tables, longest shortest match) and a block for each group of like
    columns. Each table costs a reader time, and so does what it decodes beside the row that it wants. Hence four groups
    of rows at N = 400, each of a block that does not compress (crops) and two that do, and the tables left as they
    are (``literal``). `bench/record_size.py --images 10 --groups 1 2 3 4 5 6` on two cores of an AMD EPYC
    (EfficientNet-Lite0 teacher, K = 10; us to decompress what one view needs, with libzstd 1.5.7):

        groups                 1      2      3      4      5      6
        bytes per view      17.3   17.5   17.7   17.9   18.2   18.4
        us                  18.0   10.6    9.6    8.6    8.1    7.1

    "lazy" rather than "fast": that reuses tables which do not fit well.
    """
    parameters = zstandard.ZstdCompressionParameters(
        strategy=zstandard.STRATEGY_FAST if literal else zstandard.STRATEGY_LAZY,
        target_length=int(literal),  # with "fast" and above 0, there is no Huffman coding
        min_match=7, hash_log=6, chain_log=6, search_log=1,
        window_log=17, write_content_size=1, write_checksum=1, write_dict_id=0,
    )  # fmt: skip
    size = sum(map(len, blocks))
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj(size=size)
    out, pending = [], 0
    for block in blocks:
        out.append(compressor.compress(block))
        pending += len(block)
        if pending >= _MIN_BLOCK:
            out.append(compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
            pending = 0
    return b"".join([*out, compressor.flush()])


def split(member: bytes) -> list[bytes]:
    """The zstd frames of a member, whole and with sizes of content that are allowed; RFC 8878 says what is read."""
    frames: list[bytes] = []
    start = content = 0
    while start < len(member) or not frames:
        try:
            facts = zstandard.get_frame_parameters(member[start : start + _FRAME_HEADER_BYTES])
            at = start + zstandard.frame_header_size(member[start : start + _FRAME_HEADER_BYTES])
        except zstandard.ZstdError as error:
            raise RecordError(f"reinforcement record: not a zstd frame at byte {start} ({error}); {DAMAGED}") from error
        content += facts.content_size
        if member[start : start + 4] != zstandard.FRAME_HEADER or content > MAX_RECORD_BYTES:  # skippable, or too much
            found = content if content < _UNKNOWN_SIZE else "absent"
            refuse("zstd content size", found, f"want it given and at most {MAX_RECORD_BYTES}: {DAMAGED}")
        last = False
        while not last:
            block = int.from_bytes(member[at : at + 3], "little")
            last = bool(block & 1) or at >= len(member)
            at += 3 + (1 if block >> 1 & 3 == _RUN_BLOCK else block >> 3)
        at += 4 * bool(facts.has_checksum)
        if at > len(member):
            refuse("end of a zstd frame", f"byte {at}", f"but its member has {len(member)} bytes: {DAMAGED}")
        frames.append(member[start:at])
        start = at
    return frames


def check_checksums(frames: list[bytes], version: int) -> None:
    """RecordError unless each of ``frames`` has the checksum that records of this version have."""
    without = [number for number, frame in enumerate(frames) if not frame[_DESCRIPTOR_AT] & _CHECKSUM_FLAG]
    if version >= _CHECKSUMS_SINCE and without:
        refuse("checksum of zstd frame", f"{without[0]} not there", f"want one in version {version}: {DAMAGED}")


def decompress(frame: bytes) -> bytes:
    """The content of one of the frames that ``split`` gives; RecordError where they are damaged."""
    try:
        return zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise RecordError(f"reinforcement record: zstd: {error}; {DAMAGED}") from error
