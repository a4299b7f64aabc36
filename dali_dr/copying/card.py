"""The data card of a set that is published: README.md as the Hugging Face Hub shows it, and a contact sheet.

A card is made of what dataset.json and the report say, so equal sets get equal cards. Its last line has a digest of the rest,
by which a card that nobody changed is known, and replaced; all other files named README.md are somebody's.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from dali_dr.augment.spec import AugmentationSpec, FixedResizeCrop, Mixing
from dali_dr.copying.original import Original
from dali_dr.errors import shown
from dali_dr.shards.dataset import Dataset
from dali_dr.shards.manifest import Manifest

CARD_NAME: Final = "README.md"
SHEET_NAME: Final = "contact_sheet.png"
_SEAL: Final = re.compile(rb"\n<!-- dali_dr data card ([0-9a-f]{64}) -->\n\Z")
_ROWS: Final = 4  # of the contact sheet
_COLUMNS: Final = 6
_NAMES: Final = 20  # classes that are named
_MARKS: Final = re.compile(r"([\\`*_{}\[\]()<>#|~$&!+-])")  # that Markdown and HTML act on
# As the Hub names them: the number of samples.
_SIZES: Final = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"),
                 (10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"))  # fmt: skip


def is_ours(text: bytes) -> bool:
    """Whether ``text`` is a card that was made here and not changed since."""
    match = _SEAL.search(text)
    return match is not None and hashlib.sha256(text[: match.start()]).hexdigest().encode() == match[1]


def card(original: Original, url: str, *, name: str, license: str | None = None, picture: bool = False) -> bytes:
    """The card of a data set.

    Args:
      original: the data set.
      url: where it will be.
      name: what it is called.
      license: of the images and labels, as the Hub names it; None says nothing of it.
      picture: there will be a contact sheet beside it.
    """
    text = "\n\n".join(_parts(original, url, name, license, picture)).encode()
    return text + b"\n<!-- dali_dr data card %s -->\n" % hashlib.sha256(text).hexdigest().encode()


def sheet(dataset: Dataset) -> bytes:
    """A PNG of some images, spread over a few shards: with stored views, as training shows them, or as they are."""
    numbers = _samples(dataset.manifest, _ROWS if dataset.num_views else _ROWS * _COLUMNS)
    out = io.BytesIO()
    if dataset.num_views:
        from dali_dr.preview import contact_sheet

        contact_sheet(dataset, numbers, min(_COLUMNS - 1, dataset.num_views)).save(out, "PNG")
    else:
        _images(dataset, numbers).save(out, "PNG")
    return out.getvalue()


def _samples(m: Manifest, count: int) -> list[int]:
    """The numbers of ``count`` samples or fewer, spread evenly over as many shards as there are rows: of a data set in a
    store, all of these are fetched."""
    import numpy as np

    starts = np.cumsum([0, *(shard.samples for shard in m.shards)])
    shards = np.unique(np.linspace(0, len(m.shards) - 1, _ROWS).round().astype(int))
    found: list[int] = []
    for place, shard in enumerate(shards.tolist()):
        wanted = (place + 1) * count // len(shards) - place * count // len(shards)
        first, samples = int(starts[shard]), m.shards[shard].samples
        found += (first + np.unique(np.linspace(0, samples - 1, min(wanted, samples)).round().astype(int))).tolist()
    return found


def _images(dataset: Dataset, numbers: Sequence[int]) -> Any:
    """The images themselves, in rows."""
    from PIL import Image, ImageOps

    from dali_dr.preview import TILE

    rows = -(-len(numbers) // _COLUMNS)
    picture = Image.new("RGB", (TILE * min(_COLUMNS, len(numbers)), TILE * rows), "white")
    for place, number in enumerate(numbers):
        image = Image.open(io.BytesIO(dataset.image(number))).convert("RGB")
        where = place % _COLUMNS * TILE, place // _COLUMNS * TILE
        picture.paste(ImageOps.pad(image, (TILE, TILE), color="white"), where)
    return picture


def _parts(original: Original, url: str, name: str, license: str | None, picture: bool) -> Iterator[str]:
    m, summary = original.manifest, original.summary
    yield "---\n" + "\n".join(_front(m, name, license)) + "\n---"
    yield f"# {_plain(name)}"
    yield _what(m)
    if picture:
        seen = "views of them as training shows them, most certain first" if m.views_max else "as they are stored"
        yield f"![Images of the data set, {seen}](./{SHEET_NAME})"
    yield "## Loading"
    yield (
        "```python\nimport dali_dr\n\n"
        f'data = dali_dr.Dataset({json.dumps(url)}, cache="cache")  # shards come as they are asked for\n'
        f"for batch in dali_dr.ReinforcedIterator(data, batch_size=256{_augment(m)}):\n    ...\n```"
    )
    yield f"Or all of it, checked, into a folder: `dali-dr copy {url} FOLDER`."
    yield "## What is in it"
    yield _table(_counts(original))
    if m.class_names:
        more = f", … ({len(m.class_names) - _NAMES} more)" if len(m.class_names) > _NAMES else ""
        yield "Classes: " + ", ".join(map(_plain, m.class_names[:_NAMES])) + more + "."
    if m.spec is not None:
        yield "## Views"
        yield _views(m.spec)
        yield "```json\n" + json.dumps(m.spec.to_json(), indent=1, sort_keys=True) + "\n```"
    if m.teacher is not None:
        yield "## Teacher"
        yield _table(_teacher(m, summary))
    yield "## Provenance"
    yield _table(_provenance(m))
    yield (
        f"Format version {m.format_version}: plain tars with `KEY.jpg` (or .png, .webp), `KEY.cls` and, where there is one, "
        "`KEY.dr.zst`; `dataset.json` has the SHA-256 of every tar, and `index.bin` where each sample lies. Nothing in it "
        "is executable, and nothing is loaded that is."
    )


def _front(m: Manifest, name: str, license: str | None) -> Iterator[str]:
    """The lines of the card's metadata; JSON's strings are YAML's."""
    if license is not None:
        yield f"license: {_quoted(license)}"
    yield f"pretty_name: {_quoted(name)}"
    yield "task_categories:\n- image-classification"
    size = next((label for limit, label in _SIZES if m.images < limit), "n>1T" if m.images > 10**12 else "1B<n<10B")
    yield f"size_categories:\n- {_quoted(size)}"
    tags = ["dali_dr", *(["webdataset"] if not m.image_tars else [])]
    if m.views_max or m.label_maps is not None:
        tags += ["knowledge-distillation", "dataset-reinforcement" if m.views_max else "label-maps"]
    yield "tags:\n" + "\n".join(f"- {tag}" for tag in tags)


