"""What every benchmark here shares: interleaved pairs against a peer in one process, and one JSON line a ratio."""

import json
import statistics
import time
from collections.abc import Callable

import numpy as np

PAIRS = 10


def rates(
    ours: Callable[[int], float], theirs: Callable[[int], float], *, pairs: int = PAIRS
) -> tuple[list[float], list[float]]:
    """Runs both in turn after one uncounted turn each, so that a machine whose speed drifts slows both alike.

    Args:
        ours: does the pair of this number and returns how much work it did; the call is timed.
        theirs: the same for the peer.
        pairs: how many are counted.

    Returns:
        Work a second of ours and of theirs, an entry a pair.
    """
    found: tuple[list[float], list[float]] = ([], [])
    sides = [(0, ours), (1, theirs)]
    for pair in range(pairs + 1):
        for side, run in sides if pair % 2 else reversed(sides):
            started = time.perf_counter()
            work = run(pair)
            if pair:
                found[side].append(work / (time.perf_counter() - started))
    return found


def report(
    claim: str,
    ours: list[float],
    theirs: list[float],
    *,
    unit: str,
    peer: str,
    less_is_better: bool = False,
    **more: object,
) -> None:
    """Prints the claim's JSON line: the median ratio of the pairs, above 1 where ours is better, and its interval.

    The interval is the 95% bootstrap interval of the median over pairs. The ratio is ours over theirs, or theirs over
    ours where less is better.
    """
    ratios = np.array(theirs) / np.array(ours) if less_is_better else np.array(ours) / np.array(theirs)
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(ratios, (2000, len(ratios))), axis=1)
    line = {
        "claim": claim,
        "ratio": round(float(np.median(ratios)), 3),
        "interval": [round(float(bound), 3) for bound in np.quantile(medians, (0.025, 0.975))],
        "ours": round(statistics.median(ours), 1),
        "theirs": round(statistics.median(theirs), 1),
        "unit": unit,
        "peer": peer,
        "pairs": len(ratios),
        **more,
    }
    print(json.dumps(line), flush=True)
