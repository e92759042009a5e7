"""The demo as a web page (Gradio): one interface for each family, which asks no other machine for anything."""

import logging
import socket
import threading
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..evaluation.completion import SAMPLING
from ..evaluation.scorers import kind_of, load_scored_model
from . import demo_html
from .demo import (
    MOST_BEAMS,
    MOST_CHARACTERS,
    MOST_NEW_TOKENS,
    Refused,
    asked,
    check_texts,
    filled,
    translated,
    written,
)

logger = logging.getLogger(__name__)

WAITING = 20  # visitors in the queue; the next one is asked to come again
FAILED = "The model could not answer this. Whoever runs the demo finds the reason in its log."
TASK, EXAMPLES = "Write the opposite of the word.", "hot -> cold\nlarge -> small\nyoung -> old\nearly -> late"


def serve(
    name: str | Path,
    *,
    title: str | None = None,
    host: str | None = None,
    port: int | None = None,
    share: bool = False,
    max_characters: int = MOST_CHARACTERS,
    device: torch.device | str | None = None,
    ready: Callable[[str], object] = logger.info,
) -> None:
    """Shows the demo of a model until it is stopped.

    Args:
        name: a folder, or a name on the Hub.
        title: what visitors read as the model's name; the folder's or the Hub's where left out.
        host: where it is reached; GRADIO_SERVER_NAME, else this machine alone, where left out.
        port: GRADIO_SERVER_PORT, else the first free one from 7860, where left out.
        share: makes a public address too, through Gradio's servers; all else asks nothing of any network.
        max_characters: a longer text is refused.
        device: as for `load_scored_model`.
        ready: told the addresses when it can be visited.

    Raises:
        ImportError: without Gradio.
        ValueError: no model, an encoder without its masked-word head, a limit below 1, a host that is not this
            machine, a port that is taken.
    """
    gradio()  # what is amiss is told before a model is loaded
    _check_address(host, port)
    model, tokenizer = load_scored_model(name, device=device)
    shown = title or (Path(name).resolve().name if Path(name).is_dir() else str(name))
    app = make_app(model, tokenizer, title=shown, max_characters=max_characters)
    app.queue(max_size=WAITING)
    _, local, public = launch(app, host=host, port=port, share=share)
    if share and not public:
        logger.warning("there is no public address: Gradio's servers did not give one; the demo is here alone")
    ready(f"{shown}: {' and '.join(address for address in (local, public) if address)}")
    try:
        threading.Event().wait()  # until Ctrl-C
    finally:
        app.close(verbose=False)


def _check_address(host: str | None, port: int | None) -> None:
    if host is None and port is None:
        return  # Gradio finds a port
    try:
        if port is not None and port >= 2**16:
            raise OSError(f"ports end at {2**16 - 1}")
        family, _, _, _, place = socket.getaddrinfo(host or "127.0.0.1", None, type=socket.SOCK_STREAM)[0]
        socket.create_server((str(place[0]), port or 0), family=family).close()
    except OSError as error:
        raise ValueError(
            f"host and port must be an address of this machine that is free; got {host=}, {port=}: {error}"
        ) from error


def launch(app: Any, *, host: str | None = None, port: int | None = None, share: bool = False) -> Any:
    """Starts an app in the background, without fonts or error texts of Gradio's; returns what its launch does."""
    theme = gradio().themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return app.launch(
        server_name=host,
        server_port=port,
        share=share,
        theme=theme,
        css=demo_html.STYLE,
        prevent_thread_lock=True,
        show_error=False,
        quiet=True,
        ssr_mode=False,
        footer_links=[],
        max_file_size=0,
    )


def make_app(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    title: str,
    max_characters: int = MOST_CHARACTERS,
) -> Any:
    """Returns a `gradio.Blocks`: translation, blanks, or generation and a few-shot prompt, by what the model is.

    Args:
        model: an encoder-decoder, a masked language model or a causal one.
        tokenizer: its tokenizer.
        title: the model's name, as visitors read it.
        max_characters: a longer text is refused.

    Raises:
        ImportError: without Gradio.
        ValueError: an encoder without its masked-word head, a limit below 1.
    """
    if max_characters < 1:
        raise ValueError(f"max_characters must be at least 1; got {max_characters=}")
    gr = gradio()
    interface = {"encoder_decoder": _translation, "masked": _blanks, "causal": _generation}[kind_of(model)]
    with gr.Blocks(title=title, analytics_enabled=False) as app:
        gr.Markdown(f"# {demo_html.plain(title)}\n\nTexts of at most {max_characters:,} characters.")
        interface(gr, model, tokenizer, title, Desk(max_characters))
    return app


def gradio() -> Any:
    """Returns the library.

    Raises:
        ImportError: it is not installed; names the extra.
    """
    try:
        import gradio as library  # pyright: ignore[reportMissingImports]  # an extra of its own
    except ImportError as error:
        raise ImportError("the demo needs Gradio: pip install 'vaswani-transformer[app]'") from error
    return library


