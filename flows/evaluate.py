"""The flow `evaluate`: a checkpoint → its scores."""

from prefect import flow

from storage.layout import Layout
from storage.manifest import Manifest
from tasks.evaluate import Evaluate, evaluate
from tasks.lineage import load_reference


@flow(name="evaluate")
def evaluate_checkpoint(root: str, checkpoint: str, config: Evaluate) -> Manifest:
    """k-NN accuracy of a training's teacher ("pretrain/<fingerprint>" below `root`) and of the untrained network."""
    layout = Layout.at(root)
    return evaluate(load_reference(checkpoint, layout), config, layout)
