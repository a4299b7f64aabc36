"""What the making of a shard costs and finds: seconds, seconds in the teacher, the teacher's confidence."""

from __future__ import annotations

import socket
import time
from typing import Any

import numpy as np
import torch

from dali_dr.reinforce.report import CONFIDENCE_BINS
from dali_dr.reinforce.teachers import Predictor
from dali_dr.reinforce.worker import Worker
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


class Meter:
    """Measures one shard, from its making on.

    Attributes:
      teacher: the clock, to be asked in the teacher's place.
    """

    def __init__(self, teacher: Predictor) -> None:
        self.teacher = Clock(teacher)
        self._begun = time.monotonic()
        self._confidence = np.zeros(CONFIDENCE_BINS, np.int64)

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._begun

    def see(self, sample: Sample) -> None:
        """Count the confidence of the views of ``sample``."""
        if sample.reinforcements is not None:
            best = sample.reinforcements.soft_probs[:, 0]
            self._confidence += np.histogram(best, CONFIDENCE_BINS, (0, 1))[0]

    def figures(self, facts: ShardFacts, worker: Worker) -> dict[str, Any]:
        """What `write_report` wants to know of a shard: JSON-able."""
        return {
            "rank": worker.rank,
            "host": socket.gethostname(),
            "device": str(self.teacher.device),
            "images": len(facts.keys),
            "skipped": len(facts.refused),
            "views": sum(facts.views),
            "seconds": self.seconds,
            "teacher_seconds": self.teacher.seconds,
            "confidence": self._confidence.tolist(),
        }
