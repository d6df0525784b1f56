"""Latency, accuracy and size of the bytes that ship, each with its interval."""
