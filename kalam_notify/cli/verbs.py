"""What the verbs' parsers share."""

import argparse
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    # A generic class to the type checker only.
    Verbs: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]


def add_verb(
    verbs: "Verbs", name: str, summary: str, examples: str = ""
) -> argparse.ArgumentParser:
    """A verb's parser: `summary` in the list of verbs and on top of its own help."""
    return verbs.add_parser(
        name,
        help=summary,
        description=summary[:1].upper() + summary[1:] + ".",
        epilog=f"examples:\n{examples}" if examples else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
