"""From shards to batches: which image at which step, its crops, its masks."""
