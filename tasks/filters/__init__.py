"""PLUG image filters: one file each; this union is the registry, the schema and the form in the UI."""

from tasks.filters.base import BuiltFilter, FilterUnavailable, Finding, Picture
from tasks.filters.faces import Faces
from tasks.filters.geometry import Geometry
from tasks.filters.nsfw import Nsfw
from tasks.filters.nsfw_head import NsfwHead

Filter = Geometry | Nsfw | NsfwHead | Faces

__all__ = ["BuiltFilter", "Faces", "Filter", "FilterUnavailable", "Finding", "Geometry", "Nsfw", "NsfwHead", "Picture"]
