"""`make curate`: the flow on the sample web; says where everything lies."""

import argparse
from pathlib import Path


def main() -> None:
    """Run the flow, or only build the web."""
    parser = argparse.ArgumentParser(prog="python -m examples.sample_web", description=__doc__)
    parser.add_argument("--data", default="data", help="folder for the web and for the run")
    parser.add_argument("--seed", type=int, default=0, help="seed of the web")
    parser.add_argument("--images", type=int, default=2000, help="image URLs of the web")
    parser.add_argument("--build-only", action="store_true", help="make the web, run nothing")
    options = parser.parse_args()
    # Imported here: `--help` need not wait for Prefect.
    from examples.sample_web.build import build_sample_web
    from examples.sample_web.flow import curate_sample

    if options.build_only:
        web = Path(options.data) / "sample_web"
        build_sample_web(web, seed=options.seed, num_images=options.images, num_pages=options.images // 10)
        return
    curate_sample(data=options.data, seed=options.seed, num_images=options.images)


if __name__ == "__main__":
    main()
