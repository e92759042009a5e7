"""The demo as a page: what visitors may not do, what they may not read, and what they do in a browser."""

import json
import logging
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vaswani_cli import main
from vaswani_transformer.embedded_models import EMBEDDED, FOLDER, model_folder
from vaswani_transformer.evaluation.scorers import load_scored_model
from vaswani_transformer.viewing import demo_app
from vaswani_transformer.viewing.demo import Refused
from vaswani_transformer.viewing.demo_app import FAILED, Desk, launch, make_app

from .conftest import DESK, PHONE

LIMIT = 120
HERE = {"127.0.0.1", "localhost", "::1", None}


def test_a_visitor_reads_no_path_of_what_failed_and_the_log_has_it(caplog):
    def work(text: str) -> str:
        raise OSError(f"/home/jane/model: {text}")

    with caplog.at_level(logging.ERROR):
        html = Desk(10)(work)("a")
    assert FAILED in html
    assert "/home" not in html
    assert "/home/jane/model: a" in caplog.text


def test_a_refusal_is_told_in_its_words():
    def work(text: str) -> str:
        raise Refused(f"no {text}")

    assert "no &lt;b&gt;" in Desk(10)(work)("<b>")


def test_texts_over_the_limit_together_never_reach_the_model():
    asked: list[tuple[Any, ...]] = []
    desk = Desk(4)(lambda *given: str(asked.append(given)))
    assert "at most 4 characters in this demo; got 5" in desk("abc", 3, "de")
    assert asked == []
    desk("abc", 3, "d")
    assert asked == [("abc", 3, "d")]


