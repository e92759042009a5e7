import pytest

from vaswani_transformer.publishing.card_sections import join_sections, renew_sections, split_sections

SECTIONS = {"use": "## Use\n\nThis.", "data": "## Data", "limits": "## Limits"}


def test_sections_come_out_as_they_went_in_and_blank_ones_are_left_out():
    assert split_sections(join_sections("# a", {**SECTIONS, "empty": " \n"})) == SECTIONS


def test_a_persons_text_around_sections_stays_to_the_letter():
    before = join_sections("# My title\n\nMine, above.", SECTIONS)
    before = before.replace("<!-- vaswani:data -->", "Mine, between.\n\n<!-- vaswani:data -->") + "\nMine, below.\n"
    after = renew_sections(before, {**SECTIONS, "data": "## Data, anew"})
    assert after == before.replace("## Data\n", "## Data, anew\n")


def test_a_card_without_our_sections_gets_them_at_its_end():
    assert renew_sections("# Mine\n\ntext\n", {"use": "this"}) == (
        "# Mine\n\ntext\n\n<!-- vaswani:use -->\nthis\n<!-- /vaswani:use -->\n"
    )


@pytest.mark.parametrize("missing", list(SECTIONS))
def test_a_section_that_is_new_comes_in_its_place(missing):
    fewer = {name: body for name, body in SECTIONS.items() if name != missing}
    assert renew_sections(join_sections("# a", fewer), SECTIONS) == join_sections("# a", SECTIONS)


@pytest.mark.parametrize("gone", list(SECTIONS))
def test_a_section_without_facts_any_more_goes_without_a_trace(gone):
    fewer = {name: body for name, body in SECTIONS.items() if name != gone}
    assert renew_sections(join_sections("# a", SECTIONS), fewer) == join_sections("# a", fewer)


@pytest.mark.parametrize("lost", ["<!-- vaswani:data -->", "<!-- /vaswani:data -->"])
def test_a_mark_that_lost_its_partner_is_refused(lost):
    with pytest.raises(ValueError, match=r"must stand between .*vaswani:data --> without its partner: restore it"):
        renew_sections(join_sections("# a", SECTIONS).replace(lost, ""), SECTIONS)
