"""One whole DINOv2 step (forward, backward, clipping, optimizer, moving average) on synthetic crops, ours and plain.

    python -m bench.train_step [--setups S/16 L/16] [--steps 3] [--batch-images 8] [--no-save]

The plain form (bench/train_step_plain.py) is the same step by the textbook, from the same weights, in the same run.
Every lever is measured off (compiled blocks, crops packed in one pass, drop path that leaves work out, heads in chunks)
and on (recomputed activations, colours changed on the device). Each way runs in a process of its own; peak memory is
what that process (on a GPU: its allocator) held at most. MFU is the step's operations by ssl_train/flops.py, what drop
path leaves out not counted, over the device's own measured matmul peak. On a GPU: the four published sizes in bf16.
On a CPU: ViT-S/16 with the long recipe's targets and drop path, in fp32.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from bench.measure import machine, peak_megabytes, save
from bench.train_step_heads import heads_memory
from bench.train_step_run import Setup, Timed, Way, timed_steps
from ssl_train.flops import image_flops, measure_peak_flops

GPU_SETUPS = {
    "S/16": Setup("vitl16_short", ("model.size=small", "model.drop_path=0.1"), 256),
    "B/16": Setup("vitl16_short", ("model.size=base",), 128),
    "L/16": Setup("vitl16_short", (), 64),
    "L/14": Setup("vitl14_long", (), 32),
}
CPU_SETUPS = {
    "S/16": Setup(
        "vitl14_long",
        (
            "precision=fp32",
            "model={size: small, patch_size: 16, image_size: 224, ffn: mlp, drop_path: 0.4}",
            "augment.local_pixels=96",
            "method.dino_head={num_prototypes: 65536}",
            "method.ibot_head={num_prototypes: 65536}",
        ),
        16,
    )
}
WANTED_IMAGES_PER_SECOND = {"S/16": 2700, "B/16": 1100, "L/16": 342}
"""On one H200 (half of 790 TFLOP/s for L/16)."""
WANTED_SPEEDUP, WANTED_MEMORY = 1.3, 0.6
"""Of the plain form's, on a CPU."""
WANTED_HEADS = 0.25
"""Of the plain form's memory for the heads, on a GPU."""
CPU_RECOMPUTED = 1 / 4
"""Share of the blocks that ours computes again on a CPU: what the others save in time, it gives for memory."""


def ways(on_cuda: bool) -> dict[str, Way]:
    """What is measured; everything but the plain form is measured against `ours`."""
    ours = Way(compile=on_cuda, recompute=0.0 if on_cuda else CPU_RECOMPUTED)
    levers = {
        "crops apart": replace(ours, packed=False),
        "drop path masks out": replace(ours, skips=False),
        "full-size heads": replace(ours, chunked_heads=False),
        "nothing recomputed": replace(ours, recompute=0.0),
        "all recomputed": replace(ours, recompute=1.0),
        "colours on the device": replace(ours, device_colours=True),
    }
    if on_cuda:
        levers["not compiled"] = replace(ours, compile=False)
    return {"ours": ours, "plain": Way(plain=True), **levers}


def measured(setup: Setup, way: Way, steps: int) -> dict[str, Any]:
    """A way's figures, from a process of its own; `error` in their place where the device's memory does not do."""
    try:
        timed, host_megabytes = peak_megabytes(attempted, setup, way, steps)
    except RuntimeError as error:
        return {"error": str(error)}
    if isinstance(timed, str):
        return {"error": timed}
    peak = timed.cuda_bytes / 2**20 if timed.cuda_bytes else host_megabytes
    return {
        "images_per_second": round(setup.batch_images / timed.median, 3),
        "step_seconds": round(timed.median, 4),
        "all_seconds": [round(seconds, 4) for seconds in timed.seconds],
        "peak_mb": round(peak),
        "loss": round(timed.loss, 4),
    }


def attempted(setup: Setup, way: Way, steps: int) -> Timed | str:
    """Steps, or that they do not fit."""
    try:
        return timed_steps(setup, way, steps)
    except torch.OutOfMemoryError as error:
        return f"out of memory: {str(error).splitlines()[0]}"


