"""What a user may say to the loader: three frozen groups (what to show, in which order, on which machine), checked by name."""

from __future__ import annotations

import dataclasses
import difflib
import numbers
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, Required, TypedDict, cast, get_args

import numpy as np
import numpy.typing as npt
import torch
from nvidia.dali.plugin.base_iterator import LastBatchPolicy

from dali_dr.augment.fresh import Augment, Evaluation
from dali_dr.augment.spec import AugmentationSpec
from dali_dr.choices import OnError as OnError
from dali_dr.encoded import MAX_PIXELS
from dali_dr.loader import checks
from dali_dr.record.labels import FORMS
from dali_dr.sampling.choice import Curriculum, Window
from dali_dr.sampling.order import Order
from dali_dr.sampling.sampler import LastBatch

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
"""Channel means of ImageNet in 0 … 1, as torchvision and timm use them."""
IMAGENET_STD: Final = (0.229, 0.224, 0.225)

PARTNER_CACHE_BYTES: Final = 1 << 30
"""Of decoded partners of a library, per process: 1 GiB, about 2,000 photos of 500 x 375."""

Device = Literal["cpu", "gpu"]
RoiDecode = Literal["auto", "on", "off"]
DecodeDevice = Literal["auto", "cpu", "gpu"]
DecoderName = Literal["auto", "dali"]
DType = Literal["float32", "float16", "bfloat16", "uint8"]
Layout = Literal["CHW", "HWC"]
Integrity = Literal["normal", "full"]
OrderName = Literal["global", "windowed", "sequential"]
DenseTargets = Literal["dense", "top1", "ml-dr", "full", "hard", "smoothing", "marginal_smoothing", "marginal_renorm"]
Targets = Literal["sparse"] | DenseTargets
Sizes = int | tuple[int, int] | Sequence[tuple[int, int]] | Callable[[int], int]
Curricula = Window | Mapping[str, Any] | str
Samples = Sequence[int] | Sequence[str] | npt.NDArray[np.integer[Any]]

_TARGETS: Final = ("sparse", "dense", "top1", "ml-dr", *FORMS)
_DALI_WORDS: Final = ("reader_name", "last_batch_policy", "dynamic_shape")
_ELSEWHERE: Final = {  # what arguments of DataLoader and of DALI's iterators are called here
    "shuffle": 'order="global" shuffles and is the default, order="sequential" does not',
    "num_workers": "num_threads sets the pipeline's threads",
    "drop_last": 'pass last_batch="drop"',
    "fill_last_batch": 'pass last_batch="fill" or "partial"',
    "last_batch_padded": 'last_batch="fill" fills up from the beginning of the epoch',
    "pin_memory": 'device="gpu" gives batches on the GPU',
    "prefetch_factor": "prefetch sets the batches prepared ahead",
    "output_map": "batches hold what the attribute output_map says; as_tuples and targets change it",
    "pipelines": "the data set comes first, and the pipeline is built from it",
}


class _Others(TypedDict, total=False):
    """The keyword arguments of `ReinforcedIterator` that do not decide what kind of batch it yields."""

    size: Sizes | None
    dtype: DType | torch.dtype
    mean: Sequence[float]
    std: Sequence[float]
    augment: Augment | None
    layout: Layout
    label_ndim: int
    seed: int
    order: OrderName | Order | None
    window: int
    samples: Samples | None
    classes: Sequence[int] | None
    repeats: int
    class_mates: int
    views_per_image: int
    curriculum: Curricula | None
    p_reinforced: float
    last_batch: LastBatch
    last_batch_policy: LastBatchPolicy | str
    auto_reset: bool | str | None
    device: Device | str | torch.device
    device_id: int | None
    rank: int | None
    world_size: int | None
    num_threads: int | None
    on_error: OnError
    max_skipped: float
    integrity: Integrity
    max_pixels: int
    io_retry_s: float
    roi_decode: RoiDecode
    decode_device: DecodeDevice
    decoder: DecoderName
    hw_decoder_load: float
    prefetch: int
    partner_cache_bytes: int
    prepare_first_batch: bool
    reader_name: str | None
    dynamic_shape: Any


