"""Where a run stands."""

from dataclasses import dataclass, field


@dataclass
class Progress:
    """Where a run stands; with weights, optimiser and random states, all that resuming needs.

    Args:
        steps: updates of the whole run: the recipe's, or as many as its minutes hold at the pace so far.
        step: updates done.
        phase: number of the phase of the last update, from 1.
        epoch: the epoch the next update belongs to.
        position: updates of that epoch done.
        tokens: target tokens seen.
        real_tokens: tokens seen on both sides, padding not counted.
        seconds: wall-clock time of all sittings.
        best: best value of `validate.best` so far, and its step.
        stale: validations since.
        skipped: updates passed over because a number was not finite (`on_nonfinite`).
        validation: the last validation's numbers.
    """

    steps: int = 0
    step: int = 0
    phase: int = 1
    epoch: int = 0
    position: int = 0
    tokens: int = 0
    real_tokens: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_step: int | None = None
    stale: int = 0
    skipped: int = 0
    validation: dict[str, float] = field(default_factory=dict)
