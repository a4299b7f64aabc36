"""The one family of errors that dali_dr raises. A message says what is wrong, where, and what to do."""

from __future__ import annotations


class DaliDrError(Exception):
    """Base of all errors raised by dali_dr.

    Attributes:
      kind: what is at fault, as `dali_dr.loader.faults.Fault` says it. This and the following are None where unknown.
      sample: number of the sample.
      key: of the sample.
      shard: path of the tar.
      offset: of the member's data in the tar, in bytes.
    """

    def __init__(
        self,
        *args: object,
        kind: str | None = None,
        sample: int | None = None,
        key: str | None = None,
        shard: str | None = None,
        offset: int | None = None,
    ) -> None:
        super().__init__(*args)
        self.kind = kind
        self.sample = sample
        self.key = key
        self.shard = shard
        self.offset = offset


class SpecError(DaliDrError, ValueError):
    """An augmentation specification that cannot be drawn or replayed."""


class RecordError(DaliDrError, ValueError):
    """A reinforcement record (one image's stored views) that is malformed or cannot be encoded."""


class ShardError(DaliDrError, ValueError):
    """A data set on disk (shards, index, manifest) that is missing, damaged or inconsistent, or a sample it cannot hold."""


class PluginError(DaliDrError, ImportError):
    """The DALI plugin is not built, or was built for another DALI version."""
