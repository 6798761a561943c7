"""The emoji set: about 22,000 captioned pictures in nine drawing styles, built from pinned packages."""
