"""The `vaswani` command: fast help, examples that parse, errors in one line."""

import gc
import shlex
import subprocess
import sys
import types

import pytest

import vaswani_cli
from vaswani_cli import VERBS, main, verb_parser
from vaswani_cli.imports import collector_paused
from vaswani_transformer import averaging, checkpoints


def run(*words: str, code: str = "import sys; from vaswani_cli import main; status = main(sys.argv[1:])"):
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=300)


def examples(verb: str) -> list[list[str]]:
    """The words of each example in a verb's help, redirections and pipes cut off."""
    lines = (verb_parser(verb).epilog or "").splitlines()
    found = []
    for line in lines:
        if f"vaswani {verb}" not in line and f"vaswani_cli {verb}" not in line:
            continue
        words = shlex.split(line, comments=True)
        words = words[words.index(verb) + 1 :]
        ends = [index for index, word in enumerate(words) if word.startswith(("<", ">", "|", "&"))]
        found.append(words[: ends[0]] if ends else words)
    return found


@pytest.fixture
def verb_that(monkeypatch):
    """Installs a verb `probe` whose run does what the test gives."""

    def install(action):
        module = types.ModuleType("vaswani_cli.probe")
        setattr(module, "add_arguments", lambda parser: None)  # noqa: B010  pyright knows no such attribute
        setattr(module, "run", lambda arguments: action())  # noqa: B010
        monkeypatch.setitem(sys.modules, "vaswani_cli.probe", module)
        monkeypatch.setitem(vaswani_cli.VERBS, "probe", "for the test")

    return install


def raising(error: BaseException):
    def action():
        raise error

    return action


