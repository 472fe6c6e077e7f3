"""Where bytes live: files, tables, vectors, sample shards, images, and the manifests that promise them."""
