"""What the middle of the chain takes at 1.2 billion images on a cluster that is described, beside the paper's figure.

    python -m bench.plan [--cluster cluster.yaml] [--nodes 20 --gpus 8 ...] [--images 1.2e9 ...] [--no-save]

From the figures that the other benchmarks have measured on this machine and the code's own formulas of cost
(bench/plan_stages.py). Every number of the result is a formula in named numbers, and every named number says where it
comes from: measured, missing (and what was assumed instead), assumed, or the code's default. The YAML file has two
mappings, `machines` and `work`; options of the command line go before it.

The resources of a stage (GPUs, cores, disks, network, flow and scheduler) overlap: a stage takes as long as the one it
waits for, over `busy_share`, and what one process must do alone. Stages follow each other.
"""

import argparse
import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from bench.measure import RESULTS, machine, save
from bench.plan_figures import ASSUMED, CONFIG, MEASURED, MISSING, Number, read_figures
from bench.plan_stages import (
    CONSTANTS,
    DERIVED,
    RESOURCES,
    STAGES,
    Machines,
    StagePlan,
    Work,
    hierarchy_numbers,
    join_numbers,
)

PAPER = {"nodes": 20, "gpus_per_node": 8, "gpu": "V100-32GB", "hours_less_than": 48, "gpu_hours_less_than": 7680}
"""arXiv 2304.07193, section 3; whether the embeddings are within it is not said."""
Values = dict[str, float]


def named_numbers(machines: Machines, work: Work, folder: Path = RESULTS) -> dict[str, Number]:
    """Every number that a formula may name: figures, what is assumed of machines and work, the code's defaults."""
    numbers = read_figures(folder)
    for config in (machines, work):
        for name, field in type(config).model_fields.items():
            numbers[name] = Number(name, float(getattr(config, name)), "", ASSUMED, field.description or "")
    for name, (value, source) in (CONSTANTS | join_numbers(work) | hierarchy_numbers(work)).items():
        numbers[name] = Number(name, float(value), "", CONFIG, source)
    return numbers


def evaluated(numbers: Mapping[str, Number]) -> Values:
    """All values by name, those that are made of others with them."""
    values = {name: number.value for name, number in numbers.items()}
    for name, formula in DERIVED.items():
        values[name] = worked_out(formula, values)
    return values


def worked_out(formula: str, values: Mapping[str, float]) -> float:
    """The value of a formula. Raises NameError for a name that is no number of the plan."""
    return float(eval(formula, {"__builtins__": {}, "max": max}, dict(values)))


def names_in(formula: str) -> set[str]:
    """The numbers that a formula names."""
    return {node.id for node in ast.walk(ast.parse(formula, mode="eval")) if isinstance(node, ast.Name)} - {"max"}


def planned(stage: StagePlan, values: Values, machines: Machines) -> dict[str, Any]:
    """One stage: its hours by what it waits for, its work, bytes and memory."""
    used = {name: worked_out(stage.formulas.get(name, "0"), values) for name in RESOURCES}
    if machines.gpus == 0:
        used["core_seconds"] += used["core_seconds_without_gpu"]
        used["gpu_seconds"] = 0.0
    moved = used["read_bytes"] + used["write_bytes"]
    seconds = {
        "GPUs": used["gpu_seconds"] / max(1.0, machines.nodes * machines.gpus),
        "cores": used["core_seconds"] / (machines.nodes * machines.cores * machines.core_speed),
        "disks": moved / (machines.nodes * machines.disk_gb_per_second * 1e9),
        "network": moved / (machines.nodes * machines.net_gb_per_second * 1e9),
        "scheduler": used["parts"] * values["part_seconds"],
    }
    alone = used["serial_seconds"] / machines.core_speed + used["parts"] * values["publish_seconds_per_part"]
    waits_for = max(seconds, key=lambda name: seconds[name])
    total = seconds[waits_for] / machines.busy_share + alone
    hours_of = {name: round(value / 3600, 3) for name, value in (seconds | {"one process": alone}).items()}
    memory = used["memory_bytes"] + (used["parts"] * values["flow_bytes_per_part"] if "flow" in stage.memory_in else 0)
    return {
        "stage": stage.name,
        "what": stage.what,
        "hours": round(total / 3600, 3),
        "waits_for": waits_for if alone < total / 2 else "one process",
        "hours_of": hours_of,
        "gpu_hours": round(used["gpu_seconds"] / 3600, 1),
        "core_hours": round(used["core_seconds"] / 3600, 1),
        "terabytes_read": round(used["read_bytes"] / 1e12, 2),
        "terabytes_written": round(used["write_bytes"] / 1e12, 2),
        "terabytes_over_network": round(moved / 1e12, 2),
        "parts": round(used["parts"]),
        "largest_memory_gigabytes": round(memory / 1e9, 1),
        "largest_memory_in": stage.memory_in,
        "scheduler_megabytes_more": round(used["parts"] * values["scheduler_bytes_per_part"] / 1e6, 1),
        "formulas": stage.formulas,
    }


