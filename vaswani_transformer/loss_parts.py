"""transformers' Trainer, which also tells the parts of a loss that is the sum of two."""

from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

PARTS = ("task_loss", "lm_loss")


class PartsTrainer(Trainer):
    """Trainer that logs `task_loss` and `lm_loss` beside the loss, of updates and validations, where a model has them.

    As the loss, those of an update are means over its whole accumulated batch on all processes.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sums: dict[str, Tensor] = {}  # of the updates since the last record
        self._since = 0
        self._rows: dict[str, list[Tensor]] = {}  # of the validation that runs, a value a row

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """As Trainer's, taking in the parts."""
        rows = len(inputs["labels"]) if "labels" in inputs else 1
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        for name in PARTS:
            if (part := getattr(outputs, name, None)) is None:
                continue
            part = part.detach().mean()  # of several GPUs in one process
            if model.training:
                if not self._sums:
                    self._since = self.state.global_step
                self._sums[name] = self._sums.get(name, 0) + part
            else:  # divided by the labels of all processes' batches
                values: Any = self.accelerator.gather_for_metrics((part * self.accelerator.num_processes).repeat(rows))
                self._rows.setdefault(name, []).append(values)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As Trainer's, with the parts of the updates since the last record."""
        if "loss" in logs and self._sums:
            updates = self.state.global_step - self._since
            for name, part in self._sums.items():
                total: Any = self.accelerator.reduce(part, "sum")
                logs[name] = float(total) / updates
            self._sums = {}
        super().log(logs, start_time)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's, with the parts' means over the rows."""
        self._rows = {}
        output = super().evaluation_loop(*args, **kwargs)
        prefix = kwargs.get("metric_key_prefix", "eval")
        parts = {f"{prefix}_{name}": float(torch.cat(rows).mean()) for name, rows in self._rows.items()}
        (output.metrics or {}).update(parts)
        return output
