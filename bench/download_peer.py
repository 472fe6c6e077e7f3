"""img2dataset on a list of URLs, for bench.download: run by the Python of the peer's own environment.

`python download_peer.py '{"urls": "urls.txt", "folder": "out", "mode": "originals", ...}'` prints a line of JSON:
seconds of processor (its workers' too) and by the clock, and the images that it has.
"""

import json
import resource
import sys
import time
from pathlib import Path

from img2dataset import download


def main() -> None:
    asked = json.loads(sys.argv[1])
    sizes = {
        "originals": {"resize_mode": "no", "disable_all_reencoding": True},
        "copies": {"resize_mode": "keep_ratio", "image_size": 256, "encode_quality": 95},
    }
    started = time.perf_counter()
    download(
        url_list=asked["urls"],
        output_folder=asked["folder"],
        input_format="txt",
        output_format="webdataset",
        processes_count=asked["processes"],
        thread_count=asked["threads"],
        number_sample_per_shard=asked["urls_per_part"],
        timeout=asked["seconds"],
        compute_hash="sha256",
        enable_wandb=False,
        **sizes[asked["mode"]],
    )
    seconds = time.perf_counter() - started
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    stats = [json.loads(path.read_text()) for path in Path(asked["folder"]).glob("*_stats.json")]
    result = {
        "images": sum(one["successes"] for one in stats),
        "cpu_seconds": sum(one.ru_utime + one.ru_stime for one in used),
        "wall_seconds": seconds,
    }
    print("\n" + json.dumps(result))


if __name__ == "__main__":
    main()