@pytest.mark.parametrize("words", [("--help",), *[(verb, "--help") for verb in VERBS]])
def test_help_imports_neither_torch_nor_transformers_nor_the_package(words):
    code = (
        "import sys, contextlib; from vaswani_cli import main\n"
        "with contextlib.suppress(SystemExit): main(sys.argv[1:])\n"
        "heavy = {'torch', 'transformers', 'numpy', 'datasets', 'yaml', 'vaswani_transformer'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    result = run(*words, code=code)
    assert result.returncode == 0, result.stderr
    assert "vaswani" in result.stdout


def test_help_lists_every_verb(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    listing = capsys.readouterr().out
    assert all(f"  {verb} " in listing and line in listing for verb, line in VERBS.items())


@pytest.mark.parametrize("verb", VERBS)
def test_every_verbs_help_has_examples_that_parse(verb):
    assert examples(verb)
    for words in examples(verb):
        verb_parser(verb).parse_intermixed_args(words)


@pytest.mark.parametrize(
    "verb",
    [
        "train-tokenizer",
        "train",
        "finetune",
        "average",
        "translate",
        "evaluate-translation",
        "generate",
        "perplexity",
        "convert",
        "export",
    ],
)
def test_every_verb_that_writes_takes_out(verb):
    assert "--out" in verb_parser(verb).format_help()


def test_no_verb_at_all_shows_the_help_and_fails(capsys):
    assert main([]) == 2
    assert "verbs:" in capsys.readouterr().out


def test_an_unknown_verb_is_told_with_the_nearest_right_one(capsys):
    assert main(["trian"]) == 2
    assert "did you mean 'train'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [ValueError("size must be even; got 3"), FileNotFoundError("no such file: x"), ImportError("pip install y")],
)
def test_an_error_the_user_can_mend_is_one_line_without_a_traceback(verb_that, capsys, monkeypatch, error):
    monkeypatch.delenv("VASWANI_DEBUG", raising=False)
    verb_that(raising(error))
    assert main(["probe"]) == 2
    assert capsys.readouterr().err == f"vaswani: error: {error}\n"


def test_a_field_of_the_wrong_type_in_a_config_of_transformers_is_told_without_a_traceback(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "n_layer": "two"}', encoding="utf-8")
    assert main(["generate", str(tmp_path), "a"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("vaswani: error: Validation error for field 'n_layer'")
    assert "expected int, got str (value: 'two')" in told


def test_debug_shows_the_traceback(verb_that, monkeypatch):
    monkeypatch.setenv("VASWANI_DEBUG", "1")
    verb_that(raising(ValueError("even")))
    with pytest.raises(ValueError, match="even"):
        main(["probe"])


def test_our_own_mistakes_keep_their_traceback(verb_that):
    verb_that(raising(RuntimeError("shape")))
    with pytest.raises(RuntimeError):
        main(["probe"])


@pytest.mark.parametrize(("words", "told"), [((), "stopped"), (("stopped after step 3",), "stopped after step 3")])
def test_ctrl_c_ends_with_130_and_says_where(verb_that, capsys, words, told):
    verb_that(raising(KeyboardInterrupt(*words)))
    assert main(["probe"]) == 130
    assert capsys.readouterr().err == f"vaswani: {told}\n"


def test_a_reader_that_leaves_is_no_error():
    code = "from vaswani_cli import main\nmain(['recipes', 'transformer-demo'])"
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} | true"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=300)
    assert "Traceback" not in result.stderr


def test_recipes_lists_names_with_their_first_line(capsys):
    assert main(["recipes"]) == 0
    listing = capsys.readouterr().out
    assert "transformer-demo\n" in listing
    assert "base model on WMT 2014 English-German" in listing


def test_recipes_writes_one_as_the_start_of_ones_own_and_never_over_a_file(capsys, tmp_path):
    target = tmp_path / "mine.yaml"
    assert main(["recipes", "transformer-demo", "--out", str(target)]) == 0
    assert main(["recipes", "transformer-demo"]) == 0
    assert target.read_text(encoding="utf-8") == capsys.readouterr().out
    assert main(["recipes", "transformer-demo", "--out", str(target)]) == 2


@pytest.fixture
def trained(monkeypatch):
    """Stands in for the training loop and keeps what it was called with."""
    calls = []
    module = types.ModuleType("vaswani_transformer.train")

    def train(recipe, *, resume):
        calls.append((recipe, resume))
        return recipe.output

    setattr(module, "train", train)  # noqa: B010
    monkeypatch.setitem(sys.modules, "vaswani_transformer.train", module)
    return calls


def test_train_takes_overrides_before_and_after_its_options(trained, capsys):
    assert main(["train", "transformer-demo", "steps=6", "--out", "a=b c", "seed=3", "--resume"]) == 0
    ((recipe, resume),) = trained
    assert (recipe.steps, recipe.seed, recipe.output, resume) == (6, 3, "a=b c", True)
    assert capsys.readouterr().out == "a=b c\n"


def test_train_refuses_a_misspelt_key_before_it_starts(trained, capsys):
    assert main(["train", "transformer-demo", "stepz=6"]) == 2
    assert "did you mean 'steps'" in capsys.readouterr().err
    assert trained == []


def test_average_takes_the_last_checkpoints_of_a_run_or_folders(monkeypatch, tmp_path, capsys):
    calls = []
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    monkeypatch.setattr(checkpoints, "last_checkpoints", lambda folder, n: [folder / "a", folder / "b"][:n])
    monkeypatch.setattr(averaging, "average_checkpoints", lambda paths, out: calls.append((list(paths), out)) or out)
    run_folder, out = tmp_path / "run", tmp_path / "out"
    assert main(["average", str(run_folder), "--last", "2", "--out", str(out)]) == 0
    assert main(["average", str(run_folder), str(tmp_path), "--out", str(out)]) == 0
    inside = run_folder / "checkpoints"
    assert calls == [([inside / "a", inside / "b"], out), ([run_folder, tmp_path], out)]
    assert main(["average", str(run_folder), "--out", str(out)]) == 2
    assert main(["average", str(tmp_path), "--last", "2", "--out", str(out)]) == 2
    assert main(["average", str(tmp_path / "nowhere"), "--last", "2", "--out", str(out)]) == 2
    told = capsys.readouterr().err
    assert "--last N" in told
    assert "with checkpoints/ in it" in told
    assert "no such folder" in told


def test_what_was_imported_is_never_looked_through_for_garbage():
    sys.modules.pop("this_is_new", None)
    before = gc.get_freeze_count()
    with collector_paused():
        assert not gc.isenabled()
        sys.modules["this_is_new"] = types.ModuleType("this_is_new")
    assert gc.isenabled()
    assert gc.get_freeze_count() > before
    gc.unfreeze()
    del sys.modules["this_is_new"]


def test_where_nothing_was_imported_garbage_is_still_found():
    before = gc.get_freeze_count()
    with collector_paused():
        pass
    assert gc.get_freeze_count() == before
