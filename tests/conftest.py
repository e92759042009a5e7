"""Every test runs offline and on one thread; data that may not ship is asked for by name."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

# Before anything imports transformers, datasets or tokenizers: they read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"

# Two test processes share two cores; more threads than that only wait for one another.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of research-only data beside the checkout; skips where it is not."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs ../shared/data, which may not ship and is not here")
    return SHARED_DATA


@pytest.fixture(autouse=True)
def ctrl_c_as_at_a_terminal() -> Iterator[None]:
    """Gives SIGINT its usual meaning: a suite started in the background ignores it, and so would all it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
