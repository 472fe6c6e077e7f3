"""A run: networks, data and optimizer put together, and the loop over steps."""

import gc
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ssl_train.checkpoint import Checkpoints, export_teacher
from ssl_train.config import TrainConfig, check_config, dump_config, plain_values
from ssl_train.data.collate import Batch
from ssl_train.data.loader import Batches, build_loader
from ssl_train.data.order import mixed
from ssl_train.distributed import Means, World
from ssl_train.errors import NonFiniteLossError
from ssl_train.evaluate.looks import Looks
from ssl_train.flops import ideal_image_seconds
from ssl_train.methods import Losses, MethodNetworks
from ssl_train.metrics import MetricsLog, Silence
from ssl_train.monitors import feature_rank, part_gradient_norms
from ssl_train.optim import LossScale, build_optimizer, clip_gradients, step_if_finite
from ssl_train.parallel import compute_in, speed_up
from ssl_train.start import begin_with

TEACHER = "teacher.safetensors"
STOP, UNDECODABLE = "stop", "undecodable"
GARBAGE_STEPS = 150
# Settings under which a run may go on that was begun under others.
MAY_CHANGE = frozenset({"output_dir", "data", "checkpoint", "metrics", "efficiency"})


class Trainer:
    """One process of a training run.

    `run` goes on from the newest checkpoint in the config's `output_dir` and ends with `teacher.safetensors` there,
    or, when asked to stop, with a checkpoint to go on from.
    """

    def __init__(self, config: TrainConfig, world: World) -> None:
        check_config(config, world.size)
        self.config, self.world = config, world
        self.networks = build_networks(config).to(world.device)
        self.loss_scale = LossScale().to(world.device) if config.precision == "fp16" else None
        if self.loss_scale is not None:
            self.networks.loss_scale = self.loss_scale  # a checkpoint holds it
        speed_up(self.networks.every, world, config.precision, config.efficiency.networks)
        self.optimizer = build_optimizer(self.networks.student, config.optim)
        self.schedules = config.optim.schedules(num_steps=config.num_steps, batch_images=config.data.batch_images)
        batches = build_batches(config, world)
        self.networks.prepare(batches)
        self.loader = build_loader(
            batches,
            num_steps=config.num_steps,
            num_workers=config.efficiency.num_workers,
            prefetch_batches=config.efficiency.prefetch_batches,
            world=world,
        )
        self.checkpoints = Checkpoints(config.output_dir, config.checkpoint, facts=identity(config), world=world)
        self.looks = Looks(
            config.metrics,
            None if batches.labels is None else batches.labels.names,
            num_steps=config.num_steps,
            precision=config.precision,
            world=world,
        )
        self.stop = threading.Event()
        self._skipped = self._skipped_in_a_row = self._undecodable = 0

    def run(self) -> bool:
        """Train to the last step; False when asked to stop before.

        What a step gave is read while the next one is computed, so that the device never waits for the host.
        """
        start = self._resume()
        with self._metrics(start) as metrics, collected_by_hand(every_steps=GARBAGE_STEPS) as tidy:
            before: Report | None = None
            for step, batch, waited in timed(self.loader.from_(start)):
                tidy(step)
                self.checkpoints.settle()
                self.schedules.apply(self.optimizer, step)
                report = Report(
                    step, batch, self._step(batch, step), time.perf_counter(), self._told(step, metrics), waited
                )
                stop = self._read(before, metrics) if before else False
                before = report
                if stop or self._saves(step + 1):
                    stop = self._read(report, metrics) or stop
                    before = None
                    self._save(step + 1, stop)
                if stop and step + 1 < self.config.num_steps:
                    metrics.say(f"stopped after step {step + 1}, saved; the same command goes on from here")
                    return False
            self._export(TEACHER, self.config.num_steps)
            metrics.say(f"finished {self.config.num_steps} steps: {Path(self.config.output_dir) / TEACHER}")
        return True

    def _resume(self) -> int:
        newest = self.checkpoints.newest()
        if newest is not None:
            self.checkpoints.load(newest, self.networks, self.optimizer)
        return newest or 0

    def _loss(self, batch: Batch, step: int) -> Losses:
        # Drop path is the only chance left on the device; like the data's it depends on seed, step and process only.
        torch.manual_seed(mixed(mixed(self.config.seed, step), self.world.rank))
        heads = self.config.efficiency.networks.heads
        with compute_in(self.config.precision, self.world), heads.within():
            return self.networks.loss(batch.to(self.world.device), step)

    def _step(self, batch: Batch, step: int) -> Means:
        """One step, skipped if loss or gradients are not finite on every process: decided where they are."""
        losses = self._loss(batch, step)
        student, scale, optim = self.networks.student, self.loss_scale, self.config.optim
        (losses.total if scale is None else losses.total * scale.scale).backward()  # type: ignore[no-untyped-call]
        if scale is not None:
            scale.unscale(student.parameters())
        watched = self._watch(losses, step)
        norms = {f"grad_norm_{name}": norm for name, norm in clip_gradients(student, optim.max_grad_norm, optim.clip)}
        signals = {STOP: float(self.stop.is_set()), UNDECODABLE: float(batch.num_undecodable)}
        means = Means(
            {"loss": losses.total, **norms},
            {**losses.terms, **losses.monitors, **watched, **signals},
            self.world.device,
        )
        finite = means.finite
        step_if_finite(self.optimizer, finite)
        self.networks.after_step(step, finite=finite)
        if scale is not None:
            scale.update(finite)
        return means

    def _watch(self, losses: Losses, step: int) -> dict[str, Tensor]:
        """What is measured only for steps that have a line in the metrics, of gradients as they are before clipping."""
        if not self.config.metrics.is_due(step + 1, self.config.num_steps):
            return {}
        rank = {} if losses.features is None else {"feature_rank": feature_rank(losses.features)}
        return {**rank, **part_gradient_norms(self.networks.student, by_layer=self.config.metrics.layer_gradients)}

    def _read(self, report: "Report", metrics: "MetricsLog | Silence") -> bool:
        """Wait for a step's numbers, count and tell them; True when any process was asked to stop."""
        numbers = report.means.read()
        stop, undecodable = numbers.pop(STOP), numbers.pop(UNDECODABLE)
        self._undecodable += round(undecodable * self.world.size)
        finite = all(math.isfinite(numbers[name]) for name in report.means.checked)
        self._count_skipped(report.batch, report.step, numbers, finite=finite)
        counts = {"skipped_steps": self._skipped, "undecodable_images": self._undecodable}
        waited = {"loader_wait_seconds": report.waited_seconds}
        metrics.log(report.step, {**numbers, **report.scheduled, **counts, **waited}, at=report.launched)
        if self._skipped_in_a_row >= self.config.optim.max_skipped_in_a_row:
            raise self._too_many_skipped(report.step, numbers)
        return stop > 0

    def _count_skipped(self, batch: Batch, step: int, numbers: Mapping[str, float], *, finite: bool) -> None:
        # fp16 finds its scale by overflowing now and then: that is no fault of the batch.
        self._skipped_in_a_row = 0 if finite else self._skipped_in_a_row + 1
        if not finite:
            self._skipped += 1
            keys = f"images of process {self.world.rank}: {batch.keys}"
            print(f"step {step + 1} skipped: {_not_finite(numbers)}; {keys}", file=sys.stderr)

    def _too_many_skipped(self, step: int, numbers: Mapping[str, float]) -> NonFiniteLossError:
        self.checkpoints.settle(wait=True)
        newest = self.checkpoints.newest()
        good = "there is no checkpoint yet" if newest is None else f"the last one is {self.checkpoints.path(newest)}"
        return NonFiniteLossError(
            f"{self._skipped_in_a_row} steps in a row up to {step + 1} had a non-finite loss or gradient "
            f"({_not_finite(numbers)}); weights are as before them, {good}. Lower optim.lr, lengthen "
            "optim.warmup_steps, or look at the images named above."
        )

    def _told(self, step: int, metrics: "MetricsLog | Silence") -> dict[str, float]:
        """What a step's line says besides what the step gave: the schedules, and the accuracy after it where due."""
        return {
            "lr": self.schedules.lr(step),
            "weight_decay": self.schedules.weight_decay(step),
            **self.networks.scheduled(step),
            **self.looks.at(step + 1, self.networks, metrics),
        }

    def _saves(self, step: int) -> bool:
        is_last = step == self.config.num_steps
        return is_last or self.checkpoints.is_due(step) or step % self.config.checkpoint.export_every_steps == 0

    def _save(self, step: int, stopping: bool) -> None:
        if self.checkpoints.is_due(step) or stopping or step == self.config.num_steps:
            self.checkpoints.save(step, self.networks, self.optimizer)
        if stopping or step == self.config.num_steps:
            self.checkpoints.settle(wait=True)
        if step % self.config.checkpoint.export_every_steps == 0 and step < self.config.num_steps:
            self._export(f"exports/teacher-{step:09d}.safetensors", step)

    def _export(self, name: str, step: int) -> None:
        path = str(Path(self.config.output_dir) / name)
        export_teacher(path, self.networks, model=self.config.model, step=step, seed=self.config.seed, world=self.world)

    @contextmanager
    def _metrics(self, start: int) -> Iterator["MetricsLog | Silence"]:
        if not self.world.is_main:
            yield Silence()
            return
        config = self.config
        log = MetricsLog(
            config.output_dir,
            config.metrics,
            num_steps=config.num_steps,
            start=start,
            batch_images=config.data.batch_images,
            ideal_image_seconds=ideal_image_seconds(config, self.networks, self.world),
        )
        (Path(config.output_dir) / "run.yaml").write_text(dump_config(config))
        log.say(
            f"{'resuming' if start else 'starting'} at step {start}/{config.num_steps} on {self.world.size} process(es)"
        )
        try:
            yield log
        finally:
            log.close()


