"""The proxy: sockets, waiting, deciding, audit, command line."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name: str) -> str:
        """Find the version when somebody asks for it: most processes of a proxy do not, and looking takes 30 ms."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("dbproxy")
        except PackageNotFoundError:  # run from a checkout that was not installed
            return "0+unknown"
