"""`curate-lvd`: run the flow from a YAML file, take images out, ask why one is in or out, print the funnel again."""

import argparse
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from flows.config_errors import complaints
from flows.presets import preset_names
from storage.errors import StorageError
from storage.layout import Layout
from tasks.removal.ledger import entries_of
from tasks.report import funnel, print_funnel
from tasks.runs import load_chain
from tasks.trace import Step, trace

if TYPE_CHECKING:
    from flows.config import CurateConfig

_DEFAULT_ROOT = "data/lvd"
_REMOVABLE = {
    "url": "URL of an image; all that was fetched under it goes",
    "domain": "domain, with its subdomains",
    "id": "the 24 hex characters of an image's id",
    "hash": "SHA-256 or MD5 of the file, or the 16 hex digits of the picture's hash",
}
_HIDDEN = {"id", "drop", "detail", "value", "other", "image_file", "image_offset", "image_bytes", "row", "key"}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of the `curate-lvd` command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="curate-lvd", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run the flow with a config file")
    run.add_argument("config", help="YAML file with the fields of flows.config.CurateConfig")
    run.add_argument("--preset", choices=preset_names(), help="published rules for what the file leaves out")
    remove = commands.add_parser(
        "remove", help="take images out of the dataset for good: ledger, new version, files made unreadable"
    )
    remove.add_argument("config", help="the config file that the dataset was made with")
    for kind, told in _REMOVABLE.items():
        remove.add_argument(f"--{kind}", action="append", default=[], help=told, metavar=kind.upper())
    remove.add_argument("--reason", required=True, help="kept in the ledger: who asked, and why")
    remove.add_argument("--dry-run", action="store_true", help="list the folders that hold it, and write nothing")
    remove.add_argument("--dataset", default="latest", help="folder's name below datasets/ (default: the newest run's)")
    why = commands.add_parser("why", help="every stage that a URL or image id went through, with the verdicts")
    why.add_argument("record", help="canonical URL, or the 24 hex characters of an id")
    shown = commands.add_parser("funnel", help="the funnel table of the newest run")
    for command in (why, shown):
        command.add_argument("--root", default=_DEFAULT_ROOT, help="the run's folder (config: root)")
        command.add_argument("--run", help="name of a run below root/runs (default: the newest)")
    options = parser.parse_args(argv)
    try:
        return {"run": _run, "remove": _remove, "why": _why, "funnel": _funnel}[options.command](options)
    except (StorageError, ValueError, OSError) as error:
        print(f"curate-lvd: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    from flows.curate_lvd import curate_lvd

    config = _load(options.config, options.preset)
    return 2 if config is None else _ended_well(lambda: curate_lvd(config))


def _remove(options: argparse.Namespace) -> int:
    from flows.revise import remove_from_lvd, would_be_removed

    date = datetime.now(UTC).strftime("%Y-%m-%d")
    named = {"urls": options.url, "domains": options.domain, "ids": options.id, "hashes": options.hash}
    entries = entries_of(**named, reason=options.reason, date=date)
    if not entries:
        print(
            f"curate-lvd remove: name what to remove: {', '.join(f'--{kind}' for kind in _REMOVABLE)}", file=sys.stderr
        )
        return 2
    config = _load(options.config, None)
    if config is None:
        return 2
    if options.dry_run:
        return _ended_well(lambda: print("\n".join(would_be_removed(config, entries).lines())))
    revised = config.model_copy(update={"base": options.dataset})
    return _ended_well(lambda: print("\n".join(remove_from_lvd(revised, entries).plan.lines())))


def _load(path: str, preset: str | None) -> "CurateConfig | None":
    from flows.config import CurateConfig, load_config

    try:
        return load_config(Path(path), preset=preset)
    except ValidationError as error:
        found = complaints(error, CurateConfig)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        found = [f"it is no YAML: {error}"]
    except OSError as error:
        found = [f"it cannot be read: {error.strerror}"]
    print("\n  ".join([f"curate-lvd: {path} is not a valid config:", *found]), file=sys.stderr)
    return None


def _ended_well(work: Callable[[], object]) -> int:
    from flows.curate_lvd import RUN_ERRORS

    try:
        work()
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
