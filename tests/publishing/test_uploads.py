"""Uploads that are cut and go on, and what the Hub refuses, through the real client."""

from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError

from vaswani_transformer.publishing import publish as publishing
from vaswani_transformer.publishing.hub import AGAIN
from vaswani_transformer.publishing.publish import publish

from .hub_scene import NAME, uploads


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
    with pytest.raises(
        OSError, match=rf"needs an answer of the Hub; got .*\. {NAME} is as it was before; give the same"
    ):
        publish(sharded, NAME)
    assert "config.json" not in hub.repos[NAME].files
    assert len(hub.objects) == 1
    hub.cut_next("", "", times=0)
    hub.requests.clear()
    publish(sharded, NAME)
    assert uploads(hub) == shards - 1


def test_a_lost_commit_sends_no_weights_again(hub, gpt, unchecked):
    hub.cut_next("POST", "/commit/")
    with pytest.raises(OSError, match=r"files that the Hub has whole are not sent a second time"):
        publish(gpt, NAME)
    publish(gpt, NAME)
    assert uploads(hub) == 1


STOPS = [
    (KeyboardInterrupt(), KeyboardInterrupt, "stopped"),
    (
        RuntimeError("no storage"),
        OSError,
        "publishing needs an answer of the Hub; got RuntimeError: no storage",
    ),  # Xet's
]


@pytest.mark.parametrize(("stop", "kind", "told"), STOPS, ids=["ctrl-c", "xet"])
def test_what_stops_an_upload_tells_how_to_go_on(stop, kind, told, hub, gpt, monkeypatch):
    def stopped(self: HfApi, *given: object, **named: object) -> None:
        raise stop

    monkeypatch.setattr(HfApi, "create_commit", stopped)
    with pytest.raises(kind, match=rf"{told}\. {NAME} is as it was before; give the same command again"):
        publish(gpt, NAME)


def test_a_lost_download_says_that_the_commit_is_not_checked(hub, gpt, unchecked, no_waiting):
    hub.cut = lambda method, path: method == "GET" and "/tree/" in path and not path.endswith("/main")
    with pytest.raises(OSError, match=r"holds all files as commit \w+, not yet checked; give the same command again"):
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
    with pytest.raises(
        OSError, match=r"needs an answer of the Hub; got ConnectError: .*\. Nothing was sent; give the same"
    ):
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
