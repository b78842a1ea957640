"""How Sphinx builds these pages: ``sphinx-build -W -b html docs docs/_build``.

With ``shardwriter[all,docs]`` installed, as the pages of the API import every integration.
"""

import shardwriter

project = "shardwriter"
author = "shardwriter contributors"
version = release = shardwriter.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "shardwriter"

myst_heading_anchors = 3  # links to headings, as GitHub makes them

default_role = "code"  # `name` in a docstring is a parameter or a class
autodoc_typehints = "none"  # the signature has them already
autodoc_member_order = "bysource"
napoleon_google_docstring = False
