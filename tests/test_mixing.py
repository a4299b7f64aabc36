"""Mixing end to end: drawn as torch and torchvision draw, replayed as Pillow and the formula say, stored and trained on."""

from __future__ import annotations

import dataclasses
import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import encode_jpeg, picture, write_files
from PIL import Image
from scipy import stats
from test_reinforce import tiny_teacher

import dali_dr
from dali_dr._torchvision import load_torchvision
from dali_dr.augment.draw import draw
from dali_dr.augment.reference import normalise, replay_pillow, replay_pillow_mixed
from dali_dr.augment.spec import AugmentationSpec, Mixing
from dali_dr.augment.views import NO_PARTNER, SELF_PARTNER, Mix, Views
from dali_dr.errors import SpecError
from dali_dr.loader.options import IMAGENET_MEAN, IMAGENET_STD
from dali_dr.preview import replay_views
from dali_dr.record.labels import Reinforcements
from dali_dr.reinforce.check import check_teacher
from dali_dr.reinforce.generate import Generation
from dali_dr.reinforce.run import reinforce
from dali_dr.shards.reshape import merge, subset
from dali_dr.shards.verify import verify
from dali_dr.sources import ImageFolder

load_torchvision()
DRAWS, POPULATION, SIZE = 20_000, 1000, 64
LEAST_P = 1e-3


def size_of(number: int) -> tuple[int, int]:
    return 200 + number % 300, 300 + number % 200


def drawn(
    mixing: Mixing, views: Any = range(DRAWS), preset: str = "rrc+mixing+ra+re", **change: Any
) -> tuple[Views, Mix]:
    spec = dataclasses.replace(AugmentationSpec.preset(preset), mixing=mixing)
    options: dict[str, Any] = {"seed": 1, "key": "n01440764_10026", "image_height": 375, "image_width": 500}
    options |= {"population": POPULATION, "partner_size": size_of} | change
    out = draw(spec, views=views, **options)
    assert out.mix is not None
    out.validate(options["image_height"], options["image_width"], spec.size)
    return out, out.mix


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.5])
def test_lam_is_beta(alpha: float) -> None:
    torch.manual_seed(0)
    theirs = torch.distributions.Beta(alpha, alpha).sample((DRAWS,)).numpy() / 2
    _, mix = drawn(Mixing(mixup_alpha=alpha))
    ours = mix.lam[mix.lam < 1]
    assert stats.binomtest(len(ours), DRAWS, 0.5).pvalue > LEAST_P
    assert stats.ks_2samp(ours, np.floor(theirs * 65536) / 65536).pvalue > LEAST_P
    if alpha >= 1:  # below, much of the mass lies in the first step of the grid
        assert stats.kstest(2 * ours, stats.beta(alpha, alpha).cdf).pvalue > LEAST_P
    assert np.array_equal(ours * 65536, np.floor(ours * 65536)) and ours.min() >= 0 and ours.max() <= 0.5


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_cutmix_boxes_are_torchvisions(alpha: float) -> None:
    from torchvision.transforms import v2

    _, mix = drawn(Mixing(cutmix_alpha=alpha))
    ours = mix.cut[mix.cut.any(axis=1)]
    transform = v2.CutMix(alpha=alpha, num_classes=10)
    torch.manual_seed(0)
    boxes = []
    image = torch.zeros(2, 3, 224, 224)
    for _ in range(4000):
        x1, y1, x2, y2 = transform.make_params([image])["box"]
        boxes.append((y1, x1, y2 - y1, x2 - x1))
    theirs = np.array(boxes)
    theirs = theirs[(theirs[:, 2] > 0) & (theirs[:, 3] > 0)]
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > LEAST_P
    assert stats.ks_2samp(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]).pvalue > LEAST_P


