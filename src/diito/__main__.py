"""``python -m diito`` is the command ``diito``."""

import sys

from diito.cli import main

sys.exit(main())
