"""Carrying out a plan: the arena, the engines, and what runs around a step."""
