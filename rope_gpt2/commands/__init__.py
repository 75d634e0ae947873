"""One file a command: arguments in, rooms called, files out."""
