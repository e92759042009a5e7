"""Fine-tunes through transformers' Trainer under a launch by DeepSpeed on CPUs: accelerate launch THIS RECIPE.

On GPUs `vaswani finetune` does it; on CPUs Trainer must be told to keep the process group that was made with gloo.
"""

import json
import sys
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainingArguments

from vaswani_transformer import finetune
from vaswani_transformer.finetune_recipe import FinetuneRecipe


class OnGloo(TrainingArguments):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, accelerator_config={"use_configured_state": True})


if __name__ == "__main__":
    PartialState(backend="gloo")
    finetune.TrainingArguments = OnGloo
    finetune.finetune(FinetuneRecipe.from_dict(json.loads(Path(sys.argv[1]).read_text())))
