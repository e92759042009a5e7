"""One of two processes that save together: save_in_two_processes.py CASE FOLDER; it writes what it was told."""

import sys
from pathlib import Path

from accelerate import Accelerator

from vaswani_transformer import checkpoints
from vaswani_transformer.shared_save import save_together


def main(case: str, folder: Path) -> str:
    accelerator = Accelerator(cpu=True)
    rank = accelerator.process_index

    def part(staged: Path) -> None:
        if case == f"part-{rank}":
            raise OSError(28, "No space left on device")
        (staged / f"part-{rank}").write_text(str(rank))

    def rest(staged: Path) -> None:
        if case == "rest":
            raise ValueError("every weight must stay finite")
        (staged / "rest").write_text("")

    def stage(write) -> None:
        if case == "stage":
            raise OSError(28, "No space left on device")
        checkpoints.save_checkpoint(folder / "checkpoints", 3, write=write, keep=2)

    try:
        save_together(accelerator, stage=stage, part=part, rest=rest)
    except (ValueError, OSError) as error:
        told = f"{type(error).__name__}: {error}"
    else:
        told = "saved"
    accelerator.wait_for_everyone()
    (folder / f"told-{rank}").write_text(told)
    accelerator.end_training()
    return told


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
