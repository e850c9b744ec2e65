"""Programs that write pages, lists and versions which the repository holds, or check them."""
