"""Join what an SSCD run exported, its backbone and the layers after it, in one file that a pipeline can describe with.

usage: python -m ssl_train.descriptor RUN/teacher.safetensors DESCRIPTOR.safetensors [--half]
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence

import safetensors.torch
from torch import Tensor

from ssl_train.checkpoint import heads_path
from ssl_train.errors import TrainError
from ssl_train.models.descriptor import DescriptorNet, head_in
from ssl_train.models.load import describe, read_backbone, read_tensors
from storage.errors import StorageError
from storage.filesystem import write_bytes


def write_descriptor(teacher: str, path: str, *, half: bool = False) -> str:
    """Write the descriptor of `teacher` and the heads.safetensors beside it as `path` (.safetensors); its SHA-256.

    `half` stores weights as float16, half as large; running statistics stay float32. Raises CheckpointError.
    """
    loaded = read_backbone(teacher)
    heads, _ = read_tensors(heads_path(teacher))
    network = DescriptorNet(loaded.network, head_in(heads, heads_path(teacher)))
    kept = {name: _stored(name, tensor, half).contiguous() for name, tensor in network.state_dict().items()}
    facts = {name: loaded.facts[name] for name in ("step", "seed") if name in loaded.facts}
    data = safetensors.torch.save(kept, metadata=describe(loaded.model, **facts))
    write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def _stored(name: str, tensor: Tensor, half: bool) -> Tensor:
    whole = not tensor.is_floating_point() or name.endswith((".running_mean", ".running_var", ".power"))
    return tensor.half() if half and not whole else tensor


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a run's descriptor, and say what a pipeline's `describe.encoder` is told of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", help="teacher.safetensors of an SSCD run; heads.safetensors lies beside it")
    parser.add_argument("target", help="file to write (.safetensors)")
    parser.add_argument("--half", action="store_true", help="store weights as float16")
    options = parser.parse_args(arguments)
    try:
        sha256 = write_descriptor(options.teacher, options.target, half=options.half)
    except (TrainError, StorageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"kind": "ssl_descriptor", "weights": options.target, "sha256": sha256}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