class Options(_Others, total=False):
    """The keyword arguments of `ReinforcedIterator`, each a field of one of the groups below."""

    targets: Targets
    as_tuples: bool
    with_index: bool


class Arguments(_Others, total=False):
    """What `ReinforcedIterator` takes besides what decides what kind of batch it yields; for its overloads."""

    batch_size: Required[int]
    schedule: Schedule | None
    machine: Machine | None


@dataclasses.dataclass(frozen=True)
class Show:
    """What a batch shows. The fields are those keyword arguments of `ReinforcedIterator`."""

    size: Sizes | None = None
    dtype: DType = "float32"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    augment: Augment | None = None
    layout: Layout = "CHW"
    targets: Targets = "sparse"
    as_tuples: bool = False
    with_index: bool = False
    label_ndim: int = 1

    def __post_init__(self) -> None:
        _set(self, "size", checks.sizes(self.size))
        _set(self, "dtype", checks.dtype(self.dtype, get_args(DType)))
        _set(self, "mean", checks.channels("mean", self.mean, lowest=0.0))
        _set(self, "std", checks.channels("std", self.std, lowest=checks.TINY))
        if self.augment is not None and not isinstance(self.augment, (str, AugmentationSpec, Evaluation)):
            checks.refuse("augment", self.augment, 'an AugmentationSpec, an Evaluation, a preset\'s name or "eval"')
        checks.one_of("layout", self.layout, get_args(Layout))
        checks.one_of("targets", self.targets, _TARGETS)
        for name in ("as_tuples", "with_index"):
            _set(self, name, checks.flag(name, getattr(self, name)))
        _set(self, "label_ndim", checks.whole("label_ndim", self.label_ndim, 1, 2))


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """Which samples and views come, in which order. The fields are those keyword arguments of `ReinforcedIterator`."""

    seed: int = 0
    order: OrderName | Order | None = None
    window: int = 16_384
    samples: Samples | None = None
    classes: Sequence[int] | None = None
    repeats: int = 1
    class_mates: int = 0
    views_per_image: int = 1
    curriculum: Window | None = None
    p_reinforced: float = 1.0
    last_batch: LastBatch = "partial"
    auto_reset: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.order, str):
            checks.one_of("order", self.order, get_args(OrderName), "or an Order of dali_dr.sampling.order")
        for name, lowest in (("window", 1), ("repeats", 1), ("class_mates", 0), ("views_per_image", 1)):
            _set(self, name, checks.whole(name, getattr(self, name), lowest))
        if self.classes is not None:
            classes = checks.list_of("classes", self.classes, "a list of class ids")
            _set(self, "classes", tuple(checks.whole("a class in classes", c, 0) for c in classes))
        if self.samples is not None:
            samples = checks.list_of("samples", self.samples, "a list of sample numbers or keys")
            _set(
                self,
                "samples",
                tuple(s if isinstance(s, str) else checks.whole("a sample in samples", s, 0) for s in samples),
            )
        _set(self, "seed", checks.whole("seed", self.seed, None))
        _set(self, "curriculum", _curriculum(self.curriculum))
        _set(self, "p_reinforced", checks.number("p_reinforced", self.p_reinforced, 0.0, 1.0))
        checks.one_of("last_batch", self.last_batch, get_args(LastBatch))
        if self.auto_reset not in (True, False, None, "yes", "no"):
            checks.refuse("auto_reset", self.auto_reset, 'True, False, "yes" or "no"')
        _set(self, "auto_reset", self.auto_reset in (True, "yes"))


