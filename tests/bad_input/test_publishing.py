"""Bad input of publishing: names, folders, tokens."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from vaswani_transformer.convert.to_transformers import plain_model
from vaswani_transformer.publishing.publish import publish

from .scene import Cases, Scene, assert_told

HEAD = "VaswaniTransformerForConditionalGeneration"


class Publishing(Scene):
    """Whole and damaged folders, and a Hub that is never reached."""

    def publish(self, folder: str, repo: str = "me/model", *, token: str | None = None) -> Any:
        with patch("vaswani_transformer.publishing.hub.get_token", return_value=token):
            return publish(folder, repo)

    def damaged(self, name: str, content: bytes | None) -> str:
        """A saved model in shards with one file changed, or taken away."""
        self.model().save_pretrained(self.folder / "damaged", max_shard_size="20KB")
        (self.folder / "damaged" / name).unlink()
        if content is not None:
            self.write(f"damaged/{name}", content)
        return str(self.folder / "damaged")


CASES: Cases[Publishing] = {
    "a repository's name that the Hub refuses": (
        lambda s: s.publish(s.saved(), "me/my--model"),
        "a name that the Hub allows, NAME or NAMESPACE/NAME; got 'me/my--model': Cannot have --",
    ),
    "a path for a repository": (
        lambda s: s.publish(s.saved(), "me/models/one"),
        "a name that the Hub allows, NAME or NAMESPACE/NAME; got 'me/models/one'",
    ),
    "a folder to publish that is not there": (
        lambda s: s.publish("no/such"),
        "must be the folder of a model; got 'no/such'",
    ),
    "a folder to publish without a model": (
        lambda s: s.publish(str(s.folder)),
        "has a config.json; got .* without one",
    ),
    "a folder to publish that does not name its model's class": (
        lambda s: s.publish(str(Path(s.write("config.json", s.config().to_json_string())).parent)),
        r"must name the class of the weights in architectures; got \[\] in",
    ),
    "a folder to publish without weights": (
        lambda s: s.publish(str(Path(s.write("config.json", s.config(architectures=[HEAD]).to_json_string())).parent)),
        "must hold weights as model.safetensors, or in shards; got .* with config.json: load the model",
    ),
    "a folder to publish with shards that nothing lists": (
        lambda s: s.publish(s.damaged("model.safetensors.index.json", None)),
        "must hold weights as model.safetensors, or in shards; got .*: load the model and save it",
    ),
    "a shard that is missing": (
        lambda s: s.publish(s.damaged("model-00001-of-00002.safetensors", None)),
        "every shard that .* names must be there; got .* without model-00001-of-00002.safetensors",
    ),
    "a shard that is cut": (
        lambda s: s.publish(s.damaged("model-00001-of-00002.safetensors", b"\x40\0\0\0\0\0\0\0{}")),
        "every file of weights must be whole; got .*model-00001-of-00002.safetensors",
    ),
    "a model of transformers to publish": (
        lambda s: s.publish(s.folder_of(plain_model(s.gpt()))),
        "must be a model of this package.*got model_type 'openai-gpt'",
    ),
    "an unknown format to publish": (
        lambda s: s.verb("publish", s.saved(), "me/model", "--export", "onx", "--dry-run"),
        "unknown format to publish 'onx'",
    ),
    "no token": (
        lambda s: s.publish(s.saved()),
        "needs a token that may write; got none: .*`hf auth login` or in HF_TOKEN. Nothing was sent",
    ),
    "no network": (
        lambda s: s.publish(s.saved(), token="hf_any"),  # the suite runs with HF_HUB_OFFLINE=1
        "needs the network; got HF_HUB_OFFLINE=1: unset it. Nothing was sent; give the same command again",
    ),
}


@pytest.mark.parametrize("what", CASES)
def test_bad_input_is_told_with_the_rule_and_the_value(what, tokenizer, tmp_path):
    assert_told(what, CASES, Publishing(tmp_path, tokenizer))
