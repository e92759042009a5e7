"""Zero, one and a few shots from end to end: figures, files, going on, and what does not change them."""

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vaswani_cli import main
from vaswani_cli.evaluate import table
from vaswani_transformer import VaswaniGPT2Tokenizer, VaswaniGPTConfig, VaswaniGPTForCausalLM
from vaswani_transformer.evaluation import evaluate_few_shot
from vaswani_transformer.evaluation.few_shot_figures import chosen, figures, spread, written_record
from vaswani_transformer.evaluation.prompts import Prompt
from vaswani_transformer.evaluation.scoring import Tokens, score_plainly
from vaswani_transformer.evaluation.tasks import Question, Task

WORDS = ("the", "cat", "dog", "sat", "ran", "on", "mat", "house", "red", "old", "new", "saw", "was", "good", "bad")


def text(rng: random.Random, most: int = 5) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(2, most)))


def asked(name: str, count: int = 12, *, choices: int = 3) -> list[Question]:
    rng = random.Random(name)
    return [
        Question(str(i), (text(rng),), tuple(f" {text(rng)}" for _ in range(choices)), rng.randrange(choices))
        for i in range(count)
    ]


def choice_task(name: str = "pick", **more: Any) -> Task:
    return Task(**{"name": name, "kind": "choice", "queries": lambda: asked(name), "delimiter": "\n", **more})


LAST = Task(name="last", kind="last_word", queries=lambda: asked("last", choices=1))
WRITTEN = Task(name="written", kind="completion", queries=lambda: asked("written", choices=2), delimiter="\n")
BARE = choice_task("bare", score="unconditional", unconditional="Answer:")


@pytest.fixture(scope="module")
def tokenizer() -> VaswaniGPT2Tokenizer:
    rng = random.Random(0)
    return VaswaniGPT2Tokenizer.train([text(rng, 20) + "\nAnswer: 1 +" for _ in range(50)], vocab_size=320)


@pytest.fixture(scope="module")
def model(tokenizer) -> Any:
    torch.manual_seed(0)
    config = VaswaniGPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        norm_order="pre",
    )
    made = VaswaniGPTForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    return made


@pytest.fixture(scope="module")
def folder(model, tokenizer, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "questions.jsonl").read_text(encoding="utf-8").splitlines()]


def by_key(out: Path) -> dict[Any, dict[str, Any]]:
    return {(r["task"], r["shots"], r["seed"], r["id"]): r for r in records(out)}


