"""Publishing through the real client to a Hub on this machine: what travels, what is refused, how it goes on."""

import getpass
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import transformers.utils.hub
from datasets import Dataset
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils import _http
from safetensors.torch import save_file
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

from vaswani_cli import main
from vaswani_transformer import (
    VaswaniBertConfig,
    VaswaniBertForSequenceClassification,
    VaswaniBertTokenizer,
    VaswaniGPT2Tokenizer,
    VaswaniGPTConfig,
    VaswaniGPTForCausalLM,
    VaswaniTransformerConfig,
    VaswaniTransformerForConditionalGeneration,
    VaswaniTransformerTokenizer,
)
from vaswani_transformer.models.configuration_gpt import AUTO_MAP
from vaswani_transformer.publishing import contents, privacy, reload
from vaswani_transformer.publishing import publish as publishing
from vaswani_transformer.publishing.clean_process import TEXT, outputs_of
from vaswani_transformer.publishing.hub import AGAIN
from vaswani_transformer.publishing.publish import planned, publish
from vaswani_transformer.publishing.reload import difference_elsewhere, expected_of

from . import local_hub
from .local_hub import TOKEN, USER, LocalHub

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ["a good film", "a bad film", "the quick brown fox jumps over the lazy dog", "good music and a film"] * 4
NAME = f"{USER}/model"
CODE = {"attention", "blocks_gpt", "configuration_gpt", "fields", "heads_gpt", "layers", "losses", "masks_gpt"}
CODE |= {"modeling_gpt", "packing", "pretrained_gpt"}
TRAVELS = {"README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
TRAVELS |= {"tokenizer_config.json"} | {f"{name}.py" for name in CODE}


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[LocalHub]:
    """A Hub of this machine, and the client of this process turned to it, with a token."""
    with local_hub.serve() as served:
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        template = served.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        for name in ("HF_HUB_CACHE", "HF_TOKEN_PATH"):
            monkeypatch.setattr(constants, name, str(tmp_path / name))
        monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)  # made anew, for this Hub
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        huggingface_hub.close_session()  # a client of this Hub, with no connection to another test's
        yield served
        huggingface_hub.close_session()


def gpt_and_tokenizer() -> tuple[Any, Any]:
    torch.manual_seed(0)
    sizes: Any = {"n_embd": 16, "n_head": 2, "n_layer": 2, "n_positions": 64, "norm_order": "pre"}
    model = VaswaniGPTForCausalLM(VaswaniGPTConfig(vocab_size=260, **sizes))
    return model, VaswaniGPT2Tokenizer.train(TEXTS, vocab_size=260)


def bert_and_tokenizer() -> tuple[Any, Any]:
    torch.manual_seed(0)
    sizes: Any = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    model = VaswaniBertForSequenceClassification(VaswaniBertConfig(vocab_size=60, **sizes))
    return model, VaswaniBertTokenizer.train(TEXTS, vocab_size=60)


def transformer_and_tokenizer() -> tuple[Any, Any]:
    torch.manual_seed(0)
    sizes: Any = {"d_model": 16, "d_ff": 32, "num_heads": 2, "num_encoder_layers": 1, "num_decoder_layers": 1}
    model = VaswaniTransformerForConditionalGeneration(VaswaniTransformerConfig(vocab_size=270, **sizes))
    return model, VaswaniTransformerTokenizer.train(TEXTS, vocab_size=270)


def saved(made: tuple[Any, Any], folder: Path, **options: Any) -> Path:
    made[0].save_pretrained(folder, **options)
    made[1].save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    return saved(gpt_and_tokenizer(), tmp_path_factory.mktemp("pristine") / "gpt")


@pytest.fixture
def gpt(pristine, tmp_path) -> Path:
    """The folder of a small GPT and its tokenizer, to change at will."""
    return Path(shutil.copytree(pristine, tmp_path / "gpt"))


@pytest.fixture
def sharded(tmp_path) -> Path:
    return saved(gpt_and_tokenizer(), tmp_path / "sharded", max_shard_size="20KB")


@pytest.fixture
def unchecked(monkeypatch) -> None:
    """Leaves the clean process out, of tests that look at what comes before it."""
    monkeypatch.setattr(publishing, "difference_elsewhere", lambda folder, expected: 0.0)


@pytest.fixture
def no_waiting(monkeypatch) -> None:
    """The client waits between its own attempts; here there is nothing to wait for."""
    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)