def _what(m: Manifest) -> str:
    of = f"{m.images:,} images of {m.image_classes:,} classes"
    who = ", ".join(map(_plain, (m.teacher or {}).get("names", ()))) or "a teacher"
    if m.views_max:
        return (
            f"A *reinforced* data set: {of}, each with {_range(m)} stored augmentations and, of every one, the "
            f"{m.topk} likeliest classes by {who}. Training replays a stored augmentation and takes the stored prediction "
            "as its target: knowledge distillation at the cost of plain training "
            "([arXiv 2303.08983](https://arxiv.org/abs/2303.08983))."
        )
    if m.label_maps is not None:
        maps = m.label_maps
        return (
            f"A data set of {of} with label maps: of every image, scores of {maps.depth} classes in {maps.height} × "
            f"{maps.width} cells by {who}. Training draws a crop and takes its target from where the crop lies on the map "
            "([arXiv 2101.05022](https://arxiv.org/abs/2101.05022))."
        )
    return f"A data set of {of} in shards for training, without reinforcements."


def _augment(m: Manifest) -> str:
    return "" if m.views_max or m.label_maps is not None else ', augment="rrc"'


def _counts(original: Original) -> dict[str, str]:
    m = original.manifest
    rows = {"images": f"{m.images:,}", "classes": f"{m.image_classes:,}"}
    if m.views_max:
        each = m.record_bytes / max(1, m.images * m.views_min)
        rows |= {"views of each image": _range(m), "edge of a view": f"{m.spec.size if m.spec else 0} pixels"}
        rows |= {"classes of each view": str(m.topk), "bytes a view": f"{each:.1f}"}
    if m.label_maps is not None:
        rows["classes of a label map, at most"] = str(m.topk)
    if m.probabilities is not None:
        rows["probabilities"] = m.probabilities
    rows["shards"] = f"{len(m.shards):,} of {_size(sum(shard.bytes for shard in m.shards))} together"
    if m.image_tars:
        total = sum(image_tar.bytes for image_tar in m.image_tars)
        rows["tars of images"] = f"{len(m.image_tars):,} of {_size(total)} together"
    if m.tiles is not None:
        rows["tiled JPEGs (same pixels, regions can be decoded alone)"] = str(m.tiles)
    if original.refused:
        rows["images that were left out (`report/skipped.jsonl`)"] = f"{original.refused:,}"
    return rows


