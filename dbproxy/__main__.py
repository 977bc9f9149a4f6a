"""`dbproxy` and `python -m dbproxy`: makes sure that the sibling packages are ours, then hands over to the command line."""

from __future__ import annotations

import sys

from dbproxy.siblings import ForeignPackageError, check_siblings


def main() -> None:
    """Run the command line."""
    try:
        check_siblings()
    except ForeignPackageError as error:
        print(f"dbproxy: {error}", file=sys.stderr)  # noqa: T201  # nothing of ours may be imported yet
        sys.exit(2)
    from dbproxy.cli.main import main as run  # only now: it imports the siblings

    run()


if __name__ == "__main__":
    main()
