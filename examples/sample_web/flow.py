"""The flow `curate-lvd` on the sample web: the web is made and served for as long as the run lasts."""

from pathlib import Path

from prefect import flow

from examples.sample_web.build import SampleWeb, build_sample_web
from examples.sample_web.check import compare, render
from examples.sample_web.server import serve_sample_web
from flows.config import CurateConfig, load_config
from flows.curate_lvd import CuratedRun, curate_lvd
from storage.tables import read_table
from tasks.trace import outcomes

CONFIG = Path(__file__).parent / "curate.yaml"
CHECKED_UNTIL = "relative_dedup"


class WrongOutcome(AssertionError):
    """The run did not do with a planted case what it must; the message lists the cases."""


@flow(name="curate-lvd")
def curate_sample(data: str = "data", seed: int = 0, num_images: int = 2000) -> str:
    """Make the sample web in `data`, run the whole chain on it, and compare with the planted truth.

    Returns the report's path. Raises WrongOutcome when a planted case did not end where it must.
    """
    web = build_sample_web(Path(data) / "sample_web", seed=seed, num_images=num_images, num_pages=num_images // 10)
    with serve_sample_web(web.directory) as address:
        run = curate_lvd.fn(sample_config(web, root=str((Path(data) / "lvd").resolve()), address=address))
    check_truth(web, run)
    return run.report


def sample_config(web: SampleWeb, *, root: str, address: str) -> CurateConfig:
    """curate.yaml with the web's places filled in."""
    return load_config(CONFIG, {"ROOT": root, "WEB": str(web.directory), "ADDRESS": address})


def check_truth(web: SampleWeb, run: CuratedRun) -> None:
    """Compare every planted case with what the run did; say so in a line, or raise WrongOutcome with the cases."""
    report = compare(read_table(str(web.truth)), outcomes(run.chain, until=CHECKED_UNTIL))
    text = render(report)
    if not report.passed:
        raise WrongOutcome(text)
    print(f"truth     {text.splitlines()[-1]}")
