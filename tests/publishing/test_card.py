"""The card of a model: what is in it, what is not, and what of a person's stays."""

import contextlib
import io
import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from vaswani_cli import main
from vaswani_transformer.convert.to_transformers import export_to_transformers
from vaswani_transformer.publishing.card import card_text
from vaswani_transformer.recipe import load_recipe
from vaswani_transformer.train import train

from .conftest import ENVIRONMENT, MakeRun, finetuned, finetuning_record, run_record, write
from .measured import PERPLEXITY, TRANSLATION, few_shot, head, section

FAMILIES = pytest.mark.parametrize("family", ["transformer", "bert", "gpt"])
# ------------------------------------------------------------------------------------------------------- metadata


@FAMILIES
def test_the_required_metadata_are_complete_and_huggingface_hub_reads_them(make_run: MakeRun, family: str) -> None:
    data = head(card_text(make_run(family), repo="me/mine"))
    pipelines = {"transformer": "translation", "bert": "fill-mask", "gpt": "text-generation"}
    assert data.library_name == "transformers"
    assert data.pipeline_tag == pipelines[family]
    assert data.tags == ["custom_code", f"vaswani-{family}"]
    assert data.license == "unknown"
    assert data.language == (["en", "de"] if family == "transformer" else ["en"])
    assert data.model_name == "mine"
    assert data.eval_results
    assert {result.metric_type for result in data.eval_results} == set(data.metrics)


def test_metrics_stand_in_the_model_index_as_they_were_measured(make_run: MakeRun) -> None:
    folder = make_run()
    write(folder / "newstest.json", TRANSLATION)
    results = head(card_text(folder, repo="me/mine")).eval_results
    found = {(one.dataset_name, one.metric_name): one.metric_value for one in results}
    assert found["newstest2014", "sacreBLEU"] == 26.12
    assert found["newstest2014", "the paper's BLEU"] == 25.9
    assert found["validation rows of the run", "BLEU (sacreBLEU)"] == 22.5772
    assert {one.dataset_type for one in results} == {"newstest2014", "debian-en-de"}
    (bleu,) = (one for one in results if one.metric_name == "sacreBLEU")
    assert bleu.metric_args == {"signature": "nrefs:1|tok:13a", "sentences": 3003, "interval": [25.1, 27.2]}


def test_what_only_a_person_knows_comes_from_card_yaml(make_run: MakeRun) -> None:
    folder = make_run("gpt")
    (folder / "card.yaml").write_text(
        "license: cc-by-4.0\ndatasets: [me/novels]\ntags: [novels]\nwatts: 150\ndata_license: in the public domain.\n"
    )
    text = card_text(folder, repo="me/mine")
    data = head(text).to_dict()
    assert (data["license"], data["datasets"]) == ("cc-by-4.0", ["me/novels"])
    assert data["tags"] == ["custom_code", "vaswani-gpt", "novels"]
    assert not {"watts", "data_license"} & set(data)
    assert "Licence: in the public domain." in section(text, "data")


