"""What the distributed tests run in each of two processes: python two_processes.py JOB RANK FOLDER."""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed
from torch.nn.parallel import DistributedDataParallel

from vaswani_transformer import VaswaniTransformerForConditionalGeneration as Model


def data_parallel(rank: int, folder: Path) -> None:
    """Gradients of half a batch each, added up over the processes."""
    model = Model.from_pretrained(folder).train()
    batch = torch.load(folder / "batch.pt", weights_only=True)
    count = (batch["labels"] != -100).sum()
    part = {name: value[rank::2] for name, value in batch.items()}
    wrapped = DistributedDataParallel(model)
    loss = wrapped(**part, num_items_in_batch=count).loss
    (2 * loss).backward()  # the wrapper takes the mean over processes, the loss is a sum over them
    if rank == 0:
        torch.save({name: parameter.grad for name, parameter in model.named_parameters()}, folder / "gradients.pt")


def data_parallel_gpt(rank: int, folder: Path) -> None:
    """The same of a GPT that is fine-tuned, both its losses together."""
    from vaswani_transformer import VaswaniGPTForMultipleChoice

    model = VaswaniGPTForMultipleChoice.from_pretrained(folder).train()
    batch = torch.load(folder / "batch.pt", weights_only=True)
    count = (batch["labels"] != -100).sum()
    wrapped = DistributedDataParallel(model)
    loss = wrapped(**{name: value[rank::2] for name, value in batch.items()}, num_items_in_batch=count).loss
    (2 * loss).backward()  # as above
    if rank == 0:
        torch.save({name: parameter.grad for name, parameter in model.named_parameters()}, folder / "gradients.pt")


def tensor_parallel(rank: int, folder: Path) -> None:
    """Losses, logits, gradients and translations of a model whose matrices are split over the processes."""
    from transformers.distributed.configuration_utils import DistributedConfig

    batch = torch.load(folder / "batch.pt", weights_only=True)
    model: Any = Model.from_pretrained(folder, distributed_config=DistributedConfig(tp_size=2)).train()
    loss = model(**batch).loss
    loss.backward()
    gradients: dict[str, Any] = {name: parameter.grad for name, parameter in model.named_parameters()}
    gradients = {
        name: value.full_tensor() if hasattr(value, "full_tensor") else value for name, value in gradients.items()
    }
    model.eval()
    with torch.no_grad():
        logits = model(**batch).logits
    sequences = model.generate(batch["input_ids"], max_new_tokens=6)
    if rank == 0:
        result = {"loss": loss.detach(), "logits": logits, "gradients": gradients, "sequences": sequences}
        torch.save({**result, "sharded": model.lm_head.weight.to_local().shape[0]}, folder / "result.pt")


def tensor_parallel_gpt(rank: int, folder: Path) -> None:
    """The same of GPT."""
    from transformers.distributed.configuration_utils import DistributedConfig

    from vaswani_transformer import VaswaniGPTForCausalLM

    batch = torch.load(folder / "batch.pt", weights_only=True)
    split = DistributedConfig(tp_size=2)
    model: Any = VaswaniGPTForCausalLM.from_pretrained(folder, distributed_config=split).train()
    loss = model(**batch).loss
    loss.backward()
    gradients: dict[str, Any] = {name: parameter.grad for name, parameter in model.named_parameters()}
    gradients = {n: value.full_tensor() if hasattr(value, "full_tensor") else value for n, value in gradients.items()}
    model.eval()
    with torch.no_grad():
        logits = model(**batch).logits
    sequences = model.generate(batch["input_ids"][:1], max_new_tokens=6, do_sample=False)
    if rank == 0:
        result = {"loss": loss.detach(), "logits": logits, "gradients": gradients, "sequences": sequences}
        torch.save({**result, "sharded": model.lm_head.weight.to_local().shape[0]}, folder / "result.pt")


if __name__ == "__main__":
    job, rank, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    jobs = {"data": data_parallel, "data_gpt": data_parallel_gpt}
    jobs |= {"tensor": tensor_parallel, "tensor_gpt": tensor_parallel_gpt}
    jobs[job](rank, folder)
    distributed.destroy_process_group()