class Report(NamedTuple):
    """A step that was launched, and whose numbers may not be there yet."""

    step: int
    batch: Batch
    means: Means
    launched: float
    """Seconds of the clock of speeds: reading it is later, and now one step late, now none."""
    scheduled: Mapping[str, float]
    waited_seconds: float


@contextmanager
def collected_by_hand(*, every_steps: int) -> Iterator[Callable[[int], None]]:
    """Collect garbage at chosen steps only: at its own times it would hold up one process, and all wait for it."""

    def tidy(step: int) -> None:
        if step % every_steps == 0:
            gc.collect(1)

    gc.collect()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield tidy
    finally:
        if was_on:
            gc.enable()


def _not_finite(numbers: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in numbers.items() if not math.isfinite(value))


def build_networks(config: TrainConfig) -> MethodNetworks:
    """Student and teacher with the initial weights that the config's seed decides, or those of `config.start`."""
    torch.manual_seed(config.seed)
    networks = config.method.build(config.model, num_steps=config.num_steps)
    if config.start is not None:
        own = (networks.student, networks.teacher) if networks.has_teacher else (networks.student,)
        begin_with(own, config.start)
    return networks


def build_batches(config: TrainConfig, world: World) -> Batches:
    """What this process trains on, by step."""
    images = config.data.open()
    return Batches(
        images=images,
        data=config.data,
        augment=config.augment,
        masks=config.method.masks,
        grid=config.augment.global_pixels // config.model.patch_size,
        group_images=config.method.group_images,
        seed=config.seed,
        rank=world.rank,
        world_size=world.size,
        labels=config.data.open_labels(images),
    )


def identity(config: TrainConfig) -> dict[str, Any]:
    """The settings that a run must keep from its first step to its last."""
    kept = {name: value for name, value in plain_values(config).items() if name not in MAY_CHANGE}
    return {**kept, "batch_images": config.data.batch_images}


def timed(batches: Iterator[tuple[int, Batch]]) -> Iterator[tuple[int, Batch, float]]:
    """The batches, each with the seconds that the loop waited for it."""
    while True:
        before = time.perf_counter()
        item = next(batches, None)
        if item is None:
            return
        yield *item, time.perf_counter() - before
