"""What a join by cells costs, as a formula: for plans at sizes that nobody has run yet."""

from tasks.algorithms.quantiser import CELL_ROWS, GROUPS, ITERATIONS, MAX_SAMPLE, PROBES, SAMPLE_PER_CELL, cells_wanted

# Cells are not of one size: the mean of their squares is about 3.5 times the square of their mean at a million rows
# (bench/results/self_join.json: products_per_row beside products_per_row_by_formula).
UNEVENNESS = 3.5


def join_cost(
    num_rows: int,
    dim: int,
    assignments: int,
    *,
    cell_rows: int = CELL_ROWS,
    probes: int = PROBES,
    bytes_per_value: int = 2,
    edges_per_row: float = 5.0,
    unevenness: float = UNEVENNESS,
) -> dict[str, float]:
    """Products (of two vectors), operations, bytes and memory of fitting, assigning and joining `num_rows` vectors.

    With c = num_rows * assignments / cell_rows cells in g = 2 * sqrt(c) groups:

        fit     sample * (g + iterations * c / g)                products, sample = min(24 * c, 2**21)
        assign  num_rows * (g + probes * c / g)                  products = num_rows * 18 * sqrt(c) with 32 probes
        join    num_rows * assignments * cell_rows / 2 * 3.5     products (the 3.5: cells are uneven)

    so joining is linear in the rows while `cell_rows` and `assignments` stay, and assigning grows as rows**1.5: take
    larger cells for more rows (the two are even at cell_rows**1.5 = 10 * sqrt(num_rows / assignments), that is 2,800 at
    a billion rows in 5 cells each). Every product is 2 * dim operations of 8 bits (on a GPU of 16).

    Bytes: every vector is read once to be assigned and once for each of its cells; 20 bytes are written per edge.
    `memory_bytes`: what a process needs beside the vectors it was given, for the largest cell (taken as ten times the
    mean, and 8,192 rows at least) and the quantiser; `fit_memory_bytes`: the sample; `assignment_bytes`: the cells of
    all rows.
    """
    cells = cells_wanted(num_rows, assignments=assignments, cell_rows=cell_rows)
    groups = max(1.0, min(GROUPS * cells**0.5, cells))
    sample = min(SAMPLE_PER_CELL * cells, MAX_SAMPLE, num_rows)
    fit = sample * (groups + ITERATIONS * cells / groups)
    assign = num_rows * (groups + min(probes, groups) * cells / groups)
    join = num_rows * assignments * min(cell_rows, num_rows * assignments) / 2 * (unevenness if cells > 1 else 1.0)
    row_bytes = dim * bytes_per_value
    return {
        "cells": float(cells),
        "fit_products": fit,
        "assign_products": assign,
        "join_products": join,
        "flop": 2.0 * dim * (fit + assign + join),
        "bytes_read": float(num_rows) * row_bytes * (1 + assignments) + sample * row_bytes,
        "bytes_written": num_rows * (4.0 * assignments + 20.0 * edges_per_row),
        "memory_bytes": max(10.0 * cell_rows, 8192.0) * (5 * dim + 2100) + cells * dim,
        "fit_memory_bytes": 7.0 * dim * sample,
        "assignment_bytes": 4.0 * num_rows * assignments,
    }
