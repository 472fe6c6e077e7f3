"""The peer of bench/pack.py: webdataset's ShardWriter, in an environment of its own.

    python pack_webdataset.py jobs.jsonl out samples_per_shard processes

Each process writes a run of whole shards from open files; reading the jobs is not timed. Prints JSON.
"""

import json
import os
import sys
import time
from multiprocessing import Barrier, Process, Queue
from typing import Any

import webdataset


def write(number: int, jobs: list[list[Any]], out: str, per_shard: int, ready: Any, times: Any) -> None:
    files = {path: os.open(path, os.O_RDONLY) for path in {job[1] for job in jobs}}
    texts = [job[4].encode() for job in jobs]
    ready.wait()
    started, busy = time.perf_counter(), time.process_time()
    pattern = os.path.join(out, f"{number}-%06d.tar")
    with webdataset.ShardWriter(pattern, maxcount=per_shard, verbose=0) as sink:
        for (key, path, offset, size, _), text in zip(jobs, texts, strict=True):
            sink.write({"__key__": key, "jpg": os.pread(files[path], size, offset), "json": text})
    times.put((started, time.perf_counter(), time.process_time() - busy))


def main() -> None:
    path, out, per_shard, processes = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    with open(path, encoding="utf-8") as lines:
        jobs = [json.loads(line) for line in lines]
    share = -(-len(jobs) // per_shard // processes) * per_shard
    ready, times = Barrier(processes), Queue()
    writers = [
        Process(target=write, args=(n, jobs[n * share : (n + 1) * share], out, per_shard, ready, times))
        for n in range(processes)
    ]
    for writer in writers:
        writer.start()
    spans = [times.get() for _ in writers]
    for writer in writers:
        writer.join()
    told = {
        "seconds": max(end for _, end, _ in spans) - min(start for start, _, _ in spans),
        "processor_seconds": sum(busy for _, _, busy in spans),
        "version": webdataset.__version__,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
