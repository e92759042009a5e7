"""A saved folder carries its code: it must load where this package is not installed."""

import ast
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM
from transformers.dynamic_module_utils import get_imports, get_relative_imports

from vaswani_transformer import VaswaniTransformerForConditionalGeneration as Model

MODELS = Path(sys.modules[Model.__module__].__file__ or "").parent
FILES = sorted(path for path in MODELS.glob("*.py") if path.name != "__init__.py")
AUTO_MAP = {
    "AutoModel": "modeling_transformer.VaswaniTransformerModel",
    "AutoModelForSeq2SeqLM": "modeling_transformer.VaswaniTransformerForConditionalGeneration",
}

HIDE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("vaswani_transformer", "vaswani_cli"):
            raise ModuleNotFoundError(f"hidden: {name}", name=name)

sys.meta_path.insert(0, Hidden())
try:
    import vaswani_transformer
except ModuleNotFoundError:
    pass
else:
    raise AssertionError("the package is not hidden")
"""


def run_without_the_package(code: str, folder: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(folder / "modules"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    script = HIDE + textwrap.dedent(code)
    result = subprocess.run(
        [sys.executable, "-c", script, str(folder)], env=environment, cwd=folder, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def test_a_saved_folder_loads_and_translates_without_the_package(make_model, batch, tmp_path) -> None:
    model = make_model(tie_embeddings="decoder", d_k=3, d_v=5)
    model.save_pretrained(tmp_path)
    model.model.save_pretrained(tmp_path / "headless")
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == {
        "AutoConfig": "configuration_transformer.VaswaniTransformerConfig",
        **AUTO_MAP,
    }
    with torch.no_grad():
        expected = {"logits": model(**batch).logits, "sequences": model.generate(batch["input_ids"])}
    torch.save({**batch, **expected}, tmp_path / "expected.pt")
    run_without_the_package(
        """
        import torch
        from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM

        folder = sys.argv[1]
        saved = torch.load(f"{folder}/expected.pt", weights_only=True)
        logits, sequences = saved.pop("logits"), saved.pop("sequences")
        config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
        assert (type(config).__name__, config.d_k, config.d_v) == ("VaswaniTransformerConfig", 3, 5)
        model = AutoModelForSeq2SeqLM.from_pretrained(folder, trust_remote_code=True).eval()
        assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
        with torch.no_grad():
            assert torch.equal(model(**saved).logits, logits)
        assert torch.equal(model.generate(saved["input_ids"]), sequences)
        base = AutoModel.from_pretrained(folder, trust_remote_code=True)
        assert type(base).__name__ == "VaswaniTransformerModel"
        model.train()(**saved).loss.backward()
        model.save_pretrained(f"{folder}/again")
        again = AutoModelForSeq2SeqLM.from_pretrained(f"{folder}/again", trust_remote_code=True)
        assert torch.equal(again.lm_head.weight, model.lm_head.weight)
        headless = AutoModel.from_pretrained(f"{folder}/headless", trust_remote_code=True)
        assert torch.equal(headless.decoder.embed_tokens.weight, base.decoder.embed_tokens.weight)
        """,
        tmp_path,
    )


def test_with_the_package_imported_a_saved_folder_loads_the_packages_classes(make_model, tmp_path) -> None:
    make_model().save_pretrained(tmp_path)
    for trust in (False, True):
        assert type(AutoModelForSeq2SeqLM.from_pretrained(tmp_path, trust_remote_code=trust)) is Model


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_transformers_import_scanner_finds_nothing_to_install(path: Path) -> None:
    assert set(get_imports(path)) - sys.stdlib_module_names <= {"torch", "transformers", "tokenizers"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_that_a_model_file_needs_lies_beside_it(path: Path) -> None:
    scanned = set(get_relative_imports(path))
    assert all((MODELS / f"{name}.py").is_file() for name in scanned)
    written = {
        node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom) and node.level
    }
    assert written == scanned  # `from . import x` has no module: the scanner would not copy it


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_model_file_imports_the_package_by_name(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level <= 1
            names = [node.module or ""] if node.level == 0 else []
        assert not any(name.split(".")[0] == "vaswani_transformer" for name in names)
