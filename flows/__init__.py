"""What happens, in which order. Reads like the paper's figure."""

import os

# What [tool.prefect] in pyproject.toml says, which Prefect reads in the project's folder alone: a command may be given
# anywhere. What the environment says stands.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", "tasks,storage")