def measure_setup(
    setup: Setup, steps: int, peak_flops: float, *, on_cuda: bool, wanted: Sequence[str] | None
) -> dict[str, Any]:
    """The wanted ways of one setup (None: all), and what they are to each other."""
    flops = image_flops(setup.config()).total
    found: dict[str, Any] = {}
    for name, way in ways(on_cuda).items():
        if wanted is not None and name not in wanted:
            continue
        found[name] = measured(setup, way, steps)
        if "error" not in found[name]:
            found[name]["mfu"] = round(flops * found[name]["images_per_second"] / peak_flops, 4)
        print(f"  {name:<24}{found[name]}", flush=True)
    content: dict[str, Any] = {
        "batch_images": setup.batch_images,
        "tera_flop_per_image": round(flops / 1e12, 4),
        "ways": found,
        "heads": heads_memory(setup),
    }
    ours, plain = found["ours"], found["plain"]
    if not {"error"} & (ours.keys() | plain.keys()):
        content["times_as_fast_as_plain"] = round(plain["step_seconds"] / ours["step_seconds"], 3)
        content["share_of_plain_memory"] = round(ours["peak_mb"] / plain["peak_mb"], 3)
    print(f"  heads alone: {content['heads']}")
    return content


def misses(setups: dict[str, Any], card: str | None) -> list[str]:
    """What stays behind the project's targets."""
    found = []
    for name, content in setups.items():
        ours = content["ways"]["ours"]
        if "error" in ours:
            found.append(f"{name}: {ours['error']}")
            continue
        wanted = WANTED_IMAGES_PER_SECOND.get(name)
        if card is not None and "H200" in card and wanted and ours["images_per_second"] < wanted:
            found.append(f"{name}: {ours['images_per_second']} images/s, wanted {wanted}")
        if card is None and content.get("times_as_fast_as_plain", WANTED_SPEEDUP) < WANTED_SPEEDUP:
            found.append(f"{name}: {content['times_as_fast_as_plain']} times as fast, wanted {WANTED_SPEEDUP}")
        if card is None and content.get("share_of_plain_memory", 0.0) > WANTED_MEMORY:
            found.append(f"{name}: {content['share_of_plain_memory']} of the memory, wanted {WANTED_MEMORY}")
        if card is not None and content["heads"]["share_of_plain"] > WANTED_HEADS:
            found.append(f"{name}: heads take {content['heads']['share_of_plain']} of the plain, wanted {WANTED_HEADS}")
    return found


def main() -> int:
    """Measure, print and save; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setups", nargs="*")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch-images", type=int)
    parser.add_argument("--ways", nargs="*", help="ours and plain, and any of the levers; all by default")
    parser.add_argument("--name", help="of the JSON file")
    parser.add_argument("--change", action="append", default=[], help="key=value of the recipe, for a trial")
    parser.add_argument("--no-save", action="store_true")
    options = parser.parse_args()
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    on_cuda = card is not None
    setups = GPU_SETUPS if on_cuda else CPU_SETUPS
    precision: Any = "bf16" if on_cuda else "fp32"
    peak = measure_peak_flops(torch.device("cuda" if on_cuda else "cpu"), precision)
    content: dict[str, Any] = {
        "machine": machine() | {"card": card},
        "precision": precision,
        "peak_tflops": round(peak / 1e12, 3),
        "setups": {},
    }
    print(f"{card or 'CPU'}, {precision}: {content['peak_tflops']} TFLOP/s at best")
    for name in options.setups or setups:
        setup = replace(setups[name], changes=(*setups[name].changes, *options.change))
        setup = replace(setup, batch_images=options.batch_images or setup.batch_images)
        print(f"{name}, {setup.batch_images} images")
        content["setups"][name] = measure_setup(
            setup, options.steps or (10 if on_cuda else 3), peak, on_cuda=on_cuda, wanted=options.ways
        )
    content["missed"] = misses(content["setups"], card)
    print("\n".join(content["missed"]) or "every target that can be judged here is reached")
    if not options.no_save:
        save(options.name or f"train_step_{card.split()[-1].lower() if card else 'cpu'}", content)
    return 1 if content["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
