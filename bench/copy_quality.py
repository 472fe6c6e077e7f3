"""How near our copies and img2dataset's come to what they are copies of, for the row `copies` of bench.download."""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from bench.download_ours import COPIES
from storage.images import decode_rgb, probe
from tasks.packing.images import Row

_SIDE = 256


def copy_quality(files: Sequence[bytes]) -> dict[str, dict[str, float]]:
    """Mean PSNR (dB) of both sides' encoded copies against the whole decode made as small in float64: by the mean of
    the area, which is the peer's own filter, and by Lanczos, which leans to neither side."""
    found: dict[str, dict[str, list[float]]] = {who: {"area": [], "lanczos": []} for who in ("ours", "img2dataset")}
    for data in files:
        info, whole = probe(data), decode_rgb(data)
        row = Row(0, "", "", "", info.width, info.height, info.format, "", 0, len(data), "{}")
        copies = {"ours": COPIES.encode(data, row), "img2dataset": _peers_copy(data)}
        height, width = decode_rgb(copies["ours"]).shape[:2]
        truths = {"area": cv2.resize(whole.astype(np.float64), (width, height), interpolation=cv2.INTER_AREA)}
        planes = [Image.fromarray(whole[..., channel].astype(np.float32)) for channel in range(3)]
        small = [np.asarray(plane.resize((width, height), Image.Resampling.LANCZOS)) for plane in planes]
        truths["lanczos"] = np.clip(np.stack(small, axis=-1), 0, 255)
        for who, copy in copies.items():
            pixels = decode_rgb(copy).astype(np.float64)
            for name, truth in truths.items():
                found[who][name].append(float(10 * np.log10(255**2 / np.mean((pixels - truth) ** 2))))
    return {who: {name: round(float(np.mean(all_)), 2) for name, all_ in one.items()} for who, one in found.items()}


def _peers_copy(data: bytes) -> bytes:
    """As img2dataset 1.47's resizer makes it where a picture is made smaller."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError("OpenCV cannot decode this picture")
    scale = _SIDE / min(pixels.shape[:2])
    size = round(pixels.shape[1] * scale), round(pixels.shape[0] * scale)
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, COPIES.quality])[1].tobytes()
