"""Loads a trained demo through the Auto classes and shows twelve translations: `python training/demo.py RUN`."""

import argparse

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import vaswani_transformer  # noqa: F401  registers its classes with the Auto classes
from vaswani_transformer.data.parallel_text import TranslationOptions, read_pairs
from vaswani_transformer.recipe import load_recipe


def main() -> None:
    """Translates the first test pairs of the demo's recipe and prints them beside their references."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", metavar="RUN", help="the folder of a trained model")
    parser.add_argument("--count", type=int, default=12, help="sentences shown (12)")
    arguments = parser.parse_args()

    model = AutoModelForSeq2SeqLM.from_pretrained(arguments.model).eval()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    options = TranslationOptions.from_dict(load_recipe("transformer-demo").data)
    pairs = read_pairs(options, "test")[: arguments.count]
    with torch.inference_mode():
        ids = model.generate(**tokenizer(pairs["source"], return_tensors="pt", padding=True))
    translations = tokenizer.batch_decode(ids, skip_special_tokens=True)
    for source, ours, reference in zip(pairs["source"], translations, pairs["target"], strict=True):
        print(f"\n   English  {source}\n     model  {ours}\n reference  {reference}")


if __name__ == "__main__":
    main()
