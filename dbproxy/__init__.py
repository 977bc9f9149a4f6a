"""The proxy: sockets, waiting, deciding, audit, command line."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("dbproxy")
except PackageNotFoundError:  # run from a checkout that was not installed
    __version__ = "0+unknown"