def test_a_licence_and_a_language_that_nobody_stated_are_warned_of(make_run: MakeRun, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        card_text(make_run("gpt", None), repo="me/mine")
    told = [record.message for record in caplog.records if "card.yaml" in record.message]
    assert ["license" in told[0], "language" in told[1]] == [True, True]


@pytest.mark.parametrize(
    ("source", "base"),
    [("google-bert/bert-base-uncased", "google-bert/bert-base-uncased"), ("gpt2", "openai-community/gpt2")],
)
def test_a_fine_tuned_model_names_its_base_and_its_data_on_the_hub(make_run: MakeRun, source: str, base: str) -> None:
    record = finetuning_record("bert-sst2", {"accuracy": 0.8922}, f"model.from={source}")
    text = card_text(make_run("bert", record), repo="me/mine")
    data = head(text).to_dict()
    assert (data["base_model"], data["datasets"], data["language"]) == (base, ["nyu-mll/glue"], ["en"])
    assert f"Fine-tuned from [`{base}`](https://huggingface.co/{base}) on SST-2 of GLUE." in text


def test_a_base_in_a_folder_is_no_model_on_the_hub(make_run: MakeRun) -> None:
    record = finetuning_record("bert-sst2", {"accuracy": 0.8922}, "model.from=/home/alice/runs/books")
    text = card_text(make_run("bert", record), repo="me/mine")
    assert "base_model" not in head(text).to_dict()
    assert "Fine-tuned from a model called `books` on SST-2" in text


# ----------------------------------------------------------------------------------------------------------- body


def test_the_recipe_the_command_the_machine_and_the_costs_are_told(make_run: MakeRun) -> None:
    text = section(card_text(make_run(), repo="me/mine"), "training")
    for told in (
        "vaswani train transformer-demo --out runs/mine",
        "| updates | 6,012 of at most 20,000; the run had 7.5 minutes |",
        "| tokens read, padding not counted | 9,760,976 |",
        "| FLOPs | 3.5e13, counted: 6 for each weight that multiplies a token |",
        "| hardware | 2 threads of a CPU (AMD EPYC, 2 cores, 23.5 GiB of memory) |",
        "| time | 2 h 0 min |",
        "![loss over updates](loss.png)",
        "  embedded: debian-en-de",
    ):
        assert told in text
    assert "energy" not in text


def test_energy_is_hours_times_the_watts_that_a_person_stated(make_run: MakeRun) -> None:
    folder = make_run()
    (folder / "card.yaml").write_text("watts: 150\n")
    told = "| energy, an estimate | 0.3 kWh: 2 h × 150 W (150 W, stated by who trained it) |"
    assert told in card_text(folder, repo="me/mine")


def test_energy_of_gpus_is_by_the_makers_watts_for_each_process(make_run: MakeRun) -> None:
    gpus = [{"name": "NVIDIA H100 80GB HBM3", "memory_gib": 79.2}] * 8
    record = run_record("gpt") | {"processes": 8, "environment": {**ENVIRONMENT, "gpus": gpus}}
    text = card_text(make_run("gpt", record), repo="me/mine")
    assert "| hardware | 8 × NVIDIA H100 80GB HBM3 (79.2 GiB) |" in text
    assert "11.2 kWh: 2 h × 5600 W (8 × 700 W, the most that the maker states for a board; the GPUs alone)" in text


def test_energy_of_an_unknown_gpu_is_left_out(make_run: MakeRun) -> None:
    gpus = [{"name": "A Board of Tomorrow", "memory_gib": 80.0}]
    record = run_record("gpt") | {"environment": {**ENVIRONMENT, "gpus": gpus}}
    assert "energy" not in card_text(make_run("gpt", record), repo="me/mine")


def test_translations_stand_in_the_card_with_their_interval_and_table_2(make_run: MakeRun) -> None:
    folder = make_run()
    write(folder / "results" / "newstest.json", TRANSLATION)
    text = section(card_text(folder, repo="me/mine"), "results")
    assert "| newstest2014 | en-de | 3,003 | 26.12 (25.10 to 27.20) | 55.00 | 25.90 |" in text
    assert re.search(r"^Transformer \(base model\) +27.3 +38.1 +3.3e18 +3.3e18$", text, flags=re.MULTILINE)
    assert re.search(r"^> model +25.9 +3.5e13$", text, flags=re.MULTILINE)
    assert "No test set was translated" not in text


def test_perplexity_and_few_shot_accuracy_stand_in_the_card_of_a_gpt(make_run: MakeRun) -> None:
    folder = make_run("gpt")
    write(folder / "perplexity.json", PERPLEXITY)
    write(folder / "results.json", few_shot(0.24) | {"finetuned": few_shot(0.9)})
    write(folder / "finetuned" / "results.json", few_shot(0.9))
    (folder / "shots.png").write_bytes(b"a picture")
    text = section(card_text(folder, repo="me/mine"), "results")
    assert "| novel.txt | 46.3 | 342.1 | 1.515 | 309,834 |" in text
    assert "| task | questions | chance | 0-shot | 5-shot | fine-tuned |" in text
    assert "| hellaswag | 500 | 25.0 | 24.0 ± 1.9 | 30.0 ± 1.9 | 90.0 ± 1.9 |" in text
    assert "so many were shown: hellaswag: 0.8 of 5." in text
    assert "![accuracy over the number of examples](shots.png)" in text
    assert "fills in" not in text


def test_the_glue_row_of_a_bert_stands_beside_the_papers(make_run: MakeRun) -> None:
    folder = make_run("bert")
    sst2 = finetuned(folder / "finetuned" / "sst2", finetuning_record("bert-sst2", {"accuracy": 0.8922}))
    cola = finetuning_record("bert-cola", {"matthews_correlation": 0.3}, rows=1043)
    finetuned(folder / "finetuned" / "cola", cola)
    random = ["model={family: bert, preset: tiny}", "tokenizer.from=bert-base-uncased"]
    finetuned(folder / "finetuned" / "rte", finetuning_record("bert-rte", {"accuracy": 0.5}, *random))
    write(sst2 / "results.json", few_shot(0.9))  # of the fine-tuned model
    text = section(card_text(folder, repo="me/mine"), "results")
    assert "| BERT base | 84.6 | 83.4 | 71.2 | 90.5 | 93.5 | 52.1 | 85.8 | 88.9 | 66.4 |" in text
    assert "| **this model** |  |  |  |  | 89.2 ± 1.1 | 30.0 |  |  |  |" in text
    assert "CoLA: 1,043 rows; SST-2: 872 rows" in text
    assert "hellaswag" not in text


def test_an_accuracy_on_rows_held_out_has_its_standard_error(make_run: MakeRun) -> None:
    record = finetuning_record("bert-sst2", {"accuracy": 0.8922})
    text = section(card_text(make_run("bert", record), repo="me/mine"), "results")
    assert "on 872 rows that were held out" in text
    assert "| accuracy in % | 89.22 ± 1.1 |" in text


def test_the_model_index_has_a_share_as_a_share_with_its_error(make_run: MakeRun) -> None:
    record = finetuning_record("bert-sst2", {"accuracy": 0.8922})
    (accuracy,) = head(card_text(make_run("bert", record), repo="me/mine")).eval_results
    assert (accuracy.metric_value, accuracy.dataset_type, accuracy.dataset_config) == (0.8922, "nyu-mll/glue", "sst2")
    assert accuracy.metric_args == {"stderr": pytest.approx((0.8922 * 0.1078 / 871) ** 0.5, abs=1e-6)}


def test_squads_metrics_are_in_points_already(make_run: MakeRun) -> None:
    record = finetuning_record("bert-squad", {"exact_match": 50.0, "f1": 61.5}, rows=401)
    text = section(card_text(make_run("bert", record), repo="me/mine"), "results")
    assert "| exact match in % | 50 ± 2.5 |" in text
    assert "| F1 in % | 61.5 |" in text


@FAMILIES
def test_a_folder_without_records_has_no_section_that_needs_them(make_run: MakeRun, family: str) -> None:
    folder = make_run(family, None)
    (folder / "loss.png").unlink()
    text = card_text(folder, repo="me/mine")
    for name in ("data", "training", "reproduce"):
        assert f"vaswani:{name} " not in text
    assert "model-index" not in text
    assert "loss.png" not in text
    assert "vaswani" in section(text, "results").split("`")[1]  # the command that fills it


def test_a_corpus_that_ships_is_told_with_its_own_licence(make_run: MakeRun) -> None:
    text = section(card_text(make_run("gpt"), repo="me/mine"), "data")
    assert "`austen`, a corpus that ships with vaswani_transformer: Sense and Sensibility" in text
    assert "Licence: public domain." in text
    assert "| train | 256 documents, 916,564 tokens |" in text


@FAMILIES
def test_the_code_that_shows_how_to_load_it_runs(make_run: MakeRun, family: str) -> None:
    folder = make_run(family)
    text = section(card_text(folder, repo="me/mine"), "load")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert code.count("trust_remote_code=True") >= 1
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        exec(code.replace("me/mine", str(folder)), {})
    assert shown.getvalue().strip()


@pytest.mark.parametrize(("family", "auto"), [("gpt", "AutoModelForCausalLM"), ("bert", "fill-mask")])
def test_an_export_as_transformers_own_class_needs_no_code_to_be_trusted(
    make_run: MakeRun, tmp_path: Path, family: str, auto: str
) -> None:
    folder = make_run(family)
    config = json.loads((folder / "config.json").read_text())
    if "sliding_window" in config:  # transformers' GPT-2 has no banded layers
        config |= {"sliding_window": None, "layer_types": ["full_attention"] * 2}
    write(folder / "config.json", config)
    exported = export_to_transformers(folder, tmp_path / "exported")
    text = card_text(exported, repo="me/mine")
    assert auto in section(text, "load")
    assert "trust_remote_code" not in text
    assert "custom_code" not in text
    assert head(text).pipeline_tag == {"gpt": "text-generation", "bert": "fill-mask"}[family]


# ------------------------------------------------------------------------------------------------ what must not show


def test_no_path_user_or_host_of_this_machine_is_in_a_card(make_run: MakeRun) -> None:
    record = finetuning_record(
        "gpt-sst2",
        {"accuracy": 0.9},
        "model.from=/home/alice/runs/books",
        "tokenizer.from=/home/alice/runs/books",
        "data.files={train: /mnt/bob/SST-2/train.tsv, validation: ../../carol/dev.tsv}",
        "data.hold_out=null",
        "data.whole_sentences=null",
        "output=/home/alice/out",
    )
    record["data"]["labels"] = ["/home/alice/label", "1"]
    folder = make_run("gpt", record)
    write(folder / "perplexity.json", PERPLEXITY)
    write(folder / "few" / "results.json", few_shot(0.24))
    (folder / "card.yaml").write_text("data_license: see alice's licence\n")  # what a person wrote is theirs
    text = card_text(folder, repo="me/mine").replace("see alice's licence", "")
    assert not re.search(r"alice|bob|carol|/home|/mnt|\.\./", text)
    assert str(folder) not in text
    assert "model.from=books" in text


# ------------------------------------------------------------------------------- what the commands really leave


@pytest.fixture(scope="module")
def trained(tmp_path_factory: Any) -> Path:
    """A run of the demo of two updates whose translations were scored."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    toy = ["steps=2", "model.d_model=16", "model.d_ff=16", "tokenizer.vocab_size=400", "data.max_words=3"]
    toy += ["save={every_steps: 1}", "validate={every_steps: 1, limit: 2}"]
    train(load_recipe("transformer-demo", [*toy, f"output={folder}"]))
    words = ["--embedded", "--max-words", "3", "--limit", "4", "--out", str(folder / "test.json")]
    assert main(["evaluate-translation", str(folder), *words]) == 0
    return folder


def test_a_run_and_its_scores_make_a_card(trained: Path) -> None:
    text = card_text(trained, repo="me/mine")
    run = json.loads((trained / "run.json").read_text())
    scores = json.loads((trained / "test.json").read_text())["scores"]
    assert f"{run['parameters']:,} parameters" in text
    assert "vaswani train transformer-demo " in text
    assert "| debian-en-de test, at most 3 words | en-de | 4 |" in text
    assert "> run: " in section(text, "results")  # below Table 2, which is of another test set
    values = [one.metric_value for one in head(text).eval_results if one.metric_name == "sacreBLEU"]
    assert values == [round(scores["bleu"], 2)]
    assert str(trained) not in text


# --------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("card.yaml", "watts: many\n", r"watts must be a number above 0; got watts='many'"),
        ("card.yaml", "- mit\n", r"must be a mapping, such as license: apache-2.0; got \['mit'\]"),
        ("card.yaml", "a: [\n", r"card.yaml must be valid YAML"),
        ("newstest.json", "{", r"must be whole; got .*newstest.json, which is no JSON .*: remove it"),
        ("run.json", "{", r"must be whole; got .*run.json, which is no JSON"),
        ("config.json", json.dumps({"model_type": "llama"}), r"got model_type='llama'"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(make_run: MakeRun, name: str, text: str, message: str) -> None:
    folder = make_run()
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        card_text(folder, repo="me/mine")


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a card is of a model's folder, with config\.json; got"):
        card_text(tmp_path, repo="me/mine")
