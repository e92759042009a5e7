"""`vaswani average`: one model from the mean of several checkpoints, as in section 6.1 of the paper."""

import argparse

EPILOG = """examples:
  vaswani average runs/transformer-demo --last 5 --out averaged
  vaswani average runs/a/checkpoints/step-00001000 runs/a/checkpoints/step-00002000 --out averaged

The paper averages the last 5 checkpoints of the base model and the last 20 of the big one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `vaswani average`."""
    parser.description = "Write the mean of several checkpoints' weights as a model of its own."
    parser.epilog = EPILOG
    parser.add_argument(
        "folders", metavar="RUN|CHECKPOINT", nargs="+", help="a run's folder, or model folders to average"
    )
    parser.add_argument("--last", metavar="N", type=int, help="of a run: average its last N complete checkpoints")
    parser.add_argument("--out", metavar="DIR", required=True, help="where the averaged model goes")


def run(arguments: argparse.Namespace) -> int:
    """Averages, and prints the folder of the new model."""
    from pathlib import Path

    from vaswani_transformer.averaging import average_checkpoints
    from vaswani_transformer.checkpoints import last_checkpoints

    folders = [Path(folder) for folder in arguments.folders]
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"no such folder: {folder}")
    if arguments.last is not None:
        if len(folders) != 1 or not (folders[0] / "checkpoints").is_dir():
            raise ValueError(
                f"--last needs one run's folder, with checkpoints/ in it; got {' '.join(arguments.folders)}"
            )
        folders = last_checkpoints(folders[0] / "checkpoints", arguments.last)
    elif len(folders) == 1:
        raise ValueError(f"one folder alone needs --last N, how many of its checkpoints to average; got {folders[0]}")
    print(average_checkpoints(folders, Path(arguments.out)))
    return 0