def plan(machines: Machines, work: Work, folder: Path = RESULTS) -> dict[str, Any]:
    """All stages, their sum, and every number that went in with its source."""
    numbers = named_numbers(machines, work, folder)
    values = evaluated(numbers)
    rows = [planned(stage, values, machines) for stage in STAGES]
    counted = [row for row, stage in zip(rows, STAGES, strict=True) if not stage.beyond_the_paper]
    total: dict[str, Any] = {
        name: round(sum(row[name] for row in counted), 2)
        for name in ("hours", "gpu_hours", "core_hours", "terabytes_read", "terabytes_written", "parts")
    }
    total["gpu_hours_held"] = round(total["hours"] * machines.nodes * machines.gpus)
    total["largest_memory_gigabytes"] = max(row["largest_memory_gigabytes"] for row in rows)
    return {
        "machines": machines.model_dump(),
        "work": work.model_dump(),
        "stages": rows,
        "not_in_total": [stage.name for stage in STAGES if stage.beyond_the_paper],
        "total": total,
        "paper": PAPER,
        "derived": {name: {"formula": formula, "value": values[name]} for name, formula in DERIVED.items()},
        "numbers": {name: vars(number) for name, number in sorted(numbers.items())},
    }


def table(found: Mapping[str, Any]) -> str:
    """What a person reads: the stages, the sum beside the paper, and where the numbers come from."""
    heads = ("stage", "hours", "waits for", "GPU-h", "core-h", "TB read", "TB written", "memory GB", "largest process")
    columns = (
        "stage", "hours", "waits_for", "gpu_hours", "core_hours", "terabytes_read", "terabytes_written",
        "largest_memory_gigabytes", "largest_memory_in",
    )  # fmt: skip
    rows = [[_shown(row[column]) for column in columns] for row in found["stages"]]
    total = found["total"]
    rows.append(
        [f"without {', '.join(found['not_in_total'])}", *(_shown(total.get(column, "")) for column in columns[1:])]
    )
    machines, paper = found["machines"], found["paper"]
    lines = [
        f"{found['work']['images']:,.0f} images on {machines['nodes']:g} nodes of {machines['cores']:g} cores and "
        f"{machines['gpus']:g} GPUs",
        *aligned([list(heads), *rows]),
        f"{total['hours']:.1f} hours, {total['gpu_hours_held']:,} GPU-hours held. The paper: less than "
        f"{paper['hours_less_than']} hours, {paper['gpu_hours_less_than']:,} GPU-hours on {paper['nodes']} x "
        f"{paper['gpus_per_node']} {paper['gpu']}.",
    ]
    used = set().union(*(names_in(formula) for row in found["stages"] for formula in row["formulas"].values()))
    used |= set().union(*(names_in(formula) for formula in DERIVED.values()))
    used |= {
        *Machines.model_fields,
        "part_seconds",
        "publish_seconds_per_part",
        "flow_bytes_per_part",
        "scheduler_bytes_per_part",
    }
    for kind in (MEASURED, MISSING, ASSUMED, CONFIG):
        of_kind = [one for name, one in found["numbers"].items() if one["kind"] == kind and name in used]
        lines += ["", f"{kind}:"] if of_kind else []
        lines += [f"  {one['name']} = {one['value']:.6g} {one['unit']}  ({one['source']})" for one in of_kind]
    return "\n".join(lines)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines, columns below each other, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column in (0, 2, 8) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _shown(value: object) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else str(value)


def configs(options: argparse.Namespace) -> tuple[Machines, Work]:
    """Machines and work: defaults, then the file's, then the command line's. Raises pydantic's ValidationError."""
    said = yaml.safe_load(options.cluster.read_text(encoding="utf-8")) if options.cluster else {}
    unknown = set(said) - {"machines", "work"}
    if unknown:
        raise ValueError(f"{options.cluster} has {sorted(unknown)}; it may have `machines` and `work`.")
    found = []
    for kind, name in ((Machines, "machines"), (Work, "work")):
        given = {field: value for field in kind.model_fields if (value := getattr(options, field)) is not None}
        found.append(kind.model_validate({**said.get(name, {}), **given}))
    return found[0], found[1]  # type: ignore[return-value]


def main() -> None:
    """Print the plan and, unless told otherwise, write it, and the same nodes' without GPUs, to results/plan.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cluster", type=Path, help="YAML with `machines` and `work`")
    parser.add_argument("--no-save", action="store_true")
    for kind in (Machines, Work):
        for name, field in kind.model_fields.items():
            parser.add_argument(f"--{name.replace('_', '-')}", type=float, help=field.description)
    options = parser.parse_args()
    machines, work = configs(options)
    found = plan(machines, work)
    print(table(found), flush=True)
    if not options.no_save:
        bare = plan(machines.model_copy(update={"gpus": 0.0}), work)
        del bare["numbers"], bare["derived"]
        save("plan", {"machine": machine(), "plan": found, "without_gpus": bare})


if __name__ == "__main__":
    main()
