"""The sample web's twelve concepts as a labelled folder: train/<concept>/*, test/<concept>/*.

    python -m examples.concept_folder FOLDER [--images 120] [--pixels 64]

Every picture is painted anew, so that none is a copy of another. What learns from it:
`python -m ssl_train.studies.learning --labelled concepts=FOLDER`.
"""

import argparse
from pathlib import Path

from examples.sample_web.concepts import CONCEPTS, render_scene
from ssl_train.studies.learning_sets import write_split


def write_concepts(folder: Path, *, images: int, pixels: int) -> None:
    """So many pictures of each concept, square; every fourth is held out."""
    labels = [concept for concept in CONCEPTS for _ in range(images)]
    pictures = [render_scene(concept, number, (pixels, pixels)) for concept in CONCEPTS for number in range(images)]
    write_split(folder, pictures, labels)


def main() -> None:
    """Paint and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=120)
    parser.add_argument("--pixels", type=int, default=64)
    options = parser.parse_args()
    write_concepts(options.folder, images=options.images, pixels=options.pixels)


if __name__ == "__main__":
    main()
