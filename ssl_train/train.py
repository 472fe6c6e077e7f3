"""The command that trains; under torchrun each of its processes runs it.

    torchrun --nproc-per-node 8 -m ssl_train.train run.yaml [key=value ...]
    python -m ssl_train.train debug data.folder=photos output_dir=out        # one process, a recipe by name

Exit codes: 0 finished, or stopped by SIGTERM with a checkpoint saved; 2 a mistake that the message explains.
"""

import errno
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext

from ssl_train.config import check_config, load_config, recipes
from ssl_train.distributed import join_world
from ssl_train.errors import TrainError
from ssl_train.process import die_with_torchrun, sole_owner, stop_on_sigterm
from ssl_train.trainer import Trainer
from storage.errors import StorageError

USAGE = f"""usage: python -m ssl_train.train CONFIG [key=value ...]
CONFIG is a YAML file or one of: {", ".join(recipes())}"""


def main(arguments: Sequence[str]) -> int:
    """Run one process of a training; returns its exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else 2
    try:
        config = load_config(arguments[0], arguments[1:])
        check_config(config, int(os.environ.get("WORLD_SIZE", 1)))
        die_with_torchrun()
        with join_world() as world, sole_owner(config.output_dir) if world.is_main else nullcontext():
            trainer = Trainer(config, world)
            with stop_on_sigterm(trainer.stop):
                trainer.run()
    except (TrainError, StorageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"error: no space left in output_dir = {config.output_dir}. Free some and run again.", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
