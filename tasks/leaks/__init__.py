"""Benchmarks against the pool: links, the judgement of components, the self-test."""
