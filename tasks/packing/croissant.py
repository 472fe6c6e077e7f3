"""The dataset as Croissant 1.0 metadata (JSON-LD; docs.mlcommons.org/croissant/docs/croissant-spec.html).

Every tar is a FileObject with its SHA-256; the images and the JSONs in the tars are two FileSets; two RecordSets say
what a record holds: `images` (id, pixels) and `lineage` (the JSON's fields, id among them). About 250 bytes a shard.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Node = dict[str, Any]

CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
MIME_TYPES = {
    "jpg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "gif": "image/gif",
    "avif": "image/avif",
    "bmp": "image/bmp",
    "tiff": "image/tiff",
    "bin": "application/octet-stream",
}
_TERMS = (
    *("citeAs", "column", "equivalentProperty", "extract", "field", "fileObject", "fileProperty", "fileSet", "format"),
    *("includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex"),
    *("repeated", "replace", "samplingRate", "separator", "source", "subField", "transform"),
)
CONTEXT: Node = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{term: f"cr:{term}" for term in _TERMS},
}
"""The context that the specification prescribes."""
JSON_FIELDS = {
    "id": ("$.id", "sc:Text", "The sample's key."),
    "url": ("$.url", "sc:URL", "Where the image was found; collection:// for one of a curated source."),
    "sha256": ("$.sha256", "sc:Text", "SHA-256 of the image's bytes in the tar."),
    "width": ("$.width", "sc:Integer", "Pixels, after EXIF orientation."),
    "height": ("$.height", "sc:Integer", "Pixels, after EXIF orientation."),
    "format": ("$.format", "sc:Text", "JPEG, PNG, WEBP, GIF, AVIF, BMP or TIFF."),
    "original_sha256": (
        "$.lineage.original_sha256",
        "sc:Text",
        "SHA-256 of the file as it was downloaded, before faces were blurred or a copy was made.",
    ),
}
"""Fields of the JSON beside every image that every sample has: name -> JSONPath, type, meaning."""


def croissant(
    about: Mapping[str, Any], *, extensions: Sequence[str], shards: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The document. `about`: schema.org's properties of the dataset; `shards`: file, bytes and sha256 of every tar."""
    tars = [{"@id": shard["file"]} for shard in shards]
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        **about,
        "distribution": [
            *(_tar(shard) for shard in shards),
            _files("image-files", tars, {f"*.{name}": MIME_TYPES[name] for name in extensions}),
            _files("json-files", tars, {"*.json": "application/json"}),
        ],
        "recordSet": [_images(), _lineage()],
    }


def _tar(shard: Mapping[str, Any]) -> Node:
    return {
        "@type": "cr:FileObject",
        "@id": shard["file"],
        "name": shard["file"],
        "contentUrl": shard["file"],
        "contentSize": f"{shard['bytes']} B",
        "encodingFormat": "application/x-tar",
        "sha256": shard["sha256"],
    }


def _files(name: str, tars: Sequence[Node], kinds: Mapping[str, str]) -> Node:
    """Members of the tars by their endings; one value stands alone, as the specification's examples have it."""
    patterns, types = list(kinds), list(dict.fromkeys(kinds.values()))
    return {
        "@type": "cr:FileSet",
        "@id": name,
        "name": name,
        "containedIn": list(tars),
        "encodingFormat": types[0] if len(types) == 1 else types,
        "includes": patterns[0] if len(patterns) == 1 else patterns,
    }


def _images() -> Node:
    pixels = {"fileSet": {"@id": "image-files"}, "extract": {"fileProperty": "content"}}
    image = _field("images/image", "sc:ImageObject", "The picture.", pixels)
    return _records("images", "One record per image.", [_id("images/id", "image-files"), image])


def _lineage() -> Node:
    fields = [
        _field(f"lineage/{name}", kind, meaning, {"fileSet": {"@id": "json-files"}, "extract": {"jsonPath": path}})
        for name, (path, kind, meaning) in JSON_FIELDS.items()
    ]
    return _records("lineage", "What each image is and where it came from; `id` is that of `images`.", fields)


def _id(name: str, files: str) -> Node:
    source = {
        "fileSet": {"@id": files},
        "extract": {"fileProperty": "filename"},
        "transform": {"regex": r"^(?:.*/)?([^/.]+)\.[^/]+$"},
    }
    return _field(name, "sc:Text", "The sample's key, the name of its members without extension.", source)


def _field(name: str, kind: str, meaning: str, source: Node) -> Node:
    return {"@type": "cr:Field", "@id": name, "name": name, "description": meaning, "dataType": kind, "source": source}


def _records(name: str, meaning: str, fields: Sequence[Node]) -> Node:
    key = {"@id": f"{name}/id"}
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": meaning,
        "key": key,
        "field": list(fields),
    }
