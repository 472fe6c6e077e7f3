"""onnxruntime sessions: one per model file and process, on one thread, since the stage's parts run side by side."""

from functools import lru_cache

import onnxruntime


@lru_cache(maxsize=8)
def load_session(path: str, threads: int = 1) -> onnxruntime.InferenceSession:
    """The session of a model file, made at its first use in this process."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    available = set(onnxruntime.get_available_providers())
    providers = [provider for provider in wanted if provider in available]
    return onnxruntime.InferenceSession(path, options, providers=providers)
