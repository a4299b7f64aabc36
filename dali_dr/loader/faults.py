"""What goes wrong in the pipeline, as one clear error."""

from __future__ import annotations

import re

from dali_dr.errors import ShardError
from dali_dr.sampling.sampler import Share
from dali_dr.shards.dataset import Dataset

_OUR_ERROR = re.compile(
    r"operator `nvidia\.dali\.fn\.dr\.\w+`.*?encountered:\s*(.*?)(?:\nCurrent pipeline object|$)", re.DOTALL
)


def explained(error: RuntimeError, share: Share, dataset: Dataset) -> Exception:
    """One clear error for what DALI reports amid its own context; a decoder's does not say which sample it was."""
    if match := _OUR_ERROR.search(str(error)):
        return ShardError(match[1].strip())
    if "decoders" in str(error):
        keys = ", ".join(dataset.keys[int(n)] for n in share.samples[:4])
        return ShardError(
            f"an image of the batch with samples {share.samples.tolist()} ({keys}, …) of {dataset.path} cannot be decoded; "
            f"`dali-dr verify --images {dataset.path}` finds it. The decoder says: {str(error).splitlines()[-1]}"
        )
    return error
