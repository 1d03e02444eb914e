"""Diffusion without models: schedules, forward processes, samplers as pure functions, and processes as objects."""
