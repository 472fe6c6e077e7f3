"""A page shrunk to the tags that name its images, where that changes nothing: a third of the cost of its tree."""

import numpy as np

from tasks.web.html_limits import MAX_TAGS
from tasks.web.html_tags import keep_image_tags
from tasks.web.html_tokens import COLUMNS, FROM, TO, find_tags

_SHORTEST_TAG = len("<p>")


def shrunk(page: bytes) -> bytes | None:
    """What names the images of a page in UTF-8, empty where nothing does; None where the whole page must be read.

    `shrunk(page)` names the images, the base and the alternative texts of `page`, in its order. Cost: 1.3 ns a byte.
    """
    tags = np.empty((min(MAX_TAGS, len(page) // _SHORTEST_TAG + 1), len(COLUMNS)), np.int32)
    count = find_tags(np.frombuffer(page, np.uint8), tags)
    if count > 0:
        count = keep_image_tags(tags[:count])
    if count < 0:
        return None
    spans = tags[:count, FROM : TO + 1].tolist()
    return b"<body>" + b"".join([page[start:end] for start, end in spans]) if spans else b""
