"""Translation speed against transformers' Marian with the same weights: native, ctranslate2-float32, ctranslate2-int8.

    python benchmarks/translation.py --model runs/transformer-demo
    python benchmarks/translation.py --quick ctranslate2-float32 ctranslate2-int8

Both sides translate the same test sentences in the same batches with beam 4, no length penalty and one limit, so that
outputs are of equal length; speed is sentences a second. Without --model a small one is trained first. The claims of
CTranslate2 are of the exported model; BLEU is that of the demo's test set by our search, by CTranslate2's n-best list
reranked by the paper's penalty, and by CTranslate2's own defaults (two beams, |Y|).
"""

import argparse
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from marian import marian_like
from pairs import rates, report
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig, MarianMTModel

import vaswani_transformer  # noqa: F401  registers its classes with the Auto classes
from vaswani_transformer.convert import export_to_ctranslate2
from vaswani_transformer.data.parallel_text import TranslationOptions, read_pairs
from vaswani_transformer.evaluation import translate
from vaswani_transformer.evaluation.ctranslate2_model import CTranslate2Transformer
from vaswani_transformer.evaluation.translation import sacrebleu_scores
from vaswani_transformer.recipe import load_recipe
from vaswani_transformer.train import train

BEAMS, LIMIT = 4, 60
CLAIMS = ("native", "ctranslate2-float32", "ctranslate2-int8")


def as_marian(model) -> MarianMTModel:
    """The same function as a MarianMTModel: zero biases, and the model width permuted to its sines-first positions."""
    config = model.config
    marian = marian_like(config)
    order = torch.cat((torch.arange(0, config.d_model, 2), torch.arange(1, config.d_model, 2)))
    weights = {}
    for name, weight in model.state_dict().items():
        inside = ("fc2.weight", "fc2.bias", "out_proj.weight", "layer_norm.weight", "layer_norm.bias")
        weight = weight[order] if name.endswith(inside) else weight
        outside = ("fc1.weight", "q_proj.weight", "k_proj.weight", "v_proj.weight")
        reads_stream = name.endswith(outside) or "embed_tokens" in name or "shared" in name or "lm_head" in name
        weights[name] = weight[:, order] if reads_stream else weight
    missing, unexpected = marian.load_state_dict(weights, strict=False)
    assert not unexpected, unexpected
    with torch.no_grad():
        for name, parameter in marian.named_parameters():
            if name in missing and name.endswith("proj.bias"):
                parameter.zero_()
        marian.lm_head.weight[config.pad_token_id] = 0.0  # tied: our decoder starts from a zero vector
        marian.final_logits_bias[0, config.pad_token_id] = -math.inf  # and pad is never an output
    marian.generation_config = GenerationConfig(
        pad_token_id=config.pad_token_id,
        eos_token_id=config.eos_token_id,
        decoder_start_token_id=config.pad_token_id,
    )
    return marian.eval()


def batches_of(folder: str | Path, sentences: int, size: int) -> list[dict[str, Tensor]]:
    """Test sentences of the embedded corpus in batches of `size`, in order of length as a translator has them."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = read_pairs(TranslationOptions.from_dict(load_recipe("transformer-demo").data), "test")["source"]
    texts = sorted(texts[:sentences], key=len)
    rows = [texts[start : start + size] for start in range(0, len(texts), size)]
    return [dict(tokenizer(row, return_tensors="pt", padding=True)) for row in rows]


@torch.inference_mode()
def claim(
    name: str, model: Any, marian: MarianMTModel, batches: list[dict[str, Tensor]], pairs: int, **more: Any
) -> None:
    """Generate of a model of ours over Marian's, the same batches a turn."""
    settings = {"num_beams": BEAMS, "length_penalty": 0.0, "max_new_tokens": LIMIT}
    lengths: dict[str, list[int]] = {"ours": [], "theirs": []}

    def turn(model: Any, side: str, pair: int) -> float:
        done = 0
        for batch in batches[pair % len(batches) :: 4]:
            ids = model.generate(**batch, **settings)
            # transformers fills up with end-of-sentence where the pad id is 0: count to the first one.
            lengths[side].append(int(ids[:, 1:].eq(marian.config.eos_token_id).cumsum(1).eq(0).sum()))
            done += len(ids)
        return done

    found = rates(lambda pair: turn(model, "ours", pair), lambda pair: turn(marian, "theirs", pair), pairs=pairs)
    report(
        name,
        *found,
        unit="sentences/s",
        peer="transformers MarianMTModel.generate, same weights",
        tokens={side: sum(each) for side, each in lengths.items()},
        **more,
    )


def ctranslate2_claims(
    folder: str | Path, marian: MarianMTModel, batches: list[dict[str, Tensor]], pairs: int, quantizations: list[str]
) -> None:
    """The exported model over Marian's, and its BLEU beside ours on the demo's test set."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = read_pairs(TranslationOptions.from_dict(load_recipe("transformer-demo").data), "test")
    sources = list(texts["source"])

    def bleu(found: list[str]) -> float:
        return round(sacrebleu_scores(found, list(texts["target"]), target_language="de")["bleu"], 2)

    ours = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    reference = bleu(translate(ours, tokenizer, sources))
    for quantization in quantizations:
        with tempfile.TemporaryDirectory() as exported:
            out = export_to_ctranslate2(folder, Path(exported) / "model", quantization=quantization)
            model: Any = CTranslate2Transformer(out, device="cpu")
        rows = [tokenizer.convert_ids_to_tokens(ids) for ids in tokenizer(sources)["input_ids"]]
        plain = [result.hypotheses[0] for result in model.translator.translate_batch(rows, max_batch_size=32)]
        scores = {
            "ours": reference,
            "ctranslate2, reranked": bleu(translate(model, tokenizer, sources)),
            "ctranslate2, its defaults": bleu([tokenizer.convert_tokens_to_string(tokens) for tokens in plain]),
        }
        claim(f"ctranslate2-{quantization}", model, marian, batches, pairs, bleu=scores)


def main() -> None:
    """Trains a model where none is given, then runs the claims."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claims", nargs="*", metavar="CLAIM", help=f"of {', '.join(CLAIMS)}; all without it")
    parser.add_argument("--model", help="a folder that `vaswani train transformer-demo` wrote")
    parser.add_argument("--quick", action="store_true", help="under three minutes on two cores")
    arguments = parser.parse_args()
    if arguments.model:
        run_claims(arguments.model, arguments.claims or CLAIMS, quick=arguments.quick)
        return
    steps = 200 if arguments.quick else 1000
    settings = [f"steps={steps}", f"save.every_steps={steps}", "average_last=1", "validate.every_steps=null"]
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_recipe("transformer-demo", [*settings, "validate.metrics=[loss]", f"output={folder}/run"])
        run_claims(train(recipe), arguments.claims or CLAIMS, quick=arguments.quick)


def run_claims(folder: str | Path, claims: Sequence[str], *, quick: bool) -> None:
    """Runs the claims named on the model of a folder."""
    sentences, pairs = (256, 10) if quick else (800, 20)
    ours = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    marian, batches = as_marian(ours), batches_of(folder, sentences, 32)
    if "native" in claims:
        claim("native", ours, marian, batches, pairs)
    quantizations = [name.removeprefix("ctranslate2-") for name in claims if name != "native"]
    if quantizations:
        ctranslate2_claims(folder, marian, batches, pairs, quantizations)


if __name__ == "__main__":
    main()
