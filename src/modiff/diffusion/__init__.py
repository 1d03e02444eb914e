"""Diffusion without models: schedules, Gaussian and categorical forward processes, samplers. Pure functions."""
