"""A small web with known truth: pages, images, crawl files and curated sets, made on the spot from a seed."""

from examples.sample_web.build import SampleWeb, build_sample_web
from examples.sample_web.concepts import CONCEPTS, render_scene

__all__ = ["CONCEPTS", "SampleWeb", "build_sample_web", "render_scene"]
