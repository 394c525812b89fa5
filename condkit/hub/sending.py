"""Sending a bundle to the Hub in commits; called again, only what is not there yet is sent.

The Hub's client does each transfer (deduplicated and retried by Xet, or LFS where Xet is switched
off) and each commit. What is cut here are the commits: each is kept whatever happens to the next,
and the files that describe the whole come with the last one. Before the first, the repository's own
list of hashes tells what is there already.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from condkit import __version__
from condkit.errors import ConfigError, OutputError
from condkit.hub.contents import ABOUT_THE_WHOLE, Bundle, OnProgress, OwnFile
from condkit.hub.failures import explain, may_pass, status_of

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

FILES_PER_COMMIT = 1000
BYTES_PER_COMMIT = 20_000_000_000
"""Limits of one commit: the Hub allows few commits an hour, and takes long for large ones."""
WAITS = (1.0, 5.0, 25.0)
"""Seconds before each further try of a commit that failed for a passing reason."""

_KEPT = frozenset({".gitattributes", ".gitignore", "LICENSE", "LICENSE.md", "LICENSE.txt"})

Answer = TypeVar("Answer")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a bundle goes.

    Attributes:
        repo_id: "OWNER/NAME".
        public: Whether everybody may read it. Holds for a repository that is made; one that is
            there keeps its own setting, and has to have been asked for as it is.
        revision: Branch, made if need be, or a pull request's "refs/pr/1"; None is the main branch.
        message: First line of the commits.
        replace: Delete what else is in the repository, but for its licence.
    """

    repo_id: str
    public: bool = False
    revision: str | None = None
    message: str = "Upload with condkit"
    replace: bool = False

    def __post_init__(self) -> None:
        owner, _, name = self.repo_id.partition("/")
        if not owner or not name or "/" in name:
            raise ConfigError(f"repository: expected OWNER/NAME, got {self.repo_id!r}")
        if not self.message.strip():
            raise ConfigError("message: expected a few words, got none")


@dataclass(frozen=True, slots=True, kw_only=True)
class PushSummary:
    """What a push did.

    Attributes:
        url: The repository's page.
        sent: Files sent by this call.
        there: Files that were there already.
        deleted: Files removed from the repository.
        size: Bytes of the files sent.
        commits: How many.
        public: Whether everybody may read the repository.
    """

    url: str
    sent: int
    there: int
    deleted: int
    size: int
    commits: int
    public: bool


def push(
    bundle: Bundle,
    target: Target,
    *,
    workers: int = 4,
    on_progress: OnProgress | None = None,
) -> PushSummary:
    """Bring a bundle to the Hub, and see that all of it is there.

    The token is that of HF_TOKEN or `hf auth login`; the Hub is that of HF_ENDPOINT.

    Args:
        bundle: From `condkit.hub.check`.
        target: Where to.
        workers: Files that are sent at once, where Xet is switched off.
        on_progress: Called with the files that are there, and the number of all.

    Raises:
        ConfigError: if the network is forbidden, or the repository's name cannot be.
        OutputError: if there is no token, no right or no way to the Hub; if the repository is
            public and that was not asked for, or holds files that would be mixed with these.
    """
    sender = _Sender(_client(), bundle, target, workers)
    public = sender.prepare()
    there = sender.list_there()
    stale = sender.stale(there)
    missing = [file for file in bundle.files if not _is_there(file, there.get(file.path))]
    done = len(bundle.files) - len(missing)
    commits = 0
    for batch, deleted in _commits(missing, stale):
        if on_progress is not None:
            on_progress(done, len(bundle.files))
        sender.commit(batch, deleted, number=commits + 1)
        commits += 1
        done += len(batch)
    if on_progress is not None:
        on_progress(done, len(bundle.files))
    if commits:
        sender.verify()
    return PushSummary(
        url=sender.url,
        sent=len(missing),
        there=len(bundle.files) - len(missing),
        deleted=len(stale),
        size=sum(file.size for file in missing),
        commits=commits,
        public=public,
    )


