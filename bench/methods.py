"""Images per second and peak memory of every self-supervised method, one step at a time, on one backbone.

    python -m bench.methods [--batch-images 8] [--steps 3] [--no-save]

All take the same ViT with its drop path, batch, global crops and number of prototypes; each takes the local crops and
the heads that its paper gives it. Every method runs in a process of its own, on noise.

Then DINOv2 beside iBOT, from which its gains are measured, at equal settings. iBOT stands there twice: as this trainer
computes it, and by the textbook, as its published code does it: crops of each size by themselves, drop path that
computes what it drops, logits of all patches over all prototypes in memory at once. DINOv2's paper (section 5) claims
twice the speed and a third of the memory against that code.

The profile says what a peak is made of: weights, gradients, moments and the teacher, which both have alike and no way
of computing can save ("held", counted), and the rest ("worked"), which grows with the batch. Both are measured at half
the batch too: the line through the two peaks tells the share at any batch. At 65,536 prototypes and 4 images (ViT-S,
fp32) DINOv2 took 0.43 of the textbook's 3,683 MB, of which 840 are held by both: of the rest it took 0.26, of each
further image 0.19. So a third of the whole is a question of the batch: 0.32 at 8 images by the line.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch

from bench.measure import machine, peak_megabytes, save
from bench.train_step_run import Setup, Timed, Way, changed_by, timed_steps
from ssl_train.methods import ibot
from ssl_train.ops.prototype_loss import plain_prototype_loss
from ssl_train.trainer import build_networks

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
    with by_the_textbook():
        return timed_steps(setup, way, steps)


def held_mb(setup: Setup) -> float:
    """MB between steps: every network's weights and buffers; what is trained has a gradient and Adam's two moments."""
    networks = build_networks(setup.config())
    tensors = {id(tensor): tensor for every in networks.every for tensor in (*every.parameters(), *every.buffers())}
    copies = (tensor.nbytes * (4 if tensor.requires_grad else 1) for tensor in tensors.values())
    return sum(copies) / 2**20


def profile(peaks: Mapping[int, float], held: float) -> dict[str, Any]:
    """What a method's peaks [MB] by batch are made of, by the line through the smallest and the largest batch."""
    few, many = min(peaks), max(peaks)
    per_image = (peaks[many] - peaks[few]) / (many - few)
    return {
        "peak_mb": {str(images): round(peak) for images, peak in peaks.items()},
        "held_mb": round(held),
        "worked_mb": round(peaks[many] - held),
        "mb_per_image": round(per_image, 1),
        "mb_at_no_image": round(peaks[many] - many * per_image),
    }


def explained(ours: Mapping[str, Any], theirs: Mapping[str, Any], batch_images: int) -> dict[str, Any]:
    """Of which part of the memory a third is reached, and at which batch the whole would be."""
    shares = {
        str(images): round(_at(ours, images) / _at(theirs, images), 3)
        for images in (batch_images, 2 * batch_images, 4 * batch_images, 8 * batch_images)
    }
    return {
        "share_of_what_is_worked": round(ours["worked_mb"] / theirs["worked_mb"], 3),
        "share_of_an_image": round(ours["mb_per_image"] / theirs["mb_per_image"], 3),
        "share_by_batch_on_the_lines": shares,
    }


def _at(parts: Mapping[str, Any], images: int) -> float:
    return float(parts["mb_at_no_image"] + images * parts["mb_per_image"])


@contextmanager
def by_the_textbook() -> Iterator[None]:
    """iBOT as its published code computes it."""
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
    card = torch.cuda.get_device_name() if on_cuda else None
    about = {"machine": machine() | {"card": card}, "settings": shared}
    content = about | run(options.methods, shared, steps=options.steps, compiled=on_cuda)
    if not options.no_save:
        save(options.name or f"methods_{card.split()[-1].lower() if card else 'cpu'}", content)


def run(methods: Sequence[str], shared: Mapping[str, Any], *, steps: int, compiled: bool) -> dict[str, Any]:
    """All rows, DINOv2 beside both forms of iBOT, and what the peaks of DINOv2 and the textbook are made of."""
    setups = {method: setup_of(method, **shared) for method in dict.fromkeys(["dinov2", *methods])}
    found: dict[str, dict[str, Any]] = {}
    for method, setup in setups.items():
        found[method] = measured(setup, Way(compile=compiled), steps)
        print(f"  {method:24}{found[method]}", flush=True)
    setups[TEXTBOOK] = setup_of("ibot", **shared)
    found[TEXTBOOK] = measured(setups[TEXTBOOK], Way(), steps, textbook=True)
    print(f"  {TEXTBOOK:24}{found[TEXTBOOK]}", flush=True)
    ours, against = found["dinov2"], {}
    for name in {"ibot", TEXTBOOK} & found.keys():
        against[name] = {
            "times_as_fast": round(ours["images_per_second"] / found[name]["images_per_second"], 2),
            "share_of_memory": round(ours["peak_mb"] / found[name]["peak_mb"], 3),
        }
        print(f"DINOv2 beside {name}: {against[name]} (wanted {WANTED_SPEED} and {WANTED_MEMORY:.2f})")
    profiles = {name: _profiled(setups[name], found[name], compiled=compiled) for name in ("dinov2", TEXTBOOK)}
    why = explained(profiles["dinov2"], profiles[TEXTBOOK], shared["batch_images"])
    print(f"of the memory beyond weights, gradients and moments: {why}")
    return {"methods": found, "dinov2": against, "profile": {**profiles, "explained": why}}


def _profiled(setup: Setup, whole: Mapping[str, Any], *, compiled: bool) -> dict[str, Any]:
    half = replace(setup, batch_images=setup.batch_images // 2)
    textbook = setup.recipe == METHODS["ibot"][0]
    way = Way(compile=compiled and not textbook)
    peaks = {half.batch_images: measured(half, way, 1, textbook=textbook)["peak_mb"]}
    return profile({**peaks, setup.batch_images: whole["peak_mb"]}, held_mb(setup))


if __name__ == "__main__":
    main()
