"""Which device a model is evaluated on."""

import torch


def device_named(name: torch.device | str | None) -> torch.device:
    """Returns the device of a name; the GPU where there is one, else the CPU, for None.

    Raises:
        ValueError: no device, or one that this machine or this build of torch does not have.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # a device may be known, and not be here
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"device must be one that is here, cpu, cuda or cuda:1 for some; got device={str(name)!r}: {reason}: leave "
            "it out for the GPU where there is one, else the CPU"
        ) from error
    return device
