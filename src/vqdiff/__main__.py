"""``python -m vqdiff``."""

from vqdiff.cli import main

main()
