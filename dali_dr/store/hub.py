"""Data set repositories of the Hugging Face Hub, by huggingface_hub: hf://datasets/OWNER/NAME[@REVISION][/FOLDER].

A repository has commits: what is read is of the one that was the newest when it was read first, so that one reader sees one
state; what is written is put on the newest, and never over another's in between.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote, unquote

from dali_dr.errors import brief
from dali_dr.store.patience import Patience, silence_s
from dali_dr.store.store import Entry, Traffic
from dali_dr.store.url import MissingError, StoreError, shown_url

T = TypeVar("T")
Names = list[str]  # in the class, `list` is a method
_SCHEME: Final = "hf://"
_LATER: Final = frozenset({408, 429, 500, 502, 503, 504})
_CONFLICT: Final = frozenset({409, 412})  # another commit came first
_PIECE: Final = 1 << 20
_ANSWER_S: Final = 600.0  # a commit of many large files, or a proxy before the Hub
_HUB_THREADS: Final = 4  # that upload
_OTHERS: Final = ("models", "spaces", "buckets")
_PULL: Final = "refs/pr/"


@dataclasses.dataclass(frozen=True)
class Repository:
    """What a URL names.

    Attributes:
      id: OWNER/NAME.
      revision: a branch, tag or commit.
      folder: in it, without a slash at its end; "" for all of it.
    """

    id: str
    revision: str
    folder: str

    @classmethod
    def of(cls, url: str) -> Repository:
        """Of hf://datasets/OWNER/NAME[@REVISION][/FOLDER], or without "datasets/".

        A slash in a revision is written %2F, but for refs/pr/N.

        Raises:
          StoreError: it names no repository of a data set.
        """
        parts = url[len(_SCHEME) :].split("/")
        if parts[0] in _OTHERS:
            raise StoreError(
                f"{url}: data sets are kept in repositories of data sets: hf://datasets/OWNER/NAME", kind="usage"
            )
        if parts[0] == "datasets":
            parts = parts[1:]
        if len(parts) < 2 or not all(part not in ("", ".", "..") for part in parts):
            raise StoreError(f"{url}: names no repository: hf://datasets/OWNER/NAME[@REVISION][/FOLDER]", kind="usage")
        owner, named, rest = parts[0], parts[1], parts[2:]
        name, at, revision = named.partition("@")
        if at and revision == "refs" and len(rest) > 1 and rest[0] == "pr":
            revision, rest = _PULL + rest[1], rest[2:]
        if not name or (at and not revision):
            raise StoreError(f"{url}: names no repository: hf://datasets/OWNER/NAME[@REVISION][/FOLDER]", kind="usage")
        return cls(f"{owner}/{name}", unquote(revision) or "main", "/".join(rest))


class Hub:
    """The files below a URL of the Hub, as `Store` says, with `put_many` for several in one commit.

    Credentials are those of huggingface_hub: HF_TOKEN, or what `hf auth login` has kept. HF_ENDPOINT names another server.

    Attributes:
      repository: that the URL names.
      traffic: of this process.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self.repository: Repository = Repository.of(self._url)
        self.traffic: Traffic = Traffic()
        self._lock = threading.Lock()
        self._commit: str | None = None

    def __getstate__(self) -> str:
        return self._url

    def __setstate__(self, url: str) -> None:
        self.__init__(url)  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"Hub({self._url!r})"

    @property
    def url(self) -> str:
        """Without a slash at its end."""
        return self._url

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """All files whose names begin with ``prefix``, by name."""
        folder = "/".join(part for part in (self.repository.folder, prefix.rpartition("/")[0]) if part)
        commit = self._pinned()

        def pages() -> Any:
            found = self._api().list_repo_tree(
                self.repository.id, folder or None, recursive=True, revision=commit, repo_type="dataset"
            )
            return [self._entry(one) for one in found if hasattr(one, "blob_id")]

        try:
            entries = self._asked(self._url, pages)
        except MissingError:  # no file is in this folder
            entries = []
        return iter(sorted((one for one in entries if one.name.startswith(prefix)), key=lambda one: one.name))

    def head(self, name: str) -> Entry | None:
        """The file ``name``; None if there is none."""
        commit = self._pinned()

        def info() -> Any:
            return self._api().get_paths_info(
                self.repository.id, [self._path(name)], revision=commit, repo_type="dataset"
            )

        found = self._asked(self._shown(name), info)
        return self._entry(found[0]) if found and hasattr(found[0], "blob_id") else None

    def read(self, name: str, begin: int = 0, size: int | None = None, *, limit: int = 1 << 30) -> bytes:
        """Bytes of a file, as `Store.read`."""
        if size == 0:
            return b""
        taken = bytearray()

        def take(piece: bytes) -> None:
            taken.extend(piece)
            if len(taken) > limit:
                raise StoreError(f"{self._shown(name)}: has more than the {limit:,} bytes that it may have")

        self._pour(name, begin, size, take, lambda: len(taken))
        return bytes(taken)

    def download(
        self, name: str, to: Path, *, expect: int | None = None, step: Callable[[int], None] | None = None
    ) -> Entry:
        """Writes a file of the repository into a file, as `Store.download`."""
        entry = self.head(name)
        if entry is None:
            raise MissingError(f"{self._shown(name)}: there is no such file")
        if expect is not None and entry.bytes != expect:
            raise StoreError(
                f"{self._shown(name)}: has {entry.bytes:,} bytes, not {expect:,}: it is not what was expected"
            )
        try:
            with to.open("wb") as file:

                def take(piece: bytes) -> None:
                    file.write(piece)
                    if step is not None:
                        step(len(piece))

                if entry.bytes:
                    self._pour(name, 0, entry.bytes, take, file.tell)
        except BaseException:
            to.unlink(missing_ok=True)
            raise
        return entry

    def put(self, name: str, data: bytes | Path, *, create: bool = False) -> bool:
        """Writes a file, as `Store.put`, in a commit of its own; see `put_many`."""
        return name in self.put_many({name: data}, replace=() if create else (name,))

    def put_many(
        self,
        objects: Mapping[str, bytes | Path],
        *,
        replace: Iterable[str] = (),
        remove: Iterable[str] = (),
        strict: bool = False,
    ) -> Names:
        """Writes files, and removes some, in one commit.

        Args:
          objects: by their names.
          replace: of them, those that may be there and are replaced; others are written only where there is none.
          remove: names of files that are removed where they are.
          strict: one that is there, is not replaced and has other bytes is an error, and nothing is written.

        Returns:
          The names of those that were written: not of those that were there.
        """
        replace, remove = set(replace), list(remove)
        patience = Patience()
        while True:
            parent = self._newest()
            there = self._there([*objects, *remove], parent)
            wanted = {name: data for name, data in objects.items() if name not in there or name in replace}
            wanted = {name: data for name, data in wanted.items() if not _is_same(there.get(name), data)}
            for name in (name for name in objects if strict and name not in wanted and name not in replace):
                if name in there and not _is_same(there[name], objects[name]):
                    raise StoreError(
                        f"{self._shown(name)}: is there with other bytes; choose another place, or remove it"
                    )
            gone = [name for name in remove if name in there]
            if wanted or gone:
                try:
                    self._asked(self._url, lambda: self._commit_of(wanted, gone, parent), patience)  # noqa: B023
                except _Conflict:
                    if not patience.wait():
                        raise
                    continue
            return list(wanted)

    def remove(self, name: str) -> None:
        """Removes a file; none is none."""
        self.put_many({}, remove=[name])

    def create(self, *, private: bool) -> None:
        """Makes the repository, unless it is there."""
        try:
            self._newest()
        except StoreError:  # absent, or not for this token: which making it will say
            pass
        else:
            return
        self._asked(
            self._url,
            lambda: self._api().create_repo(self.repository.id, repo_type="dataset", private=private, exist_ok=True),
        )

    def _commit_of(self, objects: Mapping[str, bytes | Path], remove: Names, parent: str) -> None:
        hub, utils = _library(), _library("utils")
        operations: list[Any] = [
            hub.CommitOperationAdd(self._path(name), str(data) if isinstance(data, Path) else data)
            for name, data in objects.items()
        ]
        operations += [hub.CommitOperationDelete(self._path(name), is_folder=False) for name in remove]
        told = next((name for name in objects), remove[0] if remove else "")
        more = f" and {len(operations) - 1} more" if len(operations) > 1 else ""
        silent = utils.are_progress_bars_disabled()
        utils.disable_progress_bars()  # the copy has its own
        try:
            done = self._api().create_commit(
                self.repository.id,
                operations,
                commit_message=f"dali_dr: {told}{more}",
                repo_type="dataset",
                revision=self.repository.revision,
                num_threads=_HUB_THREADS,
                parent_commit=parent,
            )
        finally:
            if not silent:
                utils.enable_progress_bars()
        with self._lock:
            self._commit = done.oid
            self.traffic.written += sum(map(_size, objects.values()))

    def _there(self, names: Names, commit: str) -> dict[str, Any]:
        """What the Hub says of those of ``names`` that are in ``commit``."""
        found: dict[str, Any] = {}
        cut = len(self.repository.folder) + 1 if self.repository.folder else 0
        for at in range(0, len(names), 100):
            paths = [self._path(name) for name in names[at : at + 100]]

            def info(paths: Names = paths) -> Any:
                return self._api().get_paths_info(self.repository.id, paths, revision=commit, repo_type="dataset")

            found |= {one.path[cut:]: one for one in self._asked(self._url, info)}
        return found

    def _newest(self) -> str:
        """The newest commit of the revision."""
        info = self._asked(
            self._url,
            lambda: self._api().repo_info(
                self.repository.id, repo_type="dataset", revision=self.repository.revision, timeout=silence_s()
            ),
        )
        return str(info.sha)

    def _pinned(self) -> str:
        """The commit that is read."""
        with self._lock:
            commit = self._commit
        if commit is None:
            commit = self._newest()
            with self._lock:
                self._commit = self._commit or commit
                commit = self._commit
        return commit

    def _pour(
        self, name: str, begin: int, size: int | None, take: Callable[[bytes], None], taken: Callable[[], int]
    ) -> None:
        """Give the bytes of a file to ``take``, piece by piece; a transfer that broke goes on where it was.

        Args:
          name: of it.
          begin: its first byte.
          size: exactly so many, 1 or more; None: all.
          take: is given each piece.
          taken: how many bytes it was given.
        """
        utils, broken = _library("utils"), _library("errors").HTTPError
        api, patience, where = self._api(), Patience(), self._shown(name)
        path = quote(self._path(name))
        url = f"{api.endpoint}/datasets/{self.repository.id}/resolve/{quote(self._pinned(), safe='')}/{path}"
        whole = size
        while whole is None or taken() < whole:
            start = begin + taken()
            end = "" if size is None else str(begin + size - 1)
            headers = api._build_hf_headers() | {"Range": f"bytes={start}-{end}", "Accept-Encoding": "identity"}
            try:
                with utils.get_session().stream("GET", url, headers=headers, timeout=silence_s()) as response:
                    self._count(requests=1)
                    if response.status_code == 416:
                        break
                    utils.hf_raise_for_status(response)
                    if response.status_code != 206 and start:
                        raise StoreError(f"{where}: the Hub does not give a part of it; read it whole")
                    left = None if size is None else size - taken()
                    for piece in response.iter_bytes(_PIECE):
                        piece = piece if left is None else piece[:left]
                        left = None if left is None else left - len(piece)
                        take(piece)
                        self._count(read=len(piece))
                        if piece:
                            patience.renew()
                        if left == 0:
                            break
                    if size is None:
                        return
                    if left:
                        break  # the file ends here, or the transfer did
            except broken as error:
                self._again(error, patience, where)
        if whole is not None and taken() < whole:
            raise StoreError(f"{where}: ends at byte {begin + taken():,}, before {begin + whole:,}")

    def _asked(self, where: str, call: Callable[[], T], patience: Patience | None = None) -> T:
        """What ``call`` returns, tried again where that may help. StoreError where it does not."""
        broken = _library("errors").HTTPError
        patience = Patience() if patience is None else patience
        while True:
            try:
                result = call()
            except StoreError:
                raise
            except (broken, RuntimeError, OSError, ValueError) as error:
                self._again(error, patience, where)
            else:
                self._count(requests=1)
                return result

    def _again(self, error: Exception, patience: Patience, where: str) -> None:
        """Pause before the next try; raises the StoreError that says ``error`` if there is none."""
        self._count(requests=1)
        cause: BaseException = error
        while not _is_http(cause) and cause.__cause__ is not None:
            cause = cause.__cause__  # an upload that failed is a RuntimeError of the HTTP error
        response = getattr(cause, "response", None)
        status = None if response is None else int(response.status_code)
        later = status in _LATER or (status is None and _is_http(cause))
        if later and patience.wait():
            self._count(retries=1)
            return
        raise self._refusal(cause, status, later, where) from None

    def _refusal(self, cause: BaseException, status: int | None, later: bool, where: str) -> StoreError:
        said = getattr(cause, "server_message", None)
        text = f"status {status}" if status is not None else type(cause).__name__
        if said:
            text += f": {self._without_token(brief(str(said), 200))}"
        if status in _CONFLICT:
            return _Conflict(f"{where}: others commit to it at the same time ({text}); run the same command again")
        if status == 401:
            return StoreError(
                f"{where}: the Hub does not know who asks ({text}): set HF_TOKEN, or run `hf auth login`; or there is no "
                "such repository"
            )
        if status == 403:
            return StoreError(f"{where}: the Hub does not allow this ({text}): use a token that may write there")
        if status == 404:
            return MissingError(
                f"{where}: there is no such repository, revision or file, or none that this token may see ({text})"
            )
        if status == 429:
            return StoreError(f"{where}: the Hub's limit of requests is reached ({text}); run the same command later")
        if later:
            return StoreError(f"{where}: the Hub does not answer ({text}); run the same command again later")
        if status is None:
            text += f": {self._without_token(brief(str(cause).splitlines()[0] if str(cause) else '', 200))}"
        return StoreError(f"{where}: the Hub did not do what was asked ({text})")

    def _without_token(self, text: str) -> str:
        token = _library().get_token()
        return text.replace(token, "…") if token else text

    def _api(self) -> Any:
        session = _library("utils").get_session()
        if session.timeout.read is None:  # its own calls would wait for ever for a server that says nothing
            session.timeout = _ANSWER_S
        return _library().HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, library_name="dali_dr")

    def _path(self, name: str) -> str:
        if any(part in ("", ".", "..") for part in name.split("/")):
            raise StoreError(f"{self._shown(name)}: {name!r} is no name of a file")
        return f"{self.repository.folder}/{name}" if self.repository.folder else name

    def _shown(self, name: str) -> str:
        return f"{shown_url(self._url)}/{name}"

    def _entry(self, file: Any) -> Entry:
        cut = len(self.repository.folder) + 1 if self.repository.folder else 0
        return Entry(file.path[cut:], file.size, file.lfs.sha256 if file.lfs else file.blob_id)

    def _count(self, *, requests: int = 0, retries: int = 0, read: int = 0) -> None:
        with self._lock:
            self.traffic.requests += requests
            self.traffic.retries += retries
            self.traffic.read += read


