"""The demo of a model as a Space of the Hub: a folder to upload, which runs what `vaswani demo` runs."""

from importlib.metadata import version
from pathlib import Path

import yaml

from .. import __version__
from ..evaluation.scorers import kind_of, load_scored_model
from ..run_folder import new_folder
from .demo import MOST_CHARACTERS
from .demo_app import gradio

PYTHON = "3.12"  # a Space's own choice is older than what this package runs on
LONGEST_SUMMARY = 60  # of the Hub's short_description

APP = '''"""The demo of a model; `vaswani demo` shows the same one."""

from pathlib import Path

from vaswani_transformer.viewing.demo_app import serve

serve({model}, title={title!r}, max_characters={max_characters})
'''

SUMMARIES = {
    "encoder_decoder": "Translation, with the attention of the model drawn",
    "masked": "Words for the blanks of a text, with their probabilities",
    "causal": "Text, with the probabilities of each step",
}


def write_space(name: str | Path, out: str | Path, *, max_characters: int = MOST_CHARACTERS) -> Path:
    """Writes a Space: app.py, requirements.txt, README.md with the Hub's metadata, and the model where it is a folder.

    A model of the Hub stands there by its name. Of a folder what loads a model is copied, nothing of its training.

    Args:
        name: a folder, or a name on the Hub.
        out: a folder that is not there yet, or is empty.
        max_characters: a longer text is refused.

    Returns:
        The folder.

    Raises:
        ImportError: without Gradio, whose version the Space runs.
        ValueError: a folder that holds something, no model, a limit below 1.
    """
    gradio()
    out = new_folder(out, use="write a Space into")
    if max_characters < 1:
        raise ValueError(f"max_characters must be at least 1; got {max_characters=}")
    model, tokenizer = load_scored_model(name, device="cpu")
    copied = Path(name).is_dir()
    title = Path(name).resolve().name if copied else str(name)
    summary = SUMMARIES[kind_of(model)]
    out.mkdir(parents=True, exist_ok=True)
    if copied:
        model.save_pretrained(out / "model")
        tokenizer.save_pretrained(out / "model")
    place = 'Path(__file__).parent / "model"' if copied else repr(title)
    text = APP.format(model=place, title=title, max_characters=max_characters)
    if not copied:
        text = text.replace("from pathlib import Path\n\n", "")
    (out / "app.py").write_text(text, encoding="utf-8")
    requirement = f"vaswani-transformer[app]>={__version__}\n"
    (out / "requirements.txt").write_text(requirement, encoding="utf-8")
    (out / "README.md").write_text(_readme(title, summary, hub=not copied), encoding="utf-8")
    return out


def _readme(title: str, summary: str, *, hub: bool) -> str:
    head = {
        "title": title.rpartition("/")[2],
        "emoji": "🔤",
        "colorFrom": "blue",
        "colorTo": "indigo",
        "sdk": "gradio",
        "sdk_version": version("gradio"),
        "python_version": PYTHON,
        "app_file": "app.py",
        "pinned": False,
        "short_description": summary,
    }
    if hub:
        head["models"] = [title]
    told = yaml.safe_dump(head, sort_keys=False, allow_unicode=True)
    return f"---\n{told}---\n\n# {title}\n\n{summary}. Made by `vaswani demo --space`.\n"
