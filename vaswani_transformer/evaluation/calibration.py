"""Contextual calibration of tasks with fixed labels; Zhao et al. (2021), Calibrate Before Use, section 5.

How likely a model finds each label behind the same shots and a question without content tells its bias; a label's
probability is divided by it. The content is "N/A", "[MASK]" and nothing, as in the paper, and the bias is the
mean of the three sets of probabilities, each normalised over the labels.

Departure: a label of several tokens counts as a whole; the paper's code reads its first token alone.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from .prompts import Prompt
from .scorers import Score
from .scoring import Likelihood
from .tasks import CONTENT, Task

CONTENT_FREE = ("N/A", "[MASK]", "")
QUESTIONS = 32  # calibrated at a time where each has its own shots: what is done is kept


class Calibration:
    """The biases of a model on a task, each found once for the same text before a question.

    Args:
        task: with `blank`.
        tokens: of the model, of context, choice and tail; see `scorers`.
    """

    def __init__(self, task: Task, tokens: Callable[[str, str, str], Any]) -> None:
        if task.blank is None:
            raise ValueError(f"calibration needs a task with fixed labels and `blank`; got {task.name}")
        self._name, self._blank, self._tokens = task.name, task.blank, tokens
        self._biases: dict[str, list[float]] = {}

    def rows(self, before: str) -> list[list[Any]]:
        """Returns the labels behind each question without content.

        Args:
            before: description and shots.
        """
        contexts = [before + self._blank.contexts[0].replace(CONTENT, text) for text in CONTENT_FREE]
        labels, tail = self._blank.choices, self._blank.tail
        return [[self._tokens(context, label, tail) for label in labels] for context in contexts]

    def longest(self, before: str) -> int:
        """Returns how many tokens a model reads at most."""
        return max(choice.read for group in self.rows(before) for choice in group)

    def find(self, prompts: Iterable[Prompt], scorer: Score) -> None:
        """Finds the biases behind the texts before questions.

        Raises:
            ValueError: a question with other labels than the task's.
        """
        missing: dict[str, list[list[Any]]] = {}
        for prompt in prompts:
            if prompt.question.choices != self._blank.choices:
                raise ValueError(
                    f"calibration needs the same choices in every question; got {list(prompt.question.choices)} of "
                    f"question {prompt.question.id} and {list(self._blank.choices)} of {self._name}"
                )
            if prompt.before not in self._biases and prompt.before not in missing:
                missing[prompt.before] = self.rows(prompt.before)
        scores = dict(scorer([group for groups in missing.values() for group in groups]) if missing else ())
        for number, before in enumerate(missing):
            first = number * len(CONTENT_FREE)
            self._biases[before] = bias([scores[first + place] for place in range(len(CONTENT_FREE))])

    def of(self, before: str) -> list[float]:
        """Returns the natural logarithm of the bias to each label, found before."""
        return self._biases[before]


def bias(scores: Sequence[Sequence[Likelihood]]) -> list[float]:
    """Returns the natural logarithm of the mean over content-free questions of the labels' probabilities, normalised.

    Args:
        scores: of each question the likelihood of each label.
    """
    shares_QL = np.array([[score.logprob for score in row] for row in scores])
    shares_QL -= np.logaddexp.reduce(shares_QL, axis=1, keepdims=True)
    return (np.logaddexp.reduce(shares_QL, axis=0) - np.log(len(scores))).tolist()
