"""Numbers that change from step to step, as pure functions of the step."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch.optim import Optimizer

Schedule = Callable[[int], float]


@dataclass(frozen=True)
class WarmUpCosine:
    """A linear warm-up from 0 to `peak` (reached at its last step), then a half cosine to `final`, which stays.

    At step i of the n steps after the warm-up: final + (peak - final) (1 + cos(pi i / n)) / 2.
    """

    peak: float
    final: float
    num_steps: int
    warmup_steps: int = 0

    def __call__(self, step: int) -> float:
        """The value at `step`, counted from 0."""
        if step >= self.num_steps:
            return self.final
        if step < self.warmup_steps:
            return linear(0.0, self.peak, step, self.warmup_steps)
        done = (step - self.warmup_steps) / (self.num_steps - self.warmup_steps)
        return self.final + 0.5 * (self.peak - self.final) * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class WarmUpConstant:
    """A line from `start` to `final` over `warmup_steps`, then `final`."""

    start: float
    final: float
    warmup_steps: int

    def __call__(self, step: int) -> float:
        """The value at `step`, counted from 0."""
        return self.final if step >= self.warmup_steps else linear(self.start, self.final, step, self.warmup_steps)


@dataclass(frozen=True)
class OptimizerSchedules:
    """Learning rate and weight decay of an optimizer whose groups carry multipliers (see `optim`)."""

    lr: Schedule
    weight_decay: Schedule
    frozen_last_layer_steps: int = 0

    def apply(self, optimizer: Optimizer, step: int) -> None:
        """Set every group's `lr` and `weight_decay` for `step`."""
        lr, weight_decay = self.lr(step), self.weight_decay(step)
        for group in optimizer.param_groups:
            frozen = group["is_last_layer"] and step < self.frozen_last_layer_steps
            group["lr"] = 0.0 if frozen else lr * group["lr_multiplier"]
            group["weight_decay"] = weight_decay * group["wd_multiplier"]


def linear(start: float, stop: float, index: int, count: int) -> float:
    """Entry `index` of `count` equally spaced numbers from `start` to `stop`, both included."""
    return start if count == 1 else start + index * ((stop - start) / (count - 1))
