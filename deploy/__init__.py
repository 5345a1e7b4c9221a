"""Onboard: nodes that run a bundle on a robot. Never loads torch or a simulator."""
