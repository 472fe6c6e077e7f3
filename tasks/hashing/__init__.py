"""How images are hashed and compared by their hashes: behind the doorway `tasks.hash_dedup`."""
