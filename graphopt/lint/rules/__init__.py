"""The rules of the linter, one idea a file."""
