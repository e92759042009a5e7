"""The baseline that a fine-tuned classifier must beat: TF-IDF of words and pairs of words, logistic regression.

    python benchmarks/tfidf_baseline.py bert-sst2 [key=value ...]

It reads the rows of a fine-tuning recipe (single texts, classes), so it is trained and scored on exactly those that the
model is. Prints one line of JSON.
"""

import argparse
import json
import time

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.pipeline import make_pipeline

from vaswani_transformer.finetune import load_data
from vaswani_transformer.finetune_recipe import FinetuneRecipe
from vaswani_transformer.recipe import load_recipe

TOKEN = r"(?u)\S+"  # texts of GLUE are split at blanks already; one-letter words and punctuation count
STRENGTHS = (1.0, 4.0, 16.0)  # inverse regularisation; the best on the validation rows, which favours the baseline


def main() -> None:
    """Fits and scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", metavar="NAME|PATH", help="a fine-tuning recipe")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="recipe keys to change, dotted")
    arguments = parser.parse_args()
    data = load_data(load_recipe(arguments.recipe, arguments.overrides, kind=FinetuneRecipe).data)
    train, validation = data.train, data.validation
    began = time.monotonic()
    accuracies = {}
    for strength in STRENGTHS:
        words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=TOKEN, sublinear_tf=True)
        model = make_pipeline(words, LogisticRegression(C=strength, max_iter=1000))
        model.fit([row["text"] for row in train], [str(row["label"]) for row in train])
        found = model.predict([row["text"] for row in validation])
        accuracies[strength] = float(accuracy_score([str(row["label"]) for row in validation], found))
    rows = {"train": len(train), "validation": len(validation)}
    best = {"accuracy": max(accuracies.values()), "by_strength": accuracies, "seconds": time.monotonic() - began}
    print(json.dumps({"baseline": "tf-idf + logistic regression", "recipe": arguments.recipe, **rows, **best}))


if __name__ == "__main__":
    main()
