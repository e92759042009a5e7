"""`vaswani lm-eval`: lm-eval's own command, which knows our scorers as the model `vaswani`."""

import argparse

EPILOG = """examples:
  vaswani lm-eval run --model vaswani --model_args pretrained=runs/gpt --tasks hellaswag,arc_easy --num_fewshot 5
  vaswani lm-eval run --model vaswani --model_args pretrained=gpt2,batch_tokens=8192 --tasks lambada_openai
  vaswani lm-eval run --model vaswani --model_args pretrained=runs/bert,pll=original --tasks blimp
  vaswani lm-eval ls tasks
  accelerate launch --num_processes 8 --module vaswani_cli lm-eval run --model vaswani --model_args pretrained=gpt2

All words are those of lm-eval, whose run --help tells them. Keys of --model_args: pretrained, dtype, batch_tokens,
max_length, and pll of a masked model. BERT and the Transformer have their own scores, as in `vaswani evaluate`:
pseudo-log-likelihoods, and choices behind their source; BERT writes no text, and the Transformer has no probability of
a text alone. --batch_size is not used: batches are of so many tokens. Several processes have the results of one.
To install it: pip install 'vaswani-transformer[lm-eval]'"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of `vaswani lm-eval`."""
    parser.description = "Run any task of lm-eval (EleutherAI's lm-evaluation-harness) with the fast scorer."
    parser.epilog = EPILOG
    parser.add_argument("words", metavar="WORD", nargs=argparse.REMAINDER, help="the words of lm-eval's command")
    parser.parse_intermixed_args = parser.parse_args  # argparse mixes no options among the words of another command


def run(arguments: argparse.Namespace) -> int:
    """Hands the words on."""
    from vaswani_transformer.evaluation.lm_eval_model import run_command

    run_command(arguments.words)
    return 0
