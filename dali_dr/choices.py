"""Names that a user chooses from, each list said once, where the command line has them without importing what they choose."""

from __future__ import annotations

from typing import Final, Literal, get_args

Select = Literal[
    "random",
    "min-confidence",
    "max-confidence",
    "min-entropy",
    "max-entropy",
    "min-loss",
    "max-loss",
    "kmeans",
]
SELECTS: Final[tuple[Select, ...]] = get_args(Select)
"""Which views of a pool are kept: `dali_dr.reinforce.select`."""

Numbering = Literal["auto", "sorted", "numeric", "imagenet"]
NUMBERINGS: Final[tuple[Numbering, ...]] = get_args(Numbering)
"""How classes are numbered: `dali_dr.sources.source.Reading`."""

Probabilities = Literal["root8", "log8", "float16", "float32"]
PROBABILITIES: Final[tuple[Probabilities, ...]] = get_args(Probabilities)
"""Encodings of a teacher's probabilities: `dali_dr.record.encode.encode`."""

RowOrder = Literal["confidence", "entropy"]
ROW_ORDERS: Final[tuple[RowOrder, ...]] = get_args(RowOrder)
"""Orders of an image's views: `dali_dr.record.labels.order_rows`."""

Keep = Literal["topk", "full", "hard", "smoothing"]
KEEPS: Final[tuple[Keep, ...]] = get_args(Keep)
"""What is kept of a prediction: `dali_dr.reinforce.blueprint.Blueprint`."""

Target = Literal["class", "embedding"]
TARGETS: Final[tuple[Target, ...]] = get_args(Target)
Amp = Literal["bfloat16", "float16"]
AMPS: Final[tuple[Amp, ...]] = get_args(Amp)
"""A teacher's outputs, and the type that it computes in: `dali_dr.reinforce.networks.Teacher`."""

Engine = Literal["local", "ray"]
ENGINES: Final[tuple[Engine, ...]] = get_args(Engine)
"""Who does the work: `dali_dr.reinforce.engine`."""

OnError = Literal["raise", "skip"]
ON_ERRORS: Final[tuple[OnError, ...]] = get_args(OnError)
"""What becomes of an image that cannot be stored, or shown: `dali_dr.shards.one_shard`, `dali_dr.loader.options.Machine`."""
