"""Import this module to load the installed plugins.

It is the last location of every registry: a config finds what a plugin registers in every process,
and a plugin may import all of this package.
"""

from xtra_toolkit.plugins import load_plugins

load_plugins()
