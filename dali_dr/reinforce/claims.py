"""Claims: who works on which piece of work, agreed by files in a shared folder, without a coordinator.

A claim saves work and decides nothing else: pieces are deterministic and published atomically, so two workers on one
piece cost time and change no byte. So the protocol may err rarely, and must never get stuck:

- A claim on a piece is a file PIECE.G, made with O_EXCL, which exactly one process can (on NFS since version 3, and on
  parallel file systems). The file with the highest generation G counts. A stale claim is taken over by making
  PIECE.G+1: nothing is deleted or overwritten, so there is no instant at which two processes could both believe that
  they won.
- While it works, the owner writes a rising count into its file. Who waits reads that file and measures by its own
  monotonic clock how long the count has stood still; past the lease, the claim is stale. No two clocks are compared,
  neither of machines nor of the file server. Reading means opening, and opening is what makes NFS look at the server
  again.
- A process on the same machine need not wait: a process number that is gone, or was given to a later process, is a dead
  owner.
- An owner that was stopped or cut off finds PIECE.G+1 when it wants to publish, and throws its work away.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from dali_dr.errors import ShardError
from dali_dr.shards import files

CLAIMS_NAME: Final = ".claims"  # the folder of a run's claims, in that of the data set
# NFS clients may show attributes up to 60 s old (acregmax, acdirmax); three times that, and the pauses of a busy file
# server, fit in.
DEFAULT_LEASE: Final = 240.0
_BEATS: Final = 8  # in a lease
_RELEASED: Final = "released"
_NAME: Final = re.compile(r"(.+)\.(\d+)")
_log = logging.getLogger(__name__)


class ClaimLost(Exception):
    """Another worker has taken over: it saw no sign of life for the length of the lease."""


class ClaimsGone(Exception):
    """The folder of claims is not there any more: another worker has ended the run."""


class Claim:
    """One piece, held. `beat` writes a sign of life; `Claims.held` does it in the background.

    Attributes:
      piece: its name.
      generation: G.
    """

    def __init__(self, folder: Path, piece: str, generation: int, descriptor: int, at: int) -> None:
        self.piece, self.generation = piece, generation
        self._folder, self._descriptor, self._at, self._beats = folder, descriptor, at, 0

    def beat(self) -> None:
        """Write the next count."""
        self._beats += 1
        self._write(str(self._beats))

    def check(self) -> None:
        """ClaimLost if another worker has taken over."""
        if (self._folder / f"{self.piece}.{self.generation + 1}").exists() or not self._folder.exists():
            raise ClaimLost(
                f"{self.piece} was taken over by another worker; is this one stopped at times, or its disk?"
            )

    def release(self) -> None:
        """Let others take over at once."""
        with contextlib.suppress(OSError):
            self._write(_RELEASED)

    def close(self) -> None:
        """Let go of the file; the claim stays, without further signs of life."""
        files.close(self._descriptor)

    def _write(self, text: str) -> None:
        files.write_at(self._descriptor, text.ljust(20).encode(), self._at)


class Claims:
    """The claims in ``folder``, as one worker sees and takes them.

    Args:
      folder: made if absent.
      lease: seconds without a sign of life after which a claim is stale. The same for all workers.
    """

    def __init__(self, folder: Path, lease: float = DEFAULT_LEASE) -> None:
        self.folder, self.lease = folder.absolute(), lease
        files.make_folder(self.folder)
        self._seen: dict[str, tuple[bytes, float]] = {}

    def take(self, pieces: Iterable[str]) -> Claim | None:
        """Claim the first of ``pieces`` that nobody claimed, else the first whose claim is stale, else none.

        Raises:
          ClaimsGone: the work is finished.
        """
        if not self.folder.exists():
            raise ClaimsGone
        highest = self._highest()
        claimed = []
        for piece in pieces:
            if piece in highest:
                claimed.append(piece)
            elif claim := self._create(piece, 0):
                return claim
        for piece in claimed:
            if self._stale(f"{piece}.{highest[piece]}") and (claim := self._create(piece, highest[piece] + 1)):
                _log.warning("%s: taking over from a worker that is gone", piece)
                return claim
        return None

    @contextlib.contextmanager
    def held(self, claim: Claim) -> Iterator[Claim]:
        """Keep ``claim`` alive from a thread; when the block ends by an exception, it is released for others."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(self.lease / _BEATS):
                try:
                    claim.beat()
                except OSError as error:  # perhaps it passes; if not, another worker takes over
                    _log.warning("%s: cannot write a sign of life: %s", claim.piece, error)

        thread = threading.Thread(target=beat, name=f"claim {claim.piece}", daemon=True)
        thread.start()
        try:
            yield claim
        except BaseException:
            done.set()
            thread.join()
            claim.release()
            raise
        finally:
            done.set()
            thread.join()
            claim.close()

    def remove(self) -> None:
        """Remove what is in the folder, once the work is finished.

        Raises:
          ShardError: a file cannot be removed.
        """
        for path in sorted(self.folder.iterdir()):
            files.remove(path)

    def _highest(self) -> dict[str, int]:
        highest: dict[str, int] = {}
        try:
            names = [path.name for path in self.folder.iterdir()]
        except FileNotFoundError:
            raise ClaimsGone from None
        except OSError as error:
            raise ShardError(f"{self.folder}: cannot be listed ({error.strerror}); start this worker again") from error
        for name in names:
            if match := _NAME.fullmatch(name):
                highest[match[1]] = max(highest.get(match[1], 0), int(match[2]))
        return highest

    def _create(self, piece: str, generation: int) -> Claim | None:
        path = self.folder / f"{piece}.{generation}"
        try:
            descriptor = files.create(path)
        except ShardError:
            if not self.folder.exists():
                raise ClaimsGone from None
            raise
        if descriptor is None:
            return None
        line = json.dumps(_myself()).encode() + b"\n"
        claim = Claim(self.folder, piece, generation, descriptor, len(line))
        try:
            files.write_at(descriptor, line, 0)
            claim.beat()
        except BaseException as error:
            # Nobody should wait for it. Where it cannot be removed either, it is stale once the lease is over.
            files.discard(path)
            claim.close()
            if isinstance(error, OSError):
                raise files.failure(path, error) from error
            raise
        return claim

    def _stale(self, name: str) -> bool:
        try:
            content = (self.folder / name).read_bytes()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise ShardError(
                f"{self.folder / name}: cannot be read ({error.strerror}); start this worker again"
            ) from error
        now = time.monotonic()
        before, since = self._seen.get(name, (None, now))
        if content != before:
            self._seen[name] = content, now
            since = now
        owner, _, count = content.partition(b"\n")
        return count.strip() == _RELEASED.encode() or _dead(owner) or now - since > self.lease


def _myself() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "pids": str(Path("/proc/self/ns/pid").readlink()),  # process numbers mean something in one namespace only
    }


def _started(pid: int) -> int:
    """When the process ``pid`` started, in clock ticks since boot; 0 if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])  # a zombie does no work


def _dead(owner: bytes) -> bool:
    """Whether the owner is known to have ended: only for one of this machine, and of these process numbers."""
    try:
        other, mine = json.loads(owner), _myself()
        here = all(other[name] == mine[name] for name in ("host", "boot", "pids"))
        return here and _started(other["pid"]) != other["started"]
    except (ValueError, KeyError, TypeError, RecursionError):  # torn by a crash: only the lease tells
        return False