def test_partners_and_their_views() -> None:
    views, mix = drawn(Mixing(pool=None))
    none = (mix.lam == 1) & ~mix.cut.any(axis=1)
    assert np.array_equal(mix.partner == NO_PARTNER, none)
    assert stats.binomtest(int(none.sum()), DRAWS, 0.25).pvalue < 1  # a few boxes are empty, so not quite a quarter
    assert abs(none.mean() - 0.25) < 0.02
    assert stats.chisquare(np.bincount(mix.partner[~none], minlength=POPULATION)).pvalue > LEAST_P
    # MixUp and CutMix are drawn independently of each other.
    table = [[int(((mix.lam < 1) == m)[mix.cut.any(axis=1) == c].sum()) for m in (False, True)] for c in (False, True)]
    assert stats.chi2_contingency(table).pvalue > LEAST_P
    crop, sizes = mix.views.crop[~none], np.array([size_of(n) for n in mix.partner[~none].tolist()])
    assert (crop[:, :2] + crop[:, 2:] <= sizes).all()
    _, alike = drawn(Mixing(pool=None), partner_size=lambda number: (375, 500))
    for column in range(4):
        assert stats.ks_2samp(alike.views.crop[~none, column], views.crop[:, column]).pvalue > LEAST_P
    assert abs(mix.views.flip[~none].mean() - 0.5) < 0.02
    assert abs(np.corrcoef(views.flip[~none], mix.views.flip[~none])[0, 1]) < 0.03


def test_pool_library_and_self() -> None:
    pools = []
    for key in ("a", "b"):
        _, mix = drawn(Mixing(pool=16), range(2000), key=key)
        numbers, counts = np.unique(mix.partner[mix.partner >= 0], return_counts=True)
        assert len(numbers) <= 16 and counts.min() > 20
        pools.append(set(numbers.tolist()))
    assert len(pools[0] & pools[1]) < 3
    _, mix = drawn(Mixing(partners=4, pool=None), range(2000))
    assert set(mix.partner.tolist()) == {NO_PARTNER, 125, 375, 625, 875}  # spread evenly over 0 .. 999
    _, mix = drawn(Mixing(partners=5000, pool=None), range(2000))
    assert len(np.unique(mix.partner)) > 500
    views, mix = drawn(Mixing(partners="self"), range(500), population=None, partner_size=None)
    assert set(mix.partner.tolist()) == {NO_PARTNER, SELF_PARTNER}
    assert not (mix.views.crop == views.crop).all(axis=1).any()


def test_rows_depend_on_their_number_alone() -> None:
    for mixing in (Mixing(), Mixing(double=True), Mixing(double=True, own_mixes=True)):
        whole, _ = drawn(mixing, range(50))
        rows = [49, 3, 17, 16, 3]
        assert drawn(mixing, rows)[0] == whole.take(rows)
        assert drawn(mixing, range(50), seed=2)[0] != whole
    plain = draw(
        AugmentationSpec.preset("rrc+ra+re"),
        seed=1,
        key="n01440764_10026",
        views=range(50),
        image_height=375,
        image_width=500,
    )
    assert (
        dataclasses.replace(drawn(Mixing(), range(50))[0], mix=None) == plain
    )  # a view's own part is as without mixing


def test_double_mix_draws_pairs() -> None:
    views, mix = drawn(Mixing(double=True), range(400))
    assert mix.double and (mix.partner >= 0).all() and mix.swapped.tolist() == [False, True] * 200
    first, second = views.take(slice(0, None, 2)), views.take(slice(1, None, 2))
    assert first.mix is not None and second.mix is not None
    plain = dataclasses.replace(second.mix, swapped=first.mix.swapped)
    assert dataclasses.replace(second, mix=plain) == first