class Desk:
    """Where visitors are served, one at a time; what they must not read goes into the log.

    Args:
        most: characters of a visitor's texts together.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.lock = threading.Lock()  # the seed is the process', and so is a model's way to attend

    def __call__(self, work: Callable[..., str]) -> Callable[..., str]:
        @wraps(work)
        def answer(*given: Any) -> str:
            try:
                check_texts([value for value in given if isinstance(value, str)], most=self.most)
                with self.lock:
                    return work(*given)
            except Refused as refusal:
                return demo_html.refusal(str(refusal))
            except Exception:  # whatever it is, no visitor may read this machine's paths
                logger.exception("the demo could not answer")
                return demo_html.refusal(FAILED)

        return answer


def _translation(gr: Any, model: Any, tokenizer: Any, title: str, desk: Desk) -> None:
    def work(text: str, beams: float) -> str:
        if not text.strip():
            return ""  # nothing typed yet
        return demo_html.translation(translated(model, tokenizer, text, beams=int(beams)), model=title)

    text = gr.Textbox(label="Sentence", lines=2, info="Translated as you type.")
    beams = gr.Slider(1, MOST_BEAMS, value=4, step=1, label="Beams", info="Width of the search; 1 is greedy.")
    button = gr.Button("Translate", variant="primary")
    answer = gr.HTML(label="Translation")
    # of what is typed meanwhile only the last is translated
    _show(
        gr, [text.change, text.submit, beams.release, button.click], desk(work), [text, beams], answer, name="translate"
    )


def _blanks(gr: Any, model: Any, tokenizer: Any, title: str, desk: Desk) -> None:
    mask = tokenizer.mask_token

    def work(text: str) -> str:
        return demo_html.blanks(*filled(model, tokenizer, text))

    example = f"She was a very {mask} woman, and had no {mask}."
    text = gr.Textbox(label="Text", value=example, lines=2, info=f"{mask} stands where a word is missing.")
    button = gr.Button("Fill", variant="primary")
    answer = gr.HTML(label="Words")
    _show(gr, [text.submit, button.click], desk(work), [text], answer, name="fill")


def _generation(gr: Any, model: Any, tokenizer: Any, title: str, desk: Desk) -> None:
    with gr.Tab("Write"):
        _writing(gr, model, tokenizer, desk)
    with gr.Tab("Zero, one and few shots"):
        _shots(gr, model, tokenizer, desk)


def _writing(gr: Any, model: Any, tokenizer: Any, desk: Desk) -> None:
    def work(prompt: str, tokens: float, greedy: bool, temperature: float, k: float, p: float, seed: float) -> str:
        settings = {} if greedy else {"temperature": temperature, "top_k": int(k), "top_p": p}
        sizes = {"new_tokens": int(tokens), "seed": int(seed)}
        return demo_html.continuation(prompt, written(model, tokenizer, prompt, **sizes, greedy=greedy, **settings))

    prompt = gr.Textbox(label="Prompt", value="It is a truth universally acknowledged", lines=2)
    with gr.Row():
        tokens = gr.Slider(1, MOST_NEW_TOKENS, value=30, step=1, label="New tokens", min_width=220)
        temperature = gr.Slider(0.05, 2, value=SAMPLING["temperature"], step=0.05, label="Temperature", min_width=220)
        k = gr.Slider(0, 200, value=SAMPLING["top_k"], step=1, label="Top k (0: all)", min_width=220)
        p = gr.Slider(0.05, 1, value=SAMPLING["top_p"], step=0.05, label="Top p (1: all)", min_width=220)
        seed = gr.Number(value=0, precision=0, minimum=0, label="Seed", min_width=220)
        greedy = gr.Checkbox(label="Greedy", info="Always the likeliest token", min_width=220)
    button = gr.Button("Write", variant="primary")
    answer = gr.HTML(label="Text and steps")
    inputs = [prompt, tokens, greedy, temperature, k, p, seed]
    _show(gr, [prompt.submit, button.click], desk(work), inputs, answer, name="write")


def _shots(gr: Any, model: Any, tokenizer: Any, desk: Desk) -> None:
    def work(task: str, examples: str, question: str) -> str:
        return demo_html.answers(asked(model, tokenizer, task=task, examples=examples, question=question))

    gr.Markdown("One question without an example, with one and with all (figure 2.1 of Brown et al., 2020).")
    task = gr.Textbox(label="Task", value=TASK)
    examples = gr.Textbox(label="Examples, one a line", value=EXAMPLES, lines=4)
    question = gr.Textbox(label="Question", value="rich ->")
    button = gr.Button("Ask", variant="primary")
    answer = gr.HTML(label="Answers")
    _show(gr, [question.submit, button.click], desk(work), [task, examples, question], answer, name="ask")


def _show(
    gr: Any, triggers: Sequence[Any], answer: Callable[..., str], inputs: Sequence[Any], output: Any, *, name: str
) -> None:
    """Answers on each trigger, and to programs by a name; of what comes meanwhile only the last waits."""
    how = {"trigger_mode": "always_last", "concurrency_id": "model", "concurrency_limit": 1}
    gr.on(triggers, answer, inputs, output, api_name=name, **how)