def uploads(hub: LocalHub) -> int:
    return hub.asked("PUT", "/lfs/")


# What comes back from the Hub.


@pytest.mark.parametrize("make", [transformer_and_tokenizer, bert_and_tokenizer, gpt_and_tokenizer])
def test_a_published_model_loads_elsewhere_with_its_logits(make, hub, tmp_path):
    found = publish(saved(make(), tmp_path / "run"), NAME)
    assert (found.repo, found.commit) == (NAME, hub.repos[NAME].commits[-1][0])
    assert found.difference <= 1e-6
    assert len(hub.repos[NAME].commits) == 2  # its making, and one of all files


def test_an_export_is_published_without_code_and_loads_in_plain_transformers(hub, gpt):
    assert publish(gpt, NAME, export="transformers").difference <= 1e-5
    files = hub.repos[NAME].files
    assert json.loads(files["config.json"])["model_type"] == "gpt2"
    assert not [name for name in files if name.endswith(".py")]


@pytest.mark.slow
def test_the_command_publishes_by_the_environment_alone_and_says_so_at_the_end(hub, gpt, tmp_path):
    changed = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN}
    changed |= {"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "vaswani_cli", "publish", str(gpt), "model", "--private"]
    result = subprocess.run(command, env=os.environ | changed, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(rf"published {NAME}, commit \w{{8}}: .*\n", result.stdout)
    assert hub.repos[NAME].private


def computed_by(model: Any, tokenizer: Any) -> dict[str, Any]:
    return {"outputs": outputs_of(model.eval()), "tokens": tokenizer(TEXT)["input_ids"]}


def test_model_push_to_hub_gives_a_repository_that_loads_without_this_package(hub, tmp_path):
    model, tokenizer = bert_and_tokenizer()
    model.push_to_hub("pushed")
    tokenizer.push_to_hub("pushed")
    fetched = Path(snapshot_download(f"{USER}/pushed", local_dir=tmp_path / "fetched"))
    assert difference_elsewhere(fetched, computed_by(model, tokenizer)) <= 1e-6


def test_trainers_push_to_hub_gives_a_repository_that_loads_without_this_package(hub, tmp_path):
    model, tokenizer = gpt_and_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    settings: Any = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "max_steps": 2, "save_strategy": "no"}
    trainer = Trainer(
        model=model,
        args=TrainingArguments(str(tmp_path / "trained"), push_to_hub=True, hub_model_id="trained", **settings),
        train_dataset=Dataset.from_list([tokenizer(text) for text in TEXTS]),  # type: ignore[arg-type]
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.push_to_hub()
    fetched = Path(snapshot_download(f"{USER}/trained", local_dir=tmp_path / "fetched"))
    assert difference_elsewhere(fetched, computed_by(model, tokenizer)) <= 1e-6


def test_a_copy_that_needs_this_package_is_not_published(hub, gpt, monkeypatch):
    whole = contents.contents_of(gpt)
    code = (contents.MODELS / "layers.py").read_bytes() + b"\nimport vaswani_transformer.optim\n"
    monkeypatch.setattr(publishing, "contents_of", lambda folder: whole | {"layers.py": code})
    with pytest.raises(
        ValueError, match=r"must load where this package is not installed; got [^$]*vaswani_transformer"
    ):
        publish(gpt, NAME)


def test_a_copy_that_computes_something_else_is_not_published(hub, gpt, monkeypatch):
    def off_by_a_tenth(folder: Path) -> dict[str, Any]:
        found = expected_of(gpt, export=False)
        return found | {"outputs": {"logits": found["outputs"]["logits"] + 0.1}}

    monkeypatch.setattr(reload, "_load_elsewhere", off_by_a_tenth)
    with pytest.raises(
        ValueError, match=r"must compute the same where .* not installed, to 1e-05; got .* differ by 1"
    ) as e:
        publish(gpt, NAME)
    assert re.fullmatch(f"{NAME} holds the files as commit .* no model to announce", e.value.__notes__[0])


def test_a_copy_with_other_tokens_is_not_published(hub, gpt, monkeypatch):
    expected = expected_of(gpt, export=False)
    monkeypatch.setattr(reload, "_load_elsewhere", lambda folder: expected | {"tokens": [1, 2, 3]})
    with pytest.raises(ValueError, match=r"must give the same tokens .*; got \[1, 2, 3\] instead of"):
        publish(gpt, NAME)


def test_a_download_of_other_bytes_is_not_run(hub, gpt, monkeypatch):
    def spoilt(sent: Any, repo: str, commit: str, folder: Path) -> None:
        download(sent, repo, commit, folder)
        (folder / "layers.py").write_text("raise SystemExit")

    download = publishing.download
    monkeypatch.setattr(publishing, "download", spoilt)
    monkeypatch.setattr(publishing, "difference_elsewhere", lambda *given: pytest.fail("its code was run"))
    with pytest.raises(ValueError, match=r"must be what was sent there; got other content of layers.py"):
        publish(gpt, NAME)


# What travels.


def test_nothing_of_a_run_travels_but_the_model(gpt, unchecked, hub):
    for name in ("more.json", "metrics.jsonl", "training_args.bin", "optimizer.pt", "scheduler.pt", "data.tsv", ".env"):
        (gpt / name).write_text("{}")
    for name in ("optimizer.bin", "notes.py", "chart.png", "model.safetensors.tmp"):
        (gpt / name).write_bytes(b"secret")
    save_file({"exp_avg": torch.zeros(1)}, gpt / "optimizer.safetensors")
    shutil.copytree(gpt, gpt / "checkpoints" / "step-00000001")
    (gpt / "tensorboard").mkdir()
    (gpt / "tensorboard" / "events.out").write_text("log")
    publish(gpt, NAME)
    assert set(hub.repos[NAME].files) == TRAVELS | {".gitattributes"}


def test_the_newest_results_for_the_hubs_leaderboards_travel(gpt):
    for number, place in enumerate((".", "few/shots", "few/shots/finetuned", "checkpoints/step-1", "few")):
        path = gpt / place / ".eval_results" / "blimp.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(f"- dataset: {{id: nyu-mll/blimp}}\n  value: {number}\n")
        os.utime(path, (number, number))
        (path.parent / "notes.txt").write_text("mine")
    with planned(gpt, NAME) as found:
        assert set(found) == TRAVELS | {".eval_results/blimp.yaml"}
        assert found[".eval_results/blimp.yaml"] == gpt / "few" / ".eval_results" / "blimp.yaml"


def test_the_configuration_names_the_code_of_every_head_of_the_family(gpt):
    old = json.loads((gpt / "config.json").read_text())
    old["auto_map"] = {"AutoModel": "someone/else--modeling_gpt.VaswaniGPTModel"}  # as after a load from the Hub
    (gpt / "config.json").write_text(json.dumps(old))
    config = json.loads(contents.contents_of(gpt)["config.json"])  # type: ignore[arg-type]
    assert config["auto_map"] == AUTO_MAP


def test_the_code_of_a_tokenizer_of_2018_travels(gpt):
    settings = json.loads((gpt / "tokenizer_config.json").read_text())
    settings["auto_map"] = {"AutoTokenizer": ["tokenization_gpt.VaswaniGPTTokenizer", None]}
    (gpt / "tokenizer_config.json").write_text(json.dumps(settings))
    assert "tokenization_gpt.py" in contents.contents_of(gpt)


def test_all_shards_travel_and_arrive(sharded, unchecked, hub):
    publish(sharded, NAME)
    shards = {path.name for path in sharded.glob("model-*.safetensors")}
    assert len(shards) >= 2
    assert shards | {"model.safetensors.index.json"} <= set(hub.repos[NAME].files)
    assert "model.safetensors" not in hub.repos[NAME].files


def test_what_an_earlier_version_published_goes_and_other_files_stay(sharded, gpt, unchecked, hub):
    publish(sharded, NAME)
    hub.repos[NAME].commit(hub.repos[NAME].files | {"notebook.ipynb": b"{}", "chart.png": b"png"})
    publish(gpt, NAME)
    assert set(hub.repos[NAME].files) == TRAVELS | {".gitattributes", "notebook.ipynb", "chart.png"}


def change(folder: Path, name: str, **fields: Any) -> None:
    """Sets fields of a JSON file, or appends a text to another one."""
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


LEAKS = {
    "a home folder": ({"name_or_path": "/home/jane/runs/gpt"}, "a path, /home/jane"),
    "a Mac's home folder": ({"note": "see /Users/jane/gpt"}, "a path, /Users/jane"),
    "a home folder of Windows": ({"note": r"C:\Users\jane\gpt"}, r"a path, C:\\+Users\\+jane"),
    "a home folder as an address": ({"note": "file:///home/jane"}, "a path, /home/jane"),
    "a scratch folder": ({"note": "from /scratch/gpt"}, "a path, /scratch/gpt"),
    "any absolute path": ({"name_or_path": "/groups/nlp/gpt"}, "a path, /groups/nlp/gpt"),
    "a token of the Hub": ({"token": "hf_" + "a1B2c3" * 6}, r"a token of the Hub, hf_a1B\.\.\."),
    "the user's name": ({"author": "somebody7"}, "the user's name, somebody7"),
}


@pytest.mark.parametrize(("fields", "told"), LEAKS.values(), ids=LEAKS)
@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json"])
def test_what_tells_of_a_machine_or_a_person_is_refused(fields, told, name, gpt, monkeypatch):
    monkeypatch.setattr(getpass, "getuser", lambda: "somebody7")
    change(gpt, name, **fields)
    with pytest.raises(ValueError, match=rf"nothing that tells of .*; got {name}: {told}.*take it out") as caught:  # noqa: SIM117
        with planned(gpt, NAME):
            pass
    assert "a1B2c3" not in str(caught.value)


def test_a_path_in_the_header_of_the_weights_is_refused(gpt):
    save_file({"x": torch.zeros(1)}, gpt / "model.safetensors", metadata={"source": "/home/jane/gpt"})
    with pytest.raises(ValueError, match=r"got model.safetensors: a path, /home/jane"), planned(gpt, NAME):
        pass


def test_a_path_in_a_card_that_is_kept_is_refused_before_anything_is_sent(gpt, hub, unchecked):
    publish(gpt, NAME)
    card = hub.repos[NAME].files["README.md"] + b"\nTrained in /home/jane/gpt.\n"
    hub.repos[NAME].commit(hub.repos[NAME].files | {"README.md": card})
    with pytest.raises(ValueError, match=r"got README.md: a path, /home/jane"):
        publish(gpt, NAME)
    assert len(hub.repos[NAME].commits) == 3


def test_the_users_name_may_be_a_word_of_the_vocabulary_and_the_namespace(gpt, monkeypatch):
    monkeypatch.setattr(getpass, "getuser", lambda: "film")
    (gpt / "vocab.json").write_text('{"film": 0}')
    with planned(gpt, "film/model") as found:
        assert "vocab.json" in found


def test_addresses_on_the_web_are_no_paths():
    text = b"See https://example.org/home/jane/data/x, [this](../home/x) and ~/.cache/huggingface, and 3/data/4."
    privacy.refuse_private({"README.md": text}, NAME)


def test_a_file_by_another_name_than_a_models_is_refused(gpt):
    whole = contents.contents_of(gpt)
    for name in (
        "optimizer.pt",
        "run.json",
        "metrics.jsonl",
        "checkpoints/model.safetensors",
        "../config.json",
        ".env",
    ):
        with pytest.raises(ValueError, match=re.escape(f"got {name}: no file that a model's repository has")):
            privacy.refuse_private(whole | {name: b""}, NAME)


def test_weights_of_something_else_than_the_model_are_refused_before_a_repository_is_made(hub, gpt):
    save_file({"exp_avg": torch.zeros(3)}, gpt / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"weights and model must fit; got .*exp_avg"):
        publish(gpt, NAME)
    assert not hub.repos


# Going on, and being refused.


def test_an_upload_that_is_cut_once_is_sent_again_by_the_client(hub, gpt, unchecked, no_waiting):
    hub.cut_next("PUT", "/lfs/")
    publish(gpt, NAME)
    assert uploads(hub) == 2


def test_a_stopped_upload_leaves_the_repository_as_it_was_and_goes_on_where_it_was(hub, sharded, unchecked, no_waiting):
    shards = len(list(sharded.glob("model-*.safetensors")))
    asked: list[str] = []

    def all_but_one_shard(method: str, path: str) -> bool:
        asked.extend([path] if method == "PUT" else [])
        return method == "PUT" and path != asked[0]

    hub.cut = all_but_one_shard
    with pytest.raises(OSError, match=rf"needs an answer of the Hub; got .*\. {NAME} is as it was before; the same"):
        publish(sharded, NAME)
    assert "config.json" not in hub.repos[NAME].files
    assert len(hub.objects) == 1
    hub.cut_next("", "", times=0)
    hub.requests.clear()
    publish(sharded, NAME)
    assert uploads(hub) == shards - 1


def test_a_lost_commit_sends_no_weights_again(hub, gpt, unchecked):
    hub.cut_next("POST", "/commit/")
    with pytest.raises(OSError, match=r"files that the Hub has whole are not sent again"):
        publish(gpt, NAME)
    publish(gpt, NAME)
    assert uploads(hub) == 1


def test_a_lost_download_says_that_the_commit_is_not_checked(hub, gpt, unchecked, no_waiting):
    hub.cut = lambda method, path: method == "GET" and "/tree/" in path and not path.endswith("/main")
    with pytest.raises(OSError, match=r"holds all files as commit \w+, not yet checked; the same command goes on"):
        publish(gpt, NAME)


def test_publishing_twice_makes_one_commit(hub, gpt, unchecked):
    first, second = publish(gpt, NAME), publish(gpt, NAME)
    assert first.commit == second.commit
    assert uploads(hub) == 1


def test_without_a_token_nothing_is_asked(hub, gpt, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match=r"needs a token that may write; got none: .*hf auth login.*Nothing was sent"):
        publish(gpt, NAME)
    assert not hub.requests


def test_a_wrong_token_is_told(hub, gpt, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(
        ValueError, match=r"needs a token that may write to vt/model; got the status 401.*Nothing was sent"
    ):
        publish(gpt, NAME)


def test_a_namespace_of_others_is_told(hub, gpt):
    with pytest.raises(ValueError, match=r"may write to google/bert; got the status 403.*Nothing was sent"):
        publish(gpt, "google/bert")


def test_offline_is_told(hub, gpt, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=r"needs the network; got HF_HUB_OFFLINE=1: unset it. Nothing was sent"):
        publish(gpt, NAME)


def test_no_network_is_told(hub, gpt, monkeypatch, no_waiting):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # where no one listens
    with pytest.raises(OSError, match=r"needs an answer of the Hub; got ConnectError: .*\. Nothing was sent; the same"):
        publish(gpt, NAME)


def test_a_public_repository_is_not_taken_for_a_private_one(hub, gpt, unchecked):
    publish(gpt, NAME)
    with pytest.raises(
        ValueError, match=r"published as private needs a repository that is; got vt/model, which is public"
    ):
        publish(gpt, NAME, private=True)


def test_a_private_repository_is_read_with_a_token_alone(hub, gpt, unchecked, tmp_path):
    publish(gpt, NAME, private=True)
    assert HfApi().model_info(NAME).private
    assert (Path(snapshot_download(NAME, local_dir=tmp_path / "mine")) / "config.json").is_file()
    with pytest.raises(RepositoryNotFoundError):
        snapshot_download(NAME, local_dir=tmp_path / "theirs", token=False)


def test_a_card_that_the_hub_refuses_leaves_the_repository_as_it_was(hub, gpt, unchecked, monkeypatch):
    monkeypatch.setattr(publishing, "card_text", lambda folder, **given: "---\nlicense: mine\n---\n# A model\n")
    with pytest.raises(ValueError, match=r'(?s)Invalid metadata in README.md.*"license" must be one of') as caught:
        publish(gpt, NAME)
    assert caught.value.__notes__ == [f"{NAME} is as it was before; {AGAIN}"]
    assert "config.json" not in hub.repos[NAME].files


# The card, and the dry run.


def test_the_card_of_a_published_model_passes_the_hubs_validation(hub, gpt, unchecked):
    publish(gpt, NAME)
    card = hub.repos[NAME].files["README.md"].decode()
    assert local_hub.card_problems(card) == ([], [])
    assert hub.asked("POST", "/api/validate-yaml") == 1


def test_hand_written_text_of_a_card_is_kept(hub, gpt, unchecked):
    publish(gpt, NAME)
    card = hub.repos[NAME].files["README.md"] + b"\n## Thanks\n\nTo my cat.\n"
    hub.repos[NAME].commit(hub.repos[NAME].files | {"README.md": card})
    publish(gpt, NAME)
    assert hub.repos[NAME].files["README.md"].decode().count("To my cat.") == 1


def test_a_dry_run_shows_files_with_sizes_and_the_card_and_asks_no_one(hub, gpt, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert main(["publish", str(gpt), NAME, "--dry-run"]) == 0
    listing, _, card = capsys.readouterr().out.partition("\n\n")
    rows = dict(line.split()[::-1] for line in listing.splitlines())
    assert set(rows) == TRAVELS
    assert rows["model.safetensors"] == f"{(gpt / 'model.safetensors').stat().st_size:,}"
    assert rows["README.md"] == f"{len(card.removesuffix(chr(10)).encode()):,}"
    assert card.startswith("---\n")
    assert not hub.requests