def test_own_mixes_share_all_but_lam_and_box() -> None:
    shared, own = drawn(Mixing(double=True), range(DRAWS)), drawn(Mixing(double=True, own_mixes=True), range(DRAWS))
    first, second = own[0].take(slice(0, None, 2)), own[0].take(slice(1, None, 2))
    assert first == shared[0].take(slice(0, None, 2))  # the first of a pair is that of a double-mix
    assert first.mix is not None and second.mix is not None and own[1].own_mixes and not shared[1].own_mixes
    like_first = {name: getattr(first.mix, name) for name in ("lam", "cut", "swapped")}
    assert dataclasses.replace(second, mix=dataclasses.replace(second.mix, **like_first)) == first
    assert own[1].swapped.tolist() == [False, True] * (DRAWS // 2)
    # The second's are of the same distributions, and independent of the first's.
    for one, other in zip(_odds(first.mix), _odds(second.mix), strict=True):
        assert abs(one.mean() - other.mean()) < 0.02
        assert stats.chi2_contingency(np.histogram2d(one, other, 2)[0]).pvalue > LEAST_P
    weights = [mix.lam[(first.mix.lam < 1) & (second.mix.lam < 1)] for mix in (first.mix, second.mix)]
    assert stats.ks_2samp(*weights).pvalue > LEAST_P and abs(np.corrcoef(*weights)[0, 1]) < 0.05
    areas = [
        (mix.cut[:, 2] * mix.cut[:, 3])[_odds(first.mix)[1] & _odds(second.mix)[1]] for mix in (first.mix, second.mix)
    ]
    assert stats.ks_2samp(*areas).pvalue > LEAST_P and abs(np.corrcoef(*areas)[0, 1]) < 0.05


def _odds(mix: Mix) -> tuple[np.ndarray, np.ndarray]:
    """Where MixUp fired, and where CutMix did."""
    return mix.lam < 1, mix.cut.any(axis=1)


def test_own_mixes_as_json() -> None:
    spec = dataclasses.replace(AugmentationSpec.preset("rrc+mixing"), mixing=Mixing(double=True))
    assert "own_mixes" not in spec.to_json()["mixing"] and not spec.later()
    own = dataclasses.replace(spec, mixing=Mixing(double=True, own_mixes=True))
    assert own.to_json()["mixing"]["own_mixes"] is True and own.later() == ["mixing.own_mixes"]
    assert AugmentationSpec.from_json(own.to_json()) == own and AugmentationSpec.from_json(spec.to_json()) == spec
    for change in ({"own_mixes": True}, {"double": True, "own_mixes": 1}):
        with pytest.raises(SpecError, match=r"mixing.own_mixes.*double"):
            Mixing(**change)


def test_draw_and_spec_say_what_is_wrong() -> None:
    for change in ({"population": None}, {"population": 0}, {"partner_size": None}):
        with pytest.raises(ValueError, match="population"):
            drawn(Mixing(), range(3), **change)
    for change, name in (
        ({"mixup_alpha": 0}, "mixup_alpha"), ({"cutmix_alpha": 1000}, "cutmix_alpha"), ({"lam": (0.5, 0.1)}, "lam"),
        ({"partners": "none"}, "partners"), ({"partners": 0}, "partners"), ({"pool": 0}, "pool"),
        ({"double": 1}, "double"), ({"mixup_probability": 2}, "mixup_probability"),
    ):  # fmt: skip
        with pytest.raises(SpecError, match=f"mixing.{name}"):
            Mixing(**change)
    for preset in ("rrc+mixing", "rrc+mixing+ra+re"):
        spec = AugmentationSpec.preset(preset)
        assert spec.name == preset and AugmentationSpec.from_json(spec.to_json()) == spec
    with pytest.raises(SpecError, match=r"mixing: unknown field.*beta"):
        AugmentationSpec.from_json(spec.to_json() | {"mixing": {"beta": 1}})


# ---- generation, loader, preview


VARIANTS: dict[str, tuple[str, Mixing | None]] = {
    "rrc": ("rrc", None),
    "rrc+ra+re": ("rrc+ra+re", None),
    "rrc+mixing": ("rrc+mixing", Mixing()),
    "rrc+mixing+ra+re": ("rrc+mixing+ra+re", Mixing()),
    "self-mix": ("rrc+mixing+ra+re", Mixing(partners="self")),
    "library": ("rrc+mixing", Mixing(partners=3)),
    "double-mix": ("rrc+mixing+ra+re", Mixing(double=True)),
    "double self-mix": ("rrc+mixing", Mixing(double=True, partners="self")),
    "own mixes": ("rrc+mixing+ra+re", Mixing(double=True, own_mixes=True)),
    "own mixes of a library": ("rrc+mixing", Mixing(double=True, own_mixes=True, partners=3)),
}
VIEWS = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    photos = {
        f"class{number % 3}/photo{number:02d}.jpg": encode_jpeg(picture(60 + 9 * number, 140 - 7 * number, number))
        for number in range(11)
    }
    return write_files(tmp_path_factory.mktemp("photos"), photos)


def generation(variant: str, **change: Any) -> Generation:
    preset, mixing = VARIANTS[variant]
    spec = dataclasses.replace(AugmentationSpec.preset(preset, size=SIZE), mixing=mixing)
    options: dict[str, Any] = {"num_views": VIEWS, "topk": 3, "batch_views": 12, "num_threads": 2} | change
    return Generation(spec, tiny_teacher(), **options)


def make(folder: Path, out: Path, variant: str, **change: Any) -> dali_dr.Dataset:
    source, options = ImageFolder.scan(folder), {"samples_per_shard": 4, "probabilities": "float32", "progress": False}
    reinforce(source, out, generation(variant), num_classes=6, **(options | change))
    return dali_dr.Dataset(out)


@pytest.fixture(scope="module", params=VARIANTS)
def dataset(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dali_dr.Dataset:
    return make(folder, tmp_path_factory.mktemp("set") / "out", request.param)


def image(dataset: dali_dr.Dataset, number: int) -> Image.Image:
    return Image.open(io.BytesIO(dataset.image(number))).convert("RGB")


def reference(dataset: dali_dr.Dataset, number: int, view: int, **options: Any) -> np.ndarray:
    views = dataset.reinforcements(number)
    partner = -1 if views.mix is None else int(views.mix.partner[view])
    other = image(dataset, partner) if partner >= 0 else None
    return replay_pillow_mixed(image(dataset, number), other, views, view, dataset.spec, **options)


def batches(dataset: dali_dr.Dataset, epochs: int = 1, **options: Any) -> list[dict[str, torch.Tensor]]:
    options = {"batch_size": 4, "device": "cpu", "num_threads": 2, "with_index": True, "seed": 7} | options
    iterator = dali_dr.ReinforcedIterator(dataset, **options)
    return [batch for _ in range(epochs) for (batch,) in iterator]


NORMALISED = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}


def test_training_gets_what_the_teacher_saw(dataset: dali_dr.Dataset) -> None:
    """Loader = Pillow and the formula, in every bit; stored predictions = the teacher's on that view; verify agrees."""
    assert verify(dataset.path, progress=False).ok
    mixing = dataset.spec.mixing
    teacher, pairs, seen = tiny_teacher(), 2 if mixing and mixing.double else 1, set()
    for batch in batches(dataset, epochs=VIEWS // pairs):
        assert batch["data"].shape[1:] == (3, SIZE, SIZE) and len({len(t) for t in batch.values()}) == 1
        for row, (number, view) in enumerate(zip(batch["index"].tolist(), batch["view"].tolist(), strict=True)):
            seen.add((number, view))
            want = reference(dataset, number, view, **NORMALISED)
            assert want.dtype == np.float32 and np.array_equal(batch["data"][row].numpy(), want)
            stored = dataset.reinforcements(number)
            assert np.array_equal(batch["soft_ids"][row].numpy(), stored.soft_ids[view])
            assert np.array_equal(batch["soft_probs"][row].numpy(), stored.soft_probs[view])
            assert int(batch["label"][row]) == dataset.label(number)
            probs = teacher.predict(torch.from_numpy(reference(dataset, number, view))[None])[0].numpy()
            assert np.array_equal(probs[stored.soft_ids[view]], stored.soft_probs[view])
    assert len(seen) == 11 * VIEWS  # every stored view once


def test_before_mixing_views_are_those_of_pillow(dataset: dali_dr.Dataset) -> None:
    """The reference itself: lam and the box by hand, from two plain replays."""
    for number in range(4):
        views = dataset.reinforcements(number)
        for row in range(VIEWS):
            a = normalise(replay_pillow(image(dataset, number), views, row, dataset.spec), IMAGENET_MEAN, IMAGENET_STD)
            want, mix = a, views.mix
            if mix is not None and mix.partner[row] != NO_PARTNER:
                other = number if mix.partner[row] == SELF_PARTNER else int(mix.partner[row])
                b = replay_pillow(image(dataset, other), mix.views, row, dataset.spec)
                pair = [torch.from_numpy(a), torch.from_numpy(normalise(b, IMAGENET_MEAN, IMAGENET_STD))]
                if mix.swapped[row]:
                    pair.reverse()
                lam = torch.tensor(float(mix.lam[row]), dtype=torch.float32)
                mixed = torch.add(torch.mul(pair[0], lam), torch.mul(pair[1], 1 - lam))
                top, left, height, width = mix.cut[row].tolist()
                mixed[:, top : top + height, left : left + width] = pair[1][:, top : top + height, left : left + width]
                want = mixed.numpy()
            assert np.array_equal(reference(dataset, number, row, **NORMALISED), want)


def test_other_outputs_of_the_loader(dataset: dali_dr.Dataset) -> None:
    single = batches(dataset)
    for options, convert in (
        ({"dtype": "float16"}, lambda data: data.half()),
        ({"dtype": "bfloat16"}, lambda data: data.bfloat16()),
        ({"layout": "HWC", "dtype": "bfloat16"}, lambda data: data.permute(0, 2, 3, 1).bfloat16()),
        ({"layout": "HWC"}, lambda data: data.permute(0, 2, 3, 1)),
        ({"layout": "HWC", "dtype": "float16"}, lambda data: data.permute(0, 2, 3, 1).half()),
        ({"roi_decode": "off"}, lambda data: data),
    ):  # fmt: skip
        for got, want in zip(batches(dataset, **options), single, strict=True):
            assert torch.equal(got["data"], convert(want["data"]))
    for batch in batches(dataset, size=(48, 80))[:2]:
        for row, (number, view) in enumerate(zip(batch["index"].tolist(), batch["view"].tolist(), strict=True)):
            want = reference(dataset, number, view, size=(48, 80), **NORMALISED)
            assert np.array_equal(batch["data"][row].numpy(), want)


def test_preview_shows_mixed_views(dataset: dali_dr.Dataset) -> None:
    for row, pixels in zip((0, 5), replay_views(dataset, 3, [0, 5]), strict=True):
        assert np.array_equal(pixels, np.rint(reference(dataset, 3, row)).astype(np.uint8).transpose(1, 2, 0))


def test_what_mixing_rules_out_is_said(folder: Path, tmp_path: Path) -> None:
    double = make(folder, tmp_path / "double", "double-mix")
    with pytest.raises(ValueError, match=r"mixed views.*float32"):
        batches(double, dtype="uint8")
    with pytest.raises(ValueError, match="views_per_image is 3"):
        batches(double, views_per_image=3)
    with pytest.raises(ValueError, match="even"):
        generation("double-mix", num_views=7)


def test_state_continues_a_double_mix(folder: Path, tmp_path: Path) -> None:
    dataset = make(folder, tmp_path / "double", "double-mix")
    options: dict[str, Any] = {"batch_size": 4, "device": "cpu", "num_threads": 2, "with_index": True}
    iterator = dali_dr.ReinforcedIterator(dataset, **options)
    assert len(iterator) == 3  # 11 images, two views each
    next(iterator)
    state, rest = iterator.state_dict(), [next(iterator)[0] for _ in range(2)]
    restored = dali_dr.ReinforcedIterator(dataset, **options)
    restored.load_state_dict(state)
    for (mine,), theirs in zip(restored, rest, strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_read_without_mixing_is_refused(folder: Path, tmp_path: Path) -> None:
    from nvidia.dali import fn, pipeline_def

    dataset = make(folder, tmp_path / "set", "rrc+mixing")

    @pipeline_def(batch_size=1, num_threads=1, device_id=None)  # type: ignore[untyped-decorator]
    def graph(views: Any, mixing: bool) -> Any:
        feeds = [fn.external_source([[v]], cycle=True, batch=True) for v in (np.array(0, np.int64), views)]
        return tuple(fn.dr.read(*feeds, index=str(dataset.index_path), mixing=mixing))  # type: ignore[attr-defined]

    with pytest.raises(RuntimeError, match=r"photo00.*mixing=True"):
        graph(np.array(0, np.int32), False).run()
    with pytest.raises(RuntimeError, match="different partners"):
        graph(np.arange(VIEWS, dtype=np.int32), True).run()


def test_resumed_runs_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    whole = make(folder, tmp_path / "whole", "rrc+mixing+ra+re").path
    source, g = ImageFolder.scan(folder), generation("rrc+mixing+ra+re")
    calls: list[int] = []

    class Stopping(Exception):
        pass

    def stop(*_: Any) -> None:
        calls.append(1)
        if len(calls) % 7 == 0:
            raise Stopping

    g.teacher.members[0].model.register_forward_hook(stop)
    options: dict[str, Any] = {"num_classes": 6, "samples_per_shard": 4, "probabilities": "float32", "progress": False}
    with pytest.raises(Stopping):
        reinforce(source, tmp_path / "cut", g, **options)
    assert list((tmp_path / "cut").glob("*.tar"))
    reinforce(source, tmp_path / "cut", generation("rrc+mixing+ra+re"), **options)
    for path in whole.glob("*.*"):
        assert (tmp_path / "cut" / path.name).read_bytes() == path.read_bytes()


def test_numbers_stay_right_when_images_are_left_out(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "photos"
    for path in folder.rglob("*.jpg"):
        (source / path.parent.name).mkdir(parents=True, exist_ok=True)
        (source / path.parent.name / path.name).write_bytes(path.read_bytes())
    (source / "class0" / "broken.jpg").write_bytes((folder / "class0" / "photo00.jpg").read_bytes()[:1500])
    with pytest.raises(dali_dr.ShardError, match="class0/broken"):
        make(source, tmp_path / "raise", "rrc+mixing")
    with caplog.at_level(logging.WARNING):
        got = make(source, tmp_path / "skip", "rrc+mixing", on_error="skip")
    assert "class0/broken" in caplog.text
    assert "class0/broken" in (tmp_path / "skip" / "report" / "skipped.jsonl").read_text()
    want = make(folder, tmp_path / "good", "rrc+mixing")
    assert list(got.keys) == list(want.keys)
    assert all(got.reinforcements(n) == want.reinforcements(n) for n in range(len(want)))


def test_the_teacher_says_the_same_of_replayed_mixed_views(dataset: dali_dr.Dataset) -> None:
    check = check_teacher(dataset, tiny_teacher(), samples=40, batch=8, num_threads=1)
    assert check.ok and check.kl_mean < 1e-5 and check.top1_equal == 1


def test_subset_and_merge_keep_partners_and_pairs(dataset: dali_dr.Dataset, folder: Path, tmp_path: Path) -> None:
    subset(dataset, tmp_path / "s", views=4, topk=2, progress=False)
    small = dali_dr.Dataset(tmp_path / "s")
    assert verify(tmp_path / "s", progress=False).problems == [] and small.num_views == 4
    assert check_teacher(small, tiny_teacher(), samples=20, batch=8, num_threads=1).ok
    if dataset.spec.mixing is not None:
        with pytest.raises(dali_dr.ShardError, match="all images must stay"):
            subset(dataset, tmp_path / "x", images=3, progress=False)
    variant = next(name for name, (_, mixing) in VARIANTS.items() if mixing == dataset.spec.mixing)
    g = dataclasses.replace(generation(variant), spec=dataset.spec, seed=1)
    options: dict[str, Any] = {"num_classes": 6, "probabilities": "float32", "progress": False}
    reinforce(ImageFolder.scan(folder), tmp_path / "b", g, **options)
    merge(dataset, tmp_path / "b", tmp_path / "m", progress=False)
    both = dali_dr.Dataset(tmp_path / "m")
    assert verify(tmp_path / "m", progress=False).problems == [] and both.num_views == 2 * dataset.num_views
    assert check_teacher(both, tiny_teacher(), samples=20, batch=8, num_threads=1).ok


def test_verify_finds_partners_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    """Views of a larger data set, written as if a part of it were all: numbers and boxes do not fit any more."""
    whole = make(folder, tmp_path / "whole", "rrc+mixing")

    def write(out: str, order: list[int]) -> list[str]:
        samples = [
            dali_dr.Sample(whole.keys[n], whole.image(n), whole.label(n), whole.reinforcements(n)) for n in order
        ]
        dali_dr.write_shards(samples, tmp_path / out, spec=whole.spec, num_classes=6, progress=False)
        return verify(tmp_path / out, progress=False).problems

    assert not write("same", list(range(11)))
    assert any("partner is" in problem for problem in write("part", [0, 1, 2]))
    assert any("crop there reaches to" in problem for problem in write("reversed", list(range(11))[::-1]))


def test_writer_wants_the_spec_to_say_what_is_mixed(folder: Path, tmp_path: Path) -> None:
    whole = make(folder, tmp_path / "whole", "rrc+mixing")
    views = whole.reinforcements(0)
    plain = Reinforcements.from_views(dataclasses.replace(views, mix=None), views.soft_ids, views.soft_probs)
    sample = dali_dr.Sample("a", whole.image(0), 0, plain)
    with pytest.raises(dali_dr.ShardError, match="mixed"):
        dali_dr.write_shards([sample], tmp_path / "out", spec=whole.spec, num_classes=6, progress=False)
