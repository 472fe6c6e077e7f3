"""`curate-lvd`: run the flow from a YAML file, ask why an image is in or out, print the funnel again."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from storage.errors import StorageError
from storage.layout import Layout
from tasks.report import funnel, print_funnel
from tasks.runs import load_chain
from tasks.trace import Step, trace

_DEFAULT_ROOT = "data/lvd"
_HIDDEN = {"id", "drop", "detail", "value", "other", "image_file", "image_offset", "image_bytes", "row", "key"}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of the `curate-lvd` command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="curate-lvd", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run the flow with a config file")
    run.add_argument("config", help="YAML file with the fields of flows.config.CurateConfig")
    why = commands.add_parser("why", help="every stage that a URL or image id went through, with the verdicts")
    why.add_argument("record", help="canonical URL, or the 24 hex characters of an id")
    shown = commands.add_parser("funnel", help="the funnel table of the newest run")
    for command in (why, shown):
        command.add_argument("--root", default=_DEFAULT_ROOT, help="the run's folder (config: root)")
        command.add_argument("--run", help="name of a run below root/runs (default: the newest)")
    options = parser.parse_args(argv)
    try:
        return {"run": _run, "why": _why, "funnel": _funnel}[options.command](options)
    except (StorageError, ValueError, OSError) as error:
        print(f"curate-lvd: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    from flows.config import load_config
    from flows.curate_lvd import RUN_ERRORS, curate_lvd

    try:
        config = load_config(Path(options.config))
    except (ValidationError, yaml.YAMLError) as error:
        print(f"curate-lvd: {options.config} is not a valid config:\n{error}", file=sys.stderr)
        return 2
    try:
        curate_lvd(config)
    except RUN_ERRORS as error:
        print(f"\ncurate-lvd: {error}", file=sys.stderr)
        return 1
    return 0


def _funnel(options: argparse.Namespace) -> int:
    print_funnel(funnel(load_chain(Layout.at(options.root), options.run)))
    return 0


def _why(options: argparse.Namespace) -> int:
    steps = trace(options.record, load_chain(Layout.at(options.root), options.run))
    if not steps:
        print(f"curate-lvd: no stage of the run in {options.root} has seen {options.record!r}.", file=sys.stderr)
        return 1
    _print_steps(options.record, steps)
    return 0


def _print_steps(record: str, steps: Sequence[Step]) -> None:
    table = Table(title=record, title_justify="left", show_lines=True)
    for name in ("stage", "verdict", "number", "matched with", "more"):
        table.add_column(name, overflow="fold")
    for step in steps:
        verdict = "kept" if step.drop is None else f"dropped: {step.drop}"
        more = {key: value for key, value in step.row.items() if key not in _HIDDEN and value not in (None, "")}
        table.add_row(
            step.stage,
            f"{verdict}\n{step.detail or ''}".strip(),
            "" if step.value is None else f"{step.value:.4f}",
            "" if step.other is None else f"{step.other_url or ''}\n{step.other}".strip(),
            "\n".join(f"{key}: {str(value)[:160]}" for key, value in more.items()),
        )
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
