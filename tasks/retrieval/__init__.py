"""Retrieval over workers: rules, search by passes, neighbours taken over, verdicts."""
