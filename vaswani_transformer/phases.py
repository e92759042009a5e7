"""The phases of a run: stretches of updates, each with data, batch and schedule of its own (section A.2 of Devlin et
al. 2018: nine tenths of the updates on sequences of 128, the last tenth on sequences of 512).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .families import Family
from .recipe import Recipe
from .sections import read_section

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Phase:
    """One phase of a run; a run whose recipe names none has one.

    Args:
        number: from 1.
        start: updates of the run before its first.
        end: updates of the run up to its last.
        recipe: the run's, with the phase's keys in place.
        schedule_steps: updates that the schedule's clock runs over.
        starts_schedule: whether the clock starts with the phase, not with the run.
    """

    number: int
    start: int
    end: int
    recipe: Recipe
    schedule_steps: int
    starts_schedule: bool


def phases_of(recipe: Recipe, steps: int) -> list[Phase]:
    """The phases of a run of so many updates, in order; one may be empty where the run is very short.

    Args:
        recipe: the run's.
        steps: updates of the whole run.
    """
    shares = [phase.share for phase in recipe.phases] or [1.0]
    ends = [round(steps * sum(shares[: number + 1])) for number in range(len(shares))]
    ends[-1] = steps
    own = any(phase.starts_schedule for phase in recipe.phases)
    return [
        Phase(number, start, end, one, max(1, end - start) if own else steps, own)
        for number, (start, end, one) in enumerate(zip([0, *ends], ends, recipe.by_phase(), strict=False), 1)
    ]


def phase_at(phases: Sequence[Phase], step: int) -> Phase:
    """The phase of the update after `step`; the last one at the end of the run."""
    return next((phase for phase in phases if step < phase.end), phases[-1])


def saved_phase(phases: Sequence[Phase], number: int) -> Phase:
    """The phase a checkpoint was written in.

    Raises:
        ValueError: the recipe has fewer phases than the checkpoint's.
    """
    if number > len(phases):
        raise ValueError(
            f"resuming needs the phases that the run was started with; got a checkpoint of phase {number} and "
            f"{len(phases)} in the recipe"
        )
    return phases[number - 1]


def prepare_data(family: Family, recipe: Recipe, *, checkpoint: Path | None) -> list[Any]:
    """The data of each phase, all with the first one's tokenizer; what is wrong in the last is told before the first.

    Args:
        family: whose data module prepares them.
        recipe: the run's.
        checkpoint: the one the run goes on from; its weights know no other tokenizer.

    Raises:
        ValueError: bad options, bad text, or no validation text where the recipe validates.
    """
    tokenizer: Any = recipe.tokenizer or {"from": recipe.model.get("from")}
    if checkpoint is not None:
        tokenizer = {"from": str(checkpoint)}
    prepared = []
    for one in recipe.by_phase():
        options = read_section(family.data.Options, one.data, where="data")
        data = family.data.prepare(options, tokenizer, one.batch, seed=recipe.seed)
        if recipe.validate.every_steps is not None and not data.validation_batches():
            raise ValueError(
                f"validate.every_steps={recipe.validate.every_steps} needs validation text; got none: name it in the "
                "recipe's data, or set validate.every_steps=null"
            )
        prepared.append(data)
        tokenizer = data.tokenizer
    return prepared


def check_lengths(data: Sequence[Any], config: Any) -> None:
    """Refuses sequences that are longer than the model's position table, in whatever phase they come.

    Raises:
        ValueError: a `max_seq_length` above `max_position_embeddings`.
    """
    for one in data:
        check_length(one.options, config)


def check_length(options: Any, config: Any) -> None:
    """As `check_lengths`, for the options of one phase's data."""
    limit = getattr(config, "max_position_embeddings", None)
    longest = getattr(options, "max_seq_length", None)
    if limit is not None and longest is not None and longest > limit:
        raise ValueError(
            f"data.max_seq_length must fit the model's max_position_embeddings; got max_seq_length={longest}, "
            f"max_position_embeddings={limit}: raise model.max_position_embeddings, or read shorter sequences"
        )
