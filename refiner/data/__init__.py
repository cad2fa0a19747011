"""Readers of data sets, one module for each; what cannot be read is named and counted, and the rest goes on."""
