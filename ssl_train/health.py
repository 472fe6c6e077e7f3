"""What the numbers of a run say of its health: warnings that name what is wrong and what to try, and nothing else.

Every rule is a function of the lines of metrics.jsonl, so that a resumed run warns as an uninterrupted one.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

Line = Mapping[str, Any]
"""A line of metrics.jsonl: numbers by name, None where one was not finite."""
Rule = Callable[[Sequence[Line]], str | None]

HISTORY_LINES = 2000
"""Newest lines that are looked at."""
RECENT = 5
"""Lines whose median stands for the present: one odd step is no trend."""
ENOUGH = 10
"""Lines before which nothing is said of a trend."""
SETTLED_SHARE = 0.1
"""Share of a run after which it should have left its beginning, warm-up or not."""
BEGINNING_STEPS = 500
"""Steps that belong to the beginning of any run: targets are uniform until the heads have learnt something."""

UNIFORM, SHARP = 0.99, 0.05
"""Entropy of targets, of log(prototypes): above and below, they say nothing of their image."""
INFORMED_NATS = 0.5
"""Marginal less target entropy that shows that targets did tell images apart."""
FALL = 0.25
"""What was healthy and is now less than so much of it has fallen."""
NO_KL_NATS = 0.005
LOW_RANK = 1.5
STARVED_SHARE = 0.2
SPIKE = 10.0
SKIPPED_SHARE, SKIPPED_LEAST = 0.05, 3
PLATEAU_LINES, PLATEAU_SHARE, PLATEAU_CHANGE = 50, 0.1, 0.001

_COLLAPSE = (
    "Lower optim.lr or lengthen optim.warmup_steps; raise method.teacher_momentum; lower "
    "method.teacher_temperature if targets are uniform and raise it if all are one; try "
    "method.centering=sinkhorn_knopp; go back to a checkpoint from before."
)


def find_warnings(history: Sequence[Line]) -> dict[str, str]:
    """By kind, what is wrong at the newest line and what to try; empty for a healthy run.

    `history` is in the order of steps. Numbers that are missing or not finite say nothing.
    """
    found = {kind: rule(history) for kind, rule in RULES.items()}
    return {kind: text for kind, text in found.items() if text is not None}


def collapse(history: Sequence[Line]) -> str | None:
    """Targets that are the same for all images: uniform (entropy at log K), or one prototype (entropy at 0).

    What counts is the information of a target about its image, marginal less mean entropy: targets that are sharp and
    differ are healthy, and it is 0 in either collapse. A run begins uniform, so that is judged once it is settled or
    has had information before.
    """
    names = ("teacher_entropy", "teacher_marginal_entropy", "prototypes_used")
    lines = [line for line in history if all(line.get(name) is not None for name in names)]
    if len(lines) < ENOUGH:
        return None
    entropy, marginal, used = (_values(lines, name) for name in names)
    information = [m - e for m, e in zip(marginal, entropy, strict=True)]
    now, peak = _now(information), _peak(information)
    had_some = peak >= INFORMED_NATS
    if not (had_some or settled(history)) or now >= FALL * max(peak, INFORMED_NATS):
        return None
    share = _now(entropy) / max(_now(marginal) - math.log(max(_now(used), 1e-12)), 1e-12)  # of log(prototypes)
    level = f"{_now(entropy):.3g} nats, {100 * share:.0f} % of log(prototypes)"
    if share > UNIFORM and not had_some:
        return (
            f"the teacher's targets have never left uniform (entropy {level}). Lower method.teacher_temperature; "
            "shorten optim.warmup_steps and optim.frozen_last_layer_steps or raise optim.lr; lower the first of "
            "method.teacher_momentum in a short run; look at what data points to."
        )
    if share > UNIFORM:
        return f"the teacher's targets are nearly uniform (entropy {level}): collapse. {_COLLAPSE}"
    if share < SHARP:
        return f"the teacher gives all images the same prototype (entropy {level}): collapse. {_COLLAPSE}"
    return (
        f"the teacher's targets hardly differ between images any more: {now:.2g} nats about an image, {peak:.2g} at "
        f"best (marginal entropy {_now(marginal):.3g}). {_COLLAPSE}"
    )


def student_equals_teacher(history: Sequence[Line]) -> str | None:
    """KL(teacher || student) at 0: whatever the crop, both say the same, so there is nothing left to learn."""
    kl = _values(history, "teacher_student_kl")
    if len(kl) < ENOUGH or not settled(history) or _now(kl) > NO_KL_NATS:
        return None
    return f"KL(teacher || student) is {_now(kl):.2g} nats: student and teacher say the same of everything. {_COLLAPSE}"


def rank_falls(history: Sequence[Line]) -> str | None:
    """Features that spread over few directions, or over many fewer than they did once the run had settled."""
    rank = _values(history, "feature_rank")
    if len(rank) < ENOUGH or not settled(history):
        return None
    now, peak = _now(rank), _peak(_values(_settled_part(history), "feature_rank"))
    if now >= LOW_RANK and now >= FALL * peak:
        return None
    return (
        f"the student's class tokens spread over {now:.3g} directions (at best {peak:.3g}): their dimensions collapse. "
        "Raise method.koleo_weight or data.batch_images; lower optim.lr or optim.final_weight_decay."
    )


def loader_starves(history: Sequence[Line]) -> str | None:
    """Steps that wait for their batch."""
    waits = _values(history, "loader_wait_share")
    if len(waits) < RECENT or _now(waits) <= STARVED_SHARE:
        return None
    return (
        f"{100 * _now(waits):.0f} % of a step is waiting for the loader. Raise efficiency.num_workers (up to the "
        "cores of a process) or efficiency.prefetch_batches; set data.decode_min_side to what the crops need; put the "
        "shards on a local disk."
    )


def gradient_spikes(history: Sequence[Line]) -> str | None:
    """A gradient many times longer than is usual."""
    peaks = _values(history, "grad_norm_peak")[-100:]
    if len(peaks) <= ENOUGH or history[-1].get("grad_norm_peak") is None:
        return None
    usual = median(peaks[:-1])
    if usual <= 0 or peaks[-1] <= SPIKE * usual:
        return None
    return (
        f"a gradient norm of {peaks[-1]:.3g}, {peaks[-1] / usual:.0f} times the usual {usual:.3g}. It was clipped; if "
        "it comes again, lower optim.lr or optim.max_grad_norm, lengthen optim.warmup_steps or "
        "optim.frozen_last_layer_steps."
    )


def many_skipped(history: Sequence[Line]) -> str | None:
    """Steps that were not taken, among the last lines' steps. The count begins anew when a run is resumed."""
    lines = [line for line in history[-ENOUGH - 1 :] if line.get("skipped_steps") is not None]
    if len(lines) < 2:
        return None
    skipped = sum(
        max(after["skipped_steps"] - before["skipped_steps"], 0) for before, after in itertools.pairwise(lines)
    )
    steps = lines[-1]["step"] - lines[0]["step"]
    if skipped < max(SKIPPED_LEAST, SKIPPED_SHARE * steps):
        return None
    return (
        f"{skipped:.0f} of the last {steps} steps were skipped: losses or gradients were not finite. Take "
        "precision=bf16 or fp32 instead of fp16; lower optim.lr; look at the images that the log names."
    )


