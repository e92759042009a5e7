"""What is asked of the Hub: a repository, one commit, what it holds; and errors that say how to go on."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from .contents import CARD, Contents, made_by_us

AGAIN = "give the same command again: files that the Hub has whole are not sent a second time"
UNTOUCHED = "Nothing was sent"


def refuse_name(repo: str) -> None:
    """Raises ValueError where the Hub allows no repository of this name."""
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ValueError(
            f"a repository must have a name that the Hub allows, NAME or NAMESPACE/NAME; got {repo!r}: {error}"
        ) from error


@contextmanager
def hub_errors(repo: str, left: str) -> Iterator[None]:
    """Within it an error of the Hub or of the network says what was left undone, and how to go on.

    Args:
        repo: the repository that is asked for.
        left: what the repository is like if this fails.

    Raises:
        ValueError: the token may not do it, or none is known.
        OSError: no network, no answer.
        KeyboardInterrupt: with the same told.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f"stopped. {left}; {AGAIN}") from stop
    except Exception as error:
        causes = _chain(error)
        refused = next((cause for cause in causes if isinstance(cause, HfHubHTTPError)), None)
        if any(isinstance(cause, OfflineModeIsEnabled) for cause in causes):
            raise OSError(f"publishing needs the network; got HF_HUB_OFFLINE=1: unset it. {left}; {AGAIN}") from error
        # The client's library is httpx or httpx2, by its version; that of Xet tells of everything as RuntimeError.
        lost = [cause for cause in causes if any(kind.__name__ == "TransportError" for kind in type(cause).__mro__)]
        if lost or (refused is None and isinstance(error, RuntimeError)):
            told = f"{type((lost or causes)[-1]).__name__}: {(lost or causes)[-1]}"
            raise OSError(f"publishing needs an answer of the Hub; got {told}. {left}; {AGAIN}") from error
        if refused is not None and refused.response.status_code in (401, 403):
            raise ValueError(
                f"publishing needs a token that may write to {repo}; got the status {refused.response.status_code}, "
                f"{refused.server_message or refused}: make one at huggingface.co/settings/tokens, and give it to "
                f"`hf auth login` or in HF_TOKEN. {left}"
            ) from error
        error.add_note(f"{left}; {AGAIN}")
        raise


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def full_name(repo: str) -> str:
    """NAMESPACE/NAME of a repository, whose namespace is the token's user where it names none.

    Raises:
        ValueError: no token, or one that the Hub does not know.
        OSError: no network.
    """
    if not get_token():
        raise ValueError(
            "publishing needs a token that may write; got none: make one at huggingface.co/settings/tokens, and give "
            "it to `hf auth login` or in HF_TOKEN. Nothing was sent; --dry-run needs none"
        )
    if "/" in repo:
        return repo
    with hub_errors(repo, UNTOUCHED):
        return f"{HfApi().whoami()['name']}/{repo}"


def card_of(repo: str) -> str | None:
    """The text of a repository's README.md; None where it has none, or is not there yet."""
    with hub_errors(repo, UNTOUCHED), tempfile.TemporaryDirectory() as folder:
        try:
            path = HfApi().hf_hub_download(repo, CARD, local_dir=folder)
        except (RemoteEntryNotFoundError, RepositoryNotFoundError):
            return None
        return Path(path).read_text(encoding="utf-8")


def make_repo(repo: str, *, private: bool) -> None:
    """Makes a repository where there is none.

    Args:
        repo: NAMESPACE/NAME.
        private: others may not see it.

    Raises:
        ValueError: a token that may not write there, a public repository where a private one is asked for.
        OSError: no network.
    """
    api = HfApi()
    with hub_errors(repo, UNTOUCHED):
        api.create_repo(repo, private=private or None, exist_ok=True)
        public = not api.model_info(repo).private
    if private and public:
        raise ValueError(
            f"what is published as private needs a repository that is; got {repo}, which is public: make it private "
            "in its settings on the Hub, or choose another name. Nothing was sent"
        )


def upload(contents: Contents, repo: str) -> str:
    """Sends files, the large ones first, and makes one commit of all: until it is there, a repository is as it was.

    What an earlier version published and this one has not is taken away; other files stay.

    Returns:
        The commit's id.

    Raises:
        ValueError: a card that the Hub refuses, a token that may not write.
        OSError: the network is lost.
    """
    api = HfApi()
    with hub_errors(repo, f"{repo} is as it was before"):
        additions = [CommitOperationAdd(name, _given(content)) for name, content in contents.items()]
        old = [name for name in api.list_repo_files(repo) if made_by_us(name) and name not in contents]
        operations = [*additions, *(CommitOperationDelete(name) for name in old)]
        return api.create_commit(repo, operations, commit_message="Publish with vaswani_transformer").oid


def _given(content: Path | bytes) -> str | bytes:
    return content if isinstance(content, bytes) else str(content)


def download(contents: Contents, repo: str, commit: str, folder: Path) -> None:
    """Fetches what was sent, as a commit has it, into an empty folder.

    Raises:
        OSError: the network is lost.
    """
    with hub_errors(repo, f"{repo} holds all files as commit {commit}, not yet checked"):
        HfApi().snapshot_download(repo, revision=commit, local_dir=folder, allow_patterns=list(contents))