class _Conflict(StoreError):
    """Another commit came first."""


def _library(module: str = "") -> Any:
    """huggingface_hub, or a module of it; its import takes a while."""
    try:
        found = importlib.import_module(f"huggingface_hub.{module}".rstrip("."))
    except ImportError as error:
        raise StoreError("hf:// needs huggingface_hub: pip install 'dali_dr[hub]'") from error
    log = logging.getLogger("huggingface_hub.utils._http")  # which tells of whole URLs; those to upload to are signed
    if _without_queries not in log.filters:
        log.addFilter(_without_queries)
    return found


def _without_queries(record: logging.LogRecord) -> bool:
    record.msg, record.args = re.sub(r"(https?://[^\s?]+)\?\S+", r"\1", record.getMessage()), ()
    return True


def _is_http(error: BaseException) -> bool:
    """Whether it is the Hub's answer, or that there was none."""
    return getattr(error, "response", None) is not None or type(error).__module__.startswith("http")


def _size(data: bytes | Path) -> int:
    return data.stat().st_size if isinstance(data, Path) else len(data)


def _is_same(there: Any, data: bytes | Path) -> bool:
    """Whether the Hub has these bytes, by its hash of them: SHA-256 of large files, git's SHA-1 of others."""
    if there is None or not hasattr(there, "blob_id") or there.size != _size(data):
        return False
    digest = hashlib.sha256() if there.lfs else hashlib.sha1(f"blob {there.size}\0".encode(), usedforsecurity=False)
    if isinstance(data, Path):
        with data.open("rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
    else:
        digest.update(data)
    known: str = there.lfs.sha256 if there.lfs else there.blob_id
    return digest.hexdigest() == known
