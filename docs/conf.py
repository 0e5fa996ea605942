"""Settings of the manual: Sphinx with Markdown, commands from click; `make docs` builds it."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for mathml

project = "nmtprune"
author = copyright = "The nmtprune developers"
release = version = version_of("nmtprune")

extensions = ["myst_parser", "sphinx_click", "mathml"]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
smartquotes = False  # two hyphens begin an option
exclude_patterns = ["_build"]

html_math_renderer = "mathml"
html_static_path = ["static"]
html_css_files = ["manual.css"]
html_theme = "furo"
html_title = f"nmtprune {version}"
