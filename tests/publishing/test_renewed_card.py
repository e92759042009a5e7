"""A card that is there already: what of a person's stays, what of ours is renewed."""

import copy
from typing import Any

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.errors import EntryNotFoundError
from transformers.utils.hub import create_and_tag_model_card

from vaswani_transformer.publishing.card import card_text

from .conftest import MakeRun, run_record, write
from .measured import TRANSLATION, few_shot, head

FAMILIES = pytest.mark.parametrize("family", ["transformer", "bert", "gpt"])


@FAMILIES
def test_a_card_that_nothing_changed_in_is_the_same_again(make_run: MakeRun, family: str) -> None:
    folder = make_run(family)
    write(folder / "results.json", few_shot(0.24))
    text = card_text(folder, repo="me/mine")
    assert card_text(folder, repo="me/mine", existing=text) == text
    assert card_text(folder, repo="me/mine", existing=text.replace("\n", "\r\n")) == text


def test_a_persons_text_stays_and_our_numbers_are_renewed(make_run: MakeRun) -> None:
    folder = make_run()
    before = card_text(folder, repo="me/mine").replace("# mine\n", "# A title\n\nMine, above.\n")
    before = before.replace("<!-- vaswani:limits -->", "## Of my own\n\nBetween.\n\n<!-- vaswani:limits -->")
    record = run_record("transformer")
    record["results"]["steps"], record["results"]["validation"]["bleu"] = 7000, 30.0
    write(folder / "run.json", record)
    after = card_text(folder, repo="me/mine", existing=before)
    assert "# A title\n\nMine, above.\n" in after
    assert "## Of my own\n\nBetween.\n\n<!-- vaswani:limits -->" in after
    assert "| updates | 7,000 of" in after
    assert "6,012" not in after
    (bleu,) = (one for one in head(after).eval_results if one.metric_type == "bleu")
    assert bleu.metric_value == 30.0


def test_a_hand_written_card_stays_whole_above_our_sections(make_run: MakeRun) -> None:
    mine = "# My model\n\nAll by hand.\n\n## Data\n\nMine.\n"
    text = card_text(make_run(), repo="me/mine", existing=f"---\nlicense: mit\n---\n{mine}")
    body = ModelCard(text).text
    assert body.lstrip("\n").startswith(mine)
    assert body.count("# mine") == 0
    assert head(text).license == "mit"


@pytest.fixture
def pushed_card(monkeypatch: pytest.MonkeyPatch) -> str:
    """What transformers' push_to_hub writes into a repository without a card."""

    def nothing(*args: Any, **kwargs: Any) -> None:
        raise EntryNotFoundError("no card there")

    monkeypatch.setattr(ModelCard, "load", nothing)
    return str(create_and_tag_model_card("me/mine", ["mine"]))


def test_the_empty_form_of_push_to_hub_makes_room_and_its_tags_stay(make_run: MakeRun, pushed_card: str) -> None:
    assert "[More Information Needed]" in pushed_card
    text = card_text(make_run(), repo="me/mine", existing=pushed_card)
    assert "[More Information Needed]" not in text
    assert head(text).tags == ["mine", "custom_code", "vaswani-transformer"]


def test_a_form_that_a_person_has_begun_to_fill_stays(make_run: MakeRun, pushed_card: str) -> None:
    begun = pushed_card.replace("- **Developed by:** [More Information Needed]", "- **Developed by:** me")
    assert begun != pushed_card
    assert "- **Developed by:** me" in card_text(make_run(), repo="me/mine", existing=begun)


def test_metadata_that_a_person_wrote_stay_and_ours_are_renewed_or_go(make_run: MakeRun) -> None:
    folder = make_run()
    write(folder / "newstest.json", TRANSLATION)
    card: Any = ModelCard(card_text(folder, repo="me/mine"))
    card.data.license, card.data.pipeline_tag = "mit", "text-generation"
    card.data.tags = [*(card.data.tags or []), "captions"]
    card.data["thumbnail"] = "a.png"
    theirs = copy.deepcopy(card.data.eval_results[0])
    theirs.dataset_type = theirs.dataset_name = "a test set of mine"
    card.data.eval_results.append(theirs)
    (folder / "newstest.json").unlink()
    data = head(card_text(folder, repo="me/mine", existing=str(card)))
    assert (data.license, data.pipeline_tag, data["thumbnail"]) == ("mit", "text-generation", "a.png")
    assert sorted(data.tags or []) == ["captions", "custom_code", "vaswani-transformer"]
    names = {one.dataset_name for one in data.eval_results}
    assert names == {"validation rows of the run", "a test set of mine"}


def test_a_licence_that_was_unknown_is_renewed_when_card_yaml_states_it(make_run: MakeRun) -> None:
    folder = make_run()
    before = card_text(folder, repo="me/mine")
    (folder / "card.yaml").write_text("license: apache-2.0\n")
    assert head(card_text(folder, repo="me/mine", existing=before)).license == "apache-2.0"


@pytest.mark.parametrize(
    ("existing", "message"),
    [
        ("---\nlicense: [mit\n---\n# a\n", r"metadata at the head of the repository's README.md must be valid"),
        ("---\n- mit\n---\n# a\n", r"must be valid; got repo card metadata block should be a dict: mend it there"),
        ("# a\n<!-- vaswani:use -->\nlost\n", r"got <!-- vaswani:use --> without its partner"),
        (
            "# a\n<!-- vaswani:head -->\n<!-- {1 -->\n<!-- /vaswani:head -->\n",
            r"is written by a program; got '{1': take it out",
        ),
    ],
)
def test_a_card_that_cannot_be_kept_is_refused(make_run: MakeRun, existing: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        card_text(make_run(), repo="me/mine", existing=existing)
