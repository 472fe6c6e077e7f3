"""The columns that tables share: every row is a verdict about one record, image rows say where the bytes lie."""

import pyarrow as pa

VERDICT_FIELDS = [
    pa.field("id", pa.string()),  # 24 hex characters: of SHA-256(canonical URL), or of source/split/path
    pa.field("drop", pa.string()),  # reason; null = kept
    pa.field("detail", pa.string()),  # what a person wants to know beside the reason
    pa.field("value", pa.float32()),  # the number behind the verdict
    pa.field("other", pa.string()),  # id of the copy's keeper, the benchmark's image, the query
]

IMAGE_FIELDS = [
    pa.field("url", pa.string()),
    pa.field("sha256", pa.string()),  # of the encoded bytes at image_file[image_offset : image_offset + image_bytes]
    pa.field("width", pa.int32()),  # pixels, after EXIF orientation
    pa.field("height", pa.int32()),
    pa.field("format", pa.string()),  # JPEG, PNG, WEBP, ...
    pa.field("image_file", pa.string()),  # relative to the layout's root, absolute, or a URL
    pa.field("image_offset", pa.int64()),
    pa.field("image_bytes", pa.int64()),
]

IMAGE_COLUMNS = ["id", *(field.name for field in IMAGE_FIELDS)]


def image_schema(*extra: pa.Field) -> pa.Schema:
    """Schema of a stage's image table: verdict, image, then the stage's own columns."""
    return pa.schema([*VERDICT_FIELDS, *IMAGE_FIELDS, *extra])


def verdict_schema(*extra: pa.Field) -> pa.Schema:
    """Schema of a stage's verdict table without image columns."""
    return pa.schema([*VERDICT_FIELDS, *extra])
