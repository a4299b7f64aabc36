"""What the making of a shard costs and finds: seconds, seconds in the teacher, the teacher's confidence."""

from __future__ import annotations

import socket
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dali_dr.reinforce.networks import Predictor
from dali_dr.reinforce.part import Part
from dali_dr.reinforce.report import CONFIDENCE_BINS
from dali_dr.shards.facts import ShardFacts
from dali_dr.shards.sample import Sample


class Clock:
    """A teacher that counts the seconds spent in another.

    Attributes:
      seconds: of all predictions so far.
    """

    def __init__(self, teacher: Predictor) -> None:
        self._teacher = teacher
        self.seconds = 0.0

    @property
    def device(self) -> torch.device:
        return self._teacher.device

    @property
    def num_outputs(self) -> int:
        return self._teacher.num_outputs

    def facts(self) -> dict[str, Any]:
        return self._teacher.facts()

    def predict(self, views: torch.Tensor) -> torch.Tensor:
        begun = time.monotonic()
        probabilities = self._teacher.predict(views)
        if probabilities.is_cuda:
            torch.cuda.synchronize(probabilities.device)
        self.seconds += time.monotonic() - begun
        return probabilities


def confidence_of(sample: Sample) -> npt.NDArray[np.int64]:
    """Views of ``sample`` by the probability of the most likely class."""
    if sample.reinforcements is None:
        return np.zeros(CONFIDENCE_BINS, np.int64)
    return np.histogram(sample.reinforcements.soft_probs[:, 0], CONFIDENCE_BINS, (0, 1))[0].astype(np.int64)


class Meter:
    """Measures one shard, from its making on.

    Attributes:
      teacher: the clock, to be asked in the teacher's place.
    """

    def __init__(self, teacher: Predictor) -> None:
        self.teacher: Clock = Clock(teacher)
        self._begun = time.monotonic()
        self._earlier = (0.0, 0.0)
        self._confidence = np.zeros(CONFIDENCE_BINS, np.int64)

    @property
    def seconds(self) -> float:
        """Of work on the shard, with that of earlier workers of which something is left."""
        return time.monotonic() - self._begun + self._earlier[0]

    @property
    def teacher_seconds(self) -> float:
        """Of these, in the teacher."""
        return self.teacher.seconds + self._earlier[1]

    def see(self, confidence: npt.NDArray[np.int64]) -> None:
        """Count an image; see `confidence_of`."""
        self._confidence += confidence

    def take(self, seconds: float, teacher_seconds: float) -> None:
        """Count the work of an earlier worker."""
        self._earlier = (self._earlier[0] + seconds, self._earlier[1] + teacher_seconds)

    def figures(self, facts: ShardFacts, part: Part) -> dict[str, Any]:
        """What `write_report` wants to know of a shard: JSON-able."""
        return {
            "rank": part.index,
            "host": socket.gethostname(),
            "device": str(self.teacher.device),
            "images": len(facts.keys),
            "skipped": len(facts.refused),
            "views": sum(facts.views),
            "seconds": self.seconds,
            "teacher_seconds": self.teacher_seconds,
            "confidence": self._confidence.tolist(),
        }