def _views(spec: AugmentationSpec) -> str:
    """What a view is drawn from, in words."""
    words = [_crop(spec), f"mirrored with probability {spec.flip:g}"]
    if (jitter := spec.colour_jitter) is not None:
        parts = ", ".join(
            f"{name} {getattr(jitter, name):g}" for name in ("brightness", "contrast", "saturation", "hue")
        )
        words.append(f"with probability {jitter.probability:g}, colour jitter ({parts})")
    if spec.greyscale > 0:
        words.append(f"made grey with probability {spec.greyscale:g}")
    if (blur := spec.blur) is not None:
        words.append(
            f"with probability {blur.probability:g}, blurred by a radius of {blur.radius[0]:g} to {blur.radius[1]:g} pixels"
        )
    if spec.auto_augment is not None:
        words.append(f"AutoAugment: a pair of operations of the {spec.auto_augment.policy} policy")
    if spec.trivial_augment is not None:
        words.append(f"TrivialAugmentWide: an operation at any of {spec.trivial_augment.num_bins} magnitudes")
    if (ra := spec.rand_augment) is not None:
        words.append(
            f"RandAugment: {ra.num_ops} operations at magnitude {ra.magnitude} of {ra.num_bins}"
            + (f" with a deviation of {ra.magnitude_std:g}" if ra.magnitude_std else "")
            + (f", each with probability {ra.probability:g}" if ra.probability < 1 else "")
        )
    if (erase := spec.random_erasing) is not None:
        words.append(
            f"with probability {erase.probability:g}, a box of {erase.scale[0]:g} to {erase.scale[1]:g} of it erased"
        )
    if spec.mixing is not None:
        words.append(_mixing(spec.mixing))
    return f"Each view: {'; '.join(words)}."


def _crop(spec: AugmentationSpec) -> str:
    crop, shown_at = spec.crop, f"{spec.size} × {spec.size} pixels"
    if isinstance(crop, FixedResizeCrop):
        place = "a random part" if crop.random else "the centre"
        return f"{place} of {shown_at} of the image resized to {crop.resize} pixels on its shorter side ({spec.interpolation})"
    return (
        f"a random crop of {crop.scale[0]:g} to {crop.scale[1]:g} of the image's area with sides of {crop.ratio[0]:.3g} to "
        f"{crop.ratio[1]:.3g}, resized to {shown_at} ({spec.interpolation})"
    )


def _mixing(mixing: Mixing) -> str:
    whom = {"any": "another image", "self": "another view of the image"}
    partner = whom.get(str(mixing.partners), f"one of {mixing.partners} images")
    return (
        f"mixed with {partner}: MixUp (α = {mixing.mixup_alpha:g}) with probability {mixing.mixup_probability:g}, then "
        f"CutMix (α = {mixing.cutmix_alpha:g}) with probability {mixing.cutmix_probability:g}"
    )


def _teacher(m: Manifest, summary: Mapping[str, Any]) -> dict[str, str]:
    teacher = m.teacher or {}
    rows = {"names": ", ".join(map(_plain, teacher.get("names", ())))}
    for name, title in (("weights_digest", "digest of the weights"), ("input_size", "edge of its input, in pixels")):
        if teacher.get(name) is not None:
            rows[title] = _plain(str(teacher[name]))
    if isinstance(normal := teacher.get("normalisation"), dict):
        rows["normalisation"] = _plain("; ".join(f"{key} {normal[key]}" for key in ("mean", "std") if key in normal))
    rows["decoder of the JPEGs that it saw"] = m.decoder or "not known"
    for name, title in (("mean_confidence", "mean confidence"), ("teacher_hours", "hours of the teacher")):
        if isinstance(summary.get(name), (int, float)):
            rows[title] = f"{summary[name]:g}"
    return rows


def _provenance(m: Manifest) -> dict[str, str]:
    rows = {"seed of the views": str(m.seed)} if m.seed is not None else {}
    steps = m.extra.get("made_by")
    if isinstance(steps, list):
        rows["made by"] = _plain("; ".join(json.dumps(step, sort_keys=True) for step in steps)[:500])
    rows |= {f"version of {_plain(name)}": _plain(version) for name, version in sorted(m.versions.items())}
    return rows | {"checksum of dataset.json": f"`{m.to_json().get('checksum', 'none in this version')}`"}


def _table(rows: Mapping[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _range(m: Manifest) -> str:
    return f"{m.views_min}" if m.views_min == m.views_max else f"{m.views_min} to {m.views_max}"


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


def _plain(text: str) -> str:
    """``text`` as Markdown that shows it and does nothing."""
    return _MARKS.sub(r"\\\1", shown(text))


def _quoted(text: str) -> str:
    return json.dumps(shown(text), ensure_ascii=False)
