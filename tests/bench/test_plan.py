"""A plan is formulas in named numbers: they scale as the code does, and every number says where it comes from."""

import argparse
import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from bench.measure import RESULTS
from bench.plan import configs, evaluated, named_numbers, names_in, plan, table, worked_out
from bench.plan_figures import FIGURES, MEASURED, MISSING, read_figures
from bench.plan_stages import CONSTANTS, DERIVED, RESOURCES, STAGES, Machines, Work, join_numbers
from tasks.algorithms.join_cost import join_cost
from tasks.graph.config import Cells
from tasks.hierarchy import Hierarchy, plan_levels


def stage(found: dict, name: str) -> dict:
    return next(row for row in found["stages"] if row["stage"] == name)


def test_every_name_in_every_formula_is_a_number_of_the_plan() -> None:
    known = set(named_numbers(Machines(), Work()))
    for name, formula in DERIVED.items():
        assert names_in(formula) <= known, name
        known.add(name)
    for planned in STAGES:
        assert set(planned.formulas) <= set(RESOURCES)
        for resource, formula in planned.formulas.items():
            assert names_in(formula) <= known, (planned.name, resource)
    used = {name for one in STAGES for formula in one.formulas.values() for name in names_in(formula)}
    used |= {name for formula in DERIVED.values() for name in names_in(formula)}
    assert set(CONSTANTS) <= used  # nothing is listed that decides nothing
    assert set(Work.model_fields) <= used


def test_every_stage_without_gpus_does_its_products_on_cores(tmp_path: Path) -> None:
    for planned in STAGES:
        assert ("gpu_seconds" in planned.formulas) == ("core_seconds_without_gpu" in planned.formulas), planned.name
    with_gpus, bare = plan(Machines(), Work(), tmp_path), plan(Machines(gpus=0), Work(), tmp_path)
    assert bare["total"]["gpu_hours"] == bare["total"]["gpu_hours_held"] == 0
    assert bare["total"]["core_hours"] > with_gpus["total"]["core_hours"]
    assert stage(bare, "shuffle_and_pack") == stage(with_gpus, "shuffle_and_pack")


def test_work_grows_with_images_as_the_code_says(tmp_path: Path) -> None:
    one, two = (evaluated(named_numbers(Machines(), Work(images=n), tmp_path)) for n in (1.2e9, 2.4e9))
    times = {name: two[name] / one[name] for name in DERIVED if one[name]}
    for name in ("unique", "pool", "exchanged_bytes"):
        assert times[name] == pytest.approx(2.0), name
    for name in ("assign_operations", "join_operations"):  # cells grow with the pool, so that the two stay even
        assert two[name] / one[name] < 2**1.4, name
    assert 1 < times["kmeans_operations"] < 2  # fitted to a sample, assigned whole
    small, large = (plan(Machines(), Work(images=n), tmp_path) for n in (1.2e9, 2.4e9))
    for name in ("describe", "self_dedup"):
        assert stage(large, name)["hours"] == pytest.approx(2 * stage(small, name)["hours"], rel=0.01)
    assert (
        stage(large, "shuffle_and_pack")["terabytes_written"] == stage(small, "shuffle_and_pack")["terabytes_written"]
    )
    memory = [stage(one, "cluster")["largest_memory_gigabytes"] for one in (small, large)]
    assert memory[1] - memory[0] < 1  # but for the flow's list of parts, the size of the pool does not show


def test_the_hierarchy_is_planned_with_the_codes_own_levels_and_stands_beside_the_papers_sum(tmp_path: Path) -> None:
    found = plan(Machines(), Work(), tmp_path)
    values = evaluated(named_numbers(Machines(), Work(), tmp_path))
    finest, second, *_ = plan_levels(Hierarchy(), round(values["pool"]))
    assert values["finest_clusters"] == pytest.approx(finest.num_clusters * finest.splits, rel=1e-6)
    assert values["coarse_clusters"] == pytest.approx(finest.num_clusters, rel=1e-6)
    assert values["upper_clusters"] == pytest.approx(second.num_clusters, rel=1e-6)
    rows = [stage(found, one.name)["hours"] for one in STAGES if one.name != "hierarchy"]
    assert found["total"]["hours"] == pytest.approx(sum(rows), abs=0.02)
    hierarchy = stage(found, "hierarchy")
    assert hierarchy["hours"] > 0
    assert hierarchy["largest_memory_gigabytes"] == pytest.approx(16 * second.num_clusters * 1280 / 1e9, rel=0.1)
    assert "without hierarchy" in table(found)
    plan(Machines(), Work(images=1e4), tmp_path)  # small pools are planned for as well


def test_twice_the_machines_take_half_the_time_where_they_are_waited_for(tmp_path: Path) -> None:
    one, two = (plan(Machines(nodes=nodes), Work(), tmp_path) for nodes in (20, 40))
    for name in ("describe", "embed"):
        assert stage(one, name)["waits_for"] == "GPUs"
        alone = stage(one, name)["hours_of"]["one process"]
        halves = (stage(one, name)["hours"] - alone) / 2 + alone
        assert stage(two, name)["hours"] == pytest.approx(halves, rel=0.01)
    assert stage(two, "self_dedup")["hours_of"]["one process"] == stage(one, "self_dedup")["hours_of"]["one process"]
    slow = plan(Machines(net_gb_per_second=0.1), Work(), tmp_path)
    assert stage(slow, "describe")["waits_for"] == "network"


def test_in_cells_of_one_size_joining_is_linear_and_finding_them_is_not() -> None:
    one, two = (join_numbers(Work(images=n), Cells(cell_rows=512)) for n in (1e9, 2e9))
    times = {name: two[name][0] / one[name][0] for name in one}
    assert times["cells"] == pytest.approx(2, rel=1e-6)
    assert times["join_operations"] == pytest.approx(2, rel=1e-6)
    assert times["assign_operations"] == pytest.approx(2**1.5, rel=1e-3)


