"""prefect.yaml declares what the README promises, and its parameters are ones that the flows accept."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow

DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load(Path("prefect.yaml").read_text())["deployments"]


def flow_of(deployment: dict[str, Any]) -> Flow[..., Any]:
    path, _, name = deployment["entrypoint"].partition(":")
    flow = getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)
    assert isinstance(flow, Flow)
    return flow


def test_the_promised_deployments_are_there_on_their_pools() -> None:
    found = {f"{flow_of(d).name}/{d['name']}": d["work_pool"]["name"] for d in DEPLOYMENTS}
    assert found == {
        "curate-lvd/prod": "cpu",
        "curate-lvd/sample": "cpu",
        "revise-lvd/prod": "cpu",
        "pretrain/prod": "gpu",
        "evaluate/prod": "gpu",
    }


def test_every_deployment_has_tags_and_a_concurrency_limit() -> None:
    assert all(d["tags"] and d["concurrency_limit"]["limit"] == 1 for d in DEPLOYMENTS)


def test_the_weekly_schedule_waits_until_the_user_resumes_it() -> None:
    schedules = [(d["entrypoint"], s["cron"], s["active"]) for d in DEPLOYMENTS for s in d.get("schedules", [])]
    assert schedules == [("flows/curate_lvd.py:curate_lvd", "0 3 * * 1", False)]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: d["entrypoint"])
def test_the_parameters_are_ones_the_flow_accepts(deployment: dict[str, Any]) -> None:
    flow = flow_of(deployment)
    given = dict(deployment["parameters"])
    for name in ("dataset", "checkpoint"):  # named at the start of a run, not here
        if name in flow.parameters.properties:
            given[name] = "pack/0"
    flow.validate_parameters(given)


def test_prod_names_the_sample_web_that_make_ui_serves() -> None:
    config = next(d for d in DEPLOYMENTS if d["entrypoint"] == "flows/curate_lvd.py:curate_lvd")["parameters"]["config"]
    assert config["extract"]["crawl"] == ["data/sample_web/crawl/*.warc.gz"]
    assert set(config["download"]["connect_to"].values()) == {"127.0.0.1:8765"}
