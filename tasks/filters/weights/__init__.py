"""Weights that travel with the package; README.txt says from where and under which licence."""
