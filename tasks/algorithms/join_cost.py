"""What a join by cells costs, as a formula: for plans at sizes that nobody has run yet."""

from tasks.algorithms.quantiser import CELL_ROWS, ITERATIONS, MAX_SAMPLE, PROBES, SAMPLE_PER_CELL, cells_wanted

# Cells are not of one size: the mean of their squares is about twice the square of their mean
# (bench/results/self_join.json: products_per_row beside products_per_row_by_formula).
UNEVENNESS = 2.0


def join_cost(
    num_rows: int,
    dim: int,
    assignments: int,
    *,
    cell_rows: int = CELL_ROWS,
    probes: int = PROBES,
    bytes_per_value: int = 2,
    edges_per_row: float = 5.0,
) -> dict[str, float]:
    """Products (of two vectors), operations, bytes and memory of fitting, assigning and joining `num_rows` vectors.

    With c = num_rows * assignments / cell_rows cells in sqrt(c) groups:

        fit     2 * iterations * sample * sqrt(c)              products, sample = min(32 * c, 2**21)
        assign  num_rows * (1 + probes) * sqrt(c)              products
        join    num_rows * assignments * cell_rows / 2 * 2     products (the last 2: cells are uneven)

    so joining is linear in the rows while `cell_rows` and `assignments` stay, and assigning grows as rows**1.5: the two
    are even at c = (assignments * cell_rows / (1 + probes))**2 cells. Every product is 2 * dim operations of 8 bits.

    Bytes: every vector is read once to be assigned and once for each of its cells; 20 bytes are written per edge.
    `memory_bytes`: what a process needs beside the vectors it was given, for the largest cell (taken as ten times the
    mean) and the quantiser; `assignment_bytes`: the cells of all rows.
    """
    cells = cells_wanted(num_rows, assignments=assignments, cell_rows=cell_rows)
    groups = max(1.0, cells**0.5)
    sample = min(SAMPLE_PER_CELL * cells, MAX_SAMPLE, num_rows)
    fit = 2.0 * ITERATIONS * sample * groups
    assign = num_rows * (groups + min(probes, groups) * cells / groups)
    join = num_rows * assignments * min(cell_rows, num_rows * assignments) / 2 * (UNEVENNESS if cells > 1 else 1.0)
    row_bytes = dim * bytes_per_value
    return {
        "cells": float(cells),
        "fit_products": fit,
        "assign_products": assign,
        "join_products": join,
        "flop": 2.0 * dim * (fit + assign + join),
        "bytes_read": float(num_rows) * row_bytes * (1 + assignments) + sample * row_bytes,
        "bytes_written": num_rows * (4.0 * assignments + 20.0 * edges_per_row),
        "memory_bytes": 10.0 * cell_rows * (5 * dim + 2100) + cells * dim,
        "assignment_bytes": 4.0 * num_rows * assignments,
    }
