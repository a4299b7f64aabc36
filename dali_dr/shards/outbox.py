"""Outbox: a folder on this machine whose data set lies in a store.

Writers work in a folder as ever. In an outbox, each finished shard goes to the store by one create-only put, and what stays
is a hollow file of its size; small files follow, dataset.json last. In any other folder all of this does nothing.
"""

from __future__ import annotations

from pathlib import Path

from dali_dr.shards import files


def publish(partial: Path, path: Path) -> None:
    """Give the complete and durable shard ``partial`` its final name, and in an outbox put it into the store.

    Another writer may have been first with the same bytes, which is no error.
    """
    files.publish(partial, path)


def refresh(out: Path) -> None:
    """Take in what others have put into the store: settings, facts of finished shards, what is shared."""


def share(path: Path) -> None:
    """Put the small file ``path`` of an outbox (a chunk, figures, a setting) into the store, over what is there."""


def withdraw(path: Path) -> None:
    """Remove the small file ``path``, here and in the store."""
    files.remove(path)


def deliver(out: Path) -> None:
    """Put what ``folder.finalise`` and the report wrote into the store, dataset.json last, and remove what was for resuming."""
