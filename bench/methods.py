"""Images per second and peak memory of every self-supervised method, one step at a time, on one backbone.

    python -m bench.methods [--batch-images 8] [--steps 3] [--no-save]

All take the same ViT with its drop path, batch, global crops and number of prototypes; each takes the local crops and
the heads that its paper gives it. Every method runs in a process of its own, on noise.

Then DINOv2 beside iBOT, from which its gains are measured, at equal settings. iBOT stands there twice: as this trainer
computes it, and by the textbook, as its published code does it: crops of each size by themselves, drop path that
computes what it drops, logits of all patches over all prototypes in memory at once. DINOv2's paper (section 5) claims
twice the speed and a third of the memory against that code.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

from bench.measure import machine, peak_megabytes, save
from bench.train_step_run import Setup, Timed, Way, changed_by, timed_steps
from ssl_train.methods import ibot
from ssl_train.ops.prototype_loss import plain_prototype_loss

VIT = "model={{size: {size}, patch_size: 16, image_size: 224, drop_path: 0.3, mask_token: {mask}}}"
HEAD = "{{num_prototypes: {prototypes}, hidden_dim: 2048, bottleneck_dim: 256}}"
LOCAL = "augment={num_local: 8, local_pixels: 96}"
NO_LOCAL = "augment={num_local: 0}"
METHODS: dict[str, tuple[str, tuple[str, ...]]] = {
    "dinov2": ("vitl16_short", (LOCAL, "method={{kind: dinov2, dino_head: {head}}}")),
    "ibot": ("ibot_vits16", (LOCAL, "method={{kind: ibot, dino_head: {head}}}")),
    "dino": ("dino_vits16", (LOCAL, "method={{kind: dino, dino_head: {head}}}")),
    "swav": ("swav_vits16", (LOCAL,)),
    "mocov3": ("mocov3_vits16", (NO_LOCAL,)),
    "byol": ("byol_vits16", (NO_LOCAL,)),
    "simclr": ("simclr_vits16", (NO_LOCAL,)),
}
MASKED = frozenset({"dinov2", "ibot"})
TEXTBOOK = "ibot, by the textbook"
WANTED_SPEED, WANTED_MEMORY = 2.0, 1 / 3


def setup_of(method: str, *, size: str, prototypes: int, batch_images: int, precision: str) -> Setup:
    """A method's published recipe on the common backbone."""
    recipe, changes = METHODS[method]
    head = HEAD.format(prototypes=prototypes)
    filled = tuple(text.format(head=head) if "{head}" in text else text for text in changes)
    vit = VIT.format(size=size, mask=str(method in MASKED).lower())
    return Setup(recipe, (f"precision={precision}", vit, *filled), batch_images)


def measured(setup: Setup, way: Way, steps: int, *, textbook: bool = False) -> dict[str, Any]:
    """Figures from a process of its own."""
    timed, host_megabytes = peak_megabytes(_timed, setup, way, steps, textbook)
    peak = timed.cuda_bytes / 2**20 if timed.cuda_bytes else host_megabytes
    return {
        "images_per_second": round(setup.batch_images / timed.median, 2),
        "step_seconds": round(timed.median, 3),
        "peak_mb": round(peak),
        "loss": round(timed.loss, 3),
    }


def _timed(setup: Setup, way: Way, steps: int, textbook: bool) -> Timed:
    if not textbook:
        return timed_steps(setup, way, steps)
    with _by_the_textbook():
        return timed_steps(setup, way, steps)


@contextmanager
def _by_the_textbook() -> Iterator[None]:
    off = Way(packed=False, skips=False, chunked_heads=False)
    with changed_by(off), patch.object(ibot, "prototype_loss", plain_prototype_loss):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), default=list(METHODS), help="with dinov2")
    parser.add_argument("--size", default="small")
    parser.add_argument("--batch-images", type=int)
    parser.add_argument("--prototypes", type=int)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--name", help="of the JSON file")
    parser.add_argument("--no-save", action="store_true")
    options = parser.parse_args()
    on_cuda = torch.cuda.is_available()
    shared = {
        "size": options.size,
        "batch_images": options.batch_images or (64 if on_cuda else 8),
        "prototypes": options.prototypes or (65_536 if on_cuda else 16_384),
        "precision": "bf16" if on_cuda else "fp32",
    }
    found: dict[str, dict[str, Any]] = {}
    for method in options.methods:
        found[method] = measured(setup_of(method, **shared), Way(compile=on_cuda), options.steps)
        print(f"  {method:24}{found[method]}", flush=True)
    found[TEXTBOOK] = measured(setup_of("ibot", **shared), Way(), options.steps, textbook=True)
    print(f"  {TEXTBOOK:24}{found[TEXTBOOK]}")
    ours, against = found["dinov2"], {}
    for name in {"ibot", TEXTBOOK} & found.keys():
        against[name] = {
            "times_as_fast": round(ours["images_per_second"] / found[name]["images_per_second"], 2),
            "share_of_memory": round(ours["peak_mb"] / found[name]["peak_mb"], 3),
        }
        print(f"DINOv2 beside {name}: {against[name]} (wanted {WANTED_SPEED} and {WANTED_MEMORY:.2f})")
    if not options.no_save:
        card = torch.cuda.get_device_name() if on_cuda else None
        content = {"machine": machine() | {"card": card}, "settings": shared, "methods": found, "dinov2": against}
        save(options.name or f"methods_{card.split()[-1].lower() if card else 'cpu'}", content)


if __name__ == "__main__":
    main()