@dataclasses.dataclass(frozen=True)
class Machine:
    """Where and how it is done. The fields are those keyword arguments of `ReinforcedIterator`."""

    device: Device = "gpu"
    device_id: int | None = None
    rank: int | None = None
    world_size: int | None = None
    num_threads: int | None = None
    on_error: OnError = "raise"
    max_skipped: float = 0.01
    integrity: Integrity = "normal"
    max_pixels: int = MAX_PIXELS
    io_retry_s: float = 3.0
    roi_decode: RoiDecode = "auto"
    decode_device: DecodeDevice = "auto"
    decoder: DecoderName = "auto"
    hw_decoder_load: float = 0.65
    prefetch: int = 2
    partner_cache_bytes: int = PARTNER_CACHE_BYTES
    prepare_first_batch: bool = False

    def __post_init__(self) -> None:
        device, number = checks.device(self.device)
        if number is not None:
            if self.device_id not in (None, number):
                checks.refuse("device_id", self.device_id, f"{number}, as in device={str(self.device)!r}, or nothing")
            _set(self, "device_id", number)
        _set(self, "device", device)
        for name, lowest in (("device_id", 0), ("rank", 0), ("world_size", 1), ("num_threads", 1)):
            if (value := getattr(self, name)) is not None:
                _set(self, name, checks.whole(name, value, lowest))
        checks.one_of("on_error", self.on_error, get_args(OnError))
        _set(self, "max_skipped", checks.number("max_skipped", self.max_skipped, 0.0, 1.0))
        checks.one_of("integrity", self.integrity, get_args(Integrity))
        _set(self, "max_pixels", checks.whole("max_pixels", self.max_pixels, 0, 2**31 - 1))
        _set(self, "io_retry_s", checks.number("io_retry_s", self.io_retry_s, 0.0, 86_400.0))
        checks.one_of("roi_decode", self.roi_decode, get_args(RoiDecode))
        check_decode_device(self.decode_device, self.device)
        checks.one_of("decoder", self.decoder, get_args(DecoderName))
        _set(self, "hw_decoder_load", checks.number("hw_decoder_load", self.hw_decoder_load, 0.0, 1.0))
        _set(self, "prefetch", checks.whole("prefetch", self.prefetch, 1))
        most = checks.whole("partner_cache_bytes", self.partner_cache_bytes, 0, 2**63 - 1)
        _set(self, "partner_cache_bytes", most)
        _set(self, "prepare_first_batch", checks.flag("prepare_first_batch", self.prepare_first_batch))

    @property
    def place(self) -> tuple[int, int]:
        """Rank and world size: as given, else torch.distributed's, else the launcher's (torchrun: RANK, WORLD_SIZE), else 0, 1.

        Raises:
          ValueError: the rank is not below the world size.
        """
        group = torch.distributed.is_available() and torch.distributed.is_initialized()
        world = torch.distributed.get_world_size() if group else checks.environment("WORLD_SIZE", 1, 1)
        world = world if self.world_size is None else self.world_size
        launched = "WORLD_SIZE" in os.environ and "RANK" not in os.environ
        if launched and not group and world > 1 and self.rank is None:
            raise ValueError(
                f"the environment says WORLD_SIZE={world} but no RANK, so that every process would be rank 0: set RANK, or pass "
                "rank and world_size"
            )
        own = torch.distributed.get_rank() if group else checks.environment("RANK", 0, 0)
        own = own if self.rank is None else self.rank
        if own >= world:
            checks.refuse("rank", own, f"a number below world_size, which is {world}")
        return own, world

    @property
    def cuda_device(self) -> int:
        """The CUDA device's number: as given, else the launcher's (LOCAL_RANK), else torch's current device."""
        if self.device_id is not None:
            return self.device_id
        return checks.environment("LOCAL_RANK", torch.cuda.current_device(), 0)


GROUPS: Final = (Show, Schedule, Machine)


def _curriculum(value: object) -> Window | None:
    """A curriculum in any form as a function, or None."""
    if isinstance(value, (str, Mapping)):
        try:
            return Curriculum.of(value)
        except ValueError as error:
            raise ValueError(f"curriculum: {error}") from None
    if value is not None and not callable(value):
        checks.refuse(
            "curriculum",
            value,
            "a dali_dr.sampling.choice.Curriculum, its attributes by name, a text such as 'easy-all:100', or a function "
            "epoch -> (a, b)",
        )
    return cast(Window | None, value)


def _set(group: object, name: str, value: object) -> None:
    object.__setattr__(group, name, value)  # of a frozen dataclass, in __post_init__


