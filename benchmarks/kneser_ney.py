"""The baseline that a trained GPT must beat: interpolated modified Kneser-Ney, Chen & Goodman (1998), on its tokens.

    python benchmarks/kneser_ney.py MODEL gpt-small-books [key=value ...]

It reads the data section of a causal recipe and the model's tokenizer, so it is trained on exactly the tokens that the
model is, and both are scored on the validation text: the model in windows of its context that overlap by half. With
`separate_documents` no document sees another. Prints one line of JSON.
"""

import argparse
import json
import logging
import time
from dataclasses import dataclass

import numpy as np

from vaswani_transformer.data.causal import CausalData, CausalOptions
from vaswani_transformer.data.document_options import open_documents
from vaswani_transformer.evaluation.causal_lm import load_causal_lm
from vaswani_transformer.evaluation.perplexity import Perplexity, score_tokens
from vaswani_transformer.recipe import Recipe, load_recipe
from vaswani_transformer.sections import read_section

logger = logging.getLogger(__name__)

FALLBACK = (0.5, 1.0, 1.5)  # KenLM's discounts where an order has too few rare n-grams to compute them from


@dataclass(frozen=True)
class _Order:
    """What is known of the n-grams of one length.

    An n-gram is known by its rank among those of its length, and looked up by its key: the rank of its first n - 1
    tokens times the vocabulary's size, plus its last token. So keys fit 64 bits whatever the vocabulary.

    Args:
        keys: of the n-grams seen, ascending.
        discounted: their counts less the discount.
        totals: the sum of the counts that go on from each (n-1)-gram, by its rank.
        freed: the share of that sum which discounting freed for shorter contexts.
    """

    keys: np.ndarray
    discounted: np.ndarray
    totals: np.ndarray
    freed: np.ndarray

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Returns the rank of each key, -1 where it was not seen."""
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[places] == keys, places, -1)


class KneserNey:
    """A language model of n-grams over one stream of tokens.

    The longest n-grams have their counts; shorter ones the number of tokens seen before them. An order has three
    discounts, for counts of 1, 2 and more, from its counts of counts. The shortest is mixed with the uniform
    distribution, so that no token of the vocabulary is impossible. A text's first tokens have the context there is.

    Args:
        tokens: [N] ids to learn from.
        vocab_size: V; ids lie below it.
        order: n of the longest n-grams.

    Raises:
        ValueError: an order of 0, fewer tokens than that, an id outside the vocabulary.
    """

    def __init__(self, tokens: np.ndarray, *, vocab_size: int, order: int = 5) -> None:
        if order < 1 or len(tokens) < order:
            raise ValueError(
                f"tokens must be at least as many as the order, which is 1 or more; got {len(tokens)=}, {order=}"
            )
        self.vocab_size = vocab_size
        tokens = self._checked(tokens)
        seen: list[tuple[np.ndarray, np.ndarray]] = []  # of each order, the keys of its n-grams and their counts
        ranks = np.zeros(len(tokens) + 1, dtype=np.int64)  # of the n-grams by where they end
        for n in range(1, order + 1):
            keys, firsts, longer = np.unique(
                ranks[:-1] * vocab_size + tokens[n - 1 :], return_index=True, return_inverse=True
            )
            if n > 1:  # each new n-gram is one more token that was seen before its last n - 1
                shorter = seen[-1][0]
                seen[-1] = shorter, np.bincount(ranks[1:][firsts], minlength=len(shorter))
            seen.append((keys, np.bincount(longer)))
            ranks = longer
        contexts = [1, *(len(keys) for keys, _ in seen)]
        self._orders = [_order(*of, vocab_size, before) for of, before in zip(seen, contexts, strict=False)]

    def _checked(self, tokens: np.ndarray) -> np.ndarray:
        if tokens.min() < 0 or tokens.max() >= self.vocab_size:
            raise ValueError(
                f"token ids must be in [0, vocab_size={self.vocab_size}); got {tokens.min()} to {tokens.max()}"
            )
        return tokens.astype(np.int64)

    def probabilities(self, tokens: np.ndarray) -> np.ndarray:
        """Returns the probability of each token after those before it, float64 [N]."""
        tokens = self._checked(tokens)
        found = np.full(len(tokens), 1 / self.vocab_size)
        contexts = np.zeros(len(tokens), dtype=np.int64)  # the rank of the n - 1 tokens before each, -1 for unseen
        for order in self._orders:
            ranks = np.where(contexts < 0, -1, order.find(contexts * self.vocab_size + tokens))
            totals = np.where(contexts < 0, 0, order.totals[contexts])
            known = np.flatnonzero(totals)  # the others are foretold by the shorter context alone
            seen = np.where(ranks < 0, 0.0, order.discounted[ranks])[known]
            found[known] = seen / totals[known] + order.freed[contexts[known]] * found[known]
            contexts = np.append(-1, ranks[:-1])
        return found


def _order(keys: np.ndarray, counts: np.ndarray, vocab_size: int, contexts: int) -> _Order:
    """Discounts the counts of one order, whose n-grams go on from so many contexts."""
    discounts = np.array([0.0, *_discounts(counts)])[np.minimum(counts, 3)]
    of = keys // vocab_size
    totals = np.bincount(of, counts, minlength=contexts)
    freed = np.bincount(of, discounts, minlength=contexts) / np.maximum(totals, 1)
    return _Order(keys, counts - discounts, totals, freed)


def _discounts(counts: np.ndarray) -> tuple[float, ...]:
    """The three discounts of an order: equation 26 of Chen & Goodman (1998)."""
    n1, n2, n3, n4 = (int(np.count_nonzero(counts == count)) for count in range(1, 5))
    if min(n1, n2, n3) > 0:
        y = n1 / (n1 + 2 * n2)
        found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        if all(0 <= discount <= count for count, discount in enumerate(found, start=1)):
            return found
    logger.info("too few rare n-grams for discounts of their own (%d, %d, %d, %d): %s", n1, n2, n3, n4, FALLBACK)
    return FALLBACK


def main() -> None:
    """Learns, scores both, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="the trained model's folder")
    parser.add_argument("recipe", metavar="NAME|PATH", help="the recipe it was trained from")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="recipe keys to change, dotted")
    parser.add_argument("--order", type=int, default=5, help="n of the longest n-grams (5)")
    arguments = parser.parse_intermixed_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    recipe = load_recipe(arguments.recipe, arguments.overrides, kind=Recipe)
    model, tokenizer = load_causal_lm(arguments.model)
    options = read_section(CausalOptions, recipe.data, "data")
    data = CausalData.prepare(options, tokenizer, recipe.batch, seed=recipe.seed)
    if "validation" not in data.documents:
        raise ValueError(f"data must name validation text; got {recipe.data}")
    train, validation = data.documents["train"].tokens, data.documents["validation"]
    rows = np.split(validation.tokens, validation.starts()[1:]) if options.separate_documents else [validation.tokens]
    began = time.monotonic()
    baseline = KneserNey(train, vocab_size=len(tokenizer), order=arguments.order)
    nats = sum(float(-np.log(baseline.probabilities(row)[1:]).sum()) for row in rows)
    print(
        json.dumps(
            {
                "baseline": f"interpolated modified Kneser-Ney, order {arguments.order}",
                "recipe": arguments.recipe,
                "train_tokens": len(train),
                "kneser_ney": _figures(nats, options, rows) | {"seconds": round(time.monotonic() - began, 1)},
                "model": _figures(score_tokens(model, rows)[0], options, rows),
            }
        )
    )


def _figures(nats: float, options: CausalOptions, rows: list[np.ndarray]) -> dict[str, float | int]:
    """The perplexities of the validation text, whose words and bytes are those of the files."""
    pieces = [piece for _, _, piece in open_documents(options, "validation", verbatim=True)[1]]
    lines = [piece for piece in pieces if isinstance(piece, str)]
    words = sum(len(line.split()) for line in lines)
    size = sum(len(line.encode()) + 1 for line in lines) - pieces.count(None)  # a document's last line ends with it
    tokens = sum(len(row) - 1 for row in rows)
    found = Perplexity(nats, tokens, words, size, len(rows), 0, 0).as_dict()
    return {name: value for name, value in found.items() if name not in ("window", "stride", "documents")}


if __name__ == "__main__":
    main()
