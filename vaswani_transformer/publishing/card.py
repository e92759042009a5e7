"""The card of a model, the README.md of its repository on the Hub, written from what its folder holds."""

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .card_facts import as_words, read_facts, short_power
from .card_head import card_head, digests, merge_heads
from .card_sections import join_sections, renew_sections, split_sections

logger = logging.getLogger(__name__)

HEAD = "head"  # a section without text: digests of the metadata that we wrote
PUSHED = "This is the model card of a 🤗 transformers model that has been pushed on the Hub. "
PUSHED += "This model card has been automatically generated."  # what push_to_hub says of its own form


def card_text(folder: Path, *, repo: str, existing: str | None = None) -> str:
    """Returns the README.md of a model's repository: metadata, and sections filled from what was recorded and measured.

    It reads `config.json`, `run.json`, `loss.png`, `card.yaml` (what only a person knows: licence, watts), and the JSON
    that `vaswani evaluate-translation`, `perplexity` and `evaluate` wrote into the folder or up to two folders below.
    What was not measured is not in it. No absolute path, user or host of this machine is either.

    Args:
        folder: of a model, such as `vaswani train` and `vaswani finetune` write.
        repo: its name on the Hub, OWNER/NAME.
        existing: the repository's README.md. Its text outside our marks stays, and so do keys and items of its metadata
            that we did not write; the empty form that transformers' push_to_hub leaves is no text.

    Raises:
        ValueError: no model of ours in the folder, a file there that cannot be read, `existing` with broken metadata or
            a mark without its partner.
    """
    facts = read_facts(Path(folder), repo=repo)
    sections, head = split_sections(_rendered(facts)), card_head(facts)
    sections[HEAD] = f"<!-- {json.dumps(digests(head))} -->"
    if existing is None or not existing.strip():
        return _checked(head, join_sections(f"# {facts['name']}", sections))
    card = _parsed(existing.replace("\r\n", "\n"))
    merged = merge_heads(head, card.data.to_dict(), _digests_of(split_sections(card.text)))
    if _is_template(card.text):
        return _checked(merged, join_sections(f"# {facts['name']}", sections))
    return _checked(merged, renew_sections(card.text, sections).lstrip("\n"))


def _rendered(facts: Mapping[str, Any]) -> str:
    environment = Environment(
        loader=FileSystemLoader(template_folder()), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "count": lambda value: f"{value:,}",
        "digits": lambda value: f"{value:.4g}",
        "words": as_words,
        "power": short_power,
        "cell": lambda value: str(value).replace("|", "\\|").replace("\n", " "),
    }
    text = environment.get_template(f"{facts['family']}.md").render(facts)
    return re.sub(r"\n{3,}", "\n\n", text)  # of parts that were left out


def template_folder() -> Path:
    """Returns where the cards' bodies are: inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "model_cards"
    return inside if inside.is_dir() else package.parent / "model_cards"


def _is_template(text: str) -> bool:
    """Whether a card has no line but those of the empty form that transformers' push_to_hub leaves."""
    form = ModelCard.from_template(ModelCardData(library_name="transformers"), model_description=PUSHED).text
    return set(text.splitlines()) <= set(form.splitlines())


def _parsed(text: str) -> ModelCard:
    if not text.lstrip().startswith("---"):
        text = f"---\n\n---\n{text}"  # huggingface_hub warns of a card without metadata
    try:
        return ModelCard(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(
            f"the metadata at the head of the repository's README.md must be valid; got {error}: mend it there"
        ) from error


def _digests_of(sections: Mapping[str, str]) -> dict[str, Any]:
    body = sections.get(HEAD, "").removeprefix("<!--").removesuffix("-->").strip()
    try:
        found = json.loads(body) if body else {}
    except ValueError as error:
        raise ValueError(
            f"the section `{HEAD}` of the repository's README.md is written by a program; got {body!r}: take it out"
        ) from error
    return found if isinstance(found, dict) else {}


def _checked(head: Mapping[str, Any], text: str) -> str:
    """Puts head and text together, and reads them back as huggingface_hub does."""
    whole = f"---\n{yaml.safe_dump(dict(head), sort_keys=False, allow_unicode=True)}---\n\n{text}"
    return str(_parsed(whole).content)
