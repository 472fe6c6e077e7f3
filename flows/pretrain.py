"""Packed set → torchrun → teacher checkpoint, then its scores; and the flow `pretrain`, for a pool of GPUs."""

from prefect import flow

from flows.config import CurateConfig
from storage.layout import Layout
from storage.manifest import Manifest
from tasks.evaluate import evaluate
from tasks.launch import Pretrain, pretrain, pretrain_elsewhere
from tasks.lineage import load_reference


@flow(name="pretrain")
def pretrain_dataset(root: str, dataset: str, config: Pretrain) -> Manifest:
    """Train on a packed dataset ("pack/<fingerprint>" below `root`); a killed training goes on where it was."""
    layout = Layout.at(root)
    return pretrain(load_reference(dataset, layout), config, layout)


def train_and_evaluate(dataset: Manifest, config: CurateConfig, layout: Layout) -> list[Manifest]:
    """The teacher and its scores, as far as the config asks for them."""
    if config.pretrain is None:
        return []
    if config.pretrain_deployment is None:
        checkpoint = pretrain(dataset, config.pretrain, layout)
    else:
        checkpoint = pretrain_elsewhere(dataset, config.pretrain, layout, config.pretrain_deployment)
    return [checkpoint] if config.evaluate is None else [checkpoint, evaluate(checkpoint, config.evaluate, layout)]
