"""Published systems as published and as simulated."""
