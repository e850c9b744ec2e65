"""Published systems as published and as simulated, and side by side."""
