"""The documentation site (make docs): Sphinx, MyST and Furo. The program itself writes recipe and commands (directives.py)."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
os.environ["COLUMNS"] = "110"  # of the help of a command

project = "diito"
author = "The diito developers"
copyright = "The diito developers, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "directives"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "diito"
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
smartquotes = False  # they would make one dash of the two of a flag
suppress_warnings = ["myst.header"]  # pages that begin with a table of their own
autodoc_member_order = "bysource"
autodoc_typehints = "description"
nitpicky = False
