"""Settings of the manual: Sphinx with Markdown, commands from click; `make docs` builds it."""

from importlib.metadata import version as version_of

project = "nmtprune"
author = copyright = "The nmtprune developers"
release = version = version_of("nmtprune")

extensions = ["myst_parser", "sphinx_click", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
smartquotes = False  # two hyphens begin an option
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"nmtprune {version}"
