"""What torchrun starts: ``torchrun --nproc-per-node N -m deeplrhe_utils.learning.training.worker FOLDER``.

`FOLDER` is a job that notebook 05 wrote (``models/05/job``). Every machine must see it under the same path.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from deeplrhe_utils.core.errors import CompendiumError
from deeplrhe_utils.core.files import read_json
from deeplrhe_utils.learning.recipes.checkpoints import Stop
from deeplrhe_utils.learning.recipes.processes import started_group
from deeplrhe_utils.learning.training.launch import TRAINING_FAILED, train_job


def _main(arguments: list[str]) -> int:
    """Train the job; 0 when every fold is finished, 143 when told to end (the state is saved), 1 on an error."""
    if len(arguments) != 1:
        print("usage: torchrun --nproc-per-node N -m deeplrhe_utils.learning.training.worker FOLDER", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // here))
    try:
        device = read_json(folder / "job.json")["device"] if (folder / "job.json").is_file() else "auto"
        with started_group(device) as (group, place):
            train_job(folder, group, place)
    except Stop as error:
        print(error, file=sys.stderr, flush=True)
        return 143
    except CompendiumError as error:
        print(f"{TRAINING_FAILED}{error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
