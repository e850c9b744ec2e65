"""A module for each figure or family, which `declare` puts into the list. A new file in this folder is a new figure."""
