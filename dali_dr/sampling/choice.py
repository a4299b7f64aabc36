"""Which stored view of an image an epoch replays: over N epochs every one of its N views exactly once."""

from __future__ import annotations

import numpy as np

from dali_dr.sampling.order import Int64, keyed_permutation, mix

_STREAM = 0x56494557  # "VIEW": keeps these hashes apart from those of the sample order


def choose_views(samples: Int64, epoch: int, num_views: int, seed: int) -> Int64:
    """The view (row of the record) of each sample in an epoch.

    Every image walks through a permutation of its own of 0 … num_views-1, one step an epoch, and through a new one once
    all views were seen; so no view repeats before all were seen, and images are not in step with each other.

    Args:
      samples: (B,) sample numbers.
      epoch: epoch number, from 0.
      num_views: N, stored views per image.
      seed: seed of the run.

    Returns:
      (B,) int64, in 0 … num_views-1.
    """
    cycle, step = divmod(epoch, num_views)
    keys = mix(seed, _STREAM, cycle, np.asarray(samples, np.uint64))
    return keyed_permutation(np.full(len(samples), step), num_views, keys)
