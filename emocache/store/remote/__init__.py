"""Stores elsewhere: places behind a URL, what travels to and from them, and reading by range."""
