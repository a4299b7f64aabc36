"""A record that is copied from one data set to another: what is looked at, so that no damage is copied with it."""

from __future__ import annotations

from dali_dr.record.checks import refuse
from dali_dr.record.frames import check_checksums, decompress, split
from dali_dr.record.layout import ENCODINGS, MIXING, Header, Probabilities


def check_copied(
    member: bytes, image: tuple[int, int], view: tuple[int, int], probabilities: Probabilities, mixing: bool
) -> tuple[int, int]:
    """Views and teacher classes per view of the record in a member's zstd frames.

    Every frame is read against its checksum, which damage does not pass; the columns, which the writer of the record has
    checked, are not unpacked.

    Args:
      member: the bytes of KEY.dr.zst.
      image: (height, width) of the image.
      view: (height, width) of the views.
      probabilities: how they are encoded.
      mixing: whether the views are mixed.

    Raises:
      RecordError: it is damaged, or of another image or other settings.
    """
    frames = split(member)
    parts = [decompress(frame) for frame in frames]
    header = Header.read(parts[0])
    header.check(sum(map(len, parts)))
    check_checksums(frames, header.version)
    for name, found, wanted in (
        ("size of the image", (header.image_height, header.image_width), image),
        ("size of views", header.view_size, view),
        ("encoding", ENCODINGS[header.probability_encoding], probabilities),
        ("mixing", bool(header.flags & MIXING), mixing),
    ):
        if found != wanted:
            refuse(name, found, f"want {wanted}, as the data set and the image have it")
    return header.views, header.topk
