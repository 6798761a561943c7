"""The emoji set: about 22,000 captioned images in nine drawing styles, built from pinned packages."""
