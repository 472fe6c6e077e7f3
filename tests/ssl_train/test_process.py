"""A run's folder is one that can be written in."""

from pathlib import Path

import pytest

from ssl_train.errors import ConfigError
from ssl_train.process import sole_owner


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for place in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ConfigError, match=rf"cannot write in output_dir = {place}: "), sole_owner(str(place)):
            pass