def test_the_joins_formula_is_join_costs() -> None:
    values = evaluated(named_numbers(Machines(), Work()))
    dim, assignments = int(values["descriptor_dim"]), int(values["assignments"])
    cost = join_cost(int(values["images"]), dim, assignments, cell_rows=Cells().rows_of_a_cell(1_200_000_000))
    planned = values["fit_operations"] + values["assign_operations"] + values["join_operations"]
    assert planned == pytest.approx(cost["flop"], rel=1e-9)
    assert values["cells"] == pytest.approx(cost["cells"], rel=1e-6)


def test_without_any_result_there_is_a_plan_that_says_so(tmp_path: Path) -> None:
    found = plan(Machines(), Work(), tmp_path)
    for figure in FIGURES:
        assert found["numbers"][figure.name]["kind"] == MISSING
        source = found["numbers"][figure.name]["source"]
        assert f"no {figure.file}.json" in source
        assert f"; assumed: {figure.why}" in source
        assert found["numbers"][figure.name]["value"] == figure.instead
    assert found["total"]["hours"] > 0


def test_a_figure_is_read_and_a_file_of_another_form_is_not_taken_for_one(tmp_path: Path) -> None:
    busy = {"scheduler": 4.0, "worker_0": 100.0, "flow": 3.5}
    run = {"parts": 120_000, "processor_milliseconds_per_part": busy, "seconds_to_publish": 6.0}
    growth = {"bytes_per_part_of_peak": {"flow": 4000, "scheduler": 10}}
    (tmp_path / "scheduler.json").write_text(json.dumps({"runs": [run], "growth": growth}))
    (tmp_path / "kmeans.json").write_text(json.dumps({"something": "else"}))
    (tmp_path / "pack.json").write_text("cut off {")
    numbers = read_figures(tmp_path)
    assert (numbers["part_seconds"].value, numbers["part_seconds"].kind) == (0.0075, MEASURED)
    assert numbers["publish_seconds_per_part"].value == pytest.approx(5e-5)
    for name, file in (("kmeans_operations_per_core_second", "kmeans"), ("pack_core_seconds", "pack")):
        assert numbers[name].kind == MISSING
        assert f"{file}.json has no such figure" in numbers[name].source


def test_a_gpus_share_measured_on_a_cpu_is_none(tmp_path: Path) -> None:
    for card, device, kind in (("no GPU", "cpu", MISSING), ("NVIDIA H100", "NVIDIA H100", MEASURED)):
        join = {"machine": {"card": card}, "ours": {"share_of_peak": 0.62}}
        passes = [{"clusters": 10, "dim": 2, "of_peak": 0.3}, {"clusters": 100, "dim": 2, "of_peak": 0.55}]
        (tmp_path / "gpu_join.json").write_text(json.dumps(join))
        (tmp_path / "gpu_kmeans.json").write_text(json.dumps({"device": device, "passes": passes}))
        numbers = read_figures(tmp_path)
        assert {numbers[name].kind for name in ("gpu_share_join", "gpu_share_kmeans")} == {kind}
    assert (numbers["gpu_share_join"].value, numbers["gpu_share_kmeans"].value) == (0.62, 0.55)


def test_a_smaller_run_stands_in_for_the_whole_one_that_is_not_there(tmp_path: Path) -> None:
    row = {"rows": 1000, "clusters": 10, "dim": 8, "iterations": 5, "ours_seconds": 2.0, "threads": 2}
    (tmp_path / "kmeans_small.json").write_text(json.dumps({"rows": [row]}))
    small = read_figures(tmp_path)["kmeans_operations_per_core_second"]
    assert (small.value, small.source) == (2 * 1000 * 10 * 8 * 5 / 2.0 / 2, "bench/results/kmeans_small.json")
    (tmp_path / "kmeans.json").write_text(json.dumps({"rows": [row | {"ours_cpu_seconds": 2.0}]}))
    assert read_figures(tmp_path)["kmeans_operations_per_core_second"].value == 2 * small.value


def test_every_result_that_is_there_is_read() -> None:
    there = {path.stem for path in RESULTS.glob("*.json")}
    for figure in FIGURES:
        if figure.file in there:
            assert figure.number(RESULTS).kind == MEASURED, figure.number(RESULTS).source


def test_the_table_names_every_source_and_the_papers_figure(tmp_path: Path) -> None:
    text = table(plan(Machines(), Work(), tmp_path))
    assert "less than 48 hours, 7,680 GPU-hours on 20 x 8 V100-32GB" in text
    for planned in STAGES:
        assert planned.name in text
    for figure in FIGURES:
        assert f"{figure.name} = " in text


def test_a_formula_with_an_unknown_name_is_an_error() -> None:
    with pytest.raises(NameError, match="imagse"):
        worked_out("2 * imagse", {"images": 1.0})


def test_the_file_gives_way_to_the_command_line_and_unknown_keys_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("machines: {nodes: 4, gpus: 0}\nwork: {images: 1000000}\n")
    nothing = dict.fromkeys([*Machines.model_fields, *Work.model_fields])
    machines, work = configs(argparse.Namespace(cluster=path, **nothing | {"nodes": 6.0}))
    assert (machines.nodes, machines.gpus, work.images) == (6, 0, 1e6)
    for wrong in ("machines: {knots: 4}", "cluster: {}"):
        path.write_text(wrong)
        with pytest.raises((ValidationError, ValueError), match=r"knots|cluster"):
            configs(argparse.Namespace(cluster=path, **nothing))
