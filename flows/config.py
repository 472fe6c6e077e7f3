"""The whole run on one page: the stages' configs, each from the file of the code that it configures."""

from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Annotated

import yaml
from pydantic import Field, model_validator

from flows.presets import with_preset
from tasks.cluster import Cluster
from tasks.collect import Collect, Collection
from tasks.config import StageConfig
from tasks.copy_graph import CopyGraph
from tasks.describe import Describe
from tasks.download import Download
from tasks.embed import Embed
from tasks.evaluate import Evaluate
from tasks.extract import Extract
from tasks.filters import Faces, Geometry, Nsfw
from tasks.hash_dedup import HashDedup
from tasks.hierarchy import Hierarchy
from tasks.image_filter import ImageFilter
from tasks.inspection.config import Inspection
from tasks.launch import Pretrain
from tasks.pack import Pack
from tasks.preflight import Plug
from tasks.relative_dedup import RelativeDedup
from tasks.retrieve import Retrieve
from tasks.self_dedup import SelfDedup
from tasks.shuffle import Shuffle
from tasks.url_policy import UrlPolicy
from tasks.workers import Workers


class CurateConfig(StageConfig):
    """A run of `curate-lvd`. Defaults are DINOv2's where the paper (arXiv 2304.07193, App. A) names them."""

    root: str
    """Folder (or s3:// prefix) of everything the run writes; a second run with the same root reuses what is done."""
    workers: Workers = Workers()
    """Where the parts are computed."""
    base: str | None = None
    """An earlier dataset of this root that the run goes on from: a folder's name below datasets/, or `latest`. Its
    images are not fetched again, and are curated together with the new crawl's."""

    extract: Extract
    """Crawl files → image URLs."""
    url_policy: UrlPolicy = UrlPolicy()
    """Which URLs may be fetched."""
    download: Download = Download()
    """URLs → verified images."""
    screen: ImageFilter = ImageFilter(filters=(Geometry(),))
    """Filters before deduplication."""
    hash_dedup: HashDedup = HashDedup()
    """Images that are the same picture."""
    safety: ImageFilter = ImageFilter(filters=(Nsfw(), Faces()))
    """Filters after it: what may not stay, and what must be blurred."""
    decode_once: bool = False
    """Let safety's filters look during screen's pass, so that each image is decoded once for all of them; the verdicts
    are the same. It looks at copies too, which deduplication would have spared it, so it pays where the filters cost
    the CPU little beside the decode, as on a GPU, and few images are copies, and not where they run on the CPU:
    bench/decode_once.py."""

    collect: Collect = Collect()
    """How curated sources and benchmarks are read."""
    benchmarks: tuple[Collection, ...] = ()
    """Sets of images that the dataset must not hold, nor copies of them; one entry per split."""
    describe: Describe = Describe()
    """Images → copy-detection descriptors."""
    copy_graph: CopyGraph = CopyGraph()
    """Pairs of images that may be copies."""
    self_dedup: SelfDedup = SelfDedup()
    """Copies within the pool."""
    relative_dedup: RelativeDedup = RelativeDedup()
    """Copies of the benchmarks."""

    sources: Annotated[tuple[Collection, ...], Field(min_length=1)]
    """Curated sources: what the dataset shall resemble."""
    embed: Embed = Embed()
    """Images → semantic embeddings."""
    cluster: Cluster = Cluster()
    """k-means of the pool."""
    retrieve: Retrieve = Retrieve()
    """What each source brings in."""

    hierarchy: Hierarchy | None = None
    """A balanced sample of the pool beside what the sources bring in; null leaves it out."""
    inspection: Inspection | None = Inspection()
    """Pages on which neighbours, clusters and borderline pairs can be looked at; null leaves them out."""

    shuffle: Shuffle = Shuffle()
    """The dataset's order and shards."""
    pack: Pack = Pack()
    """How the shards are written."""

    pretrain: Pretrain | None = None
    """The training on the dataset; null ends with the dataset."""
    pretrain_deployment: str | None = None
    """Deployment (pretrain/prod) that trains, on its own work pool; null trains in this run."""
    evaluate: Evaluate | None = None
    """The evaluation of the training; null leaves it out."""

    @model_validator(mode="after")
    def _graph_reaches_every_threshold(self) -> "CurateConfig":
        lowest = min(self.self_dedup.threshold, self.relative_dedup.threshold)
        if self.copy_graph.threshold > lowest:
            raise ValueError(
                f"copy_graph.threshold is {self.copy_graph.threshold}, and self_dedup or relative_dedup asks for pairs "
                f"above {lowest}: lower copy_graph.threshold to {lowest}."
            )
        return self

    def collections(self) -> list[Collection]:
        """Every set of images that must be there when the run starts."""
        labelled = [Collection(name="labelled", path=self.evaluate.dataset)] if self.evaluate else []
        return [*self.sources, *self.benchmarks, *labelled]

    def plugs(self) -> list[Plug]:
        """Everything that needs a model."""
        hashes = [self.hash_dedup.encoder] if self.hash_dedup.encoder else []
        return [*self.screen.filters, *self.safety.filters, *hashes, self.describe.encoder, self.embed.encoder]


def load_config(path: Path, places: Mapping[str, str] | None = None, *, preset: str | None = None) -> CurateConfig:
    """The config in a YAML file; `$NAME` in it is replaced by `places`, what it leaves out is taken from a preset.

    Raises pydantic's ValidationError (a ValueError) that names every wrong key, OSError for a missing file, KeyError
    for a `$NAME` without a place, and UnknownPreset.
    """
    text = path.read_text(encoding="utf-8")
    if places is not None:
        text = Template(text).substitute(places)
    content = yaml.safe_load(text)
    if preset is not None and isinstance(content, dict):  # what is no mapping, the validation tells
        content = with_preset(preset, content)
    return CurateConfig.model_validate(content)
