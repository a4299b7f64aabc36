"""The one family of errors that dali_dr raises. A message says what is wrong, where, and what to do."""


class DaliDrError(Exception):
    """Base of all errors raised by dali_dr."""


class SpecError(DaliDrError, ValueError):
    """An augmentation specification that cannot be drawn or replayed."""


class RecordError(DaliDrError, ValueError):
    """A reinforcement record (one image's stored views) that is malformed or cannot be encoded."""


class ShardError(DaliDrError, ValueError):
    """A data set on disk (shards, index, manifest) that is missing, damaged or inconsistent, or a sample it cannot hold."""


class PluginError(DaliDrError, ImportError):
    """The DALI plugin is not built, or was built for another DALI version."""