def _client() -> HfApi:
    """The Hub's client, with a token."""
    from huggingface_hub import HfApi, constants, get_token

    is_offline = os.environ.get("CONDKIT_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    if is_offline or constants.HF_HUB_OFFLINE:
        name = "CONDKIT_OFFLINE" if is_offline else "HF_HUB_OFFLINE"
        raise ConfigError(f"push uses the network, which {name} forbids; unset it, or --dry-run")
    token = get_token()
    if not token:
        raise OutputError(
            f"no token for {constants.ENDPOINT}: make one with the right to write at "
            f"{constants.ENDPOINT}/settings/tokens, then `hf auth login` or HF_TOKEN"
        )
    return HfApi(token=token, library_name="condkit", library_version=__version__)


@dataclass(frozen=True, slots=True)
class _Sender:
    """The requests of one push."""

    api: HfApi
    bundle: Bundle
    target: Target
    workers: int

    @property
    def url(self) -> str:
        """The repository's page."""
        folder = "datasets/" if self.bundle.kind == "dataset" else ""
        return f"{self.api.endpoint}/{folder}{self.target.repo_id}"

    @property
    def _where(self) -> dict[str, Any]:
        return {"repo_id": self.target.repo_id, "repo_type": self.bundle.kind}

    def prepare(self) -> bool:
        """Make the repository and the branch, where they are missing.

        Returns:
            Whether everybody may read the repository.
        """
        private = self._ask(self._is_private)
        if private is None:
            self._ask(lambda: self.api.create_repo(private=not self.target.public, **self._where))
            private = not self.target.public
        elif not private and not self.target.public:
            raise OutputError(
                f"{self.url} is there and public: everybody could read what is sent; --public "
                "allows it, or use another repository"
            )
        elif private and self.target.public:
            _log.warning("%s is private and stays so; its settings page changes that", self.url)
        revision = self.target.revision
        if revision is not None and not revision.startswith("refs/"):
            self._ask(lambda: self.api.create_branch(branch=revision, exist_ok=True, **self._where))
        return not private

    def _is_private(self) -> bool | None:
        """Whether the repository is; None where there is none."""
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            return bool(self.api.repo_info(**self._where).private)
        except RepositoryNotFoundError as error:
            # The Hub says 401 for a wrong token as well as for what a token may not see.
            if status_of(error) == 401:
                self.api.whoami()
            return None

    def list_there(self) -> dict[str, RepoFile]:
        """The files of the repository, by name."""
        from huggingface_hub.hf_api import RepoFile

        def read() -> dict[str, RepoFile]:
            entries = self.api.list_repo_tree(
                recursive=True, revision=self.target.revision, **self._where
            )
            return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}

        return self._ask(read)

    def stale(self, there: Mapping[str, RepoFile]) -> list[str]:
        """Files to delete.

        Raises:
            OutputError: if files would be mixed with those of the bundle, and `replace` is not set.
        """
        own = {file.path for file in self.bundle.files}
        others = sorted(name for name in there if name not in own and name not in _KEPT)
        if self.target.replace:
            return others
        if self.bundle.kind == "model":
            return []
        # Readers take whole folders: `data/train-*` of two builds would be read as one.
        folders = {path.partition("/")[0] for path in own if "/" in path}
        mixed = [name for name in others if name.partition("/")[0] in folders]
        if mixed:
            raise OutputError(
                f"{self.url} holds {len(mixed)} files that are not in {self.bundle.folder} "
                f"({', '.join(mixed[:3])}...) and would be read together with it; --replace "
                "deletes them, or use another repository"
            )
        return []

    def commit(self, files: Sequence[OwnFile], deleted: Sequence[str], *, number: int) -> None:
        """Send files and commit them."""
        message = self.target.message + (f" (part {number})" if number > 1 else "")

        def send() -> None:
            from huggingface_hub import CommitOperationAdd, CommitOperationDelete

            # Made anew for each try: the client notes in them what it has done.
            self.api.create_commit(
                operations=[
                    *(CommitOperationDelete(name) for name in deleted),
                    *(CommitOperationAdd(file.path, str(file.local)) for file in files),
                ],
                commit_message=message,
                revision=self.target.revision,
                num_threads=self.workers,
                **self._where,
            )

        self._ask(send, waits=WAITS)

    def verify(self) -> None:
        """See that the repository holds every file as it is here."""
        there = self.list_there()
        lost = [f.path for f in self.bundle.files if not _is_there(f, there.get(f.path))]
        if lost:
            raise OutputError(
                f"{self.url} does not have {len(lost)} files after they were sent "
                f"({', '.join(lost[:3])}...); see whether a .gitignore there leaves them out, and "
                "whether somebody else writes to it"
            )

    def _ask(self, request: Callable[[], Answer], *, waits: Sequence[float] = ()) -> Answer:
        for wait in (*waits, None):
            try:
                return request()
            # The Hub's client passes through errors of several libraries without a common base.
            except Exception as error:
                words = explain(error, repo_id=self.target.repo_id, endpoint=self.api.endpoint)
                if wait is None or not may_pass(error):
                    raise OutputError(words) from error
                _log.warning("%s; trying again in %.0f s", words.partition("; ")[0], wait)
                time.sleep(wait)
        raise AssertionError("the last try returns or raises")


def _commits(
    missing: Sequence[OwnFile], stale: Sequence[str]
) -> Iterator[tuple[list[OwnFile], Sequence[str]]]:
    """Files and deletions of each commit; what describes the whole goes with the last one."""
    data = [file for file in missing if file.path not in ABOUT_THE_WHOLE]
    last = [file for file in missing if file.path in ABOUT_THE_WHOLE]
    batches = list(_batches(data))
    for batch in batches[:-1]:
        yield batch, ()
    rest = batches[-1] if batches else []
    if rest or last or stale:
        yield [*rest, *last], stale


def _batches(files: Sequence[OwnFile]) -> Iterator[list[OwnFile]]:
    batch: list[OwnFile] = []
    size = 0
    for file in files:
        if batch and (len(batch) >= FILES_PER_COMMIT or size + file.size > BYTES_PER_COMMIT):
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += file.size
    if batch:
        yield batch


def _is_there(file: OwnFile, remote: RepoFile | None) -> bool:
    """Whether the repository has this very content: by sha256, or git's own hash of small files."""
    if remote is None or remote.size != file.size:
        return False
    if remote.lfs is not None:
        return bool(remote.lfs.sha256 == file.sha256)
    data = file.local.read_bytes()
    digest = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    return bool(remote.blob_id == digest)
