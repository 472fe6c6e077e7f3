"""The graph of copies: all pairs of images whose descriptors' cosine is above the lowest threshold any stage uses."""

from tasks.graph_edges import ThresholdTooLow, edge_paths, graph_edges

__all__ = ["ThresholdTooLow", "edge_paths", "graph_edges"]
