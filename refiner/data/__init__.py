"""Readers of data sets, one module each. Unreadable parts are named and counted, and reading continues."""
