"""The copy graph: how pairs are found, bounded, measured and stored."""
