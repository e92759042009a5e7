"""What the demo found, as HTML in which every text of a visitor or a model stands as text."""

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from .attention_page import attention_page
from .demo import Candidate, Refused, Step, Translated, Written
from .page import shown as shown_word

STYLE = """
.found table, .found tr, .found th, .found td { border: 0 !important; }
.found table { border-collapse: collapse; width: 100%; max-width: 34rem; table-layout: fixed; margin: .25rem 0 .75rem; }
.found th, .found td { text-align: left; padding: .1rem .35rem; overflow-wrap: anywhere;
  font-variant-numeric: tabular-nums; }
.found th:not(:first-child), .found td:not(:first-child) { width: 33%; }
@media (max-width: 40rem) { .found table { font-size: .85rem; } .found th { font-size: .8rem; } }
.found td.bar { background: linear-gradient(var(--bar), var(--bar)) 0 / var(--part) 100% no-repeat; }
.found tr.chosen bdi { font-weight: 700; text-decoration: underline; }
.found .text { font-size: 1.15rem; white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: plaintext; }
.found .prompt { white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: plaintext; opacity: .8; }
.found details { border-bottom: 1px solid var(--border-color-primary); }
.found summary { cursor: pointer; padding: .2rem 0; }
.found .refused { padding: .5rem .75rem; border-left: 4px solid #c2410c; overflow-wrap: anywhere; }
.found iframe { width: 100%; height: 46rem; border: 1px solid var(--border-color-primary); border-radius: .25rem; }
.found { --bar: rgba(31, 95, 191, .28); }
.dark .found { --bar: rgba(127, 178, 255, .35); }
"""


def plain(text: str) -> str:
    """Returns a text as HTML; braces and dollars too, of which an interface may make templates."""
    return re.sub("[${}`]", lambda letter: f"&#{ord(letter[0])};", escape(text))


def shown(word: str) -> str:
    """Returns a token as HTML."""
    return f"<bdi>{plain(shown_word(word))}</bdi>"


def refusal(message: str) -> str:
    """Returns why there is nothing to show; a screen reader says it at once."""
    return _found(f'<p class="refused" role="alert">{plain(message)}</p>')


def translation(found: Translated, *, model: str) -> str:
    """Returns the best translation, the others with their scores, and the page of the attention.

    Args:
        found: what `translated` returns.
        model: its name, for the page's title.
    """
    best = f'<p class="text" aria-live="polite">{plain(found.hypotheses[0].text)}</p>'
    others = ""
    if len(found.hypotheses) > 1:
        rows = "".join(
            f"<tr><td><bdi>{plain(one.text)}</bdi></td><td>{'' if one.score is None else f'{one.score:.3f}'}</td></tr>"
            for one in found.hypotheses
        )
        head = "<tr><th>translation</th><th>score</th></tr>"
        others = f"<details><summary>All {len(found.hypotheses)} beams</summary><table>{head}{rows}</table></details>"
    last = found.maps["cross"].weights.shape[0]
    page = attention_page(found.maps, model=model, kind="cross", layer=last, notice=found.notice)
    # a place of its own, which may run the page's code and reach nothing of the demo's
    frame = f'<iframe title="attention" sandbox="allow-scripts" srcdoc="{plain(page)}"></iframe>'
    return _found(best + others + frame)


def blanks(text: str, found: Sequence[Sequence[Candidate]]) -> str:
    """Returns a text with its blanks filled, and the likeliest words of each blank."""
    tables = "".join(f"<h3>Blank {number}</h3>{_table(candidates)}" for number, candidates in enumerate(found, start=1))
    return _found(f'<p class="text" aria-live="polite">{plain(text)}</p>{tables}')


def continuation(prompt: str, found: Written) -> str:
    """Returns a prompt with what was written behind it, and each step to open."""
    text = f'<p class="text" aria-live="polite"><span>{plain(prompt)}</span><b>{plain(found.text)}</b></p>'
    return _found(text + _steps(found.steps))


def answers(found: Mapping[str, tuple[str, Written | Refused]]) -> str:
    """Returns the prompts with their answers by setting."""
    parts = []
    for setting, (prompt, answer) in found.items():
        parts.append(f'<h3>{setting}</h3><p class="prompt">{plain(prompt)}</p>')
        if isinstance(answer, Refused):
            parts.append(f'<p class="refused">{plain(str(answer))}</p>')
        else:
            parts.append(f'<p class="text" aria-live="polite"><b>{plain(answer.text)}</b></p>')
            parts.append(f"<details><summary>Steps</summary>{_steps(answer.steps)}</details>")
    return _found("".join(parts))


def _steps(steps: Iterable[Step]) -> str:
    return "".join(
        f"<details><summary>{number}. {shown(step.chosen.word)} {_percent(step.chosen.probability)}</summary>"
        f"{_table(step.candidates, step.chosen)}</details>"
        for number, step in enumerate(steps, start=1)
    )


def _table(candidates: Sequence[Candidate], chosen: Candidate | None = None) -> str:
    """The likeliest words with bars; the chosen one comes behind them where it is none of them."""
    rows = [*candidates, *([] if chosen is None or chosen in candidates else [chosen])]
    drawn = candidates[0].drawn is not None
    head = "<tr><th>word</th><th>probability</th>" + ("<th>drawn with</th>" if drawn else "") + "</tr>"
    return f"<table>{head}{''.join(_row(candidate, candidate == chosen) for candidate in rows)}</table>"


def _row(candidate: Candidate, chosen: bool) -> str:
    told = (candidate.probability,) if candidate.drawn is None else (candidate.probability, candidate.drawn)
    cells = "".join(f'<td class="bar" style="--part: {100 * part:.1f}%">{_percent(part)}</td>' for part in told)
    name = shown(candidate.word) + (" (chosen)" if chosen else "")
    kind = "chosen" if chosen else "other"
    return f'<tr class="{kind}"><td>{name}</td>{cells}</tr>'


def _percent(part: float) -> str:
    return f"{100 * part:.2f} %"


def _found(body: str) -> str:
    return f'<div class="found">{body}</div>'
