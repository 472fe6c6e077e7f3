"""Self-supervised training of vision backbones: torch and `storage`, no Prefect."""
