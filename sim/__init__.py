"""Simulation and training: may import robot_policies, never deploy."""
