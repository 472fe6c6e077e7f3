"""What every stage's config is: frozen, without unknown keys, its field docstrings the help text and the UI's form."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


class StageConfig(BaseModel):
    """Base of all stage configs. Fields named in NOT_IN_FINGERPRINT may change speed or reach, never results."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    NOT_IN_FINGERPRINT: ClassVar[frozenset[str]] = frozenset()

    def deciding(self) -> dict[str, Any]:
        """The config's content that decides the result, as JSON values, nested configs likewise."""
        return {
            name: _deciding(getattr(self, name))
            for name in type(self).model_fields
            if name not in self.NOT_IN_FINGERPRINT
        }


def _deciding(value: Any) -> Any:
    if isinstance(value, StageConfig):
        return value.deciding()
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): _deciding(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_deciding(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(_deciding(item) for item in value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
