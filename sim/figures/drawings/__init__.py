"""A module for each figure or family: `DRAWINGS` says what it draws. A new file in this folder is a new figure."""
