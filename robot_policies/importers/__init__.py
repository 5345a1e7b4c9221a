"""Bundles from policies that others trained."""