def gather(
    options: Options, show: Show | None, schedule: Schedule | None, machine: Machine | None, count: int
) -> tuple[Show, Schedule, Machine]:
    """Sorts keyword arguments into their groups.

    Args:
      options: keyword arguments.
      show, schedule, machine: groups that were passed as such; their fields may not be passed besides.
      count: samples of the data set, which DALI's own `size` may say.

    Raises:
      TypeError: an argument that does not exist, or one that a group given says already.
      ValueError: an argument out of range.
    """
    given: dict[str, Any] = dict(options)
    _translate(given, count)
    parts = []
    for kind, part in zip(GROUPS, (show, schedule, machine), strict=True):
        names = [field.name for field in dataclasses.fields(kind)]
        own = {name: given.pop(name) for name in names if name in given}
        if part is None:
            part = kind(**own)
        elif not isinstance(part, kind):
            raise TypeError(f"{kind.__name__.lower()} is a {type(part).__name__}, want a {kind.__name__}")
        elif own:
            said = f"{kind.__name__.lower()}={kind.__name__}(...)"
            raise TypeError(f"{next(iter(own))} is given beside {said}, which says it: put it in there")
        parts.append(part)
    if given:
        name = next(iter(given))
        known = sorted({*Options.__annotations__, "batch_size", *(kind.__name__.lower() for kind in GROUPS)})
        near = difflib.get_close_matches(name, known, 1)
        hint = _ELSEWHERE.get(name) or (f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}")
        raise TypeError(f"ReinforcedIterator has no argument {name!r}; {hint}")
    return cast(tuple[Show, Schedule, Machine], tuple(parts))


def _translate(given: dict[str, Any], count: int) -> None:
    """Puts what DALI's scripts say into our words, in place."""
    foreign = [name for name in _DALI_WORDS if given.get(name) is not None]
    given.pop("dynamic_shape", None)  # shapes may always change here
    reader = given.pop("reader_name", None)
    if reader is not None and not isinstance(reader, str):
        checks.refuse("reader_name", reader, "a name or None; there is one reader here, whatever it is called")
    size = given.get("size")
    if isinstance(size, numbers.Integral) and not isinstance(size, bool):
        # DALI's `size` is the samples of an epoch, -1 for "the reader knows"; neither can be pixels of a view.
        world = given.get("world_size") or checks.environment("WORLD_SIZE", 1, 1)
        size = int(size)
        of_epoch = size in (count, count // world, -(-count // world))
        if size == -1 or (size > checks.MAX_VIEW_SIZE and of_epoch):
            del given["size"]
        elif of_epoch and foreign:
            want = f"nothing, or ({size}, {size}) if pixels are meant: beside {foreign[0]} it may be DALI's samples of an epoch"
            checks.refuse("size", size, want)
        elif size > checks.MAX_VIEW_SIZE:
            want = f"1 to {checks.MAX_VIEW_SIZE}, the edge of the views in pixels"
            checks.refuse("size", size, f"{want} (DALI's size, samples of an epoch, is known here: leave it out)")
    if (policy := given.pop("last_batch_policy", None)) is not None:
        name = str(policy).rpartition(".")[2].lower()  # LastBatchPolicy.FILL, or its name
        if name not in get_args(LastBatch):
            checks.refuse("last_batch_policy", policy, "DALI's LastBatchPolicy.FILL, DROP or PARTIAL")
        if given.setdefault("last_batch", name) != name:
            checks.refuse(
                "last_batch_policy", policy, f"what last_batch={given['last_batch']!r} says, or only one of the two"
            )


def decodes_on_gpu(device: Device, decode_device: DecodeDevice) -> bool:
    """Whether nvJPEG decodes."""
    return device == "gpu" and decode_device != "cpu"


def check_decode_device(decode_device: str, device: str) -> None:
    """Raises ValueError for a decoder that does not exist, or not with this device."""
    if decode_device not in get_args(DecodeDevice) or (decode_device == "gpu" and device == "cpu"):
        raise ValueError(
            f'decode_device is {decode_device!r}, with device="{device}": pass "auto" or "cpu", or '
            '"gpu" where the views are made on the GPU, too'
        )


def default_threads() -> int:
    """CPU threads of a pipeline: the processors that this process may use. Where the launcher (torchrun: LOCAL_WORLD_SIZE)
    has put several processes on this machine and bound none to processors of its own, its share of them."""
    processors = len(os.sched_getaffinity(0))
    if processors == os.cpu_count():
        processors //= checks.environment("LOCAL_WORLD_SIZE", 1, 1)
    return max(1, processors)
