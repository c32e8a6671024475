"""``python -m deeplrhe_utils``: the command line."""

import sys

from deeplrhe_utils.running.commands.cli import main

sys.exit(main())