def test_without_gradio_the_extra_is_named_before_a_model_is_loaded(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    assert main(["demo", "nowhere"]) == 2
    assert "pip install 'vaswani-transformer[app]'" in capsys.readouterr().err


@pytest.mark.parametrize("how", [["--host", "198.51.100.7"], ["--port", "99999"], ["--port"]], ids=lambda how: how[0])
def test_an_address_that_cannot_be_had_is_told_before_a_model_is_loaded(how, monkeypatch, capsys):
    monkeypatch.setattr(demo_app, "gradio", lambda: None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        how = how if len(how) == 2 else [*how, str(taken.getsockname()[1])]
        assert main(["demo", "nowhere", *how]) == 2
    assert "host and port must be an address of this machine that is free; got host=" in capsys.readouterr().err


@pytest.fixture(scope="module")
def outside() -> Iterator[list[str]]:
    """Addresses of other machines that this process asked for, which it does not reach."""
    asked: list[str] = []
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in HERE:
            asked.append(str(address))
            raise ConnectionRefusedError(address)
        connect(self, address)

    def guarded_look_up(host: Any, *more: Any, **named: Any) -> Any:
        if host not in (*HERE, b"localhost", "0.0.0.0"):
            asked.append(str(host))
            raise socket.gaierror(host)
        return look_up(host, *more, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded_connect)
        patch.setattr(socket, "getaddrinfo", guarded_look_up)
        yield asked


@pytest.fixture(scope="module")
def addresses(outside: list[str]) -> Iterator[dict[str, str]]:
    """The demos of the three embedded models by their names; skips without Gradio."""
    pytest.importorskip("gradio", reason="needs Gradio, of the extra `app`")
    apps, found = [], {}
    for name in EMBEDDED:
        app = make_app(*load_scored_model(model_folder(name), device="cpu"), title=name, max_characters=LIMIT)
        found[name] = launch(app, host="127.0.0.1")[1]
        apps.append(app)
    yield found
    for app in apps:
        app.close(verbose=False)
    assert outside == []  # no telemetry, no look for a newer version


def fetched(address: str, body: Any = None) -> str:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read().decode()


def test_the_page_and_its_settings_name_no_path_of_this_machine(addresses):
    gradio: Any = pytest.importorskip("gradio", reason="needs Gradio, of the extra `app`")
    for address in addresses.values():
        for page in ("", "config", "gradio_api/info"):
            text = fetched(address + page)
            for place in (FOLDER.parent, Path(gradio.__file__).parent, Path.cwd(), Path.home()):
                assert f"{place}/" not in text.replace("\\/", "/")


def test_no_file_of_this_machine_is_served(addresses):
    with pytest.raises(urllib.error.HTTPError, match="403"):
        fetched(f"{addresses['demo-gpt']}gradio_api/file={FOLDER / 'demo-gpt' / 'config.json'}")


def test_a_program_that_asks_is_held_to_the_limit_too(addresses):
    call = f"{addresses['demo-bert']}gradio_api/call/fill"
    event = json.loads(fetched(call, {"data": ["[MASK]" * LIMIT]}))["event_id"]
    assert f"at most {LIMIT} characters in this demo; got {6 * LIMIT}" in fetched(f"{call}/{event}")


@pytest.fixture
def visit(browser: Any, addresses: dict[str, str], outside: list[str]) -> Iterator[Any]:
    """A function that opens a demo; errors and requests to other machines must not happen."""
    complaints: list[str] = []
    pages = []

    def asked(request: Any) -> None:
        if not request.url.startswith((*addresses.values(), "about:", "data:", "blob:")):
            complaints.append(request.url)

    def opened(name: str, size: tuple[int, int]) -> Any:
        page = browser.new_page(viewport={"width": size[0], "height": size[1]})
        pages.append(page)
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("request", asked)
        page.goto(addresses[name])
        page.get_by_role("button", name="Translate").or_(page.get_by_role("button", name="Fill")).or_(
            page.get_by_role("button", name="Write", exact=True)
        ).wait_for()
        return page

    yield opened
    for page in pages:
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        page.close()
    assert complaints == []


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_a_sentence_is_translated_as_it_is_typed_and_its_attention_can_be_clicked(visit, size):
    page = visit("demo-transformer", size)
    page.get_by_label("Sentence").fill("a library for ${alert(1)} <script>alert(2)</script>")
    frame = page.frame_locator(".found iframe")
    frame.locator("body[data-ready]").wait_for()
    assert "${alert(1)}" in frame.locator("#lines").text_content().replace("Ġ", "")
    assert frame.locator("#kind").input_value() == "cross"
    frame.locator("#head").select_option("1")
    frame.locator("#lines .word").first.click()
    assert frame.locator("#told").inner_text()


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_blanks_are_filled_with_a_table_of_words_each(visit, size):
    page = visit("demo-bert", size)
    page.get_by_role("button", name="Fill").click()
    page.locator(".found table").nth(1).wait_for()
    assert page.locator(".found table").count() == 2
    assert "[MASK]" not in page.locator(".found .text").inner_text()


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_a_text_is_written_and_a_step_shows_what_else_could_have_stood_there(visit, size):
    page = visit("demo-gpt", size)
    page.get_by_role("button", name="Write", exact=True).click()
    page.locator(".found details").nth(29).wait_for()
    page.locator(".found summary").nth(2).click()
    assert (
        page.locator(".found details[open] tr.chosen")
        .inner_text()
        .startswith(page.locator(".found summary").nth(2).inner_text().split()[1])
    )
    page.get_by_role("tab", name="Zero, one and few shots").click()
    page.get_by_role("button", name="Ask").click()
    page.locator(".found h3").nth(2).wait_for()
    assert page.locator(".found h3").all_inner_texts() == ["zero-shot", "one-shot", "few-shot"]


def test_a_text_over_the_limit_is_refused_on_the_page(visit):
    page = visit("demo-gpt", DESK)
    page.get_by_label("Prompt").fill("/a" * LIMIT)
    page.get_by_role("button", name="Write", exact=True).click()
    told = page.get_by_role("alert").inner_text()
    assert told == f"a text may have at most {LIMIT} characters in this demo; got {2 * LIMIT}: shorten it"
