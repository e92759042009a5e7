import copy
import sys
from typing import Any

import pytest
import transformers

from vaswani_transformer.evaluation import translate
from vaswani_transformer.pipelines import TASK, register_pipelines

make: Any = transformers.pipeline  # its stub knows transformers' own tasks only

TEXTS = ["A woman reads.", "", "Two dogs run through the deep snow on a long road.", "Ja"]


@pytest.fixture(scope="module")
def translator(folder):
    register_pipelines()
    return make("seq2seq-translation", model=str(folder), device="cpu")


def test_one_text_gives_a_list_of_one_translation(translator, model, tokenizer):
    assert translator(TEXTS[0]) == [{"translation_text": translate(model, tokenizer, TEXTS[:1])[0]}]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_list_gives_its_translations_in_order_batched_or_not(translator, model, tokenizer, batch_size):
    expected = [{"translation_text": text} for text in translate(model, tokenizer, TEXTS)]
    assert translator(TEXTS, batch_size=batch_size) == expected


def test_a_generator_gives_a_list_for_each_text(translator):
    found = list(translator((text for text in TEXTS), batch_size=2))
    assert found == [[record] for record in translator(TEXTS)]


def test_several_translations_of_each_text(translator):
    found = translator(TEXTS, num_return_sequences=2, batch_size=2)
    assert [len(records) for records in found] == [2, 2, 2, 2]
    assert found[1] == [{"translation_text": ""}] * 2


def test_a_blank_text_gives_an_empty_translation_and_no_texts_give_none(translator):
    assert translator([" ", ""]) == [{"translation_text": ""}] * 2
    assert translator("\n") == [{"translation_text": ""}]
    assert translator([]) == []


def test_options_of_generate_given_when_made_or_called_count(folder, translator):
    greedy = make("seq2seq-translation", model=str(folder), device="cpu", num_beams=1, max_new_tokens=2)
    assert greedy(TEXTS[0]) == translator(TEXTS[0], num_beams=1, max_new_tokens=2)
    assert greedy(TEXTS[0]) != translator(TEXTS[0])


def test_what_is_no_text_is_told(translator):
    for wrong in ([3], 3, [["a"]]):
        with pytest.raises(ValueError, match=r"translates strings; got (int|list)"):
            translator(wrong)


def test_registering_twice_changes_nothing(translator):
    from transformers.pipelines import PIPELINE_REGISTRY

    before = PIPELINE_REGISTRY.supported_tasks[TASK]
    register_pipelines()
    assert PIPELINE_REGISTRY.supported_tasks[TASK] is before


def test_a_model_of_transformers_works_in_it(marian, tokenizer):
    register_pipelines()
    translator = make(TASK, model=marian, tokenizer=tokenizer, device="cpu", max_new_tokens=5)
    found = translator(["a b", "", "c " * 100], batch_size=2)
    assert [bool(record["translation_text"]) for record in found] == [True, False, True]


def test_a_source_beyond_the_limit_is_cut(translator, model, tokenizer):
    long = "dog " * 50
    limited = translator(long, max_source_tokens=6)[0]["translation_text"]
    assert [limited] == translate(model, tokenizer, [long], max_source_tokens=6)
    assert limited != translator(long)[0]["translation_text"]
    with pytest.raises(ValueError, match="max_source_tokens must be at least 2"):
        translator(long, max_source_tokens=1)


def test_a_saved_pipeline_carries_its_code(marian, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.path", [*sys.path])
    register_pipelines()
    here = make(TASK, model=copy.deepcopy(marian), tokenizer=tokenizer, device="cpu", max_new_tokens=5)
    here.save_pretrained(tmp_path / "saved")
    there = make(TASK, model=str(tmp_path / "saved"), trust_remote_code=True, device="cpu", max_new_tokens=5)
    assert type(there).__module__.startswith("transformers_modules")
    assert there(["a b", ""]) == here(["a b", ""])
