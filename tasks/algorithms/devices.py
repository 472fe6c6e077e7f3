"""Which torch device a name of the config means."""

import torch


def torch_device(name: str) -> str:
    """ "cpu", "cuda" or "cuda:1" as they are; "auto" is a GPU where torch has one. Raises ValueError for a device that
    torch does not have."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if name != "auto" and not (name.split(":")[0] == "cuda" and torch.cuda.is_available()):
        raise ValueError(f"there is no device {name!r}: take 'auto', 'cpu', or 'cuda' where torch finds a GPU")
    return "cuda" if name == "auto" else name
