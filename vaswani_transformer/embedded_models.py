"""The three small trained models that ship with the package, by name: `demo-transformer`, `demo-bert`, `demo-gpt`.

Each is what its demo recipe made of the embedded texts, in half precision, with its tokenizer and its card.
"""

from pathlib import Path

EMBEDDED = ("demo-transformer", "demo-bert", "demo-gpt")
FOLDER = Path(__file__).parent / "embedded"


def model_folder(name: str | Path) -> str:
    """Returns the folder of an embedded model, or the name as it is: another folder's, or one on the Hub.

    A folder of the name where the command runs comes first.

    Args:
        name: of a model.
    """
    name = str(name)
    return str(FOLDER / name) if name in EMBEDDED and not Path(name).exists() else name
