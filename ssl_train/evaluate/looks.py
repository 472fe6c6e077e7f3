"""What a run looks at while it trains: accuracies of its result so far, on labelled images kept apart."""

from collections.abc import Sequence
from typing import Protocol

from ssl_train.distributed import World
from ssl_train.evaluate.classify import classification_scores
from ssl_train.evaluate.probe import knn_top1
from ssl_train.methods import MethodNetworks
from ssl_train.metrics import Metrics
from ssl_train.parallel import Precision, compute_in


class Told(Protocol):
    """Where a line for people goes."""

    def say(self, text: str) -> None:
        """Print a line."""


class Looks:
    """The looks that the metrics' settings ask for, their images found. All processes look together."""

    def __init__(
        self, metrics: Metrics, classes: Sequence[str] | None, *, num_steps: int, precision: Precision, world: World
    ) -> None:
        self.metrics, self.num_steps, self.precision, self.world = metrics, num_steps, precision, world
        self._labelled = None if metrics.knn is None else metrics.knn.open()
        self._validation = None if metrics.classify is None else metrics.classify.open(classes)

    def at(self, step: int, networks: MethodNetworks, told: Told) -> dict[str, float]:
        """The accuracies after `step` finished steps: those that are due."""
        knn, classify, found = self.metrics.knn, self.metrics.classify, dict[str, float]()
        if knn is not None and self._labelled is not None and knn.is_due(step):
            networks.teacher.eval()
            with compute_in(self.precision, self.world):
                top1, broken = knn_top1(networks.teacher_backbone, self._labelled, knn, self.world)
            told.say(f"step {step}: k-NN top-1 {top1:.2f} %{_broken(broken)}")
            found["knn_top1"] = top1
        if classify is not None and self._validation is not None and classify.is_due(step, self.num_steps):
            networks.teacher.eval()
            with compute_in(self.precision, self.world):
                scores = classification_scores(networks.teacher, self._validation, classify, self.world)
            told.say(
                f"step {step}: top-1 {scores.top1:.2f} %, top-5 {scores.top5:.2f} %{_broken(scores.num_undecodable)}"
            )
            found |= {"val_top1": scores.top1, "val_top5": scores.top5, "val_loss": scores.loss}
        if found:
            networks.train()
        return found


def _broken(count: int) -> str:
    return f", {count} images undecodable" if count else ""
