"""How each stage meets the world: read, compute, write, publish."""
