"""Import this module to load the installed plugins.

It is the last location of every registry, so that a config finds what a plugin registers in every
process, and a plugin may import any part of this package.
"""

from xtra_toolkit.plugins import load_plugins

load_plugins()
