"""Views of tiled files are those of the original ones, by our decoder and by DALI's, and Pillow's, in every byte."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from conftest import picture
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))
import tiles_equal

SIDES = [(210, 333), (150, 131), (97, 260), (64, 64)]  # pixels; the last three have few tiles, or one
SIZE = 48


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Data sets of pictures in every sampling, in tiles and as they were; and the sampling of each image."""
    folder = tmp_path_factory.mktemp("tiles")
    photos = []
    for number, (height, width) in enumerate(SIDES):
        Image.fromarray(picture(height, width, number)).save(buffer := io.BytesIO(), "JPEG", quality=90)
        photos.append((str(number), buffer.getvalue(), 0))
    images, samplings = tiles_equal.encodings(photos)
    tiles_equal.write_sets(images, folder, SIZE)
    return folder, samplings


def test_every_sampling_is_tiled(made: tuple[Path, list[str]]) -> None:
    """Without that the test below would say nothing."""
    tiled = tiles_equal.tiled_of(*made)
    assert len(tiled) >= 6 and all(count >= 1 for count in tiled.values()), tiled


def test_views_are_equal(made: tuple[Path, list[str]]) -> None:
    found = tiles_equal.compare(*made, SIZE)
    assert sum(counts["views"] for counts in found.values()) == len(made[1]) * 9  # five modes of one view, one of four
    for sampling, counts in found.items():
        assert {name: n for name, n in counts.items() if name != "views" and n} == {}, sampling


def test_a_difference_is_counted(made: tuple[Path, list[str]]) -> None:
    image = tiles_equal.image_of(made[0] / f"{tiles_equal.ORIGINAL}rrc", 0)
    first = tiles_equal.np.asarray(image)
    second = first.copy()
    second[0, 0] ^= 1
    assert tiles_equal.differing(first, second) == 3 and tiles_equal.differing(first, first[1:]) == first.nbytes