@pytest.fixture(scope="module")
def run(model, tokenizer, tmp_path_factory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("out") / "few"
    tasks = [choice_task(), LAST, WRITTEN, BARE]
    return evaluate_few_shot(model, tokenizer, tasks, shots=(0, 1, 3), seeds=2, out=out), out


def test_the_scores_in_the_log_are_those_of_the_logged_prompt_alone(run, model, tokenizer):
    tokens = Tokens(model, tokenizer)
    choices = {(task.name, q.id): q.choices for task in (choice_task(), LAST, BARE) for q in task.questions}
    scored = [record for record in records(run[1]) if "scores" in record]
    assert len(scored) == 3 * 12 * (1 + 2 + 2)
    for record in scored:
        rows = [tokens(record["prompt"], choice) for choice in choices[record["task"], record["id"]]]
        expected = [score.logprob for score in score_plainly(model, rows)]
        assert [told["logprob"] for told in record["scores"]] == pytest.approx(expected, abs=1e-4)


def test_the_unconditional_score_is_that_behind_the_answers_own_context(run, model, tokenizer):
    tokens = Tokens(model, tokenizer)
    for record in records(run[1]):
        if record["task"] == "bare":
            rows = [tokens("Answer:", choice) for choice in BARE.questions[int(record["id"])].choices]
            expected = [score.logprob for score in score_plainly(model, rows)]
            assert [told["unconditional"] for told in record["scores"]] == pytest.approx(expected, abs=1e-4)
            gains = [told["logprob"] - told["unconditional"] for told in record["scores"]]
            assert record["choice"] == int(np.argmax(gains))


def test_text_is_what_a_greedy_search_writes_up_to_a_lines_end(run, model, tokenizer):
    assert any(record["text"] for record in records(run[1]) if record["task"] == "written")
    for record in records(run[1]):
        if record["task"] == "written":
            ids = tokenizer(record["prompt"], return_tensors="pt")["input_ids"]
            with torch.no_grad():
                new = model.generate(ids, max_new_tokens=30, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
            whole = tokenizer.decode(new, skip_special_tokens=True).lstrip(" ").partition("\n")[0]
            assert whole.startswith(record["text"])
            assert record["correct"] == (record["text"] in record["answers"])


@pytest.mark.parametrize(
    ("written", "right"), [(" 124\nQ: What", True), ("124 ", True), (" 1245", False), ("\n124", False), (" 12", False)]
)
def test_a_written_answer_is_the_first_line_and_must_be_the_whole_of_one_that_is_accepted(written, right):
    prompt = Prompt(Question("0", ("Q:",), (" hundred", " 124")), "")
    assert written_record(prompt, written)["correct"] is right


def test_the_prompt_has_the_shots_that_are_logged(run):
    task = choice_task()
    for record in records(run[1]):
        if record["task"] == "pick":
            shown = "".join(task.questions[int(shot)].as_shot + "\n" for shot in record["shot_ids"])
            assert record["prompt"] == shown + task.questions[int(record["id"])].contexts[0]
            assert len(record["shot_ids"]) + record["dropped"] == record["shots"]


def test_no_shots_are_drawn_once_and_others_by_every_seed(run):
    assert {(r["shots"], r["seed"]) for r in records(run[1])} == {(0, 0), (1, 0), (1, 1), (3, 0), (3, 1)}


def test_accuracy_is_the_mean_over_seeds_and_questions(run):
    found, out = run
    for task in ("pick", "last", "bare"):
        for shots in (0, 1, 3):
            right = [r["correct"] for r in records(out) if (r["task"], r["shots"]) == (task, shots)]
            assert found["results"][task][str(shots)]["acc"] == pytest.approx(sum(right) / len(right))


def test_what_is_written_is_what_is_returned(run):
    found, out = run
    assert json.loads((out / "results.json").read_text(encoding="utf-8")) == json.loads(json.dumps(found))
    settings = found["settings"]
    assert (settings["draw"], settings["seeds"], settings["shots"]) == ("per_example", 2, [0, 1, 3])
    assert settings["versions"]["torch"].startswith(torch.__version__.partition("+")[0])


def test_scores_and_choices_do_not_depend_on_the_batch_the_subset_or_the_order(run, model, tokenizer, tmp_path):
    expected = by_key(run[1])
    tasks = [BARE, choice_task()]
    evaluate_few_shot(model, tokenizer, tasks, shots=(3, 0), seeds=2, limit=5, batch_tokens=60, out=tmp_path / "other")
    found = by_key(tmp_path / "other")
    assert len(found) == 2 * 5 * 3
    for key, record in found.items():
        assert record["prompt"] == expected[key]["prompt"]
        scores = [[told["logprob"] for told in r["scores"]] for r in (record, expected[key])]
        assert scores[0] == pytest.approx(scores[1], abs=1e-4)
        assert record["choice"] == expected[key]["choice"]


@pytest.mark.parametrize("draw", ["per_example", "shared"])
def test_a_run_whose_batches_memory_does_not_hold_goes_on_to_the_same_answers(
    draw, model, tokenizer, tmp_path, monkeypatch, caplog
):
    tasks, how = [choice_task("pooled", pool=lambda: asked("pool")), LAST, WRITTEN], {"shots": (0, 3), "draw": draw}
    expected = evaluate_few_shot(model, tokenizer, tasks, out=tmp_path / "whole", batch_tokens=4096, **how)["results"]
    forward, refused = type(model).forward, []

    def short(self: Any, input_ids: torch.Tensor, **more: Any) -> Any:
        if len(input_ids) > 2:
            refused.append(len(input_ids))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, input_ids, **more)

    monkeypatch.setattr(type(model), "forward", short)
    found = evaluate_few_shot(model, tokenizer, tasks, out=tmp_path / "short", batch_tokens=4096, **how)["results"]
    assert max(refused) > 4
    assert "memory does not hold a batch: going on with batches of" in caplog.text
    assert "scoring one choice at a time" not in caplog.text
    whole = by_key(tmp_path / "whole")
    for key, record in by_key(tmp_path / "short").items():
        assert [record.get(name) for name in ("prompt", "choice", "text", "correct")] == [
            whole[key].get(name) for name in ("prompt", "choice", "text", "correct")
        ]
        for told, before in zip(record.get("scores", []), whole[key].get("scores", []), strict=True):
            assert told["logprob"] == pytest.approx(before["logprob"], abs=1e-4)
    for task, by_shots in expected.items():
        assert {n: figures["acc"] for n, figures in by_shots.items()} == {
            n: figures["acc"] for n, figures in found[task].items()
        }


def test_shared_shots_are_the_same_text_before_every_question_and_scored_alike(model, tokenizer, tmp_path):
    task = choice_task("pooled", pool=lambda: asked("pool"))
    evaluate_few_shot(model, tokenizer, [task], shots=(3,), draw="shared", out=tmp_path / "shared")
    found = records(tmp_path / "shared")
    assert len({tuple(record["shot_ids"]) for record in found}) == 1
    tokens = Tokens(model, tokenizer)
    for record in found:
        rows = [tokens(record["prompt"], choice) for choice in task.questions[int(record["id"])].choices]
        expected = [score.logprob for score in score_plainly(model, rows)]
        assert [told["logprob"] for told in record["scores"]] == pytest.approx(expected, abs=1e-4)


def test_shots_that_do_not_fit_the_context_are_dropped_and_counted(model, tokenizer):
    task = choice_task("long", queries=lambda: asked("long", 30))
    found = evaluate_few_shot(model, tokenizer, [task], shots=(29,))["results"]["long"]["29"]
    assert found["shots_dropped"] > 0
    assert found["shots_mean"] == pytest.approx(29 - found["shots_dropped"] / 30)


def test_a_question_longer_than_the_context_is_named(model, tokenizer):
    task = choice_task("long", queries=lambda: [Question("q7", ("the cat " * 200,), (" a", " b"))])
    with pytest.raises(ValueError, match="question q7 of long"):
        evaluate_few_shot(model, tokenizer, [task], shots=(0,))


def test_a_stopped_run_goes_on_to_the_same_figures(run, model, tokenizer, tmp_path):
    tasks, out = [choice_task(), LAST, WRITTEN, BARE], tmp_path / "few"
    calls = []

    def stop(name: str, done: int, total: int) -> None:
        calls.append(name)
        if len(calls) == 9:
            raise KeyboardInterrupt

    how: dict[str, Any] = {"shots": (0, 1, 3), "seeds": 2, "out": out, "batch_tokens": 100}
    with pytest.raises(KeyboardInterrupt, match=r"stopped after \d+ answers; --resume goes on"):
        evaluate_few_shot(model, tokenizer, tasks, progress=stop, **how)
    done = len(records(out))
    assert 0 < done < 240
    assert json.loads((out / "results.json").read_text())["results"]["pick"]["0"]["questions"] > 0
    with (out / "questions.jsonl").open("a") as stream:
        stream.write('{"task": "pick", "sh')  # a kill while a line was written
    asked_again = []
    found = evaluate_few_shot(
        model, tokenizer, tasks, resume=True, progress=lambda *line: asked_again.append(line), **how
    )
    assert len(records(out)) == 240
    for task, by_shots in run[0]["results"].items():
        for shots, expected in by_shots.items():
            assert found["results"][task][shots]["acc_seeds"] == expected["acc_seeds"]


def test_a_folder_with_answers_is_not_written_over_and_not_mixed_with_other_settings(run, model, tokenizer):
    how: dict[str, Any] = {"shots": (0, 1, 3), "out": run[1]}
    tasks = [choice_task(), LAST, WRITTEN, BARE]
    with pytest.raises(ValueError, match="--resume goes on; got"):
        evaluate_few_shot(model, tokenizer, tasks, seeds=2, **how)
    with pytest.raises(ValueError, match="same settings; got seeds=3, and 2"):
        evaluate_few_shot(model, tokenizer, tasks, seeds=3, resume=True, **how)


@pytest.mark.parametrize(
    "wrong", [{"shots": ()}, {"shots": (1, 1)}, {"shots": (-1,)}, {"seeds": 0}, {"limit": 0}, {"draw": "x"}]
)
def test_a_setting_out_of_its_range_is_refused(wrong, model, tokenizer):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        evaluate_few_shot(model, tokenizer, [LAST], **wrong)


def test_more_shots_than_the_pool_has_are_refused_before_anything_is_asked(model, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="from 0 to the 11 that pick has"):
        evaluate_few_shot(model, tokenizer, [choice_task(), LAST], shots=(0, 12), out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def told(logprob: float, **more: Any) -> dict[str, Any]:
    return {"logprob": logprob, "tokens": 2, "chars": 8, "bytes": 9, "greedy": False, **more}


def test_each_score_may_choose_another():
    record = {
        "scores": [
            told(-1.0, tokens=1, unconditional=-0.5),
            told(-1.8, unconditional=-1.8),
            told(-2.4, chars=100, bytes=10, unconditional=-2.3),
            told(-2.5, bytes=1000, unconditional=-9.0),
        ]
    }
    names = ("sum", "token", "char", "byte", "unconditional")
    assert [chosen(record, name) for name in names] == [0, 1, 2, 3, 3]


def test_the_figures_are_plain_arithmetic():
    rows = [[(0, 1), (1, 1), (0, 0), (1, 0)], [(0, 0), (1, 1), (0, 1), (1, 1)]]
    seeds = [
        [
            {"id": str(i), "scores": [told(-1.0 - c), told(-2.0 + c)], "gold": g, "correct": c == g, "dropped": i,
             "shot_ids": ["a"]}
            for i, (c, g) in enumerate(part)
        ]
        for part in rows
    ]  # fmt: skip
    found = figures(choice_task(), seeds)
    assert found["acc_seeds"] == [0.5, 0.75]
    assert found["acc"] == 0.625
    assert found["acc_seeds_std"] == pytest.approx(np.std([0.5, 0.75], ddof=1))
    assert found["acc_stderr"] == pytest.approx(np.std([0.5, 1.0, 0.5, 0.5], ddof=1) / 2)
    assert (found["chance"], found["shots_dropped"], found["questions"]) == (0.5, 12, 4)


def test_the_interval_holds_the_mean_and_about_two_standard_errors_each_way():
    values = np.array([1.0] * 60 + [0.0] * 40)
    found = spread(values)
    low, high = found["acc_interval"]
    assert low < 0.6 < high
    assert high - low == pytest.approx(4 * found["acc_stderr"], rel=0.15)


def test_perplexity_of_last_words_is_that_of_whole_words(run):
    rows = [r["scores"][0]["logprob"] for r in records(run[1]) if (r["task"], r["shots"]) == ("last", 0)]
    assert run[0]["results"]["last"]["0"]["perplexity"] == pytest.approx(math.exp(-sum(rows) / len(rows)))


def test_the_table_has_zero_one_and_few_shots_side_by_side(run):
    lines = table(run[0])
    assert lines[0].split() == ["task", "questions", "chance", "0-shot", "1-shot", "3-shot"]
    row = next(line for line in lines if line.startswith("pick"))
    assert row.split()[:3] == ["pick", "12", "33.3"]
    assert row.count("±") == 3
    assert any("per_example" in line for line in lines)


def test_the_verb_asks_and_writes(folder, tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    rows = [{"text": f"the cat sat on the {word}"} for word in WORDS]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    out = tmp_path / "out"
    words = ["evaluate", str(folder), "--tasks", "lambada_openai,arithmetic_2da", "--shots", "0,1", "--limit", "4"]
    words += ["--data", f"lambada_openai={path}", "--out", str(out), "--draw", "shared"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "lambada_openai" in printed
    assert "shared" in printed
    assert len(records(out)) == 2 * 2 * 4
    assert main(words) == 2  # the folder holds answers
    assert main([*words, "--resume"]) == 0


def test_without_tasks_the_embedded_ones_are_asked(folder, capsys):
    assert main(["evaluate", str(folder), "--shots", "0", "--limit", "1"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("arithmetic_2da", "arithmetic_1dc", "reversed_words", "austen_cloze"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tasks", "helaswag"], "hellaswag"),
        (["--resume"], "--resume"),
        (["--tasks", "piqa", "--data", "piqa"], "TASK=PATH"),
        (["--tasks", "austen_cloze", "--shots", "99999"], "shots must be from 0"),
    ],
)
def test_bad_words_are_told_in_one_line(folder, words, message, capsys):
    assert main(["evaluate", str(folder), *words]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told
