"""GPT writing text, one prompt at a time, against transformers: claims gpt2 and openai-gpt.

    python benchmarks/gpt_generation.py --quick

Models of 6 layers of 256 with 40,478 words and the same random weights on both sides write 400 tokens greedily after a
prompt of 16 through `generate`, each with the cache it makes by default; speed is in tokens a second. transformers'
OpenAI-GPT has no cache: beside our ratio over it stands what transformers' own GPT-2 reaches over it. A line more tells
what a static cache with a compiled decode step reaches, and how long the compilation takes.
"""

import argparse
import functools
import json
import statistics
import tempfile
import time
from typing import Any

import torch
from gpt import both
from pairs import rates, report
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

VOCABULARY, CONTEXT, PROMPT, NEW = 40478, 512, 16, 400


def written(model: Any, number: int, **settings: Any) -> Tensor:
    """What a model writes after the prompt of this number, greedily: [NEW]."""
    prompt = torch.randint(VOCABULARY, (1, PROMPT), generator=torch.Generator().manual_seed(number))
    settings = {"do_sample": False, "max_new_tokens": NEW, "min_new_tokens": NEW, "pad_token_id": 0, **settings}
    return model.generate(prompt, **settings)[0, PROMPT:]


@torch.inference_mode()
def claim(kind: str, pairs: int, **more: Any) -> tuple[float, Any]:
    """Prints a claim's line; returns the peer's tokens a second, and our model."""
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = both(kind, folder, vocab_size=VOCABULARY, n_positions=CONTEXT)
    ours.eval()
    theirs.eval()
    same = bool((written(ours, 0) == written(theirs, 0)).all())
    found = rates(lambda pair: len(written(ours, pair)), lambda pair: len(written(theirs, pair)), pairs=pairs)
    rate = statistics.median(found[1])
    more = {name: round(value / rate, 3) for name, value in more.items()}
    report(kind, *found, unit="tokens/s", peer=f"transformers {type(theirs).__name__}.generate", same=same, **more)
    return rate, ours


@torch.inference_mode()
def compiled(model: Any, turns: int) -> None:
    """Prints tokens a second with a static cache and a compiled decode step, and the seconds of compiling it."""
    settings: dict[str, Any] = {"cache_implementation": "static", "disable_compile": True}
    plain = model.forward
    step = torch.compile(plain, fullgraph=True, dynamic=False)

    @functools.wraps(plain)
    def forward(*inputs: Any, **kwargs: Any) -> Any:
        return (step if kwargs["input_ids"].shape[1] == 1 else plain)(*inputs, **kwargs)

    model.forward = forward
    began = time.perf_counter()
    written(model, 0, max_new_tokens=2, min_new_tokens=2, **settings)
    seconds = time.perf_counter() - began
    speeds = []
    for turn in range(turns + 1):
        began = time.perf_counter()
        speeds.append(len(written(model, turn, **settings)) / (time.perf_counter() - began))
    line = {"compiled": "static cache, compiled decode step", "ours": round(statistics.median(speeds[1:]), 1)}
    print(json.dumps(line | {"unit": "tokens/s", "seconds to compile": round(seconds, 1)}), flush=True)


def main() -> None:
    """Runs both claims, and tells what compiling gives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="about three minutes on two cores")
    pairs = 4 if parser.parse_args().quick else 10
    disable_progress_bar()
    gpt2, model = claim("gpt2", 2 * pairs)
    claim("openai-gpt", pairs, gpt2_over_it=gpt2)
    compiled(model, pairs)


if __name__ == "__main__":
    main()
