"""A split of a data set through `datasets`, whose own error for files it cannot read is none of Python's."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset


def load_rows(name: str, config: str | None, *, split: str, revision: str | None) -> "Dataset":
    """Returns the rows of a split of a folder or of a data set on the Hub.

    Raises:
        ValueError: files that cannot be read, or hold other columns than the first ones; what `datasets` refuses.
    """
    import datasets  # takes a second, and files do without
    from datasets.exceptions import DatasetGenerationError

    try:
        rows = datasets.load_dataset(name, config, split=split, revision=revision)
    except DatasetGenerationError as error:
        reason = str(error.__cause__ or error).partition("\n")[0]
        raise ValueError(
            f"every file of a data set must be readable, and have the same columns; got {name!r}, split={split!r}: "
            f"{reason}: mend the file, or name files one by one, which tell the line"
        ) from error
    assert isinstance(rows, datasets.Dataset)
    return rows