def loss_plateau(history: Sequence[Line]) -> str | None:
    """A loss that does not move while the learning rate is still high. At the end of a run it may."""
    losses, rates = _values(history, "loss"), _values(history, "lr")
    if len(losses) < PLATEAU_LINES or not rates or rates[-1] < SETTLED_SHARE * max(rates) or not settled(history):
        return None
    length = max(PLATEAU_LINES // 2, int(PLATEAU_SHARE * len(losses)))
    before, after = median(losses[-2 * length : -length]), median(losses[-length:])
    steps = history[-1]["step"] - history[-length]["step"]
    if steps < PLATEAU_SHARE / 2 * history[-1]["num_steps"] or abs(before - after) > PLATEAU_CHANGE * abs(before):
        return None
    return (
        f"the loss has not moved in {steps} steps ({before:.4g} before, {after:.4g} now). Early in a run: raise "
        "optim.lr, shorten optim.frozen_last_layer_steps. Later it may be flat while features improve: judge by "
        "metrics.knn."
    )


RULES: Mapping[str, Rule] = {
    "collapse": collapse,
    "student_equals_teacher": student_equals_teacher,
    "rank_falls": rank_falls,
    "loader_starves": loader_starves,
    "gradient_spikes": gradient_spikes,
    "many_skipped": many_skipped,
    "loss_plateau": loss_plateau,
}


def settled(history: Sequence[Line]) -> bool:
    """Whether a run should have left its beginning: its learning rate has been higher, or a tenth of it is over, and
    it has taken some hundred steps."""
    newest = history[-1]
    if newest["step"] < BEGINNING_STEPS:
        return False
    rates = _values(history, "lr")
    past_peak = bool(rates) and rates[-1] < max(rates)
    return past_peak or newest["step"] >= SETTLED_SHARE * newest["num_steps"]


def _settled_part(history: Sequence[Line]) -> Sequence[Line]:
    """The lines since the learning rate was highest, or a tenth of the run was over."""
    first = history[-1]["step"]
    rates = [(line["lr"], -line["step"]) for line in history if line.get("lr") is not None]
    if rates:
        first = min(first, -max(rates)[1])
    first = min(first, SETTLED_SHARE * history[-1]["num_steps"])
    return [line for line in history if line["step"] >= first]


def _values(history: Sequence[Line], name: str) -> list[float]:
    return [line[name] for line in history if line.get(name) is not None]


def _now(values: Sequence[float]) -> float:
    return median(values[-RECENT:])


def _peak(values: Sequence[float]) -> float:
    """The highest running median: what it was at best, but for odd steps."""
    if len(values) < RECENT:
        return median(values) if values else 0.0
    return max(median(values[end - RECENT : end]) for end in range(RECENT, len(values) + 1))
