"""Packing: the exchange of rows, images, earlier shards, cards."""
