"""URLs → images: original bytes in tar shards, a row for every URL with what became of it. A part: `tasks.web.part`."""

import posixpath
from collections.abc import Sequence
from typing import Any

from storage.errors import BadManifest
from storage.filesystem import list_files
from storage.layout import Layout
from storage.manifest import Manifest, load_manifest
from tasks.stage import Stage, stage_task
from tasks.web.errors import EmptyCrawl
from tasks.web.known_bad import HashList, lists_key
from tasks.web.part import Download, download_part
from tasks.web.policy_config import UrlPolicy
from tasks.web.rows import SCHEMA, TIMING_COLUMNS

__all__ = ["SCHEMA", "TIMING_COLUMNS", "Download", "download", "download_part"]

VERSION = 2


@stage_task(name="download")
def download(urls: Manifest, config: Download, layout: Layout) -> Manifest:
    """Fetch every kept URL: part i of the result holds the images of part i of the URLs, in its order.

    The tar is the same to the byte whatever the order of arrival. Redirects obey the URL policy that made `urls`.
    Raises EmptyCrawl when not one image could be had.
    """
    earlier = _earlier(config.only_failed_of, urls, layout)
    bad = lists_key(config.known_bad)
    stage = Stage(
        "download",
        version=VERSION,
        config=config,
        inputs={"urls": urls} | ({"earlier": earlier} if earlier else {}),
        layout=layout,
        also={"known_bad": bad} if bad else None,
    )
    if stage.finished:
        return stage.reuse()
    parts = urls.paths(".parquet")
    before = earlier.paths(".parquet") if earlier else [None] * len(parts)
    outcomes = stage.map(
        download_part,
        [{"urls": part, "earlier": table} for part, table in zip(parts, before, strict=True)],
        config=config,
        policy=_policy_of(urls),
        lists=str(urls.config.get("also", {}).get("lists", "")),
        root=layout.root,
        bad_key=bad,
        recheck=earlier is not None and _known_bad_of(earlier) != (_plain(config.known_bad), bad),
    )
    if not any(outcome.rows_kept for outcome in outcomes):
        reasons = sorted({reason for outcome in outcomes for reason in outcome.drops})
        raise EmptyCrawl(
            f"not one of {urls.rows_kept} URLs gave an image (reasons: {', '.join(reasons)}; rows in "
            f"{stage.directory}). Check the network, `connect_to` and `allow_networks`."
        )
    return stage.publish(outcomes)


def _policy_of(urls: Manifest) -> UrlPolicy:
    """The policy that the URLs were judged by."""
    fields = {name: value for name, value in urls.config.items() if name in UrlPolicy.model_fields}
    return UrlPolicy.model_validate(fields)


def _earlier(reference: str | None, urls: Manifest, layout: Layout) -> Manifest | None:
    """The download that `only_failed_of` names. Raises BadManifest when it is not one of these URLs."""
    if reference is None:
        return None
    paths = list_files(layout.stage_manifests("download"))
    found = [
        one for path in paths if (one := load_manifest(posixpath.dirname(path))).inputs.get("urls") == urls.reference
    ]
    named = [one for one in found if one.reference.startswith(reference)]
    if len(named) == 1:
        return named[0]
    what = "names several" if named else "is no"
    raise BadManifest(
        f"only_failed_of {reference!r} {what} finished download of these URLs ({urls.reference}). "
        f"There is: {', '.join(one.reference for one in named or found) or 'none'}."
    )


def _known_bad_of(earlier: Manifest) -> tuple[Any, str]:
    return earlier.config.get("known_bad", []), earlier.config.get("also", {}).get("known_bad", "")


def _plain(lists: Sequence[HashList]) -> list[dict[str, Any]]:
    return [one.deciding() for one in lists]
