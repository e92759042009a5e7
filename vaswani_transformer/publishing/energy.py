"""How much energy a run took, where somebody has stated watts: hours times watts, and nothing else."""

from collections.abc import Mapping
from typing import Any

# Most watts of a board, by its maker's data sheet, and the name that CUDA gives it.
BOARDS = {
    "NVIDIA H200": 700,
    "NVIDIA H100 80GB HBM3": 700,
    "NVIDIA H100 PCIe": 350,
    "NVIDIA A100-SXM4-80GB": 400,
    "NVIDIA A100-SXM4-40GB": 400,
    "NVIDIA A100 80GB PCIe": 300,
    "NVIDIA A100-PCIE-40GB": 250,
    "NVIDIA L40S": 350,
    "NVIDIA L4": 72,
    "NVIDIA A10": 150,
    "Tesla T4": 70,
    "Tesla V100-SXM2-16GB": 300,
    "Tesla V100-SXM2-32GB": 300,
    "NVIDIA GeForce RTX 4090": 450,
    "NVIDIA GeForce RTX 3090": 350,
}


def energy_of(run: Mapping[str, Any] | None, by_hand: Mapping[str, Any]) -> dict[str, Any] | None:
    """The energy of a run: its hours times watts that a person stated, or that the GPUs' maker states.

    Args:
        run: `run.json`.
        by_hand: `card.yaml`; its `watts` are of the whole machine, and stand in front of what is known of GPUs.

    Returns:
        `kwh`, `hours`, `watts`, and `how`, a sentence; None where no watts are known: nothing is guessed.
    """
    if run is None or not run["results"].get("seconds"):
        return None
    hours = run["results"]["seconds"] / 3600
    names, processes = {gpu["name"] for gpu in run["environment"]["gpus"]}, run.get("processes")
    if "watts" in by_hand:
        watts, how = by_hand["watts"], f"{by_hand['watts']:g} W, stated by who trained it"
    elif len(names) == 1 and processes and (board := BOARDS.get(next(iter(names)))):
        watts = board * processes
        how = f"{processes} × {board} W, the most that the maker states for a board; the GPUs alone"
    else:
        return None
    return {"kwh": hours * watts / 1000, "hours": hours, "watts": watts, "how": how}
