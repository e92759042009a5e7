"""A model's folder to a repository on the Hub that loads anywhere: sent, fetched again, and compared."""

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..convert import export_to_transformers
from ..sections import unknown_name
from .card import card_text
from .contents import CARD, Contents, contents_of, contents_of_export, pictures_of
from .hub import card_of, download, full_name, make_repo, refuse_name, upload
from .privacy import refuse_private
from .reload import difference_elsewhere, expected_of, refuse_other_bytes
from .run_results import NOT_RESULTS

logger = logging.getLogger(__name__)

EXPORT = "transformers"  # all others are no models that from_pretrained loads


@dataclass(frozen=True)
class Published:
    """What is on the Hub and was found to load elsewhere.

    Args:
        repo: NAMESPACE/NAME.
        commit: its id.
        difference: how far the outputs of model and copy are apart, as a share of the largest, or of 1.
    """

    repo: str
    commit: str
    difference: float


def publish(folder: str | Path, repo: str, *, private: bool = False, export: str | None = None) -> Published:
    """Publishes the model of a folder, and returns only when it loads where this package is not installed.

    All files are sent in one commit: until it is made, the repository is as it was, and a command that was stopped goes
    on where it was, since the Hub keeps the files that it has got whole. What the commit holds is then downloaded into
    a clean folder and loaded in a process where this package is hidden; its outputs must be those of the folder.

    Args:
        folder: of a model of ours.
        repo: NAME, of the token's user, or NAMESPACE/NAME.
        private: the repository is made private.
        export: publishes what `vaswani export` writes in this format instead, "transformers".

    Raises:
        ValueError: a name that the Hub refuses, no token, no weights, something private among what would be sent, a
            copy that does not load or computes something else.
        OSError: no network.
    """
    folder = Path(folder)
    with _model_files(folder, repo, export) as (files, told):
        repo = full_name(repo)
        contents = _with_card(files, told, repo, card_of(repo))
        expected = expected_of(folder, export=export is not None)
        make_repo(repo, private=private)  # only now: what is refused leaves no empty one behind
        commit = upload(contents, repo)
        logger.info("%s has all files: loading them in a process without this package", repo)
        with tempfile.TemporaryDirectory() as clean:
            download(contents, repo, commit, Path(clean))
            try:
                refuse_other_bytes(Path(clean), contents)
                difference = difference_elsewhere(Path(clean), expected)
            except ValueError as error:
                error.add_note(f"{repo} holds the files as commit {commit}, but is no model to announce")
                raise
    return Published(repo, commit, difference)


@contextmanager
def planned(folder: str | Path, repo: str, *, export: str | None = None) -> Iterator[Contents]:
    """All that `publish` would send, checked, without a network or a token; the files last as long as the block.

    The card is that of a new repository: one that is there keeps its hand-written text.

    Args:
        folder: of a model of ours.
        repo: NAME or NAMESPACE/NAME.
        export: as in `publish`.

    Raises:
        ValueError: as `publish`, but for the network.
    """
    with _model_files(Path(folder), repo, export) as (files, told):
        yield _with_card(files, told, repo, None)


@contextmanager
def _model_files(folder: Path, repo: str, export: str | None) -> Iterator[tuple[Contents, Path]]:
    """What is sent but for the card, and the folder that the card is of; an export is there until the block ends."""
    refuse_name(repo)
    ours = contents_of(folder)  # an export needs a model of ours too
    if export is None:
        yield ours, folder
        return
    if export != EXPORT:
        raise ValueError(unknown_name(export, [EXPORT], "format to publish"))
    with tempfile.TemporaryDirectory() as scratch:
        results = {name: content for name, content in ours.items() if name.startswith(".eval_results/")}
        exported = export_to_transformers(folder, Path(scratch) / "exported")
        contents = contents_of_export(exported) | results
        _copy_what_cards_tell(folder, exported)
        yield contents, exported


def _copy_what_cards_tell(folder: Path, exported: Path) -> None:
    """Puts what was recorded and measured of a model beside its export, whose card tells of it."""
    patterns = [f"{deeper}*{ending}" for deeper in ("", "*/", "*/*/") for ending in (".json", ".png", ".yaml")]
    for path in (path for pattern in patterns for path in folder.glob(pattern)):
        place = exported / path.relative_to(folder)
        if path.relative_to(folder).parts[0] not in NOT_RESULTS and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)


def _with_card(files: Contents, folder: Path, repo: str, existing: str | None) -> Contents:
    card = card_text(folder, repo=repo, existing=existing)
    contents = files | {CARD: card.encode()} | pictures_of(card, folder)
    refuse_private(contents, repo)
    return contents
