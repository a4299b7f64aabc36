"""Records of every version of the format are read for ever, and say what they said: see golden/records/README.md."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import zstandard

from dali_dr.errors import RecordError
from dali_dr.record.decode import decode

MEMBERS = sorted((Path(__file__).parent / "golden" / "records").glob("v*/*.dr.zst"))


@pytest.mark.parametrize("member", MEMBERS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_golden_record_says_what_it_said(member: Path) -> None:
    expected = zstandard.ZstdDecompressor().decompress(
        member.with_name(member.name.replace(".dr.zst", ".views.zst")).read_bytes()
    )
    views, words, topk = struct.unpack_from("<3I", expected)
    table = np.frombuffer(expected, "<i4", offset=12).reshape(views, words + 2 * topk)
    stored = decode(member.read_bytes()).reinforcements
    assert np.array_equal(stored.pack(), table[:, :words])
    assert np.array_equal(stored.soft_ids, table[:, words : words + topk])
    assert stored.soft_probs.tobytes() == table[:, words + topk :].tobytes()


@pytest.mark.parametrize("name", ["root8", "groups", "double-mix", "own-mixes", "root8-groups"])
def test_a_changed_member_is_an_error_or_says_the_same(name: str) -> None:
    """Each bit of the small members, and 1,000 of a large one; and changes of several bytes."""
    member = (MEMBERS[0].parent.parent / "v2" / f"{name}.dr.zst").read_bytes()
    good = decode(member).reinforcements
    rng = np.random.default_rng(0)
    changes = [[(at // 8, 1 << at % 8)] for at in range(8 * len(member))]
    if name == "root8-groups":
        changes = [changes[at] for at in rng.choice(len(changes), 1000, replace=False)]
    for _ in range(500):
        places = rng.choice(len(member), rng.integers(2, 9), replace=False)
        changes.append([(int(at), int(rng.integers(1, 256))) for at in places])
    silent = []
    for change in changes:
        bad = bytearray(member)
        for at, bits in change:
            bad[at] ^= bits
        try:
            if decode(bytes(bad)).reinforcements != good:
                silent.append(change)
        except RecordError:
            pass
    assert not silent


def test_a_record_of_version_2_needs_its_checksums() -> None:
    """A frame without one is refused though its content is right; of version 1 it is read (all of them are)."""
    member = (MEMBERS[0].parent.parent / "v2" / "root8.dr.zst").read_bytes()
    content = zstandard.ZstdDecompressor().decompress(member)
    for written, refused in ((False, True), (True, False)):
        again = zstandard.ZstdCompressor(write_checksum=written).compress(content)
        if refused:
            with pytest.raises(RecordError, match="checksum of zstd frame"):
                decode(again)
        else:
            decode(again)


def test_classes_beyond_the_teacher_are_refused() -> None:
    member = (MEMBERS[0].parent.parent / "v2" / "root8.dr.zst").read_bytes()
    largest = int(decode(member).reinforcements.soft_ids.max())
    decode(member, num_outputs=largest + 1)
    with pytest.raises(RecordError, match=f"class id.*below {largest}"):
        decode(member, num_outputs=largest)


def test_every_version_has_its_records() -> None:
    names = {version: {path.name for path in MEMBERS if path.parent.name == version} for version in ("v1", "v2")}
    assert all(len(of) >= 24 for of in names.values())
